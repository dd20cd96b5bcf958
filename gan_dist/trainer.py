"""Run the training loop, and decide when to step, report, draw, save and stop."""

import contextlib
import gc
import os
import uuid
from collections.abc import Callable

import torch

from gan_dist import provenance, scoring, trial, warm_start
from gan_dist.alarms import Alarms
from gan_dist.bad_steps import BadSteps
from gan_dist.checkpoint import tensors
from gan_dist.checkpointing import Checkpointer
from gan_dist.config import Config
from gan_dist.control import desync, load, peers, stop
from gan_dist.control.stop import Reason, Requests
from gan_dist.control.watchdog import Watchdog
from gan_dist.data import loader, resident
from gan_dist.data.decode import Note
from gan_dist.data.quarantine import Quarantine
from gan_dist.doctor import autotune
from gan_dist.engine import AgreedError, Engine, Gate, lost_contact, memory
from gan_dist.errors import EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED, RunError
from gan_dist.evaluation import ScoreError
from gan_dist.interfaces import Batch, Phase
from gan_dist.reporting import Reporter
from gan_dist.run_directory import Run, open_run
from gan_dist.step import play_step
from gan_dist.supply import Supply
from gan_dist.tracking import Tracker


class Trainer:
    """One run on this launch's ranks. Its mutable state is the players, `images` and counters; all are saved."""

    def __init__(self, config: Config, engine: Engine) -> None:
        """Check everything, then continue the run from its newest checkpoint."""
        self.engine = engine
        deadline = stop.deadline(config.run.deadline, config.control.margin_seconds)
        engine.on_main(lambda: _prepare_data(config, engine.is_main), where="machine")
        self.index = loader.open_index(config)
        if where := engine.who_differs(self.index.digest):
            raise AgreedError(f"data.shards has other contents {where}; give all machines the same shards")
        config = config.with_classes(lambda: self.index.classes)
        self.config = config = warm_start.with_contents(config, engine)
        self.cache = resident.shared(config, self.index, engine, memory.left_by_limits())
        engine.on_main(lambda: scoring.check(config, len(self.index)))
        self.game = trial.build(config, engine)
        if not (config.directory / "config.yaml").exists():
            engine.on_main(self.game.check_start)
        beginning = warm_start.find(config, engine, self.game)
        # only now: what is refused above leaves no run behind
        run = engine.on_main(lambda: open_run(config, self.index.digest, self.index.old_digest))
        assert run is not None
        self.run_directory: Run = run
        config, layout = autotune.settle(config, engine, self.game, run)
        self.config = config
        other_machine = provenance.keep_bits(config, engine, run)
        engine.wrap(self.game)
        self.checkpointer = Checkpointer(config, engine, self.game, run)
        self.agreement = engine.agreement(2)
        self.requests = Requests(run.directory if engine.is_main else None, deadline, stop.is_date(config.run.deadline))
        self.supply = Supply(config, self.index, self.requests, lambda: Gate(engine.world_size))
        self.quarantine = Quarantine(self.index)
        self.images = 0
        self._owed = False  # a checkpoint that is due
        self._collected = False
        self.bad_steps = BadSteps(config, engine, self.game, self.requests)
        problems = self._resume()
        warm_start.load(beginning, engine, self.game)
        self.tracker = Tracker(
            run.directory,
            config,
            samples=len(self.index),
            start=self.images,
            wandb_id=run.wandb_id,
            rank=engine.rank,
            world_size=engine.world_size,
        )
        self.reporter = Reporter(config, engine, self.game, self.index, run, self.tracker, self._alarms)
        launch = engine.on_main(lambda: uuid.uuid4().hex)
        self.watchdog = Watchdog(
            run.directory,
            str(launch),
            engine.rank,
            engine.world_size,
            config.control.hang_seconds,
            tick=self.requests.look_at_clock,
            look=self.requests.look_for_file,
            report=self.tracker.failed,
            board=engine.board(peers.names(engine.world_size)),
        )
        if layout:
            self.tracker.say(layout)
        for problem in problems if engine.is_main else ():
            self.tracker.event("fell back", self.images, problem=problem)
        if engine.is_main:
            warm_start.report(beginning, config, self.game, self.tracker)
        if other_machine and engine.is_main:
            self.tracker.event("other machine", self.images, warning=other_machine)

    def _alarms(self, reals: Callable[[int], Batch | None]) -> Alarms:
        def stop_for_it() -> None:
            self.requests.ask(Reason.COLLAPSE)

        store = self.checkpointer.store
        return Alarms(self.config, self.engine, self.game, self.run_directory, self.tracker, store, reals, stop_for_it)

    def train(self) -> int:
        """Train to `training.images`, or to a reason to stop. Returns the exit code."""
        if self.images >= self.config.training.images:
            self.requests.clear_file()
            self._finish("was already finished")
            return EXIT_FINISHED
        self.requests.listen()
        tracker = self.tracker
        facts = provenance.describe(self.engine, self.run_directory.directory / "logs")
        if facts is not None:
            begun = "resumed" if self.images else "started"
            tracker.event(begun, self.images, processes=self.engine.world_size, commit=facts["commit"])
            tracker.environment(self.images, facts)
        tracker.status("running", self.images, "", self.checkpointer.newest_name)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if self.engine.is_main and (busy := load.others(torch.get_num_threads(), here)):
            tracker.say(busy)
        with self.watchdog:
            try:
                tracker.begin()
                reason = self._go_on()
                while reason == Reason.BAD_STEPS:
                    self._go_back()
                    reason = self._go_on()
                self.agreement.close()
                return self._end(reason)
            except Exception as error:
                if not lost_contact(error):
                    raise
                if first := self.watchdog.first_failure():
                    raise RunError(f"ended because rank {first.rank} {first.error}") from error
                if far := self.watchdog.out_of_reach(error):
                    who = ", ".join(far[:4]) + (f" or {len(far) - 4} more" if len(far) > 4 else "")
                    raise RunError(
                        f"ended because {who} cannot be reached (killed, or the node or link is lost)"
                    ) from error
                raise

    def _go_on(self) -> Reason:
        """Play steps until the run is finished or all ranks agreed on a reason to stop."""
        self.reporter.begin(self.images)
        slots, device, say = self.engine.slots, self.engine.device, self.tracker.say
        waiting = self.supply.waiting(self.watchdog, self.tracker, lambda: self.images)
        batches = loader.micro_batches(
            self.index, self.config, self.images, slots, device, self._quarantined, self.cache, say, waiting
        )
        with contextlib.closing(self.supply.of(batches)) as supplied:
            for batch in self.reporter.pace.waiting(supplied):
                self.advance(batch)
                if reason := self._agreed_reason(batch):
                    return reason
                self.watchdog.beat("waiting for data", self.images)
        return self.supply.reason

    def advance(self, batch: list[Batch]) -> None:
        """Play one step, and do what is due after it."""
        self.step(batch)
        self.tracker.progress(self.images)
        config = self.config
        if self._due(config.track.every):
            self.reporter.figures(self.images)
        self.reporter.panels(self.images, self._due)
        self._owed = self._owed or self._due(self.config.checkpoint.every)
        self._save_if_owed()  # before an evaluation, which takes long
        if config.evaluate.every and self._due(config.evaluate.every):
            with self.reporter.pace.spending("evaluation"):
                lines = self.reporter.scores(self.images, self._beat_evaluating)
            if self.checkpointer.is_best(self.images, lines) and self.checkpointer.begun_at != self.images:
                self._owed = True
                self._save_if_owed()
        if self._due(config.sample.every):
            self.watchdog.beat("drawing samples", self.images)
            with self.reporter.pace.spending("pictures"):
                self.reporter.pictures(self.images)
        if self.config.control.desync_every and self._due(self.config.control.desync_every):
            self._compare_ranks()
        self.checkpointer.note(self.tracker)

    def step(self, batch: list[Batch]) -> None:
        """Play every phase that is due on one batch; `batch` is this rank's part of it."""
        size = self.config.training.batch
        play_step(self.engine, self.game, batch, self.images, size, self._beat)
        self.images += size
        if not self._collected:
            # what a run keeps is there now: no later collection has to look at it, which takes some 10 ms
            gc.collect()
            gc.freeze()
            self._collected = True

    def _beat(self, phase: Phase) -> None:
        self.watchdog.beat(f"turn of {phase.player.name}", self.images)

    def _beat_evaluating(self) -> None:
        """Beat, and end the evaluation where this rank is asked to stop: Slurm kills 30 seconds later."""
        self.watchdog.beat("evaluating", self.images)
        if reason := self.requests.reason:
            raise ScoreError(f"given up, as the run stops because of {stop.WORDS[reason]}")

    def _due(self, every: int) -> bool:
        """Say whether the step just done crossed a multiple of `every` images, or was the last."""
        before = self.images - self.config.training.batch
        return self.images // every > before // every or self.images >= self.config.training.images

    def _agreed_reason(self, batch: list[Batch]) -> Reason:
        """Return why all ranks stop after this step; Reason.NONE where they do not. `batch` is the step's."""
        agreement, reason = self.agreement, Reason.NONE
        if agreement.due():
            self.bad_steps.note(self.tracker)
            agreement.send([self.requests.reason, self.quarantine.count])
        elif rows := agreement.receive():
            reason = Reason(max(row[0] for row in rows))
            unusable = self.quarantine.over_ranks([row[1] for row in rows], self.engine.gather)
            if unusable > self.config.data.max_bad_fraction * sum(map(len, self.index.sets)):
                reason = Reason.BAD_DATA
        self.bad_steps.batch = batch[:1]  # it needs no more
        return reason

    def _quarantined(self, note: Note) -> None:
        if self.quarantine.add(note):
            self.tracker.event(note.kind, self.images, shard=note.shard, key=note.key, reason=note.reason)

    def _save_if_owed(self) -> None:
        if self._owed and not self.bad_steps.are_under_way(self.images):
            self._save()

    def _save(self) -> None:
        self._owed = False
        self.watchdog.beat("saving", self.images)
        with self.reporter.pace.spending("save"):
            self._compare_ranks()
            self.checkpointer.save(self.images, self.tracker)

    def _compare_ranks(self) -> None:
        """Compare the weights of all ranks. Raises RunError where they differ, so that no such state is saved."""
        if self.engine.world_size == 1:
            return
        named = tensors.weights(self.game.players, self.game.state())
        if problem := desync.compare(list(named), self.engine.gather(desync.hashes(named))):
            if self.engine.is_main:
                self.tracker.event("desync", self.images, problem=problem)
            raise RunError(
                f"the ranks hold different weights at {self.images:,} images: {problem}; nothing of it was saved, the "
                f"newest checkpoint is {self.checkpointer.newest_name}. Check that rank's machine (memory, GPU), then rerun the same command"
            )

    def _end(self, reason: Reason) -> int:
        """Save what is not saved, and report the end."""
        self.bad_steps.note(self.tracker, wait=True)  # also those of the last steps
        if reason and self.checkpointer.saved_at != self.images:
            self.checkpointer.wait(self.tracker)
            if self.checkpointer.saved_at != self.images:
                self._save()
        self.checkpointer.wait(self.tracker)
        if self.checkpointer.missed:
            raise RunError(
                f"the last checkpoint, at {self.images:,} images, could not be saved (RUN/events.jsonl says why); the "
                f"newest one is {self.checkpointer.newest_name}: rerun the same command"
            )
        self.requests.clear_file()  # however the run ends: the next start must not obey it
        if reason == Reason.BAD_DATA:
            worst = self.quarantine.worst()
            raise AgreedError(
                f"data.shards: more than {self.config.data.max_bad_fraction:g} of the samples are unusable "
                f"(data.max_bad_fraction), {worst[0]} of them in {worst[1]}: {worst[2]}; fix or remove that shard, then rerun the same command"
            )
        if not reason:
            if self.engine.is_main:
                self.tracker.event("finished", self.images)
            self._finish("finished")
            return EXIT_FINISHED
        why = stop.WORDS[reason] + self.supply.lacking(reason, self.engine.gather)
        if self.engine.is_main:
            self.tracker.event("stopped", self.images, reason=why)
        self.tracker.status("stopped", self.images, why, self.checkpointer.newest_name)
        self.tracker.say(
            f"{self.run_directory.directory} stopped at {self.images:,} images because of {why}, and is saved. "
            "The same command goes on from here."
        )
        return EXIT_FAILED if reason == Reason.COLLAPSE else EXIT_STOPPED

    def _finish(self, how: str) -> None:
        directory = self.run_directory.directory
        self.tracker.status("finished", self.images, "training.images reached", self.checkpointer.newest_name)
        self.tracker.say(f"{directory} {how} at {self.images:,} images. Pictures: {self.run_directory.samples}")
        translates = self.game.shows_data and not self.game.reconstructs
        more = f"apply {directory} IMAGES --out DIR" if translates else f"generate {directory}"
        self.tracker.say(f"More pictures: gan-dist {more}. Dashboard: {self.tracker.dashboard}")

    def _go_back(self) -> None:
        """Go back to the last checkpoint after too many skipped steps, once. Raises RunError the second time."""
        self.bad_steps.note(self.tracker, wait=True)
        self.checkpointer.wait(self.tracker)
        name = self.engine.on_main(lambda: self.checkpointer.store.newest()[0])
        reason = self.bad_steps.go_back(name, self.images)
        if self.engine.is_main:
            self.tracker.event("went back", self.images, to=name, reason=reason)
        self._resume()
        self.engine.forgive()
        self._owed = False
        self.requests.discard(Reason.BAD_STEPS)  # a signal that came meanwhile still holds
        self.tracker.rewind(self.images)

    def _resume(self) -> list[str]:
        """Load the newest whole checkpoint. Returns what was wrong with newer ones."""
        problems = self.checkpointer.load()
        self.images = self.checkpointer.saved_at
        self.bad_steps.resume()
        return problems


def _prepare_data(config: Config, progress: bool) -> None:
    loader.prepare(config, progress)
    loader.open_index(config)
