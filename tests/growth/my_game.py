"""A game of one's own: pix2pix in small (Isola et al., 2017), an image of one kind into its counterpart of another."""

import itertools
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from gan_dist import losses
from gan_dist.config import Config, Many, One, Positive, Section
from gan_dist.games.base import Game, GameKeys, initial_weights, make_player
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.optimizers import OPTIMIZERS, Optimizer


class Translator(Network):
    """Three convolutions from an image to an image."""

    width: Positive = 8
    """Channels inside."""

    def generator(self, shape: Shape) -> nn.Module:
        sizes = [shape.inputs, self.width, self.width]
        layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*layers, nn.Conv2d(self.width, shape.channels, 3, padding=1), nn.Tanh())


class Pix2Pix(GameKeys):
    """Turn the field `input` into the field `target`."""

    l1: Annotated[float, Bounds(ge=0)] = 100.0
    """Weight of mean |target - output|, images in [-1, 1]."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, {"translator": Translator}, "translator"),
        "networks.discriminator": One(Network, NETWORKS, "dcgan"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
    }

    def build(self, config: Config) -> Game:
        return Pix2PixGame(config)


class Pix2PixGame(Game):
    def __init__(self, config: Config) -> None:
        data = config.data
        self.fields = {name: Field(channels=data.channels, size=data.size) for name in ("input", "target")}
        self.l1, self.loss = config.game.l1, config.loss
        channels = data.channels
        with initial_weights(config.run.seed):
            generator = config.networks.generator.generator(Shape(data.size, channels, inputs=channels))
            discriminator = config.networks.discriminator.discriminator(Shape(data.size, 2 * channels))
        self.generator = make_player("G", generator, config.optimizers.generator, half_life=1000)
        self.discriminator = make_player("D", discriminator, config.optimizers.discriminator)
        self.players = (self.generator, self.discriminator)
        self.phases = (Phase(self.generator, self.fool_and_match), Phase(self.discriminator, self.tell_apart))

    def fool_and_match(self, batch: Batch) -> Tensor:
        """Fool the discriminator of (input, image) pairs, and come close to the target."""
        fake = self.generator(batch["input"])
        batch.cache["fake"] = fake.detach()
        distance = (batch["target"] - fake).abs().mean()
        self.metrics.add("distance/l1", distance)
        return self.loss.generator(self.judge(batch, fake), None) + self.l1 * distance

    def tell_apart(self, batch: Batch) -> Tensor:
        """Tell targets from outputs, by the input that they belong to."""
        real, fake = self.judge(batch, batch["target"]), self.judge(batch, batch.cache["fake"])
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        return self.loss.discriminator(fake, real) / 2

    def judge(self, batch: Batch, image: Tensor) -> Tensor:
        return self.discriminator(torch.cat([batch["input"], image], dim=1))

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        return {"input": shown["input"], "output": self.infer(shown), "target": shown["target"]}

    judged = "target"

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        return self.infer(shown)

    @torch.no_grad()
    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        return self.generator.average.network(inputs["input"])
