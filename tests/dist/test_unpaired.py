"""Unpaired translation by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, the pool's images too."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from gan_dist import cli, config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CONFIG = str(REPOSITORY / "configs/horse2zebra.yaml")
KEYS: dict[str, object] = {
    "data.shards": "{A: none, B: none}",
    "data.resolution": 16,
    "data.load_size": 18,
    "data.workers": 0,
    "networks.generator.base_channels": 2,
    "networks.generator.blocks": 1,
    "networks.discriminator.base_channels": 2,
    "networks.discriminator.layers": 1,
    "game.pool": 3,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.images": 48,
    "training.strategy": "exact",
    "training.device": "cpu",
    "checkpoint.every": 16,
    "checkpoint.keep": 4,
    "sample.every": 48,
    "sample.count": 4,
    "track.every": 16,
    "track.wandb": "disabled",
}


def played() -> list[str]:
    """Hashes of all that the players hold after steps on random samples: before the pools are full, and after."""
    config = config_module.load([CONFIG, *making.flags(KEYS)])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    engine.wrap(game)
    hashes = []
    for step in range(6):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        play_step(engine, game, trial.on_device(config, engine, micros), 8 * step, 8)
        if step in (1, 5):
            hashes.append(reference.digest(engine, game))
    return hashes


def test_the_same_bits_at_1_2_and_4_ranks_before_and_after_the_pools_are_full() -> None:
    found = {tuple(hashes) for ranks in (1, 2, 4) for hashes in run_ranks(ranks, played, forked=True)}
    assert len(found) == 1


def keys(data: Path, run: Path) -> dict[str, object]:
    return {**KEYS, "data.shards": f"{{A: {data}/A, B: {data}/B}}", "run.directory": run}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of shards, and the directory of a whole run at 1 rank."""
    folder = tmp_path_factory.mktemp("unpaired")
    making.data_set(folder / "data/A", 18, size=20, channels=3)
    making.data_set(folder / "data/B", 24, size=24, channels=3)
    done = train(keys(folder / "data", folder / "run"), config=CONFIG)
    assert done.returncode == 0, done.stderr
    return folder / "data", folder / "run"


@pytest.mark.parametrize("stop", [16, 32])  # images, before the pools are full, and after
def test_a_run_goes_on_at_2_ranks_to_the_same_bits(whole: tuple[Path, Path], tmp_path: Path, stop: int) -> None:
    data, run = whole
    shutil.copytree(run, tmp_path / "run")
    for place in (tmp_path / "run/checkpoints").glob("images-*"):
        if int(place.name.partition("-")[2]) > stop:
            shutil.rmtree(place)
    done = train(keys(data, tmp_path / "run"), 2, config=CONFIG)
    assert done.returncode == 0, done.stderr
    name = "images-000000048"
    assert digests(tmp_path / "run")[name] == digests(run)[name]
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
