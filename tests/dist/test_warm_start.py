"""What a run takes over of another one's checkpoint, and what it keeps fixed, is the same under every strategy and rank count."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games, trial, warm_start
from gan_dist.checkpoint import Store, Writer, format, tensors
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine
from gan_dist.games import start
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
FIXED = ("D/weights/features.0.weight", "D/average/features.0.weight")


def build(strategy: str, **more: Any) -> Config:
    keys = making.tiny(
        "unused", "unused", training__strategy=strategy, training__batch=8, training__micro_batch=2, **more
    )
    keys |= {"penalties.r1.weight": 5.0, "optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    keys |= {"optimizers.discriminator.kind": "adamw", "average.half_life": 50}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


def play(engine: Engine, game: games.Game, config: Config, steps: int) -> None:
    for step in range(steps):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        size = config.training.batch
        play_step(engine, game, trial.on_device(config, engine, micros), step * size, size)


def save(folder: Path, strategy: str) -> None:
    """A checkpoint after two steps."""
    config = build(strategy)
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    play(engine, game, config, 2)
    writer = Writer(Store(folder, 9), engine.rank, engine.world_size, engine.channel())
    writer.save(16, tensors.collect(game.players), {})
    assert not writer.wait()[0].problem
    engine.release()


def take_all(folder: Path, optimizers: bool) -> list[str]:
    """Begin with it under every strategy, play two steps; returns hashes under `exact`, and what is wrong."""
    loaded_once()
    directory = folder / Store(folder, 9).names()[-1]
    manifest, wrong, hashes = format.read_manifest(directory), list[str](), ""
    there = format.read_tensors(directory, manifest)
    expected: numerics.State = {}
    for strategy in sorted(
        STRATEGIES, key=lambda name: name != "exact"
    ):  # the first is what the others are compared with
        more = {"start__from": "there", "start__freeze": "discriminator.features.0", "start__optimizers": optimizers}
        if not optimizers:
            more |= {"start__skip": "generator.layers.0"}
        config = build(strategy, **more)
        engine, game = Engine(config), games.build(config)
        engine.place(game)
        own = {name: tuple(tensor.shape) for name, tensor in tensors.collect(game.players).shapes.items()}
        taken = start.match(game, own, config, build(strategy), manifest)
        engine.wrap(game)
        warm_start.load(warm_start.Beginning(directory, taken), engine, game)
        state = numerics.gather(engine, game)
        for here, name in taken.tensors.items():
            if not torch.equal(state[here], there[name].double()):
                wrong.append(f"{strategy}: {here} is not {name} of the checkpoint")
        play(engine, game, config, 2)
        state = numerics.gather(engine, game)
        for name in FIXED:
            if name in state and not torch.equal(state[name], there["D/weights/features.0.weight"].double()):
                wrong.append(f"{strategy}: {name} moved")
        if strategy == "exact":
            expected, hashes = state, reference.digest(engine, game)
        for what in ("weights", "average"):
            worst, where = numerics.difference(state, expected, what)
            if state.keys() != expected.keys() or not worst < 1e-4:
                wrong.append(f"{strategy}: {where} differs by {worst:.1e} from exact's")
        engine.release()
    return [hashes, *wrong]


@pytest.mark.parametrize(("saver", "optimizers"), [("zero2", False), ("ddp", True)])
def test_every_strategy_begins_with_what_any_other_saved(tmp_path: Path, saver: str, optimizers: bool) -> None:
    run_ranks(2, save, tmp_path, saver, forked=True)
    found = [result for ranks in (1, 2) for result in run_ranks(ranks, take_all, tmp_path, optimizers, forked=True)]
    assert all(result == found[0] for result in found), found
    assert not found[0][1:], "\n".join(found[0][1:])
