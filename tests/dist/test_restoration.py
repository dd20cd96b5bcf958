"""Restoration by the real command: the same bits at 1, 2 and 4 ranks and after a resume, of inputs that are degraded on the way."""

import shutil
from pathlib import Path

import pytest

from gan_dist import cli, config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, lines, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CONFIG = str(REPOSITORY / "configs/digits_denoise.yaml")
KEYS: dict[str, object] = {
    "data.workers": 0,
    "data.flip": True,
    "data.crop": "random",
    "data.degrade": "[{kind: blur, sigma: [0.2, 1]}, {kind: downscale, factor: 2}, {kind: noise, sigma: [0, 20]}, jpeg]",
    "game.adversarial": 0.1,
    "loss": "relativistic_average",
    "networks.generator.base_channels": 4,
    "networks.generator.blocks": 1,
    "networks.discriminator.base_channels": 2,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.images": 48,
    "training.strategy": "exact",
    "training.device": "cpu",
    "checkpoint.every": 32,
    "sample.every": 48,
    "sample.count": 4,
    "track.every": 16,
    "track.wandb": "disabled",
    "evaluate.every": 48,
    "evaluate.samples": 32,
}


def keys(shards: Path, run: Path) -> dict[str, object]:
    return {**KEYS, "data.shards": shards, "data.source": "", "run.directory": run}


def played() -> str:
    """A hash of all that the players hold after three steps on random samples."""
    config = config_module.load([CONFIG, *making.flags(keys(Path("none"), Path("none")))])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    engine.wrap(game)
    for step in range(3):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        play_step(engine, game, trial.on_device(config, engine, micros), 8 * step, 8)
    return reference.digest(engine, game)


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    found = {digest for ranks in (1, 2, 4) for digest in run_ranks(ranks, played, forked=True)}
    assert len(found) == 1


def test_a_run_goes_on_at_2_ranks_with_the_same_degraded_inputs_to_the_same_bits(tmp_path: Path) -> None:
    shards, run, name = tmp_path / "data", tmp_path / "whole", "images-000000048"
    assert cli.main(["pack", "digits", str(shards), "--resolution", "18"]) == 0
    done = train(keys(shards, run), config=CONFIG)
    assert done.returncode == 0, done.stderr
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / name)
    done = train(keys(shards, tmp_path / "run"), 2, config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run")[name] == digests(run)[name]
    first, second = (lines(each / "metrics.jsonl")[-1] for each in (run, tmp_path / "run"))
    for score in ("score/psnr", "score/psnr/input", "score/ssim"):
        assert first[score] == second[score]
    assert {"distance/l1", "distance/adversarial", "score/real"} <= first.keys()
    assert (run / f"samples/{name}.png").exists()
