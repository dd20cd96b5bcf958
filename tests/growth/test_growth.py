"""A network, a loss, an optimizer, a metric, a game, an augmentation and a panel are one file outside the package and one YAML.

Each is started by the real command at 1 and 2 ranks, stopped and resumed, to the same digest (docs/extending.md).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.launching import digests, lines, train

HERE = Path(__file__).parent
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


def run(part: str, data: Path, directory: Path, images: int, processes: int) -> Path:
    keys = {
        "run.directory": directory,
        "data.shards": data / ("pairs" if part == "game" else "images"),
        "data.workers": 0,
        "training.images": images,
        "training.device": "cpu",
        "checkpoint.every": 48,
        "sample.every": 96,
        "sample.count": 4,
        "track.every": 32,
        "track.wandb": "disabled",
    }
    done = train(keys, processes, config=str(HERE / f"{part}.yaml"))
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_users_part_trains_and_resumes_to_the_same_bits_at_1_and_2_ranks(
    part: str, data: Path, tmp_path: Path
) -> None:
    whole = run(part, data, tmp_path / "whole", 96, processes=1)
    resumed = run(part, data, tmp_path / "resumed", 48, processes=2)
    run(part, data, resumed, 96, processes=2)
    last = "images-000000096"
    assert digests(whole)[last] == digests(resumed)[last]
    assert _figures(whole) == _figures(resumed)
    SEEN[part](whole)


def _figures(directory: Path) -> list[dict[str, Any]]:
    """Figures that are the same in any run of the same mathematics."""
    return [
        {name: value for name, value in line.items() if not name.startswith(("speed/", "memory/"))}
        for line in lines(directory / "metrics.jsonl")
        if line["images"] == 96
    ]


def _tensors(directory: Path) -> dict[str, Any]:
    manifest = json.loads((directory / "checkpoints/images-000000096/manifest.json").read_text())
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
    assert len(scores) == 3
    assert all(0 < score < 2 for score in scores)


def _see_game(directory: Path) -> None:
    assert "distance/l1" in lines(directory / "metrics.jsonl")[-1]
    assert (directory / "samples/images-000000096.png").exists()


def _see_augmentation(directory: Path) -> None:
    assert "game/shift/state.probability" in _tensors(directory)


def _see_panel(directory: Path) -> None:
    media = {path.relative_to(directory / "media").as_posix() for path in (directory / "media").rglob("images-*96.*")}
    assert media == {"walk/images/images-000000096.png", "walk/pixels/images-000000096.json"}


SEEN = {
    "network": _see_network,
    "loss": _see_loss,
    "optimizer": _see_optimizer,
    "metric": _see_metric,
    "game": _see_game,
    "augmentation": _see_augmentation,
    "panel": _see_panel,
}
