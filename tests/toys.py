"""A recipe of configs/ at toy size: the same bits on any number of ranks, and after a run went on at another one."""

import dataclasses
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from gan_dist import config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, run_ranks, train


@dataclasses.dataclass(frozen=True)
class Toy:
    """A recipe with keys that make it small."""

    recipe: str
    keys: Mapping[str, object]
    shards: str = "none"

    @property
    def config(self) -> str:
        return str(REPOSITORY / f"configs/{self.recipe}.yaml")

    def words(self) -> dict[str, object]:
        """All keys: four micro-batches of two in a batch, and files seldom."""
        common: dict[str, object] = {
            "data.shards": self.shards,
            "data.workers": 0,
            "training.batch": 8,
            "training.micro_batch": 2,
            "training.images": 48,
            "training.strategy": "exact",
            "training.device": "cpu",
            "checkpoint.every": 32,
            "sample.every": 48,
            "sample.count": 4,
            "track.every": 16,
            "track.wandb": "disabled",
        }
        return {**common, **self.keys}

    def of(self, shards: Path | str) -> "Toy":
        return dataclasses.replace(self, shards=str(shards))

    def train(self, run: Path, ranks: int = 1) -> Path:
        """Train by the real command, to the end. Returns the run's directory."""
        done = train({**self.words(), "run.directory": run}, ranks, config=self.config)
        assert done.returncode == 0, done.stderr
        return run


def played(toys: tuple[Toy, ...], steps: int, looks: Collection[int]) -> tuple[str, ...]:
    """Hashes of all that the players of each toy hold after some steps on random samples: at `looks`, and after the last."""
    found = []
    for toy in toys:
        config = config_module.load([toy.config, *making.flags(toy.words())])
        engine, game, size = Engine(config), games.build(config), config.training.batch
        engine.place(game)
        engine.wrap(game)
        for step in range(steps):
            micros = trial.random_batches(config, game.fields, step, engine.slots)
            play_step(engine, game, trial.on_device(config, engine, micros), size * step, size)
            if step + 1 in looks or step + 1 == steps:
                found.append(reference.digest(engine, game))
    return tuple(found)


def check_bits(*toys: Toy, ranks: tuple[int, ...] = (1, 2, 4), steps: int = 3, looks: Collection[int] = ()) -> None:
    """Every rank of every number of ranks holds the same."""
    found = [hashes for count in ranks for hashes in run_ranks(count, played, toys, steps, looks, forked=True)]
    assert len(found) == sum(ranks)
    assert len(set(found)) == 1


def check_goes_on(toy: Toy, run: Path, copy: Path, stop: int) -> str:
    """A copy of a finished run that knows nothing beyond `stop` images goes on at 2 ranks to the same bits.

    Returns the name of the last checkpoint.
    """
    shutil.copytree(run, copy)
    last = max(digests(run))
    for place in (copy / "checkpoints").glob("images-*"):
        if int(place.name.partition("-")[2]) > stop:
            shutil.rmtree(place)
    assert last not in digests(copy)
    toy.train(copy, 2)
    assert digests(copy)[last] == digests(run)[last]
    return last
