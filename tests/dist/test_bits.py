"""`strategy: exact` gives the same bits at every process count, and a run keeps what moves them from its first start on."""

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gan_dist import config as config_module
from gan_dist.errors import InputError
from tests import making
from tests.dist.test_equivalence import load, play
from tests.launching import lines, run_ranks, train

pytestmark = pytest.mark.dist

R1 = {"penalties.r1.weight": 10.0}
LAZY = {**R1, "penalties.r1.every": 2}
CLIPPED = {"optimizers.generator.clip_norm": 0.05, "optimizers.discriminator.clip_norm": 0.05}
BF16 = {"training.precision": "bf16"}
CASES: dict[str, dict[str, Any]] = {
    "no penalty, mirrored": {"data.flip": True},
    "R1 every step, labels, mirrored, clipped": {**R1, **CLIPPED, "data.flip": True, "data.labels": True},
    "lazy R1, clipped": {**LAZY, **CLIPPED},
    "R1, R2 and WGAN-GP, two discriminator steps": {
        **R1,
        "penalties.r2.weight": 5.0,
        "penalties.wgan_gp.weight": 10.0,
        "game.discriminator_steps": 2,
    },
    "BatchNorm between linear layers, R1": {
        **R1,
        "networks.generator.kind": "article",
        "networks.discriminator.kind": "article",
        "data.resolution": 28,
    },
    "bf16, R1 every step, clipped": {**BF16, **R1, **CLIPPED, "data.flip": True},
    "bf16, lazy R1 in bf16, labels": {**BF16, **LAZY, "penalties.r1.full_precision": False, "data.labels": True},
    "fp64, lazy R1": {**LAZY, "training.precision": "fp64"},
}
SIZES = (2, 5)
"""Of micro-batches, in turn: sums of means of 5 are rounded in fp64, those of 2 seldom are."""
COUNTS = {8: (2, 4, 8), 12: (3,)}
"""Micro-batches of a step, and the process counts that are compared with 1; thirds show what halves do not: they round."""
STEPS = 4


def build(shards: Path, parts: int, name: str) -> config_module.Config:
    size = SIZES[list(CASES).index(name) % len(SIZES)]
    keys = making.tiny(
        shards, "unused", training__strategy="exact", training__micro_batch=size, training__batch=parts * size
    )
    return load({**keys, **CASES[name]})


def digests(shards: Path, *parts: int) -> list[tuple[str, str]]:
    """A rank's hashes of each case: of weights, moments, averages and BatchNorm's statistics, and of each step's figures."""
    found = []
    for each, name in itertools.product(parts, CASES):
        done = play(build(shards, each, name), STEPS)
        state = hashlib.sha256()
        for name, tensor in sorted(done["state"].items()):
            state.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
        assert {name.split("/")[1] for name in done["state"]} == {"weights", "exp_avg", "exp_avg_sq", "average"}
        figures = json.dumps(done["figures"]) if done["rank"] == 0 else ""
        found.append((state.hexdigest(), figures))
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, size=28, classes=3)


@pytest.fixture(scope="module")
def begun(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after a step with one thread."""
    directory = tmp_path_factory.mktemp("begun") / "run"
    done = train(making.tiny(shards, directory, training__strategy="exact", training__images=16))
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.slow
def test_state_and_figures_are_the_same_bits_at_every_process_count(shards: Path) -> None:
    alone = run_ranks(1, digests, shards, *COUNTS, forked=True)[0]
    assert len({state for state, _ in alone}) == len(alone) == len(COUNTS) * len(CASES)  # each key does something
    whole = {parts: alone[place * len(CASES) :][: len(CASES)] for place, parts in enumerate(COUNTS)}
    for parts, count in ((parts, count) for parts, counts in COUNTS.items() for count in counts):
        for rank, found in enumerate(run_ranks(count, digests, shards, parts, forked=True)):
            for name, mine, theirs in zip(CASES, found, whole[parts], strict=True):
                assert mine[0] == theirs[0], f"other bits in {name!r} on rank {rank} of {count}"
                assert not mine[1] or mine[1] == theirs[1], f"other figures in {name!r} at {count} processes"


@pytest.mark.slow
@pytest.mark.parametrize("batch", [24, 36])  # 6 and 9 micro-batches: 2 processes can share the one and not the other
def test_a_process_count_that_the_tree_does_not_fit_is_refused_with_those_that_do(tmp_path: Path, batch: int) -> None:
    done = train(making.tiny(tmp_path / "none", tmp_path / "run", training__strategy="exact", training__batch=batch), 2)
    fitting = {24: "1, 3, 6", 36: "1, 9"}[batch]
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        f"error: training.strategy = exact cannot sum {batch // 4} micro-batches over 2 processes in its tree; start "
        f"{fitting} processes, or set {'training.strategy: ddp' if batch == 24 else 'training.batch: 32'}"
    ]
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_keys_that_move_bits_are_refused_where_the_run_began_with_others(
    shards: Path, begun: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from gan_dist.train import main

    def start(**more: object) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["tests/data/digits.yaml", *making.flags({**keys, **more})])
        return code, capfd.readouterr().err.strip()

    shutil.copytree(begun, tmp_path / "run")
    keys = making.tiny(shards, tmp_path / "run", training__strategy="exact")
    # under another strategy they are free; the way back to exact is the way to what the run began with
    free = {"training.channels_last": False, "training.strategy": "ddp", "training.images": 32}
    assert train({**keys, **free}).returncode == 0
    before = (tmp_path / "run/config.yaml").read_text()
    for other, began in (({"training.threads": 2}, "1"), ({"training.channels_last": False}, "true")):
        ((key, value),) = other.items()
        assert start(**other) == (
            2,
            f"error: {tmp_path}/run: {key} = {json.dumps(value)} would change the bits that training.strategy: exact keeps; "
            f"set {key}: {began}, as the run began, or another strategy",
        )
    assert (tmp_path / "run/config.yaml").read_text() == before
    (tmp_path / "run/choices.json").write_text("{")
    code, said = start()
    assert (code, "choices.json, which says how the run began, cannot be read" in said) == (2, True)


def test_a_device_that_the_config_names_is_refused_where_the_run_began_on_another(shards: Path) -> None:
    def refused(kept: str, device: str, strategy: str = "exact") -> str:
        keys = making.tiny(shards, "unused", training__strategy=strategy, training__device=device)
        return config_module.other_bits({"device": kept, "channels_last": True}, load(keys))

    assert refused("cpu", "cuda").endswith('set training.device: "cpu", as the run began, or another strategy')
    assert refused("cuda", "cpu").startswith('training.device = "cpu" would change the bits')
    assert refused("cuda", "auto") == refused("cpu", "cpu") == refused("cuda", "cpu", "ddp") == ""


def test_compiled_networks_are_refused(shards: Path) -> None:
    with pytest.raises(InputError, match=r"was not proved to keep the bits of training.strategy: exact"):
        load(making.tiny(shards, "unused", training__strategy="exact", training__compile=True))


def test_a_start_on_another_machine_says_so_and_goes_on(
    shards: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # as on a CPU without AVX2
    done = train(making.tiny(shards, tmp_path / "run", training__strategy="exact", training__images=32))
    assert done.returncode == 0
    (event,) = [line for line in lines(tmp_path / "run/events.jsonl") if line["event"] == "other machine"]
    assert event["images"] == 16
    assert "bits may differ from here on: the run began on" in event["warning"]
    assert event["warning"].split(", and this is ")[1].split(", ")[1] == "DEFAULT"
    assert "bits may differ from here on" in " ".join(done.stdout.split())
