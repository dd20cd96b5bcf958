"""The loop, and when things happen in it: step, report, sample, save."""

import time

import psutil
import torch

from gan_dist import __version__, games
from gan_dist.checkpoint import Store, format, tensors
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.data.index import Index
from gan_dist.data.loader import MicroBatch
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.run import Run, open_run
from gan_dist.tracking import Tracker, save_grid


class Trainer:
    """One run on this launch's processes. Its mutable state is the players and `images`; both are saved."""

    def __init__(self, config: Config, engine: Engine) -> None:
        """Check everything, then take up the run where its newest checkpoint stands."""
        self.engine = engine
        engine.agree(lambda: _prepare_data(config, engine.is_main), where="machine")
        self.index = loader.open_index(config)
        if len(set(engine.gather(self.index.digest))) > 1:
            raise InputError("data.shards has other contents on some machine; give all of them the same shards")
        self.config = config = _resolve(config, self.index)
        run = engine.agree(lambda: open_run(config, self.index.digest))
        assert run is not None
        self.run_directory: Run = run
        self.game = games.build(config)
        engine.wrap(self.game)
        self.store = Store(run.checkpoints, config.checkpoint.keep)
        self.images = 0
        self._mark = (time.perf_counter(), 0)
        problems = self._resume()
        self.tracker = Tracker(
            run.directory,
            config,
            samples=len(self.index),
            start=self.images,
            wandb_id=run.wandb_id,
            rank=engine.rank,
            world_size=engine.world_size,
        )
        for problem in problems:
            self.tracker.event("fell back", self.images, problem=problem)

    def train(self) -> None:
        """Go on to `training.images`."""
        config, tracker, total = self.config, self.tracker, self.config.training.images
        if self.images >= total:
            self._finish("was already finished")
            return
        tracker.event("resumed" if self.images else "started", self.images, processes=self.engine.world_size)
        tracker.status("running", self.images, "", self._newest_name())
        tracker.begin()
        self._mark = (time.perf_counter(), self.images)
        for batch in loader.micro_batches(self.index, config, self.images, self.engine.slots, self.engine.device):
            self.advance(batch)
        tracker.event("finished", self.images)
        self._finish("finished")

    def _finish(self, how: str) -> None:
        directory = self.run_directory.directory
        self.tracker.status("finished", self.images, "training.images reached", self._newest_name())
        self.tracker.say(f"{directory} {how} at {self.images:,} images. Pictures: {self.run_directory.samples}")
        self.tracker.say(
            f"More pictures: gan-dist generate {directory} --out FOLDER. Dashboard: {self.tracker.dashboard}"
        )

    def advance(self, batch: list[MicroBatch]) -> None:
        """One step, and what is due after it."""
        self.step(batch)
        self.tracker.progress(self.images)
        if self._due(self.config.track.every):
            self._report()
        if self._due(self.config.sample.every):
            self._sample()
        if self._due(self.config.checkpoint.every):
            self._save()

    def step(self, batch: list[MicroBatch]) -> None:
        """One batch through every phase that is due; `batch` is this process's share of it."""
        engine, game, size = self.engine, self.game, self.config.training.batch
        for phase in game.due(self.images // size):
            with engine.turn(phase.player):  # only this player's weights take gradients
                for micro in engine.share(batch):
                    engine.backward(phase.loss(micro))
                engine.update(phase.player)  # sync, optimizer
        game.average(self.images, size)
        self.images += size

    def _due(self, every: int) -> bool:
        """Whether the step just done crossed a multiple of `every` images, or was the last."""
        before = self.images - self.config.training.batch
        return self.images // every > before // every or self.images >= self.config.training.images

    def _report(self) -> None:
        totals = self.engine.read_figures()
        values = {name: total / count for name, (total, count) in totals.items() if count}
        now, (then, images) = time.perf_counter(), self._mark
        values["speed/images_per_second"] = (self.images - images) / (now - then)
        values["memory/process_gib"] = psutil.Process().memory_info().rss / 2**30
        if self.engine.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._mark = (now, self.images)
        self.tracker.metrics(self.images, self.images // self.config.training.batch, values)

    def _sample(self) -> None:
        if self.engine.is_main:
            path = self.run_directory.samples / f"images-{self.images:09d}.png"
            save_grid(self.game.samples(self.config.run.seed, 0, self.config.sample.count), path)
            self.tracker.picture(path, self.images)

    def _save(self) -> None:
        named, steps = tensors.collect(self.game.players)
        state = {
            "version": __version__,
            "fingerprint": self.config.fingerprint(),
            "steps": steps,
            "figures": self.engine.read_figures(clear=False),
            "processes": self.engine.world_size,
        }
        name = self.store.save(
            self.images,
            named,
            state,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            gather=self.engine.gather,
        )
        self.tracker.event("saved", self.images, checkpoint=name)
        self.tracker.status("running", self.images, "", name)

    def _resume(self) -> list[str]:
        """Load the newest whole checkpoint, the same on every process; returns what was wrong with newer ones."""
        found = self.engine.agree(self.store.newest)
        assert found is not None
        name, manifest, problems = found
        if not name:
            if problems:
                raise InputError(
                    f"no checkpoint of {self.run_directory.directory} is whole ({problems[0]}); "
                    "mend it, or give --run.directory another folder to start anew"
                )
            return []
        saved = format.read_tensors(self.run_directory.checkpoints / name, manifest)
        tensors.restore(self.game.players, saved, manifest["steps"])
        # the sums so far belong to all processes together: one of them takes them up
        own = manifest["figures"] if self.engine.is_main else dict.fromkeys(manifest["figures"], (0.0, 0))
        self.engine.figures.restore(own)
        self.images = int(manifest["images"])
        return problems

    def _newest_name(self) -> str | None:
        return next(reversed(self.store.names()), None)


def _prepare_data(config: Config, progress: bool) -> None:
    loader.prepare(config, progress)
    loader.open_index(config)


def _resolve(config: Config, index: Index) -> Config:
    """The config with what only the data knows: how many classes there are."""
    if not config.data.labels or config.data.classes:
        return config
    classes = int(index.label.max()) + 1
    return config.model_copy(update={"data": config.data.model_copy(update={"classes": classes})})
