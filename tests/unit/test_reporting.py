"""Scores load each sample of the data set once, and none for a game that draws from latents."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_dist.config import load
from gan_dist.engine import Engine
from gan_dist.evaluation import Evaluation, Metric, ScoreError
from gan_dist.evaluation.base import State
from gan_dist.interfaces import Batch
from gan_dist.reporting import Reporter
from gan_dist.tracking.weights_and_biases import WeightsAndBiases
from tests import making
from tests.launching import REPOSITORY


class Count(Metric):
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        state["count"] = state.get("count", torch.zeros(1)) + len(fake) + (0 if real is None else len(real))

    def value(self, state: State) -> float:
        return float(state["count"])


class Game:
    judged = "image"
    galleries = ()
    ways: ClassVar[dict[str, Any]] = {}
    reconstructs = False

    def __init__(self, shows_data: bool) -> None:
        self.shows_data = shows_data

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        assert ("image" in shown.fields) is self.shows_data
        assert len(shown) == len(numbers)
        return torch.zeros(len(numbers), 1, 4, 4)


def reporter_of(game: Game, tracker: Any) -> Reporter:
    keys = making.tiny("unused", "unused", evaluate__every=64, evaluate__samples=96)
    words = [*making.flags(keys), "--evaluate.scores.pixels.kind", "pixels"]
    config = load([str(REPOSITORY / "tests/data/digits.yaml"), *words])
    reporter = Reporter(config, Engine(config), game, range(64), SimpleNamespace(), tracker)  # type: ignore[arg-type]
    reporter._metrics = {"count": Count()}
    return reporter


@pytest.mark.parametrize(("shows_data", "loads", "drawn"), [(True, 2, 64), (False, 2, 96)])
def test_a_sample_is_loaded_once_and_only_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, shows_data: bool, loads: int, drawn: int
) -> None:
    logged: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    tracker = SimpleNamespace(log=lambda images, media: logged.update(media), scores=lines.extend)
    reporter = reporter_of(Game(shows_data), tracker)  # fewer real samples than generated ones
    loaded = []

    def note(samples: np.ndarray, index: object) -> Batch:
        loaded.append(samples)
        return Batch({"image": torch.zeros(len(samples), 1, 4, 4)}, torch.as_tensor(samples))

    monkeypatch.setattr(reporter, "_load", note)
    assert reporter.scores(64, lambda: None) == lines
    assert len(loaded) == loads
    assert logged["score/count"].value == drawn + 64  # no input twice
    assert [(line["metric"], line["n_generated"], line["n_real"]) for line in lines] == [("count", drawn, 64)]
    assert reporter._last is None  # nothing of it is kept in memory


class BadName(Count):
    def value(self, state: State) -> Any:
        return {"top-1 (%)": 1.0}


class Asserts(Count):
    def value(self, state: State) -> float:
        raise AssertionError("the mean must be positive")


@pytest.mark.parametrize(
    ("metric", "stage", "words"),
    [
        (BadName(), "", "top-1"),
        (Asserts(), "", "the mean must be positive"),
        (Count(), "log", "no disk"),
        (Count(), "beat", "given up"),
    ],
)
def test_a_score_that_fails_anywhere_is_an_event(
    monkeypatch: pytest.MonkeyPatch, metric: Metric, stage: str, words: str
) -> None:
    def beat() -> None:
        if stage == "beat":
            raise ScoreError("given up")

    def log(images: int, media: object) -> None:
        if stage == "log":
            raise RuntimeError("no disk")

    events: list[tuple[str, str]] = []
    tracker = SimpleNamespace(
        log=log, scores=lambda lines: None, event=lambda kind, _, **about: events.append((kind, about["reason"]))
    )
    reporter = reporter_of(Game(shows_data=False), tracker)
    reporter._metrics = {"count": metric}
    shown = Batch({"image": torch.zeros(96, 1, 4, 4)}, torch.arange(96))
    monkeypatch.setattr(reporter, "_load", lambda samples, index: shown)
    assert reporter.scores(64, beat) == []
    ((kind, reason),) = events
    assert kind == "score failed"
    assert words in reason


def test_a_picture_that_fails_costs_no_score_and_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    logged: list[str] = []
    tracker = SimpleNamespace(
        event=lambda kind, *_, **__: events.append(kind),
        log=lambda images, media: logged.extend(media),
        scores=lambda lines: None,
    )
    reporter = reporter_of(Game(shows_data=False), tracker)
    found: Any = Evaluation({"score/count": 1.0}, 1.0, 96, 64, {"count": [(0, 10**6)]})
    real: Any = SimpleNamespace(draw=lambda numbers, device: torch.zeros(64, 1, 4, 4)[[numbers[0]]], facts={})
    for _ in range(2):
        (line,) = reporter._tell(64, found, None, real, lambda numbers: torch.zeros(len(numbers), 1, 4, 4))
        assert line["value"] == 1.0
    assert events == ["picture failed"]
    assert set(logged) == {"score/count", "speed/evaluation_seconds"}


def test_the_summary_shows_the_better_value(tmp_path: Path) -> None:
    config = load([str(REPOSITORY / "tests/data/digits.yaml"), "--track.wandb", "disabled"])
    object.__setattr__(config.evaluate, "scores", SimpleNamespace(count=Count(), other=Metric()))
    board = WeightsAndBiases(tmp_path, config, "id", print, print)
    best = {name: board._best(name) for name in ("score/count", "score/other", "score/count/part", "score/gone")}
    assert best == {"score/count": "max", "score/other": "min", "score/count/part": "max", "score/gone": "min"}
