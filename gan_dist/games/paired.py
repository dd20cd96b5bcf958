"""Play paired translation (pix2pix; Isola et al., 2017): an image of one kind into its counterpart of another."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Bounds
from torch import Tensor

from gan_dist import losses, rng, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Section
from gan_dist.games.base import (
    Game,
    GameKeys,
    Handover,
    TranslatorAverage,
    check_networks,
    expect,
    initial_weights,
    make_player,
)
from gan_dist.games.colours import coloured
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.perceptual import Perceptual

Features = list[list[Tensor]]
"""Of each scale, the outputs of a discriminator's layers; the last of them are logits."""
_OUTPUTS = "dropout of outputs"
"""What keys the dropout of images that are shown; training has its own."""


class Paired(GameKeys):
    """Turn the field `input` of a sample into its field `target`."""

    l1: schedules.ScheduledNonnegative = 100.0
    """Weight of mean |target - output|, images in [-1, 1]; 100 in the paper."""
    adversarial: schedules.ScheduledNonnegative = 1.0
    """Weight of the generator's adversarial loss."""
    warm_up: Annotated[int, Bounds(ge=0)] = 0
    """Images for which the generator learns from l1 and perceptual alone, and the discriminator waits: a first phase of the same
    run."""
    conditional: bool = True
    """Whether the discriminator sees the input beside the image that it judges, as in the paper."""
    feature_matching: schedules.ScheduledNonnegative = 0.0
    """Weight of the mean distance between the discriminator's features of output and target (pix2pixHD: 10). It needs a
    discriminator that gives its features: patchgan."""
    perceptual: Perceptual = Perceptual()
    """Distance of output and target by VGG-19."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, NETWORKS, "unet"),
        "networks.discriminator": One(Network, NETWORKS, "patchgan"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": TranslatorAverage,
    }

    def check(self, config: Config) -> None:
        check_networks(config, of_images=True)
        fields = config.data.fields
        if isinstance(config.data.shards, dict):
            raise ValueError(
                f"game.kind: {self.kind} wants both images in each sample, and data.shards names sets, each in an order of its own; "
                "pack pairs (docs/translation.md), or set game.kind: unpaired"
            )
        if fields.keys() != {"input", "target"}:
            named = ", ".join(fields) or "none"
            raise ValueError(
                f"game.kind: {self.kind} wants data.fields input and target, and finds {named}; name the members that hold "
                "them: data.fields: {input: {member: a.png}, target: {member: b.png}}"
            )
        if fields["target"].classes:
            raise ValueError(
                "data.fields.target is a label map, and game.kind: paired makes images; store its classes as colours, and "
                "remove classes"
            )
        judge: Network = config.networks.discriminator
        if self.feature_matching and not judge.gives_features:
            raise ValueError(
                f"networks.discriminator.kind = {judge.kind} gives no features; set game.feature_matching: 0, or kind: patchgan"
            )

    def build(self, config: Config) -> Game:
        return PairedGame(config)


class PairedGame(Game):
    """A generator that turns inputs into targets, against a discriminator that tells pairs of (input, image) apart."""

    judged = "target"
    goes = "from input to target"

    def __init__(self, config: Config) -> None:
        keys: Paired = config.game
        data = config.data
        self.seed, self.keys, self.loss = config.run.seed, keys, config.loss
        self.fields = {
            name: Field(
                "labels" if field.classes else "image",
                channels=data.seen(name),
                size=data.size,
                classes=field.classes,
            )
            for name, field in data.fields.items()
        }
        given = data.fields["input"]
        self.palette = given.palette
        self._label_map = given.model_dump() if given.classes else None
        x, y = self.fields["input"].channels, self.fields["target"].channels
        self._generator_kind: str = config.networks.generator.kind
        with initial_weights(config.run.seed):
            self.shape = Shape(data.size, y, inputs=x)
            generator = config.networks.generator.generator(self.shape)
            seen = x + y if keys.conditional else y
            discriminator = config.networks.discriminator.discriminator(Shape(data.size, seen))
        self._takes_draws = bool(getattr(generator, "takes_draws", False))
        self._gives_features: bool = config.networks.discriminator.gives_features
        average: TranslatorAverage = config.average
        self.generator = make_player(
            "G", generator, config.optimizers.generator, half_life=average.half_life, ramp=average.ramp
        )
        self.discriminator = make_player("D", discriminator, config.optimizers.discriminator)
        self.players = (self.generator, self.discriminator)
        self.perceptual = keys.perceptual.build()
        self.modules = (self.perceptual,) if self.perceptual else ()
        begin = keys.warm_up
        # the generator first: its images are then the discriminator's fakes, and are made only once
        self.phases = (
            *((Phase(self.generator, self.match, end=begin),) if begin else ()),
            Phase(self.generator, self.fool_and_match, begin=begin),
            Phase(self.discriminator, self.tell_apart, begin=begin),
        )
        self.multiple, self.least = int(getattr(generator, "multiple", 1)), int(getattr(generator, "least", 1))

    def fool_and_match(self, batch: Batch) -> Tensor:
        """-log D(x, G(x)) + l1 * |y - G(x)|, and feature_matching * |features of (x, y) - features of (x, G(x))|."""
        x, y = batch["input"], batch["target"]
        fake, total = self._matched(batch)
        batch.cache["fake"] = fake.detach()
        judged = self._judge(x, fake)
        real: Features | None = None
        if self.keys.feature_matching or self.loss.uses_real:
            with torch.no_grad():
                real = self._judge(x, y)
        adversarial = self._over_scales(self.loss.generator, batch, judged, real if self.loss.uses_real else None)
        self.metrics.add("distance/adversarial", adversarial)
        total = total + self._weight("adversarial") * adversarial
        if self.keys.feature_matching and real is not None:
            matching = between_features(judged, real)
            self.metrics.add("distance/features", matching)
            total = total + self._weight("feature_matching") * matching
        return total

    def match(self, batch: Batch) -> Tensor:
        """l1 * |y - G(x)|, and the perceptual distance: the generator's loss without a discriminator."""
        return self._matched(batch)[1]

    def _matched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return G(x), and its loss beside that of the discriminator."""
        x, y = batch["input"], batch["target"]
        fake = self.generator(x, **self._noise(batch, "dropout"))
        expect(fake, tuple(y.shape), f"networks.generator ({self._generator_kind})")
        distance = (y - fake).abs().mean()
        self.metrics.add("distance/l1", distance)
        total = self._weight("l1") * distance
        if self.perceptual is not None:
            found, weighted = self.perceptual.weighted(fake, y, self.images)
            self.metrics.add("distance/perceptual", found)
            total = total + weighted
        return fake, total

    def _weight(self, key: str) -> "float | Tensor":
        return schedules.number_of(getattr(self.keys, key), self.images)

    def tell_apart(self, batch: Batch) -> Tensor:
        """-[log D(x, y) + log(1 - D(x, G(x)))] / 2, the mean over patches."""
        x, y = batch["input"], batch["target"]
        real, fake = self._judge(x, y), self._judge(x, batch.cache["fake"])
        self.metrics.add("score/real", real[0][-1])
        self.metrics.add("score/fake", fake[0][-1])
        return self._over_scales(self.loss.discriminator, batch, fake, real) / 2

    def _judge(self, x: Tensor, image: Tensor) -> Features:
        seen = torch.cat([x, image], dim=1) if self.keys.conditional else image
        if not self._gives_features:
            return [[self.discriminator(seen)]]
        features: Features = self.discriminator(seen, features=True)
        return features

    def _over_scales(self, side: losses.Side, batch: Batch, fake: Features, real: Features | None) -> Tensor:
        """Return the sum over the scales of one side of the loss, of the logits (Wang et al., pix2pixHD, 2018, eq. 3)."""
        parts = batch.parts if self.loss.couples else 1
        total = fake[0][-1].new_zeros(())
        for number, features in enumerate(fake):
            total = total + losses.by_part(side, parts, features[-1], None if real is None else real[number][-1])
        return total

    def _noise(self, batch: Batch, purpose: str) -> dict[str, rng.Draws]:
        return {"draws": batch.draws(rng.key(self.seed, purpose))} if self._takes_draws else {}

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        seen = coloured(shown["input"], self.palette) if self.fields["input"].kind == "labels" else shown["input"]
        return {"input": seen, "output": self.infer(shown), "target": shown["target"]}

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        return self.infer(shown)

    def hand_over(self, way: str = "") -> Handover:
        self.takes(way)
        assert self.generator.average is not None
        return Handover(
            self.generator.average.network,
            "generator",
            self.shape,
            "images",
            draws_key=rng.key(self.seed, _OUTPUTS) if self._takes_draws else None,
            multiple=self.multiple,
            label_map=self._label_map,
        )

    def takes(self, way: str) -> str:
        return super().takes("" if way == "AB" else way)

    @torch.no_grad()
    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return the outputs for `inputs["input"]`: dropout stays on, as in the paper, keyed by the positions."""
        self.takes(way)
        assert self.generator.average is not None
        noise = self._noise(inputs, _OUTPUTS)
        output: Tensor = self.generator.average.network(inputs["input"], **noise)
        return output


def between_features(fake: Features, real: Features) -> Tensor:
    """Return the mean distance of features over scales and layers but the logits, times 4 (pix2pixHD's weights).

    pix2pixHD sums over n + 1 layers with weights 4 / (n + 1).
    """
    total = fake[0][-1].new_zeros(())
    for one, other in zip(fake, real, strict=True):
        layers = [(a - b.detach()).abs().mean() for a, b in zip(one[:-1], other[:-1], strict=True)]
        total = total + 4 * torch.stack(layers).mean() / len(fake)
    return total
