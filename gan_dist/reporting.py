"""Report on a run while it trains: figures, pictures, panels and scores. The trainer says when."""

import time
from collections.abc import Callable

import numpy as np
import psutil
import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.control.pace import Pace
from gan_dist.data import loader, order
from gan_dist.data.index import Index
from gan_dist.engine import Engine
from gan_dist.evaluation import Metric, ScoreError, evaluate
from gan_dist.gallery import Gallery
from gan_dist.games import Game
from gan_dist.interfaces import Batch
from gan_dist.run_directory import Run
from gan_dist.tracking import Tracker, panels, save_columns
from gan_dist.tracking.media import Media, Scalar
from gan_dist.tracking.panels import Panel


class Reporter:
    """Reports of a run on this launch's ranks. All of them call the same methods at the same step."""

    def __init__(self, config: Config, engine: Engine, game: Game, index: Index, run: Run, tracker: Tracker) -> None:
        self._config, self._engine, self._game, self._index = config, engine, game, index
        self._run, self._tracker = run, tracker
        self._metrics: dict[str, Metric] = {name: each.for_game(game) for name, each in config.evaluate.scores}
        self._panels: dict[str, Panel] = dict(config.track.panels)
        self.pace = Pace()
        self._gallery = Gallery(config, game, run, tracker, self._real)
        self._began, self._from = time.perf_counter(), 0
        self._first: Batch | None = None
        self._last: tuple[range, Batch] | None = None

    def begin(self, images: int) -> None:
        """Measure the rate from here."""
        self._began, self._from = time.perf_counter(), images

    def figures(self, images: int) -> None:
        """Report the means of what was recorded since the last report, and the rate."""
        engine = self._engine
        values = {name: total / count for name, (total, count) in engine.read_metrics().items() if count}
        now = time.perf_counter()
        values["speed/images_per_second"] = (images - self._from) / (now - self._began)
        values["memory/process_gib"] = psutil.Process().memory_info().rss / 2**30
        if engine.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        values |= {f"skipped/{player}": found.total for player, found in engine.skipped(wait=True).items()}
        values |= self._pace_of(images, now)
        self._began, self._from = now, images
        self._tracker.metrics(images, images // self._config.training.batch, values)

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
            shown = self._first
            if shown is None:
                shown = self._first = (
                    self._load(np.arange(count)) if self._game.shows_data else Batch({}, torch.arange(0))
                )
            columns = self._game.pictures(self._config.run.seed, self._config.sample.count, shown)
        path = self._run.samples / f"images-{images:09d}.png"
        if self._tracker.guard("samples", lambda: save_columns(columns, path)):
            self._tracker.picture(path, images)

    def panels(self, images: int, due: Callable[[int], bool]) -> None:
        """Draw the panels of the config that are due."""
        if drawn := panels.due(self._panels, self._config.track.every, due):
            with self._engine.averages():
                self._tracker.draw(drawn, self._game, images)

    def scores(self, images: int, beat: Callable[[], None]) -> None:
        """Score the averaged networks, where the config names scores."""
        if not self._metrics:
            return
        config, engine, game = self._config, self._engine, self._game

        def fake(numbers: range) -> Tensor:
            shown = self._shuffled(numbers) if game.shows_data else Batch({}, torch.arange(numbers.start, numbers.stop))
            return game.generated(config.run.seed, numbers, shown)

        def real(numbers: range) -> Tensor:
            return self._shuffled(numbers)[game.judged]

        try:
            with engine.averages():
                evaluation = evaluate(
                    self._metrics,
                    fake,
                    real,
                    config.evaluate.samples,
                    len(self._index),
                    rank=engine.rank,
                    ranks=engine.world_size,
                    gather=engine.gather,
                    progress=lambda done, total: beat(),
                )
        except ScoreError as error:  # days of training are worth more than a score
            self._tracker.event("score failed", images, reason=str(error))
            return
        self._last = None
        scores: dict[str, Media] = {name: Scalar(value) for name, value in evaluation.scores.items()}
        self._tracker.log(images, {**scores, "speed/evaluation_seconds": Scalar(evaluation.seconds)})

    def _shuffled(self, numbers: range) -> Batch:
        """Return samples of the data set in a fixed shuffled order: shards may be sorted by class.

        The last ones are kept: a game that turns images into images is scored against them at once.
        """
        if self._last is None or self._last[0] != numbers:
            total = len(self._index)
            key = rng.key(self._config.run.seed, "evaluate")
            samples = order.permute(key, total, np.arange(numbers.start, numbers.stop) % total)
            self._last = numbers, self._load(samples)
        return self._last[1]

    def _real(self, count: int) -> Tensor:
        """Return the first images of that order, at most all: (N, C, H, W) in [-1, 1]."""
        shown, self._last = self._shuffled(range(min(count, len(self._index)))), None
        return shown[self._game.judged]

    def _load(self, samples: np.ndarray) -> Batch:
        return loader.load(self._index, self._config, samples.tolist(), self._engine.device)
