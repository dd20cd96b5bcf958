"""The checkpoints of a run: saves while it trains, what became of them, and the way back to the newest."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gan_dist import __version__
from gan_dist.checkpoint import Outcome, Store, Writer, format, tensors
from gan_dist.checkpoint.store import describe, name_of, read_kept
from gan_dist.config import Config
from gan_dist.engine import AgreedError, Engine
from gan_dist.errors import RunError
from gan_dist.evaluation import better
from gan_dist.games.base import Game
from gan_dist.run_directory import Run
from gan_dist.tracking import Tracker

_MEASURE = ("kind", "settings", "n_generated", "n_real", "extractor")
"""What of a score's record must be the same in two scores, to say which is better."""


class Checkpointer:
    """Saves and loads the checkpoints of a run. All ranks call the same methods at the same step."""

    def __init__(self, config: Config, engine: Engine, game: Game, run: Run) -> None:
        self._config, self._engine, self._game, self._run = config, engine, game, run
        self.store = Store(run.checkpoints, config.checkpoint.keep)
        self._writer = Writer(self.store, engine.rank, engine.world_size, engine.channel())
        self.saved_at = 0
        """Position of the newest checkpoint."""
        self.missed = 0
        """Saves in a row that failed."""
        self.begun_at = 0
        """Position of the newest save that was begun."""
        self._best: dict[int, dict[str, Any]] = {}
        """Best scores by position, with what they measure, until their checkpoints are there and kept.json says so."""

    def is_best(self, images: int, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Say on all ranks whether a position has the best value so far of evaluate.best: its checkpoint is due, and kept.

        `lines` are the records of its scores on rank 0.
        """
        name = self._config.evaluate.best
        if not name:
            return False
        line = next((line for line in lines if line["metric"] == name), {})
        value, measure = line.get("value"), _measure(line)
        good = False
        if isinstance(value, int | float) and math.isfinite(value):
            number = float(value)
            known = [facts["value"] for facts in (self._kept_best(measure), *self._best.values()) if facts]
            sign = 1 if better(dict(self._config.evaluate.scores), name) == "higher" else -1
            good = all(sign * number > sign * each for each in known)
        good = self._engine.gather(good)[0]
        if good and self._engine.is_main:
            self._best[images] = {"images": images, "score": name, "value": value, "measure": measure}
        return good

    def _kept_best(self, measure: Mapping[str, Any]) -> dict[str, Any]:
        """Return what kept.json says of the best checkpoint; nothing where that is gone, or its score measures another thing."""
        facts = read_kept(self.store.directory).get("best", {})
        same = facts.get("score") == self._config.evaluate.best and facts.get("measure", measure) == measure
        if not same or not isinstance(facts.get("value"), int | float):
            return {}
        with contextlib.suppress(OSError, ValueError):  # a name that is none, if somebody wrote there
            if describe(self.store.directory / str(facts.get("checkpoint")))["whole"]:
                return facts
        return {}

    def _keep_best(self, tracker: Tracker) -> None:
        """Write into kept.json the best of the checkpoints that are there; where the disk is full, after the next save."""
        there = self.store.names()
        ready = [images for images in self._best if name_of(images) in there]
        if not ready:
            return
        images = max(ready)  # a later one is better
        facts, name = self._best[images], name_of(images)
        if tracker.guard("checkpoints/kept.json", lambda: self.store.keep_as("best", name, **facts)):
            tracker.event("best", images, score=facts["score"], value=facts["value"], checkpoint=name)
            self._best = {at: later for at, later in self._best.items() if at > images}

    @property
    def newest_name(self) -> str | None:
        return next(reversed(self.store.names()), None)

    def save(self, images: int, tracker: Tracker) -> None:
        """Begin a checkpoint, which is written while the training goes on. Raises RunError where too many were missed."""
        self.begun_at = images
        self.wait(tracker)  # so that every rank knows the same about earlier saves
        if self.missed >= self._config.checkpoint.max_missed:
            raise RunError(
                f"{self.missed} saves in a row failed (checkpoint.max_missed; RUN/events.jsonl says why); the newest "
                f"checkpoint is {self.newest_name}: make room and start again"
            )
        milestone = self._config.checkpoint.milestones
        state = {
            "version": __version__,
            "fingerprint": self._config.fingerprint(),
            "milestone": bool(milestone and images // milestone > self.saved_at // milestone),
            "skipped": {player: found.total for player, found in self._engine.skipped(wait=True).items()},
            "loss_scales": self._engine.loss_scales(),
            "figures": self._engine.read_metrics(clear=False),
            "processes": self._engine.world_size,
            "wandb_id": self._run.wandb_id,
        }
        self._writer.save(images, tensors.collect(self._game.players, self._game.state(), self._game.pools), state)

    def note(self, tracker: Tracker) -> None:
        """Report the saves that have ended."""
        self._report(self._writer.finished(), tracker)

    def wait(self, tracker: Tracker) -> None:
        """Wait for the save in flight, and report it."""
        self._report(self._writer.wait(), tracker)

    def _report(self, outcomes: Sequence[Outcome], tracker: Tracker) -> None:
        for outcome in outcomes:
            if self._best:  # saves come in order: an earlier score whose save was put off has no checkpoint
                there = self.store.names()
                self._best = {
                    at: best for at, best in self._best.items() if at > outcome.images or name_of(at) in there
                }
            if outcome.problem:
                self.missed += 1
                if self._engine.is_main:
                    tracker.event("save failed", outcome.images, reason=outcome.problem, in_a_row=self.missed)
                continue
            self.missed, self.saved_at = 0, outcome.images
            if self._engine.is_main:
                times = {"seconds": round(outcome.seconds, 2), "stalled": round(outcome.stalled, 3)}
                tracker.event("saved", outcome.images, checkpoint=outcome.name, **times)
                self._keep_best(tracker)
                if outcome.warning:
                    tracker.event("disk", outcome.images, warning=outcome.warning)
                tracker.status("running", outcome.images, "", outcome.name)

    def load(self) -> list[str]:
        """Load the newest whole checkpoint, the same on every rank. Returns what was wrong with newer ones.

        `saved_at` is then its position, 0 where there is none. Raises AgreedError where none is whole or it is of another
        config: a run never begins again by itself.
        """
        engine = self._engine
        self._best, self.begun_at = {}, 0  # those of a training that was gone back from count no more
        found = engine.on_main(self.store.newest)
        assert found is not None
        name, manifest, problems = found
        if not name:
            if problems:
                raise AgreedError(
                    f"no checkpoint of {self._run.directory} is whole ({problems[0]}); fix it, or begin again with "
                    "--run.fresh true, which moves the old run aside"
                )
            return []
        directory = self._run.checkpoints / name
        if manifest["fingerprint"] != self._config.fingerprint():
            raise AgreedError(
                f"{directory} is of another config (fingerprint {manifest['fingerprint']}, this run's is "
                f"{self._config.fingerprint()}); it was copied there, or config.yaml was changed: put it back"
            )
        if where := engine.who_differs(format.find(directory)):
            raise AgreedError(
                f"{directory} is another {where}; run.directory must be on a disk that all machines share"
            )
        with format.Reader(directory, manifest) as read:
            tensors.restore(self._game.players, read, manifest["steps"], self._game.state(), self._game.pools)
        engine.shortcuts.reset()
        # the sums so far belong to all ranks together: one of them takes them
        own = manifest["figures"] if engine.is_main else dict.fromkeys(manifest["figures"], (0.0, 0))
        engine.metrics.clear()
        engine.metrics.restore(own)
        engine.restore_skipped(manifest["skipped"])
        engine.restore_loss_scales(manifest.get("loss_scales", {}))
        self.saved_at = int(manifest["images"])
        return problems


def _measure(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a score's record says of how it was measured, as kept.json gives it back."""
    found: dict[str, Any] = json.loads(json.dumps({key: line.get(key) for key in _MEASURE}, default=str))
    if against := line.get("against"):  # wherever it lies
        found["against"] = against["data"]
    return found
