"""A checkpoint names tensors, not engines: what one strategy saved, every other goes on with, at another process count."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games, trial
from gan_dist.checkpoint import Store, Writer, format, tensors
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
FROM = {1: (2,), 2: (1, 4), 4: (2,)}
"""Process counts, and those whose checkpoints they load: to more and to fewer, both from and to one."""
BEFORE, AFTER = 3, 2


def build(strategy: str, **more: Any) -> Config:
    keys = making.tiny(
        "unused", "unused", training__strategy=strategy, training__batch=16, training__micro_batch=2, **more
    )
    keys |= {"penalties.r1.weight": 5.0, "optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


def play(engine: Engine, game: games.Game, config: Config, first: int, last: int) -> None:
    for step in range(first, last):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        size = config.training.batch
        play_step(engine, game, trial.on_device(config, engine, micros), step * size, size)


def start(strategy: str, **more: Any) -> tuple[Engine, games.Game, Config]:
    config = build(strategy, **more)
    engine, game = Engine(config), games.build(config)
    numerics.enliven([player.network for player in game.players])
    engine.wrap(game)
    return engine, game, config


def save_all(folder: Path, world_size: int) -> None:
    """After 0 and after some steps."""
    loaded_once()
    for strategy in STRATEGIES:
        engine, game, config = start(strategy)
        gather = engine.channel()
        for images, first in ((0, 0), (BEFORE, 0)):
            play(engine, game, config, first, images)
            writer = Writer(Store(folder / f"{strategy}-{world_size}", 9), engine.rank, engine.world_size, gather)
            writer.save(images, tensors.collect(game.players), {})
            (outcome,) = writer.wait()
            assert not outcome.problem, outcome
        engine.release()


def load_all(folder: Path, counts: tuple[int, ...], images: int) -> list[str]:
    """Every checkpoint into every strategy; what is not as it should be."""
    loaded_once()
    wrong = []
    _, expected = reference.by_hand(build("ddp"), images + AFTER)
    sources = [folder / f"{saver}-{count}" for saver in STRATEGIES for count in counts]
    for strategy in STRATEGIES:
        engine, game, config = start(strategy)
        for source in sources:
            directory = source / Store(source, 9).names()[0 if images == 0 else -1]
            manifest = format.read_manifest(directory)
            format.verify(directory, manifest)
            with format.Reader(directory, manifest) as read:
                tensors.restore(game.players, read, manifest["steps"])
            state = numerics.gather(engine, game)
            saved = {name: tensor.double() for name, tensor in format.read_tensors(directory, manifest).items()}
            if state.keys() != saved.keys():
                wrong.append(f"{source.name} -> {strategy}: other tensors {state.keys() ^ saved.keys()}")
                continue
            unequal = [name for name in saved if not torch.equal(saved[name], state[name])]
            if unequal or tensors.collect(game.players).steps != manifest["steps"]:
                wrong.append(f"{source.name} -> {strategy}: not the saved bits: {unequal}")
            play(engine, game, config, images, images + AFTER)
            found = numerics.gather(engine, game)
            for what in ("weights", "average"):
                worst, where = numerics.difference(found, expected, what)
                if not worst < 1e-4:
                    wrong.append(f"{source.name} -> {strategy}, then {AFTER} steps: {where} differs by {worst:.1e}")
        engine.release()
    return wrong


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for world_size in FROM:
        run_ranks(world_size, save_all, folder, world_size, forked=True)
    assert len(list(folder.iterdir())) == len(STRATEGIES) * len(FROM)
    return folder


@pytest.mark.parametrize(("world_size", "images"), [(1, BEFORE), (2, 0), (2, BEFORE), (4, BEFORE)])
def test_every_strategy_goes_on_with_what_any_other_saved_at_another_process_count(
    saved: Path, world_size: int, images: int
) -> None:
    wrong = run_ranks(world_size, load_all, saved, FROM[world_size], images, forked=True)[0]
    assert not wrong, "\n".join(wrong)
