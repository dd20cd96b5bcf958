"""CUT by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, and both domains scored."""

import dataclasses
import json
from pathlib import Path

import pytest

from gan_dist import cli
from tests import making
from tests.toys import Toy, check_bits, check_goes_on

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CUT = Toy(
    "horse2zebra_cut",
    {
        "data.resolution": 16,
        "data.load_size": 18,
        "networks.generator.base_channels": 2,
        "networks.generator.blocks": 2,
        "networks.discriminator.base_channels": 2,
        "networks.discriminator.layers": 1,
        "game.patches": 20,
        "game.head_channels": 8,
        "training.images": 32,
        "checkpoint.every": 16,
        "checkpoint.keep": 4,
        "sample.every": 32,
    },
    "{A: none, B: none}",
)
FAST = dataclasses.replace(
    CUT, keys={**CUT.keys, "game.nce": 10, "game.identity": False, "game.flip_equivariance": True}
)


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    check_bits(CUT, FAST, steps=2)


def test_a_run_goes_on_at_2_ranks_to_the_same_bits_and_is_scored_with_its_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    making.data_set(tmp_path / "A", 18, size=20, channels=3)
    making.data_set(tmp_path / "B", 24, size=24, channels=3)
    toy = CUT.of(f"{{A: {tmp_path}/A, B: {tmp_path}/B}}")
    check_goes_on(toy, toy.train(tmp_path / "run"), tmp_path / "again", stop=16)

    against = f"A={tmp_path}/B,B={tmp_path}/A"  # held-out sets go by name
    words = ["evaluate", str(tmp_path / "run"), "--scores", "kid", "--features", "random", "--json"]
    assert cli.main([*words, "--against", against]) == 0
    translated, as_is = json.loads(capsys.readouterr().out)
    assert (translated["record"][0]["n_generated"], translated["record"][0]["n_real"]) == (24, 18)
    assert translated["record"][0]["reference"]["where"] == f"{tmp_path}/A"
    assert as_is["record"][0]["metric"] == "kid_random_A"
    assert as_is["record"][0]["way"] == "A"
    assert (as_is["record"][0]["n_generated"], as_is["record"][0]["n_real"]) == (24, 18)
    assert cli.main([*words, "--against", f"C={tmp_path}/A"]) == 2
    assert "the run has no set C, but A, B" in capsys.readouterr().err
