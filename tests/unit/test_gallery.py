"""Pictures beside the grid: which there are, that they are right, and that they change nothing of the training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import gallery, games
from gan_dist.config import Config, load
from gan_dist.gallery import Gallery, spread
from gan_dist.games import Game
from gan_dist.interfaces import Batch
from gan_dist.report import reading
from gan_dist.run_directory import Run
from gan_dist.tracking import grid, media
from tests import making
from tests.launching import REPOSITORY


class Tracker:
    """Notes what is shown and reported."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []
        self.events: list[dict[str, Any]] = []

    def picture(self, path: Path, images: int, name: str) -> None:
        self.shown.append((images, name))

    def guard(self, name: str, work: Any) -> bool:
        work()
        return True

    def event(self, kind: str, images: int, **details: Any) -> None:
        self.events.append({"event": kind, **details})


def config_of(tmp_path: Path, recipe: str = "tests/data/digits.yaml", **keys: object) -> Config:
    words = making.flags(making.tiny("unused", tmp_path, **keys)) if recipe.endswith("digits.yaml") else []
    return load([str(REPOSITORY / recipe), *words])


def opened(config: Config, game: Game, directory: Path) -> tuple[Gallery, Tracker]:
    (directory / "samples").mkdir(exist_ok=True)
    for player in game.players:
        player.place(torch.device("cpu"), torch.float32)
    tracker = Tracker()
    reals = torch.linspace(-1, 1, 4).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    shown = Gallery(
        config, game, Run(directory, "id"), tracker,  # type: ignore[arg-type]
        lambda count: Batch({game.judged: reals[:count]}, torch.arange(4)[:count]),
    )  # fmt: skip
    return shown, tracker


def test_a_labelled_run_shows_reals_once_the_live_generator_and_a_row_for_each_class(tmp_path: Path) -> None:
    config = config_of(tmp_path, data__labels=True, data__classes=3, data__shards=tmp_path / "shards")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/classes.json").write_text('{"cat": 0, "dog": 2}')
    game = games.build(config)
    shown, tracker = opened(config, game, tmp_path)
    for images in (32, 64):
        shown.show(images)
    beside = ("samples/live", "samples/classes")
    assert tracker.shown == [(32, "samples/reals"), *((images, name) for images in (32, 64) for name in beside)]
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "samples").rglob("*.png"))
    assert files == [
        *(f"samples/{name}/images-0000000{images}.png" for name in ("classes", "live") for images in (32, 64)),
        "samples/reals.png",
    ]
    caption = "a row for each class: cat, 1, dog"
    assert media.caption(tmp_path / "samples/classes/images-000000032.png") == caption  # W&B shows it
    assert reading._beside(tmp_path / "samples")[1][0] == f"{caption}, 64 images"
    first = np.asarray(Image.open(tmp_path / "samples/classes/images-000000032.png"))
    assert first[:, : 10 * 50 + 2].shape == (3 * 50 + 2, 10 * 50 + 2)
    assert (first[:, 10 * 50 + 2 :] < 128).any(1)[2:50].any()  # a name beside the first row
    own = game.samples(0, 0, 1, label=2)[0]  # the same latent as a sample of that class drawn alone
    cell = first[2 + 2 * 50 : 50 + 2 * 50 : 3, 2:50:3]
    assert np.abs(cell.astype(int) - grid.to_uint8(own)[..., 0].astype(int)).max() <= 1


def state_of(game: Game) -> bytes:
    found = [tensor for player in game.players for tensor in player.network.state_dict().values()]
    plain = {
        name: repr(vars(module))
        for p in game.players
        for name, module in p.network.named_modules()
        if not list(module.children())
    }
    return (
        b"".join(tensor.numpy().tobytes() for tensor in found)
        + json.dumps(sorted(plain)).encode()
        + torch.get_rng_state().numpy().tobytes()
    )


@pytest.mark.parametrize("kind", ["dcgan", "sngan"])
def test_drawing_changes_nothing_of_the_training(tmp_path: Path, kind: str) -> None:
    kinds = {"networks__generator__kind": kind, "networks__discriminator__kind": kind, "data__resolution": 32}
    config = config_of(tmp_path, data__labels=True, data__classes=2, sample__count=6, **kinds)
    game = games.build(config)
    shown, tracker = opened(config, game, tmp_path)
    before = state_of(game)
    training = [player.network.training for player in game.players]
    shown.show(32)
    assert [name for _, name in tracker.shown] == ["samples/reals", "samples/live", "samples/classes"]
    assert state_of(game) == before
    assert [player.network.training for player in game.players] == training


def test_a_picture_that_fails_is_reported_once_and_the_others_go_on(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    game = games.build(config)
    shown, tracker = opened(config, game, tmp_path)

    def broken(seed: int, count: int) -> torch.Tensor:
        raise RuntimeError("no picture")

    game.live = broken  # type: ignore[method-assign]
    for images in (32, 64):
        shown.show(images)
    assert tracker.shown == [(32, "samples/reals")]
    assert tracker.events == [
        {"event": "picture failed", "picture": "samples/live", "reason": "RuntimeError: no picture"}
    ]


def test_points_of_the_plane_have_no_pictures_beside_and_a_game_that_shows_data_neither(tmp_path: Path) -> None:
    config = config_of(tmp_path, "configs/gaussians.yaml")
    assert games.build(config).galleries == ()

    class Shows(Game):
        fields = {"image": SimpleNamespace()}  # type: ignore[dict-item]  # noqa: RUF012

        def infer(self, inputs: Any, way: str = "") -> torch.Tensor:
            raise NotImplementedError

    assert Shows().galleries == ()
    Shows.infer = Game.infer  # type: ignore[method-assign]
    assert Shows().galleries == ("reals",)


def test_of_many_classes_some_are_shown() -> None:
    assert spread(3, 20) == [0, 1, 2]
    some = spread(1000, gallery._ROWS)
    assert (len(some), some[0], some[-1], len(set(some))) == (20, 0, 999, 20)
