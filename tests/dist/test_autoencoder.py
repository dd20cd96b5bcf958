"""Both autoencoders by the real commands: the same bits at 1 and 2 ranks and after a resume; samples and scores of a run."""

import json
import shutil
from pathlib import Path

import pytest

from gan_dist import cli, config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, lines, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RECIPES = ("digits_vae", "digits_vae_gan")
NAME = "images-000000048"


def keys(recipe: str, shards: Path, run: Path) -> dict[str, object]:
    roles = ("encoder", "decoder", *(("discriminator",) if recipe == "digits_vae_gan" else ()))
    return {
        "run.directory": run,
        "data.shards": shards,
        "data.source": "",
        "data.workers": 0,
        **{f"networks.{role}.base_channels": 4 for role in roles},
        "game.beta": "{kind: linear, start: 0, stop: 1, end: 48}",
        "training.batch": 16,
        "training.micro_batch": 4,
        "training.images": 48,
        "training.device": "cpu",
        "checkpoint.every": 32,
        "sample.every": 48,
        "sample.count": 4,
        "track.every": 16,
        "track.wandb": "disabled",
        "evaluate.every": 48,
        "evaluate.samples": 32,
        "evaluate.scores": "psnr,ssim",
    }


def played() -> list[str]:
    """Hashes of all that the players of each recipe hold after three steps on random samples."""
    found = []
    for recipe in RECIPES:
        words = making.flags(keys(recipe, Path("none"), Path("none")))
        config = config_module.load([str(REPOSITORY / f"configs/{recipe}.yaml"), *words])
        engine, game = Engine(config), games.build(config)
        engine.place(game)
        engine.wrap(game)
        for step in range(3):
            micros = trial.random_batches(config, game.fields, step, engine.slots)
            play_step(engine, game, trial.on_device(config, engine, micros), 16 * step, 16)
        found.append(reference.digest(engine, game))
    return found


def test_the_same_bits_at_1_and_2_ranks() -> None:
    found = [tuple(hashes) for ranks in (1, 2) for hashes in run_ranks(ranks, played, forked=True)]
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_goes_on_at_2_ranks_to_the_same_bits_and_shows_both_kinds_of_images(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run, other = making.data_set(tmp_path / "data", 48, 2), tmp_path / "run", tmp_path / "other"
    config = str(REPOSITORY / f"configs/{recipe}.yaml")
    done = train(keys(recipe, shards, run), config=config)
    assert done.returncode == 0, done.stderr
    shutil.copytree(run, other)
    shutil.rmtree(other / "checkpoints" / NAME)
    done = train(keys(recipe, shards, other), 2, config=config)
    assert done.returncode == 0, done.stderr
    assert digests(other)[NAME] == digests(run)[NAME]
    last, again = (lines(directory / "metrics.jsonl")[-1] for directory in (run, other))
    assert all(last[name] == again[name] for name in ("elbo/kl", "elbo/reconstruction", "score/psnr", "score/ssim"))
    for picture in (f"{NAME}.png", f"samples/{NAME}.png", "reals.png"):
        assert (run / "samples" / picture).exists()
    capsys.readouterr()
    assert cli.main(["generate", str(run), "--n", "3", "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn/grid.png").exists()
    words = ["evaluate", str(run), "--scores", "psnr,prdc", "--features", "random", "--n", "32", "--json"]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["psnr"]["value"] > 0
