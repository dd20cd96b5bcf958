"""The generation game: who is called how often, and which networks it takes."""

import pytest
import torch
from torch import nn

from gan_dist import config as config_module, games, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import AgreedError
from gan_dist.games import generation
from tests import making


def load(**keys: object) -> Config:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", **keys)
    return config_module.load(["configs/digits.yaml", *making.flags(wanted)])


@pytest.mark.parametrize(("step", "every", "turns"), [(0, 1, 1), (1, 1, 2), (3, 4, 3), (2, 3, 2)])
def test_the_generator_makes_a_steps_images_once(step: int, every: int, turns: int) -> None:
    """With a turn of its own (steps 1 and 3) or without, for the discriminator's loss, R2 and WGAN-GP, lazy or not."""
    penalties = {
        f"penalties__{name}__{key}": value
        for name in ("r2", "wgan_gp")
        for key, value in (("weight", 1.0), ("every", every))
    }
    config = load(game__discriminator_steps=2, **penalties)
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    called: list[torch.Size] = []
    game.players[0].network.register_forward_hook(lambda network, given, made: called.append(made.shape))
    micros = trial.random_batches(config, game.fields, step, engine.slots)
    for micro in micros:
        micro.fields["image"] = micro["image"].float()
    played = 0
    for phase in game.due(step * config.training.batch, config.training.batch):
        with engine.turn(phase):
            for loss, samples in engine.share(micros):
                engine.backward(loss(samples))
        played += 1
    assert played == turns
    assert len(called) == len(micros)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, track_running_stats=True)]
)
def test_a_network_whose_statistics_the_engine_does_not_govern_is_refused(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load()
    generator, discriminator = generation.build_networks(config)
    discriminator.features.insert(1, layer)
    monkeypatch.setattr(generation, "build_networks", lambda config: (generator, discriminator))
    with pytest.raises(
        AgreedError, match=r"the network of D has features.1 \(\w+\), whose running statistics"
    ) as caught:
        games.build(config)
    assert type(layer).__name__ in str(caught.value)
    discriminator.features[1] = nn.InstanceNorm2d(4)  # of each sample by itself
    games.build(config)
