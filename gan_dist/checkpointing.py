"""The checkpoints of a run: saves while it trains, what became of them, and the way back to the newest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gan_dist import __version__
from gan_dist.checkpoint import Outcome, Store, Writer, format, tensors
from gan_dist.checkpoint.store import read_kept
from gan_dist.config import Config
from gan_dist.engine import AgreedError, Engine
from gan_dist.errors import RunError
from gan_dist.evaluation import better
from gan_dist.games.base import Game
from gan_dist.run_directory import Run
from gan_dist.tracking import Tracker


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
        self._best: dict[int, float] = {}
        """Best scores by position, until their checkpoints are there."""

    def is_best(self, images: int, scores: Mapping[str, float]) -> bool:
        """Say on all ranks whether a position has the best value so far of evaluate.best: its checkpoint is due, and kept.

        `scores` are rank 0's.
        """
        if not self._config.evaluate.best:
            return False
        value = scores.get(f"score/{self._config.evaluate.best}", math.nan)
        before = read_kept(self.store.directory).get("best", {})
        known: list[Any] = [before.get("value")] if before.get("score") == self._config.evaluate.best else []
        known = [each for each in (*known, *self._best.values()) if isinstance(each, int | float)]
        sign = 1 if better(dict(self._config.evaluate.scores), self._config.evaluate.best) == "higher" else -1
        good = math.isfinite(value) and all(sign * value > sign * each for each in known)
        good = self._engine.gather(good)[0]
        if good:
            self._best[images] = value
        return good

    @property
    def newest_name(self) -> str | None:
        return next(reversed(self.store.names()), None)

    def save(self, images: int, tracker: Tracker) -> None:
        """Begin a checkpoint, which is written while the training goes on. Raises RunError where too many were missed."""
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
            best = self._best.get(outcome.images)
            # saves come in order: an earlier score whose save was put off has no checkpoint
            self._best = {images: value for images, value in self._best.items() if images > outcome.images}
            if outcome.problem:
                self.missed += 1
                if self._engine.is_main:
                    tracker.event("save failed", outcome.images, reason=outcome.problem, in_a_row=self.missed)
                continue
            self.missed, self.saved_at = 0, outcome.images
            if self._engine.is_main:
                times = {"seconds": round(outcome.seconds, 2), "stalled": round(outcome.stalled, 3)}
                tracker.event("saved", outcome.images, checkpoint=outcome.name, **times)
                if best is not None:
                    score = {"score": self._config.evaluate.best, "value": best}
                    self.store.keep_as("best", outcome.name, images=outcome.images, **score)
                    tracker.event("best", outcome.images, **score, checkpoint=outcome.name)
                if outcome.warning:
                    tracker.event("disk", outcome.images, warning=outcome.warning)
                tracker.status("running", outcome.images, "", outcome.name)

    def load(self) -> list[str]:
        """Load the newest whole checkpoint, the same on every rank. Returns what was wrong with newer ones.

        `saved_at` is then its position, 0 where there is none. Raises AgreedError where none is whole or it is of another
        config: a run never begins again by itself.
        """
        engine = self._engine
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
        # the sums so far belong to all ranks together: one of them takes them
        own = manifest["figures"] if engine.is_main else dict.fromkeys(manifest["figures"], (0.0, 0))
        engine.metrics.clear()
        engine.metrics.restore(own)
        engine.restore_skipped(manifest["skipped"])
        engine.restore_loss_scales(manifest.get("loss_scales", {}))
        self.saved_at = int(manifest["images"])
        return problems
