"""Play the generation game: images from random latents (Goodfellow et al., 2014)."""

import functools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan_dist import losses, penalties, rng
from gan_dist.augment import AUGMENTATIONS, Augment, Augmentation
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Positive, Section
from gan_dist.ema import AverageKeys
from gan_dist.games.base import Game, GameKeys, buffers_of, expect, initial_weights, make_player
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.networks.statistics import statistics_of
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.penalties import PENALTIES, Penalty

_GROUP = 32  # samples drawn together, always: rounding in a network may depend on the batch it sees


class Generation(GameKeys):
    """Images from random latents, optionally of a given class."""

    latent: Positive = 100
    """Numbers in a latent vector, each standard normal."""
    discriminator_steps: Positive = 1
    """Discriminator updates for each generator update; each takes a batch of its own."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, NETWORKS, "dcgan"),
        "networks.discriminator": One(Network, NETWORKS, "dcgan"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "penalties": Many(Penalty, PENALTIES, "Penalties on the discriminator, by name; none by default."),
        "augment": Many(Augmentation, AUGMENTATIONS, "Augmentations of what the discriminator sees, in this order."),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": AverageKeys,
    }

    def check(self, config: Config) -> None:
        by_period: dict[int, set[bool]] = {}
        penalty: Penalty
        for _, penalty in config.penalties:
            by_period.setdefault(penalty.every, set()).add(penalty.full_precision)
        for every, precisions in by_period.items():
            if len(precisions) > 1:
                raise ValueError(
                    f"penalties with every: {every} are computed together, and have different full_precision; make it the same"
                )

    def build(self, config: Config) -> Game:
        return GenerationGame(config)


class GenerationGame(Game):
    """A generator that turns latents into images, against a discriminator that tells them from real ones."""

    def __init__(self, config: Config) -> None:
        data, keys = config.data, config.game
        self.seed, self.latent, self.classes = config.run.seed, keys.latent, data.classes
        self.fields = {"image": Field("image", channels=data.channels, resolution=data.resolution)}
        if data.labels:
            self.fields["class"] = Field("class", classes=data.classes)
        self.loss: losses.Loss = config.loss
        self.penalties = penalties.in_order(dict(config.penalties))
        self.augments: dict[str, Augment] = {name: keys.build(self.seed) for name, keys in config.augment}
        for augment in self.augments.values():
            augment.batch_size = config.training.batch
        self.modules = tuple(self.augments.values())
        self.kept_by = {name: penalty.statistics() for name, penalty in self.penalties}
        self.kept = {**self.augments, **{name: kept for name, kept in self.kept_by.items() if kept is not None}}
        self.kinds = config.networks.generator.kind, config.networks.discriminator.kind
        generator, discriminator = build_networks(config)
        seldom = sorted({penalty.every for _, penalty in self.penalties if penalty.every > 1})
        # an update of its own every n steps makes n + 1 of n: Adam as if there were n (Karras et al., StyleGAN2, 2020)
        slow = 1 / (1 + sum(1 / every for every in seldom)) if len(seldom) != 1 else seldom[0] / (seldom[0] + 1)
        optimizers = config.optimizers
        self.generator = make_player("G", generator, optimizers.generator, half_life=config.average.half_life)
        attached = [each for module in self.kept.values() for each in statistics_of(module)]
        self.discriminator = make_player("D", discriminator, optimizers.discriminator, slow, attached=attached)
        self.players = (self.generator, self.discriminator)
        # the generator first: its images are then the discriminator's fakes, and are made only once
        self.phases = (
            Phase(self.generator, self.fool_discriminator, every=keys.discriminator_steps),
            *self._discriminator_phases(seldom),
        )

    def _discriminator_phases(self, seldom: list[int]) -> list[Phase]:
        phases = []
        for every in (1, *seldom):
            due_now = [named for named in self.penalties if named[1].every == every]
            loss = self.tell_apart if every == 1 else None
            if not due_now:
                phases.append(Phase(self.discriminator, loss))
                continue
            phases.append(
                Phase(
                    self.discriminator,
                    loss,
                    functools.partial(self.penalise, due_now, every),
                    twice=any(penalty.twice for _, penalty in due_now),
                    full_precision=any(penalty.full_precision for _, penalty in due_now),
                    every=every,
                )
            )
        return phases

    def fool_discriminator(self, batch: Batch) -> Tensor:
        """Return the generator's loss; its images become the discriminator's."""
        fake = self.generator(self._latents(batch), batch.get("class"))
        expect(fake, tuple(self.real(batch).shape), f"networks.generator ({self.kinds[0]})")
        batch.cache["fake"] = fake.detach()
        logits = self._judge(fake, batch, "fake")
        real = self._judge(self.real(batch), batch, "real") if self.loss.uses_real else None
        parts = batch.parts if self.loss.couples else 1
        return losses.by_part(self.loss.generator, parts, logits, real)

    def tell_apart(self, batch: Batch) -> Tensor:
        """Return the discriminator's loss."""
        real = self._judge(self.real(batch), batch, "real")
        fake = self._judge(self.fakes(batch), batch, "fake")
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        for name, augment in self.augments.items():
            augment.observe(real.detach(), fake.detach(), batch)
            for figure, value in augment.figures().items():
                self.metrics.add(f"augment/{name}/{figure}", value)
        parts = batch.parts if self.loss.couples else 1
        return losses.by_part(self.loss.discriminator, parts, fake, real)

    def penalise(self, named: list[tuple[str, Penalty]], every: int, batch: Batch) -> Tensor:
        """Return the sum of some penalties by their weights, times the steps between them."""
        total = torch.zeros((), dtype=self.real(batch).dtype, device=batch.positions.device)
        for name, penalty in named:
            value = penalty.value(self, batch, self.kept_by[name])
            self.metrics.add(f"penalty/{name}", value)
            total = total + penalty.factor(self.images) * value
        return every * total

    def logits_of(self, batch: Batch, purpose: str = "real") -> penalties.Logits:
        return lambda images: self._judge(images, batch, purpose)

    def real(self, batch: Batch) -> Tensor:
        return batch["image"]

    def fakes(self, batch: Batch) -> Tensor:
        """Return the images that the generator of this step makes of the samples' latents, made once."""
        if "fake" not in batch.cache:
            with torch.no_grad():
                batch.cache["fake"] = self.generator(self._latents(batch), batch.get("class"))
        return batch.cache["fake"]

    def _judge(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        for augment in self.augments.values():
            augment.images = self.images
            images = augment(images, batch, purpose)
        logits: Tensor = self.discriminator(images, batch.get("class"))
        expect(logits, (len(batch),), f"networks.discriminator ({self.kinds[1]})")
        return logits

    def _latents(self, batch: Batch) -> Tensor:
        """Draw one latent for each position of the run: (N, latent)."""
        latents = rng.normal(rng.key(self.seed, "latent"), batch.positions, self.latent)
        return latents.to(self.real(batch).dtype)

    def state(self) -> dict[str, Tensor]:
        return {key: each for name, module in self.kept.items() for key, each in buffers_of(module, name).items()}

    @torch.no_grad()
    def samples(self, seed: int, first: int, count: int, label: int | None = None) -> Tensor:
        assert self.generator.average is not None
        network = self.generator.average.network
        weight = next(network.parameters())
        groups = range(first // _GROUP, (first + count - 1) // _GROUP + 1)
        images = []
        for group in groups:
            numbers = torch.arange(group * _GROUP, (group + 1) * _GROUP, device=weight.device)
            latents = rng.normal(rng.key(seed, "sample"), numbers, self.latent).to(weight.dtype)
            labels = None
            if self.classes:
                labels = numbers % self.classes if label is None else torch.full_like(numbers, label)
            images.append(network(latents, labels))
        start = first - groups.start * _GROUP
        return torch.cat(images)[start : start + count]


def build_networks(config: Config) -> tuple[nn.Module, nn.Module]:
    """Make the generator and the discriminator with the initial weights of the run's seed."""
    data = config.data
    shape = Shape(data.resolution, data.channels, config.game.latent, data.classes)
    with initial_weights(config.run.seed):
        return config.networks.generator.generator(shape), config.networks.discriminator.discriminator(shape)
