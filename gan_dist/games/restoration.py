"""Play restoration: a degraded image into the clean one (SRGAN; Ledig et al., 2017; ESRGAN; Wang et al., 2018)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gan_dist import losses, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Section, Steps
from gan_dist.degrade import DEGRADE, Mask
from gan_dist.ema import AverageKeys
from gan_dist.errors import InputError
from gan_dist.games.base import (
    Game,
    GameKeys,
    Handover,
    check_networks,
    expect,
    initial_weights,
    make_player,
    refuse_dropout,
)
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.networks.msrresnet import as_channels
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.perceptual import Perceptual
from gan_dist.schedules import ScheduledCount

_EPSILON = 1e-3
"""Of the Charbonnier distance (Lai et al., LapSRN, 2017), for images in [-1, 1]."""


class Average(AverageKeys):
    """The moving average (EMA) of the generator's weights, which restores for grids, scores and `gan-dist apply`."""

    half_life: ScheduledCount = 10_000
    """Half-life of the average in images."""


class Restoration(GameKeys):
    """Turn a degraded image into the clean one; data.degrade, or data.fields input and target, says what is degraded how."""

    pixel: schedules.ScheduledNonnegative = 1.0
    """Weight of the distance of pixels to the target, images in [-1, 1]: twice the distance of images in [0, 1]."""
    distance: Literal["l1", "l2", "charbonnier"] = "l1"
    """l1: mean |target - output|. l2: mean of the square, which gives the highest PSNR. charbonnier: sqrt(d^2 + 1e-6)."""
    adversarial: schedules.ScheduledNonnegative = 0.0
    """Weight of the adversarial loss. 0: there is no discriminator, and PSNR is what is trained for (the first phase of the
    papers). SRGAN 1e-3 beside a perceptual loss, ESRGAN 5e-3, of which `relativistic_average` is twice the value."""
    perceptual: Perceptual = Perceptual()
    """Distance of output and target by VGG-19."""

    parts: ClassVar[Mapping[str, One | Many | Steps | type[Section]]] = {
        "data.degrade": DEGRADE,
        "networks.generator": One(Network, NETWORKS, "msrresnet"),
        "networks.discriminator": One(Network, NETWORKS, "unet_discriminator"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": Average,
    }

    def check(self, config: Config) -> None:
        check_networks(config, of_images=True)
        data = config.data
        if isinstance(data.shards, dict):
            raise ValueError(
                f"game.kind: {self.kind} wants both images in each sample, and data.shards names sets, each in an order of its own; "
                "pack pairs (`gan-dist pack OUT --fields target=CLEAN,input=DEGRADED`), and name them by data.fields"
            )
        if set(data.images) != {"input", "target"}:
            raise ValueError(
                f"game.kind: {self.kind} wants data.degrade, which makes the input of each image ([{{kind: noise, sigma: 25}}]), or "
                "data.fields input and target, and finds neither"
            )
        if maps := [name for name, field in data.fields.items() if field.classes]:
            raise ValueError(f"data.fields.{maps[0]} is a label map, which game.kind: {self.kind} does not restore")
        if data.scale_of("target") != 1:
            raise ValueError(
                "data.fields.target is what data.resolution is the size of; remove its scale, and give input one"
            )
        if not self.pixel and not self.adversarial and not self.perceptual.weight:
            raise ValueError(
                "game.pixel, game.adversarial and game.perceptual.weight are 0, so nothing is learnt; set one of them"
            )

    def build(self, config: Config) -> Game:
        return RestorationGame(config)


class RestorationGame(Game):
    """A generator that restores, and where it is to look real a discriminator that tells its images from clean ones."""

    judged = "target"
    goes = "from degraded to clean"

    def __init__(self, config: Config) -> None:
        keys: Restoration = config.game
        data = config.data
        self._config, self.keys, self.loss = config, keys, config.loss
        self.fields = {
            name: Field("image", channels=data.seen(name), size=data.size_of(name)) for name in ("input", "target")
        }
        self.scale = data.scale_of("input")
        self._fill = next((step.fill / 127.5 - 1 for step in data.degradations if isinstance(step, Mask)), None)
        """What stands where a mask says that something is lost; None: there is no mask."""
        x, y = self.fields["input"].channels, self.fields["target"].channels
        self._generator_kind: str = config.networks.generator.kind
        average: Average = config.average
        with initial_weights(config.run.seed):
            self.shape = Shape(data.size, y, inputs=x, scale=self.scale)
            generator = config.networks.generator.generator(self.shape)
            self.generator = make_player(
                "G", generator, config.optimizers.generator, half_life=average.half_life, ramp=average.ramp
            )
            self.players, self.phases = (self.generator,), (Phase(self.generator, self.restore),)
            if keys.adversarial:
                judge = config.networks.discriminator.discriminator(Shape(data.size, y))
                self.discriminator = make_player("D", judge, config.optimizers.discriminator)
                self.players = (self.generator, self.discriminator)
                # the generator first: its images are then the discriminator's fakes, and are made only once
                self.phases = (*self.phases, Phase(self.discriminator, self.tell_apart))
        self.perceptual = keys.perceptual.build()
        self.modules = (self.perceptual,) if self.perceptual else ()
        self.multiple, self.least = int(getattr(generator, "multiple", 1)), int(getattr(generator, "least", 1))

    def check_start(self) -> None:
        config = self._config
        refuse_dropout(config)
        if self.keys.adversarial:
            return
        for key, kind in (("loss", config.loss.kind), ("networks.discriminator", config.networks.discriminator.kind)):
            place = self.keys.parts[key]
            if isinstance(place, One) and kind != place.default:
                raise InputError(
                    f"{key}.kind = {kind} has no effect without game.adversarial; set it (ESRGAN: 0.005), or remove {key}"
                )

    def restore(self, batch: Batch) -> Tensor:
        """pixel * |y - G(x)| + perceptual * |features of y - features of G(x)| + adversarial * (the generator's side of the loss)."""
        y = batch["target"]
        fake = self.generator(batch["input"])
        expect(fake, tuple(y.shape), f"networks.generator ({self._generator_kind})")
        distance = self.distance(fake, y)
        self.metrics.add(f"distance/{self.keys.distance}", distance)
        total: Tensor = schedules.number_of(self.keys.pixel, self.images) * distance
        if self.perceptual is not None:
            apart, weighted = self.perceptual.weighted(fake, y, self.images)
            self.metrics.add("distance/perceptual", apart)
            total = total + weighted
        if not self.keys.adversarial:
            return total
        batch.cache["fake"] = fake.detach()
        real: Tensor | None = None
        if self.loss.uses_real:
            with torch.no_grad():
                real = self.discriminator(y)
        adversarial = losses.by_part(self.loss.generator, self._parts(batch), self.discriminator(fake), real)
        self.metrics.add("distance/adversarial", adversarial)
        return total + schedules.number_of(self.keys.adversarial, self.images) * adversarial

    def tell_apart(self, batch: Batch) -> Tensor:
        """-[log D(y) + log(1 - D(G(x)))], or what the loss makes of it."""
        real, fake = self.discriminator(batch["target"]), self.discriminator(batch.cache["fake"])
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        return losses.by_part(self.loss.discriminator, self._parts(batch), fake, real)

    def distance(self, fake: Tensor, y: Tensor) -> Tensor:
        """Return the mean distance of pixels that the config names."""
        apart = y - fake
        if self.keys.distance == "l1":
            return apart.abs().mean()
        squared = apart.square()
        return squared.mean() if self.keys.distance == "l2" else (squared + _EPSILON**2).sqrt().mean()

    def _parts(self, batch: Batch) -> int:
        return batch.parts if self.loss.couples else 1

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        return {"input": self.baseline(shown), "output": self.infer(shown), "target": shown["target"]}

    def baseline(self, shown: Batch) -> Tensor:
        """Return the inputs at the size and with the channels of the targets, enlarged by cubic interpolation."""
        images = as_channels(shown["input"], self.fields["target"].channels)
        if self.scale == 1:
            return images
        # antialias: torch then has the kernel of papers (Keys, a = -1/2), else one of a = -3/4
        size = [side * self.scale for side in images.shape[2:]]
        return interpolate(images, size=size, mode="bicubic", antialias=True).clamp(-1, 1)

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        return self.infer(shown)

    def hand_over(self, way: str = "") -> Handover:
        self.takes(way)
        assert self.generator.average is not None
        network = self.generator.average.network
        return Handover(network, "generator", self.shape, "images", multiple=self.multiple, fill=self._fill)

    @torch.no_grad()
    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return the restored images, `scale` times as large as `inputs["input"]`."""
        self.takes(way)
        assert self.generator.average is not None
        seen = inputs["input"]
        if self._fill is not None:  # transparent pixels of somebody's image hold anything
            there = seen[:, -1:] > 0
            seen = torch.cat([seen[:, :-1].where(there, self._fill), 2 * there.to(seen.dtype) - 1], dim=1)
        output: Tensor = self.generator.average.network(seen)
        return output
