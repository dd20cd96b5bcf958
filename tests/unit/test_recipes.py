"""Every YAML that ships is a recipe that trains: two steps at reduced width, on random samples."""

import math
from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module, step, trial, units
from gan_dist.engine import Engine
from tests.launching import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
NARROW = {
    "autoencoder": {"base_channels": 4},
    "dcgan": {"base_channels": 4},
    "sngan": {"base_channels": 4},
    "biggan": {"base_channels": 2},
    "stylegan2": {"channel_maximum": 16},
    "r3gan": {"widths": 16},
    "unet": {"base_channels": 4},
    "patchgan": {"base_channels": 4},
    "resnet": {"base_channels": 4, "blocks": 1},
    "msrresnet": {"base_channels": 4, "blocks": 1},
    "vgg_discriminator": {"base_channels": 4},
}
"""Keys that make a family's networks small."""


def reduced(path: Path) -> config_module.Config:
    """Return a recipe's config with narrow networks, small images and two micro-batches a step, and all else as it is."""
    whole = config_module.load([str(path)])
    keys: dict[str, object] = {"training.device": "cpu", "training.precision": "fp32", "training.tf32": False}
    for role, network in whole.networks:
        for key, value in NARROW.get(network.kind, {}).items():
            keys[f"networks.{role}.{key}"] = value
    if not whole.data.drawn and max(whole.data.size) > 32:
        height, width = (32 * side // min(whole.data.size) for side in whole.data.size)
        keys["data.resolution"] = units.pixels((height, width))
    group = getattr(getattr(whole.networks, "discriminator", None), "minibatch_std", 1)
    keys["training.micro_batch"] = micro = math.lcm(group, 4, getattr(whole.game, "pack", 1))
    keys["training.batch"] = 2 * micro
    for name, penalty in getattr(whole, "penalties", ()):
        keys[f"penalties.{name}.every"] = min(2, penalty.every)
        keys[f"penalties.{name}.full_precision"] = True
    if whole.training.strategy != "exact":
        keys["training.micro_batches_per_pass"] = 2
    flags = [word for key, value in keys.items() for word in (f"--{key}", str(value).lower())]
    return config_module.load([str(path), *flags])


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_two_steps_of_every_recipe(path: Path) -> None:
    trains(reduced(path))


def trains(config: config_module.Config) -> None:
    """Play two steps of each phase on random samples; all weights stay finite, and move."""
    engine = Engine(config)
    config = config.with_classes(lambda: 10)
    game = trial.build(config, engine)
    engine.wrap(game)
    before = [weight.detach().clone() for player in game.players for weight in player.weights]
    size = config.training.batch
    steps = 2 * math.lcm(*(phase.every for phase in game.phases))
    for number in range(min(steps, 10)):
        batch = trial.on_device(config, engine, trial.random_batches(config, game.fields, number, engine.slots))
        step.play_step(engine, game, batch, number * size, size)
    after = [weight for player in game.players for weight in player.weights]
    assert all(torch.isfinite(weight).all() for weight in after)
    assert not any(found.total for found in engine.skipped(wait=True).values())
    for player in game.players:
        moved = [not torch.equal(*pair) for pair in zip(before[: len(player.weights)], player.weights, strict=True)]
        del before[: len(player.weights)]
        assert sum(moved) >= len(moved) - 2, player.name  # a last bias has no gradient where logits are compared


def test_every_recipe_says_what_it_is_for_and_how_to_run_it() -> None:
    for path in CONFIGS:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        text = "\n".join(header)
        assert f"configs/{path.name}" in text, path
        assert "Change first" in text, path
        assert "--help" in text, path
