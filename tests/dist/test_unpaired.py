"""Unpaired translation by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, the pool's images too."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from gan_dist import cli
from tests import making
from tests.toys import Toy, check_bits, check_goes_on

pytestmark = [pytest.mark.dist, pytest.mark.slow]

TOY = Toy(
    "horse2zebra",
    {
        "data.resolution": 16,
        "data.load_size": 18,
        "networks.generator.base_channels": 2,
        "networks.generator.blocks": 1,
        "networks.discriminator.base_channels": 2,
        "networks.discriminator.layers": 1,
        "game.pool": 3,
        "checkpoint.every": 16,
        "checkpoint.keep": 4,
    },
    "{A: none, B: none}",
)


def of(data: Path) -> Toy:
    return TOY.of(f"{{A: {data}/A, B: {data}/B}}")


def test_the_same_bits_at_1_2_and_4_ranks_before_and_after_the_pools_are_full() -> None:
    check_bits(TOY, steps=6, looks=[2])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of shards, and the directory of a whole run at 1 rank."""
    folder = tmp_path_factory.mktemp("unpaired")
    making.data_set(folder / "data/A", 18, size=20, channels=3)
    making.data_set(folder / "data/B", 24, size=24, channels=3)
    return folder / "data", of(folder / "data").train(folder / "run")


@pytest.mark.parametrize("stop", [16, 32])  # images, before the pools are full, and after
def test_a_run_goes_on_at_2_ranks_to_the_same_bits(whole: tuple[Path, Path], tmp_path: Path, stop: int) -> None:
    data, run = whole
    name = check_goes_on(of(data), run, tmp_path / "run", stop)
    manifest = (tmp_path / "run/checkpoints" / name / "manifest.json").read_text()
    assert '"pool/A' in manifest
    assert '"pool/B' in manifest
    assert (run / f"samples/{name}.png").exists()


def test_apply_goes_both_ways(whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(making.encode(making.picture(0, (21, 37), channels=3)))
    words = ["apply", str(whole[1]), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    made = {}
    for way in ("AB", "BA"):
        assert cli.main([*words, "--way", way, "--replace"]) == 0
        made[way] = Image.open(tmp_path / "out/a.png").copy()
        assert made[way].size == (37, 21)
    assert made["AB"].tobytes() != made["BA"].tobytes()
    capsys.readouterr()
    assert cli.main([*words, "--way", "CD", "--replace"]) == 2
    assert "goes the ways AB and BA" in capsys.readouterr().err


def test_both_ways_are_scored_with_the_images_as_they_are(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole[1], tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--scores", "kid", "--features", "random", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    counts = {each["record"][0]["metric"]: each["record"][0]["n_generated"] for each in found}
    assert counts == {"kid_random": 18, "kid_random_A": 18, "kid_random_BA": 24, "kid_random_B": 24}
    assert [each["record"][0].get("way") for each in found] == [None, "A", "BA", "B"]
    assert [each["record"][0]["reference"]["field"] for each in found] == ["B", "B", "A", "A"]
    values = {each["record"][0]["metric"]: each["record"][0]["value"] for each in found}
    assert values["kid_random_A"] == pytest.approx(values["kid_random_B"], rel=1e-6)  # the same two sets
    assert len((tmp_path / "run/scores.jsonl").read_text().splitlines()) >= 4
