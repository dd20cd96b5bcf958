"""Restoration by the real command: the same bits at 1, 2 and 4 ranks and after a resume, of inputs that are degraded on the way."""

from pathlib import Path

import pytest

from gan_dist import cli
from tests.launching import lines
from tests.toys import Toy, check_bits, check_goes_on

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STEPS = "[{kind: blur, sigma: [0.2, 1]}, {kind: downscale, factor: 2}, {kind: noise, sigma: [0, 20]}, jpeg]"
TOY = Toy(
    "digits_denoise",
    {
        "data.source": "",
        "data.flip": True,
        "data.crop": "random",
        "data.degrade": STEPS,
        "game.adversarial": 0.1,
        "loss": "relativistic_average",
        "networks.generator.base_channels": 4,
        "networks.generator.blocks": 1,
        "networks.discriminator.base_channels": 2,
        "evaluate.every": 48,
        "evaluate.samples": 32,
    },
)


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    check_bits(TOY)


def test_a_run_goes_on_at_2_ranks_with_the_same_degraded_inputs_to_the_same_bits(tmp_path: Path) -> None:
    assert cli.main(["pack", "digits", str(tmp_path / "data"), "--resolution", "18"]) == 0
    toy = TOY.of(tmp_path / "data")
    run = toy.train(tmp_path / "run")
    name = check_goes_on(toy, run, tmp_path / "again", stop=32)
    first, second = (lines(tmp_path / each / "metrics.jsonl")[-1] for each in ("run", "again"))
    for score in ("score/psnr", "score/psnr/input", "score/ssim"):
        assert first[score] == second[score]
    assert {"distance/l1", "distance/adversarial", "score/real"} <= first.keys()
    assert (run / f"samples/{name}.png").exists()
