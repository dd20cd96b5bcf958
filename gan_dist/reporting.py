"""Report on a run while it trains: figures, pictures, panels and scores. The trainer says when."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from gan_dist import rng, scoring
from gan_dist.alarms import Alarms
from gan_dist.config import Config
from gan_dist.control.pace import Pace
from gan_dist.data import checks, labels, loader, order
from gan_dist.data.geometry import geometry
from gan_dist.data.index import Index
from gan_dist.data.stores import StoreError
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation import Evaluation, Metric, Ranks, ScoreError, Sets, evaluate
from gan_dist.gallery import Gallery
from gan_dist.games import Game
from gan_dist.interfaces import Batch
from gan_dist.run_directory import Run
from gan_dist.scoring import held_out
from gan_dist.tracking import Tracker, panels, save_columns
from gan_dist.tracking.media import Scalar
from gan_dist.tracking.panels import Panel

T = TypeVar("T")
_log = logging.getLogger("gan_dist")


class Reporter:
    """Reports of a run on this launch's ranks. All of them call the same methods at the same step."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        game: Game,
        index: Index,
        run: Run,
        tracker: Tracker,
        alarms: Callable[[Callable[[int], Batch | None]], Alarms] | None = None,
        compared_with: Index | None = None,
    ) -> None:
        """`alarms` makes the run's alarms of a function that returns so many real samples.

        `compared_with` has the samples for scores; by default the training data, `index`.
        """
        self._config, self._engine, self._game, self._index = config, engine, game, index
        self._score_index = index if compared_with is None else compared_with
        self._run, self._tracker = run, tracker
        metrics = {name: each.for_game(game) for name, each in config.evaluate.scores}
        self._metrics, self._extractors = scoring.ready(metrics, dict(config.evaluate.features))
        self._compared: tuple[Sets, scoring.ImageSet] | None = None
        self._has_learnt = False
        self._broken: set[str] = set()
        """Pictures that could not be drawn."""
        self._panels: dict[str, Panel] = dict(config.track.panels)
        self.pace = Pace()
        self._gallery = Gallery(config, game, run, tracker, self._reals)
        self._began, self._from = time.perf_counter(), 0
        self._first: Batch | None = None
        self._last: tuple[range, Batch] | None = None
        self._alarms = alarms(self._reals) if alarms is not None else None

    def begin(self, images: int) -> None:
        """Measure the rate from here."""
        self._began, self._from = time.perf_counter(), images
        if self._alarms is not None:
            self._alarms.begin(images)

    def figures(self, images: int) -> None:
        """Report the means of what was recorded since the last report, and the rate."""
        engine = self._engine
        values = {name: total / count for name, (total, count) in engine.read_metrics().items() if count}
        now = time.perf_counter()
        if self._alarms is not None:
            values |= self._alarms.figures(images, values)
        values["speed/images_per_second"] = (images - self._from) / (now - self._began)
        values["memory/process_gib"] = psutil.Process().memory_info().rss / 2**30
        if engine.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        values |= {f"skipped/{player}": found.total for player, found in engine.skipped(wait=True).items()}
        values |= self._pace_of(images, now)
        self._began, self._from = now, images
        self._tracker.metrics(images, images // self._config.training.batch, values)
        if self._alarms is not None:
            self._alarms.judge(images, values)

    def _pace_of(self, images: int, now: float) -> dict[str, float]:
        """Return what the time since the last report went to; a rate that fell far is an event."""
        figures, slow = self.pace.report(images - self._from, now - self._began)
        if slow is not None and self._engine.is_main:
            about = {"rate": round(slow.rate, 1), "median": round(slow.median, 1), "minutes": round(slow.minutes)}
            shares = {name: round(share, 3) for name, share in slow.shares.items()}
            self._tracker.alert("slow", images, slow.words, **about, shares=shares, reason=slow.words)
        return figures

    def pictures(self, images: int) -> None:
        """Draw the grid of the averaged networks: RUN/samples/images-N.png."""
        count = min(self._config.sample.count, len(self._index))
        with self._engine.averages():
            if not self._engine.is_main:
                return
            self._gallery.show(images)
            columns = self._guarded("samples/grid", images, lambda: self._grid(count))
            if self._alarms is not None:
                self._alarms.grid(images)
        path = self._run.samples / f"images-{images:09d}.png"
        if columns is None:
            return
        if self._guarded(
            "samples/grid",
            images,
            lambda: self._tracker.guard("samples", lambda: save_columns(columns, path, self._classes())),
        ):
            self._tracker.picture(path, images)

    def _classes(self) -> list[str]:
        """Return the names of the classes that the samples of a grid take turns with; none where they do not."""
        data = self._config.data
        return labels.names(data.shards, data.classes) if "classes" in self._game.galleries else []

    def _grid(self, count: int) -> Any:
        shown = self._first
        if shown is None:
            shown = self._load(np.arange(count)) if self._game.shows_data else Batch({}, torch.arange(0))
            self._first = shown
        return self._game.pictures(self._config.run.seed, self._config.sample.count, shown)

    def _guarded(self, name: str, images: int, draw: Callable[[], T]) -> T | None:
        """Return what is drawn; where that fails it is reported, and not drawn again before the next start."""
        if name in self._broken:
            return None
        try:
            return draw()
        except Exception as error:  # a game or a score may be a user's
            if not isinstance(error, StoreError):  # a server may answer the next time
                self._broken.add(name)
            _log.error("%s:", name, exc_info=error)
            self._tracker.event("picture failed", images, picture=name, reason=f"{type(error).__name__}: {error}")
            return None

    def panels(self, images: int, due: Callable[[int], bool]) -> None:
        """Draw the panels of the config that are due."""
        if drawn := panels.due(self._panels, self._config.track.every, due):
            with self._engine.averages():
                self._tracker.draw(drawn, self._game, images)

    def scores(self, images: int, beat: Callable[[], None]) -> list[dict[str, Any]]:
        """Score the averaged networks, where the config names scores; returns their records on rank 0.

        What fails is an event, and none on other ranks: days of training are worth more than a score. `beat` is called often;
        what it raises ends the evaluation.
        """
        if not self._metrics:
            return []
        config, engine, game = self._config, self._engine, self._game

        def fake(numbers: range) -> Tensor:
            shown = self._shuffled(numbers) if game.shows_data else Batch({}, torch.arange(numbers.start, numbers.stop))
            return game.generated(config.run.seed, numbers, shown)

        def paired(numbers: range) -> Tensor:
            return self._shuffled(numbers)[game.judged]

        count = config.evaluate.samples
        if game.shows_data and not game.reconstructs:  # no input twice
            count = min(count, scoring.inputs(game, self._score_index))
        try:
            with scoring.ranks_of(engine).agreed() as ranks:
                sets, real = self._sets(ranks, beat)
                self._metrics = self._learnt(ranks, beat)
            # within the averages all ranks fail together: their end may be an exchange too
            with engine.averages(), scoring.ranks_of(engine).agreed() as ranks:
                found = evaluate(
                    self._metrics,
                    fake,
                    paired,
                    count,
                    len(self._score_index),
                    ranks=ranks,
                    sets=sets,
                    progress=lambda done, total: beat(),
                    shown=self._shuffled if game.shows_data else None,
                )
                return self._tell(images, found, sets, real, fake) if engine.is_main else []
        except ScoreError as error:
            if isinstance(error.__context__, Exception) and not isinstance(error.__context__, InputError | ScoreError):
                _log.error("scores:", exc_info=error.__context__)
            if engine.is_main:
                self._tracker.event("score failed", images, reason=str(error))
            return []
        finally:
            self._last = None

    def _tell(
        self,
        images: int,
        found: Evaluation,
        sets: Sets | None,
        real: scoring.ImageSet | None,
        fake: Callable[[range], Tensor],
    ) -> list[dict[str, Any]]:
        """Report what an evaluation found, and return the records. Rank 0 calls it, while the averages are whole."""
        config = self._config
        numbers = {**found.scores, "speed/evaluation_seconds": found.seconds}
        self._tracker.log(images, {name: Scalar(value) for name, value in numbers.items()})
        about: dict[str, Any] = {
            "images": images,
            "checkpoint": None,
            "average": True,
            "seed": config.run.seed,
            "labels": "number modulo classes" if config.data.classes else None,
            "by": "training",
        }
        if against := config.evaluate.against:
            about["against"] = held_out.record(against, self._score_index.digest, len(self._score_index))
        lines = scoring.lines_of(found, self._metrics, sets, real, self._engine.device, about)
        self._tracker.scores(lines)
        if real is not None and found.shown:
            draw = functools.partial(real.draw, device=self._engine.device)
            self._guarded("score", images, lambda: self._tracker.log(images, scoring.pictures_of(found, fake, draw)))
        return lines

    def _sets(self, ranks: Ranks, beat: Callable[[], None]) -> tuple[Sets | None, scoring.ImageSet | None]:
        """Return extractors and features of the real images, looked at once a start or less: they stay in data.cache."""
        if not self._extractors:
            return None, None
        if self._compared is None:
            config, field = self._config, self._game.judged
            channels = checks.channels(config, field)
            where = held_out.text_of(config.evaluate.against)
            real = scoring.of_index(self._score_index, geometry(config), channels, field, where)
            real = real.shuffled(config.evaluate.reals)
            made = scoring.sets_of(self._extractors, real, config.cache, ranks, lambda done, total: beat())
            self._compared = made, real
        return self._compared

    def _learnt(self, ranks: Ranks, beat: Callable[[], None]) -> dict[str, Metric]:
        """Return the metrics, those that learn from the data once a start with what they learnt."""
        if self._has_learnt:
            return self._metrics
        self._has_learnt = True
        return scoring.learnt(self._metrics, self._config, lambda: self._index, ranks, lambda done, total: beat())

    def _shuffled(self, numbers: range) -> Batch:
        """Return samples for scores in a fixed shuffled order: shards may be sorted by class.

        The last ones are kept: a game that turns images into images is scored against them at once.
        """
        if self._last is None or self._last[0] != numbers:
            total = scoring.inputs(self._game, self._score_index)
            key = rng.key(self._config.run.seed, "evaluate")
            samples = order.permute(key, total, np.arange(numbers.start, numbers.stop) % total)
            self._last = numbers, self._load(samples, self._score_index)
        return self._last[1]

    def _reals(self, count: int) -> Batch | None:
        """Return at most `count` samples of the data set in a fixed shuffled order, the same at each call."""
        total = len(self._index)
        if not total:
            return None
        key = rng.key(self._config.run.seed, "signals")
        return self._load(order.permute(key, total, np.arange(min(count, total))))

    def _load(self, samples: np.ndarray, index: Index | None = None) -> Batch:
        """Return samples of the training data, or of another index."""
        if index is None or index is self._index:
            return loader.load(self._index, self._config, samples.tolist(), self._engine.device)
        config = held_out.config_of(self._config, self._config.evaluate.against)
        return loader.load(index, config, samples.tolist(), self._engine.device)
