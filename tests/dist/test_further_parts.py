"""Penalties of the weights and of the logits, clamped weights and Lookahead: the same numbers under every strategy."""

from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine, launcher_settings
from gan_dist.step import play_step
from tests import making
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
STEPS = 4
"""The second, and the fourth, are ones after which the slow weights move."""
KEYS: dict[str, Any] = {
    "penalties.lecam": "{weight: 0.3, decay: 0.5}",
    "penalties.bcr.weight": 1.0,
    "penalties.weights_of_d": "{kind: orthogonal, weight: 0.1}",
    "penalties.weights_of_g": "{kind: orthogonal, weight: 0.1, of: generator}",
    "penalties.zcr.weight": 1.0,
    "penalties.zcr_generator.weight": 0.1,
    "optimizers.generator": "{lookahead_every: 3, epsilon: 1.0e-4}",
    "optimizers.discriminator": "{kind: sgd, learning_rate: 0.01, lookahead_every: 2, clip_weights: 0.3}",
}


def build(strategy: str, **more: Any) -> Config:
    keys = making.tiny(
        "unused", "unused", training__strategy=strategy, training__batch=8, training__micro_batch=2, **more
    )
    return config_module.load(["tests/data/digits.yaml", *making.flags({**keys, **KEYS})])


def play(engine: Engine, game: games.Game, config: Config, first: int, last: int) -> None:
    for step in range(first, last):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        size = config.training.batch
        play_step(engine, game, trial.on_device(config, engine, micros), step * size, size)


def compare() -> list[str]:
    """Play all strategies, the second half from the state of the one before; what differs from ddp in double precision."""
    loaded_once()
    # else zero3 keeps weights as small as these whole, and a penalty could read them anywhere
    launcher_settings.SETTINGS["zero3"]["stage3_param_persistence_threshold"] = 0
    expected, _ = state_of(build("ddp", training__precision="fp64"), {})
    wrong, before = [], dict[str, Any]()
    for strategy in STRATEGIES:
        found, before = state_of(build(strategy), before)
        if {name for name in found if "/gradient/" not in name} != expected.keys():
            wrong.append(f"{strategy} has other tensors: {found.keys() ^ expected.keys()}")
        for kind in ("weights", "slow"):
            worst, where = numerics.difference(found, expected, kind)
            if not worst < 1e-4:
                wrong.append(f"{strategy}: {where} differs by {worst:.1e}")
    return wrong


def state_of(config: Config, before: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    engine, game = Engine(config), games.build(config)
    numerics.enliven([player.network for player in game.players])
    engine.wrap(game)
    if before:  # what another strategy saved after half of the steps
        whole, kept = before["state"], before["game"]

        def read(name: str, offset: int = 0, length: int | None = None) -> torch.Tensor:
            of = kept if name.startswith("game/") else whole
            tensor = of[name]
            return tensor if length is None else tensor.reshape(-1)[offset : offset + length]

        tensors.restore(game.players, read, before["steps"], game.state())
        play(engine, game, config, STEPS // 2, STEPS)
        found = numerics.gather(engine, game)
        engine.release()
        engine, game = Engine(config), games.build(config)
        numerics.enliven([player.network for player in game.players])
        engine.wrap(game)
    play(engine, game, config, 0, STEPS // 2)
    half = {
        "state": numerics.gather(engine, game),
        "steps": tensors.collect(game.players).steps,
        "game": {f"game/{name}": tensor.clone() for name, tensor in game.state().items()},
    }
    if not before:
        play(engine, game, config, STEPS // 2, STEPS)
        found = numerics.gather(engine, game)
    engine.release()
    return found, half


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_strategy_plays_and_resumes_them_alike(world_size: int) -> None:
    wrong = run_ranks(world_size, compare, forked=True)
    assert not any(wrong), wrong[0]
