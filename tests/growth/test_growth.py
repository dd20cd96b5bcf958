"""A network, a loss, an optimizer, a metric, a game, an augmentation and a panel are one file outside the package and one YAML.

Each is started by the real command at 1 rank, and what that left half-way goes on at 2, to the same digest
(docs/extending.md).
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.launching import digests, lines, train

HERE = Path(__file__).parent
IMAGES, HALF_WAY = 48, 32
NAME = f"images-{IMAGES:09d}"
QUICK = ("network", "loss")
PARTS = ("network", "loss", "optimizer", "metric", "game", "augmentation", "panel")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders images/ and pairs/ of shards."""
    folder = tmp_path_factory.mktemp("data")
    making.data_set(folder / "images", 96, 2)
    pairs = [
        (f"{key}.{side}.png", making.encode(making.picture(number + 100 * (side == "b"))))
        for number in range(96)
        for key in [f"{number:04d}"]
        for side in ("a", "b")
    ]
    making.write_tar(folder / "pairs/0.tar", pairs)
    return folder


def run(part: str, data: Path, directory: Path, processes: int) -> Path:
    keys = {
        "run.directory": directory,
        "data.shards": data / ("pairs" if part == "game" else "images"),
        "data.workers": 0,
        "training.images": IMAGES,
        "training.device": "cpu",
        "checkpoint.every": 32,
        "sample.every": IMAGES,
        "sample.count": 4,
        "track.every": 16,
        "track.wandb": "disabled",
    }
    done = train(keys, processes, config=str(HERE / f"{part}.yaml"))
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a part's whole run at 1 rank, which is trained once."""

    @functools.cache
    def trained(part: str) -> Path:
        return run(part, data, tmp_path_factory.mktemp(part) / "run", processes=1)

    return trained


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[] if part in QUICK else [pytest.mark.slow]) for part in PARTS]
)
def test_a_users_part_trains(part: str, whole: Callable[[str], Path]) -> None:
    SEEN[part](whole(part))


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_users_part_stops_at_1_rank_and_goes_on_at_2_to_the_same_bits(
    part: str, data: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    resumed = tmp_path / "run"
    shutil.copytree(whole(part), resumed)
    shutil.rmtree(resumed / "checkpoints" / NAME)  # as a kill before its last checkpoint leaves it
    run(part, data, resumed, processes=2)
    begun = [(line["event"], line["images"]) for line in lines(resumed / "events.jsonl") if "processes" in line]
    assert begun == [("started", 0), ("resumed", HALF_WAY)]
    assert digests(resumed)[NAME] == digests(whole(part))[NAME]
    assert _figures(resumed) == _figures(whole(part))


def _figures(directory: Path) -> list[dict[str, Any]]:
    """Figures that are the same in any run of the same mathematics."""
    return [
        {name: value for name, value in line.items() if not name.startswith(("speed/", "memory/"))}
        for line in lines(directory / "metrics.jsonl")
        if line["images"] == IMAGES
    ]


def _tensors(directory: Path) -> dict[str, Any]:
    manifest = json.loads((directory / "checkpoints" / NAME / "manifest.json").read_text())
    return dict(manifest["tensors"])


def _see_network(directory: Path) -> None:
    assert "G/weights/blocks.1.layers.3.weight" in _tensors(directory)


def _see_loss(directory: Path) -> None:
    config = (directory / "config.yaml").read_text()
    assert "smoothing: 0.2" in config
    assert "my_loss.py:Smoothed" in config


def _see_optimizer(directory: Path) -> None:
    kinds = {name.split("/")[1] for name in _tensors(directory)}
    assert kinds == {"weights", "average", "exp_avg"}


def _see_metric(directory: Path) -> None:
    scores = [line["score/brightness"] for line in lines(directory / "metrics.jsonl") if "score/brightness" in line]
    assert len(scores) == 2
    assert all(0 < score < 2 for score in scores)


def _see_game(directory: Path) -> None:
    assert "distance/l1" in lines(directory / "metrics.jsonl")[-1]
    assert (directory / f"samples/{NAME}.png").exists()


def _see_augmentation(directory: Path) -> None:
    assert "game/shift/state.probability" in _tensors(directory)


def _see_panel(directory: Path) -> None:
    media = {path.relative_to(directory / "media").as_posix() for path in (directory / "media").rglob(f"{NAME}.*")}
    assert media == {f"walk/images/{NAME}.png", f"walk/pixels/{NAME}.json"}


SEEN = {
    "network": _see_network,
    "loss": _see_loss,
    "optimizer": _see_optimizer,
    "metric": _see_metric,
    "game": _see_game,
    "augmentation": _see_augmentation,
    "panel": _see_panel,
}
