"""A run of version 0.1 goes on: its config, its checkpoint and its fingerprint are known.

tests/data/run-0.1.0 was made by version 0.1: a run of 64 images, the shards it was trained on, and the checkpoint that the same
version reaches when the run goes on to 128.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module, provenance
from gan_dist.checkpoint import format
from gan_dist.errors import InputError
from tests.launching import REPOSITORY, lines, train

OLD = REPOSITORY / "tests/data/run-0.1.0"

CONFIG = """\
data:
  shards: shards
  resolution: 16
  channels: 1
  labels: true
  flip: true
  workers: 0
game:
  latent: 8
  discriminator_steps: 2
networks:
  generator: {base_channels: 4, conditioning: concatenation}
  discriminator: {base_channels: 4}
loss: minimax
penalties:
  r1: {weight: 2, every: 2}
  wgan_gp: {weight: 1, every: 2}
optimizers:
  generator: {learning_rate: 1e-3, clip_norm: 0.5}
  discriminator: {beta1: 0, beta2: 0.99}
average:
  half_life: 500
training:
  images: 128
  batch: 16
  micro_batch: 4
  strategy: exact
  device: cpu
checkpoint: {every: 64}
track: {every: 16, wandb: disabled}
sample: {every: 64, count: 4}
"""
"""The run's config under today's keys."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the old run, its shards, and today's config."""
    for name in ("run", "shards"):
        shutil.copytree(OLD / name, tmp_path / name)
    (tmp_path / "old.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
def test_an_old_run_goes_on_to_what_its_own_version_computes(copied: Path) -> None:
    """To the bit on the kind of machine that it began on, else to rounding."""
    done = train({"run.directory": "run"}, config=str(copied / "old.yaml"), cwd=copied)
    assert done.returncode == 0, done.stderr
    begun = [line for line in lines(copied / "run/events.jsonl") if line["event"] == "resumed"]
    assert [line["images"] for line in begun] == [64]
    assert [line["images"] for line in lines(copied / "run/metrics.jsonl")] == list(range(16, 129, 16))
    found, expected = (
        format.read_tensors(folder, format.read_manifest(folder))
        for folder in (copied / "run/checkpoints/images-000000128", OLD / "expected")
    )
    assert expected.keys() <= found.keys()
    same = json.loads((OLD / "run/choices.json").read_text())["machine"] == provenance.machine(torch.device("cpu"))
    for name, tensor in expected.items():
        if same:
            assert torch.equal(found[name], tensor), name
        else:
            scale = max(float(tensor.abs().max()), 1e-6)
            assert float((found[name] - tensor).abs().max()) <= 1e-5 * scale, name


@pytest.mark.slow
def test_an_old_run_is_refused_under_another_config_with_both_values(copied: Path) -> None:
    done = train(
        {"run.directory": "run", "penalties.r1.weight": 3.0, "networks.generator.base_channels": 8},
        config=str(copied / "old.yaml"),
        cwd=copied,
    )
    assert done.returncode == 2
    assert "penalties.r1.weight: the run has 2.0, asked for is 3.0" in done.stderr
    assert "networks.generator.base_channels: the run has 4, asked for is 8" in done.stderr


def test_the_config_of_an_old_run_keeps_its_fingerprint(copied: Path) -> None:
    config, recorded = config_module.read_run(OLD / "run")
    assert config.fingerprint() == recorded["fingerprint"] == "a4ecbc2cf74a4127"
    today = config_module.load([str(copied / "old.yaml"), "--data.classes", "3"])
    assert config_module.differences(config, today) == []
    assert today.fingerprint() == recorded["fingerprint"]


@pytest.mark.parametrize(
    ("words", "fingerprint"),
    [
        (["tests/data/digits"], "b0fef55dea90255a"),
        (["configs/mnist", "--data.classes", "10"], "519dc42a5cdec978"),
        (
            ["configs/dcgan", "--networks.generator.base_channels", "8", "--networks.discriminator.base_channels", "8"],
            "4152148e1f03b66e",
        ),
    ],
)
def test_the_recipes_have_the_fingerprints_of_version_0_1(words: list[str], fingerprint: str) -> None:
    name, *options = words
    assert config_module.load([str(REPOSITORY / f"{name}.yaml"), *options]).fingerprint() == fingerprint


def test_settings_that_version_0_1_could_not_say_have_fingerprints_of_their_own() -> None:
    base = ["--penalties.r1.weight", "1", "--penalties.wgan_gp.weight", "1"]
    variants = [
        [],
        ["--penalties.r1.every", "2"],
        ["--penalties.wgan_gp.every", "2"],
        ["--penalties.r1.every", "2", "--penalties.wgan_gp.every", "2"],
        ["--networks.generator.base_channels", "8"],
        ["--networks.discriminator.base_channels", "8"],
        ["--loss", "hinge"],
        ["--optimizers.generator", "adamw"],
        ["--penalties.mine.kind", "r1", "--penalties.mine.weight", "1"],
    ]
    digits = str(REPOSITORY / "tests/data/digits.yaml")
    found = [config_module.load([digits, *base, *more]).fingerprint() for more in variants]
    assert len(set(found)) == len(found)


def test_a_run_with_finite_differences_is_refused_with_a_word_of_what_to_do(copied: Path) -> None:
    path = copied / "run/config.yaml"
    path.write_text(path.read_text().replace("method: exact", "method: finite_difference"))
    with pytest.raises(InputError, match=r"game\.penalty\.method = finite_difference, .*; go on with version 0\.1"):
        config_module.read_run(copied / "run")


def test_the_files_of_the_old_run_are_small_and_name_no_machine() -> None:
    files = [path for path in OLD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    config = config_module.read_run(OLD / "run")[0]
    assert not any(Path(place).is_absolute() for place in (config.run.directory, str(config.data.shards)))
    # the other names of machines and hosts are looked for by tests/unit/test_project.py
    assert {path.name for path in (OLD / "run").iterdir()} == {
        "checkpoints",
        "choices.json",
        "config.yaml",
        "metrics.jsonl",
    }
