"""Both autoencoders by the real commands: the same bits at 1 and 2 ranks and after a resume; samples and scores of a run."""

import json
import shutil
from pathlib import Path

import pytest

from gan_dist import cli
from tests import making
from tests.launching import REPOSITORY, digests, lines, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

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


@pytest.mark.parametrize("recipe", ["digits_vae", "digits_vae_gan"])
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
