"""What an engine sets in its process is what its config says, whatever engine was there before."""

import json
import os
from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module
from gan_dist.engine import Engine, launch, launcher_settings, rendezvous
from gan_dist.errors import InputError
from tests import making


def start(**keys: object) -> Engine:
    return Engine(
        config_module.load(["tests/data/digits.yaml", *making.flags(making.tiny("unused", "unused", **keys))])
    )


def test_deterministic_algorithms_end_with_the_engine_that_wanted_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    start(training__strategy="ddp")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # a later engine may need it, and CUDA reads it once
    for keys, wanted in (
        ({"training__strategy": "exact"}, True),
        ({"training__strategy": "ddp"}, False),
        ({"training__strategy": "ddp", "training__deterministic": True}, True),
        ({"training__strategy": "ddp"}, False),
    ):
        start(**keys)
        assert torch.are_deterministic_algorithms_enabled() is wanted


def test_processes_must_have_the_same_software_devices_and_config() -> None:
    config = config_module.load(["tests/data/digits.yaml"])
    found = launch.versions(config, on_cpu=True)
    assert found.keys() >= {"gan_dist", "Python", "torch", "accelerate", "the device", "game.latent"}
    assert found["the device"].startswith("CPU (")  # its kind decides about the bits that `exact` keeps
    nodes = [{"node": name, "problem": "", "facts": found} for name in ("a", "b", "c")]
    assert rendezvous.judge(nodes) == ""
    for name in found:
        other = {**nodes[2], "facts": {**found, name: "other"}}
        assert f"{name} is {found[name]} on rank 0 (a) and other on rank 2 (c)" in rendezvous.judge([*nodes[:2], other])
    nodes[1] = {"node": "b", "problem": "no disk", "facts": {}}
    assert rendezvous.judge(nodes) == "on b (rank 1): no disk"
    assert rendezvous.judge([nodes[1]] * 2) == "no disk"


def test_settings_of_a_file_hold_where_they_say_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.json"
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": 7}
    path.write_text(json.dumps({"gradient_clipping": "auto", "zero_optimization": zero}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    expected = {**launcher_settings.SETTINGS["zero3"], "stage": 3, "stage3_param_persistence_threshold": 7}
    assert launcher_settings.deepspeed_config("zero3", 10**9) == {"zero_optimization": expected}
    assert launcher_settings.deepspeed_config("zero3", 10)["zero_optimization"]["reduce_bucket_size"] == 10


def test_variables_of_accelerate_that_change_no_mathematics_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_DEVICE", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "WHAT_THE_NEXT_RELEASE_HAS", "CPU_AFFINITY"):
        monkeypatch.setenv(f"ACCELERATE_{name}", "true" if name != "TORCH_DEVICE" else "meta")
    assert start(training__strategy="ddp").device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GRADIENT_CLIPPING", "1.0", "optimizers.generator.clip_norm and optimizers.discriminator.clip_norm decide"),
        ("USE_FSDP", "true", "training.strategy decides"),
        ("MIXED_PRECISION", "bf16", "give --training.precision bf16"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "training.micro_batch decides"),
    ],
)
def test_variables_of_accelerate_that_change_mathematics_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(InputError, match=says):
        start(training__strategy="ddp")
