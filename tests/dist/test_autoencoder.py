"""Both autoencoders by the real commands: the same bits at 1 and 2 ranks and after a resume; samples and scores of a run."""

import json
from pathlib import Path

import pytest

from gan_dist import cli
from tests import making
from tests.launching import lines
from tests.toys import Toy, check_bits, check_goes_on

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ROLES = {"digits_vae": ("encoder", "decoder"), "digits_vae_gan": ("encoder", "decoder", "discriminator")}


def toy(recipe: str) -> Toy:
    keys = {
        "data.source": "",
        "game.beta": "{kind: linear, start: 0, stop: 1, end: 48}",
        "training.batch": 16,
        "training.micro_batch": 4,
        "evaluate.every": 48,
        "evaluate.samples": 32,
        "evaluate.scores": "psnr,ssim",
    }
    return Toy(recipe, {**keys, **{f"networks.{role}.base_channels": 4 for role in ROLES[recipe]}})


def test_the_same_bits_at_1_and_2_ranks() -> None:
    check_bits(*map(toy, ROLES), ranks=(1, 2))


@pytest.mark.parametrize("recipe", ROLES)
def test_a_run_goes_on_at_2_ranks_to_the_same_bits_and_shows_both_kinds_of_images(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = toy(recipe).of(making.data_set(tmp_path / "data", 48, 2))
    run = small.train(tmp_path / "run")
    name = check_goes_on(small, run, tmp_path / "other", stop=32)
    last, again = (lines(tmp_path / directory / "metrics.jsonl")[-1] for directory in ("run", "other"))
    assert all(
        last[figure] == again[figure] for figure in ("elbo/kl", "elbo/reconstruction", "score/psnr", "score/ssim")
    )
    for picture in (f"{name}.png", f"samples/{name}.png", "reals.png"):
        assert (run / "samples" / picture).exists()
    capsys.readouterr()
    assert cli.main(["generate", str(run), "--n", "3", "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn/grid.png").exists()
    words = ["evaluate", str(run), "--scores", "psnr,prdc", "--features", "random", "--n", "32", "--json"]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["psnr"]["value"] > 0
