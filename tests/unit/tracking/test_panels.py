"""Panels: one class, drawn when it is due, and never able to harm a run."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from gan_dist import config as config_module
from gan_dist.errors import InputError
from gan_dist.tracking import Tracker, media, panels
from gan_dist.tracking.media import Histogram, Media, Scalar, Table
from gan_dist.tracking.panels import PANELS, Panel

KEYS = {
    "data": {"shards": "x", "resolution": 8, "channels": 1},
    "training": {"images": 100, "batch": 10, "micro_batch": 10},
    "track": {"wandb": "disabled"},
}


@dataclasses.dataclass
class Player:
    name: str
    network: nn.Module
    average: Any = None


@dataclasses.dataclass
class Game:
    players: tuple[Player, ...]


class Users(Panel):
    """What a user writes: a key of its own, and draw."""

    rows: int = 2
    drawn: ClassVar[list[int]] = []

    def draw(self, game: Any, images: int) -> dict[str, Media]:
        self.drawn.append(images)
        torch.rand(3)
        if self.rows < 0:
            raise RuntimeError("no rows")
        return {"table": Table(["n"], [[n] for n in range(self.rows)]), "": Scalar(self.rows)}


def tracker(directory: Path) -> Tracker:
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    return Tracker(directory, config_module.validate(KEYS, "x"), samples=50, start=0, wandb_id="x")


def test_a_users_panel_is_shown_under_its_name_and_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    with tracker(tmp_path) as run:
        run.draw({"mine": Users(rows=3)}, Game(()), 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert media.read(tmp_path / "media/mine/table/images-000000010.json") == Table(["n"], [[0], [1], [2]])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"images": 10, "step": 1, "mine": 3.0}


def test_a_panel_that_raises_is_reported_once_and_the_others_go_on(tmp_path: Path) -> None:
    Users.drawn.clear()
    with tracker(tmp_path) as run:
        for images in (10, 20):
            run.draw({"broken": Users(rows=-1), "mine": Users()}, Game(()), images)
    assert Users.drawn == [10, 10, 20]
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["panel"], event["reason"]) == ("panel failed", "broken", "RuntimeError: no rows")
    assert "in draw" in (tmp_path / "logs/rank-0.txt").read_text()


def test_what_a_panel_must_not_return_is_refused() -> None:
    class Wrong(Panel):
        def draw(self, game: Any, images: int) -> Any:
            return {"../x": Scalar(1.0)} if images == 1 else {"x": 1.0} if images == 2 else [1.0]

    for images, message in ((1, "is no name"), (2, "must be a Scalar"), (3, "must return a dictionary")):
        with pytest.raises(InputError, match=message):
            panels.draw("wrong", Wrong(), None, images)


def test_a_panel_is_due_at_its_own_interval_or_at_each_report() -> None:
    shown = {"often": Panel(), "seldom": Panel(every=100)}
    assert list(panels.due(shown, 10, lambda every: every == 10)) == ["often"]
    assert list(panels.due(shown, 10, lambda every: every in (10, 100))) == ["often", "seldom"]
    assert panels.due({}, 10, lambda every: True) == {}


def test_weights_are_histograms_of_each_group_of_layers() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2, bias=False))
    average = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        for weight in average.parameters():
            weight.fill_(5.0)

    @dataclasses.dataclass
    class Average:
        network: nn.Module

    game = Game((Player("G", network, Average(average)), Player("D", network)))
    shown = panels.draw("weights", PANELS["weights"](depth=1), game, 10)
    sizes = {name: sum(content.counts) for name, content in shown.items() if isinstance(content, Histogram)}
    assert sizes == {"weights/G/0": 15, "weights/G/1": 6, "weights/D/0": 15, "weights/D/1": 6}
    assert shown["weights/G/0"].edges[0] == 2.5  # type: ignore[union-attr]
    assert "weights/G/0.0" in panels.draw("weights", PANELS["weights"](), game, 10)
