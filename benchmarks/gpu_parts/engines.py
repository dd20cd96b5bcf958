"""The trainer's own step, on random images and without a data set: what needs the package's dependencies."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gan_dist import config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.interfaces import Batch
from gan_dist.step import play_step

from .ceilings import ROOT
from .dcgan import TOY
from .measuring import Bench, tf32


def keys(bench: Bench, precision: str, micro: int) -> dict[str, Any]:
    """Keys of configs/dcgan.yaml for a format and a micro-batch; at toy size in a dry run."""
    toy = TOY if bench.dry else {}
    micro = {32: 2, 128: 8}[micro] if bench.dry else micro
    number = {"bf16": {"training.precision": "bf16"}, "tf32": {"training.tf32": "true"}}.get(precision, {})
    if bench.dry and precision == "tf32":
        number = {}  # which no CPU has
    device = "cuda" if bench.on_gpu else "cpu"
    return {"data.shards": "-", **toy, "training.micro_batch": micro, "training.device": device, **number}


class EngineStep:
    """An engine of one rank, its game, and the same images over and over."""

    def __init__(
        self,
        bench: Bench,
        strategy: str,
        precision: str,
        micro: int,
        joined: int = 1,
        recipe: str = "dcgan",
        **more: Any,
    ) -> None:
        """`more` are further keys, with two underscores for a dot."""
        given = {**keys(bench, precision, micro), "training.strategy": strategy, "data.flip": "false"}
        if strategy != "exact":
            given["training.micro_batches_per_pass"] = joined
        given |= {name.replace("__", "."): value for name, value in more.items()}
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        self.config = config_module.load([str(ROOT / f"configs/{recipe}.yaml"), *words])
        self.engine = Engine(self.config, alone=True)
        self.game = games.build(self.config)
        self.engine.wrap(self.game)
        batches = trial.random_batches(self.config, self.game.fields, 0, self.engine.slots)
        self.batches: Sequence[Batch] = trial.on_device(self.config, self.engine, batches)
        self.images = 0

    def step(self) -> None:
        size = self.config.training.batch
        with self.settings():
            micros = [Batch(dict(each.fields), each.positions, each.parts) for each in self.batches]
            play_step(self.engine, self.game, micros, self.images, size)
        self.images += size

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """What is of the whole process, where engines take turns."""
        training = self.config.training
        torch.use_deterministic_algorithms(training.deterministic or training.strategy == "exact")
        with tf32(training.tf32):
            yield
        torch.use_deterministic_algorithms(False)
