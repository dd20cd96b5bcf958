"""Watch a run for collapse while it trains: draw what the signals of pictures need, judge all signals, and say what changes."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping

import torch

from gan_dist import files, schedules, signals
from gan_dist.checkpoint import Store
from gan_dist.config import Config
from gan_dist.control import collapse, remedies
from gan_dist.control.collapse import Change, Judge
from gan_dist.data.stores import StoreError
from gan_dist.engine import Engine
from gan_dist.games import Game
from gan_dist.interfaces import Batch
from gan_dist.run_directory import Run
from gan_dist.tracking import Tracker
from gan_dist.tracking.media import Scalar

_log = logging.getLogger("gan_dist")
_COUNT = 64  # images of a reading of the averaged generator
_LIVE = 32  # and of the one that trains
# Images between two readings at least: drawing an image costs about as much as training on a tenth of one
_SELDOM = 5_000
_OFTEN, _YOUNG = 2_000, 40_000  # of the generator that trains, while so few images were seen
_REALS = 256  # that they are compared with
_CELLS = 512  # images for the cells
_MANY = 4_096  # real images that the cells are made from


class Alarms:
    """The signals of collapse of a run, and its alarms. All ranks call the same methods at the same step."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        game: Game,
        run: Run,
        tracker: Tracker,
        store: Store,
        reals: Callable[[int], Batch | None],
        stop: Callable[[], None],
    ) -> None:
        """`reals` returns so many samples of the data set, or None where it is empty; `stop` asks to stop."""
        self._config, self._engine, self._game, self._run = config, engine, game, run
        self._tracker, self._store, self._reals, self._stop = tracker, store, reals, stop
        average = getattr(config, "average", None)
        half_life = schedules.at(average.half_life, config.training.whole_images) if average else 0
        loss = getattr(config, "loss", None)
        sure, level = getattr(loss, "sure", math.inf), math.inf
        if getattr(loss, "lipschitz", False) and not config.data.drawn:
            level = math.sqrt(config.data.channels * math.prod(config.data.size))  # of an image in [-1, 1], at most
        self._rules = collapse.rules(config.control.limits, int(half_life), config.training.batch, sure, level)
        self._judge = Judge(self._rules, config.control.limits.readings)
        self._variety: signals.Variety | None = None
        self._cells: signals.Cells | None = None
        self._labels: float | None = None
        self._ready = False
        """Whether what many real images are needed for is known."""
        self._pictures = game.rivals is not None and not game.makes_points
        """Whether there are signals of pictures: the same on all ranks."""
        self._broken = False

    def begin(self, images: int) -> None:
        """Know what is suspect at a position, from the run's metrics.jsonl."""
        self._judge = Judge(self._rules, self._config.control.limits.readings)
        if self._watches:
            collapse.replay(self._judge, files.read_json_lines(self._run.directory / "metrics.jsonl"), images)
            self._store.guard(self._judge.good_positions())

    @property
    def _watches(self) -> bool:
        return self._engine.is_main and self._config.control.collapse != "off"

    def figures(self, images: int, means: Mapping[str, float]) -> dict[str, float]:
        """Return the signals of a report: those that follow from its means, and those of pictures where they are due."""
        found = signals.of_figures(means, self._game.rivals)
        if self._pictures:
            live, average = self._due(_OFTEN if images <= _YOUNG else _SELDOM, images), self._due(_SELDOM, images)
            with self._engine.averages() if average else contextlib.nullcontext():
                if self._engine.is_main and not self._broken and (live or average):
                    found |= self._guarded(lambda: self._look(images, live, average))
        return found

    def _due(self, every: int, images: int) -> bool:
        """Say whether the steps since the last report crossed a multiple of so many images."""
        before = images - max(self._config.track.every, self._config.training.batch)
        return images // every > before // every

    def grid(self, images: int) -> None:
        """Report the cells beside a sample grid, once the average is worth it. The averages are whole, on rank 0."""
        if (
            not self._pictures
            or self._broken
            or images < min(rule.begin for rule in self._rules if rule.signal == "collapse/cells")
        ):
            return
        found = self._guarded(self._count_cells)
        if found:
            self._tracker.log(images, {name: Scalar(value) for name, value in found.items()})
            self.judge(images, found)

    def judge(self, images: int, values: Mapping[str, float]) -> None:
        """Say which signals became suspect or well by the figures of a position."""
        if not self._watches:
            return
        changes = self._judge.feed(images, values)
        self._store.guard(self._judge.good_positions())
        for change in changes:
            self._say(change)
        if self._config.control.collapse == "stop" and any(change.kind == "suspect" for change in changes):
            self._stop()

    def _say(self, change: Change) -> None:
        rule = change.rule
        if change.kind == "clear":
            words = f"{rule.signal} is well again: {change.value:.3g}"
            self._tracker.alert(
                "clear", change.images, words, signal=rule.signal, trouble=rule.trouble, value=change.value
            )
            return
        checkpoint = None if change.good is None else self._store.newest_before(change.good)
        remedy = remedies.remedy(rule.trouble, self._config.flat())
        kept = f"{checkpoint} from before is kept. " if checkpoint else ""
        words = (
            f"suspect: {remedies.meaning(rule)} ({rule.signal} is {change.value:.3g}, {rule.side} {change.threshold:.3g} "
            f"since {change.since:,} images). {kept}Try in a new run: {remedy}"
        )
        self._tracker.alert(
            "suspect",
            change.images,
            words,
            signal=rule.signal,
            trouble=rule.trouble,
            value=change.value,
            threshold=round(change.threshold, 6),
            since=change.since,
            checkpoint=checkpoint,
            remedy=remedy,
        )

    def _guarded(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return what `work` finds; what it raises is reported once, and no picture is looked at again before the next start."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                return work()
        except Exception as error:  # days of training are worth more than a signal
            self._broken = not isinstance(error, StoreError)  # a server may answer the next time
            _log.error("signals of pictures:", exc_info=error)
            self._tracker.event("signals failed", self._tracker.images, reason=f"{type(error).__name__}: {error}")
            return {}

    def _look(self, images: int, live: bool, average: bool) -> dict[str, float]:
        """Draw few images of both generators, and compare them with real ones."""
        if self._variety is None:
            if (reals := self._reals(_REALS)) is None:
                self._broken = True
                return {}
            self._variety = signals.Variety(reals[self._game.judged], reals.get("class"))
        seed = self._config.run.seed
        found: dict[str, float] = {}
        shown = {
            "": self._game.samples(seed, 0, _COUNT) if average else None,
            "_live": self._game.live(seed, _LIVE) if live else None,
        }
        for whose, drawn in shown.items():
            if drawn is not None and len(drawn) > 1:
                count = self._config.data.classes  # sample n is of class n modulo these
                classes = torch.arange(len(drawn)) % count if count and not whose else None
                found |= {f"collapse/{name}{whose}": value for name, value in self._variety.of(drawn, classes).items()}
        if self._config.data.labels and images >= self._config.control.limits.warm_up_live:
            self._prepare()
        return found if self._labels is None else {**found, "data/labels": self._labels}

    def _count_cells(self) -> dict[str, float]:
        """Draw many images of the averaged generator, and see where among the real ones they are."""
        self._prepare()
        if self._cells is None:
            return {}
        found = self._cells.of(self._game.samples(self._config.run.seed, 0, _CELLS))
        return {f"collapse/{name}": value for name, value in found.items()}

    def _prepare(self) -> None:
        """Look at many real images, once: it takes seconds, so a short run does without."""
        if self._ready:
            return
        self._ready = True
        reals = self._reals(_MANY)
        if reals is None:
            return
        shown, classes = reals[self._game.judged], reals.get("class")
        self._labels = None if classes is None else signals.information(shown, classes)
        self._cells = signals.Cells.of_reals(shown, self._config.run.seed)
