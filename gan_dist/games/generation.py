"""Play the generation game: images from random latents (Goodfellow et al., 2014)."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_dist import losses, penalties, rng, schedules
from gan_dist.augment import AUGMENTATIONS, Augment, Augmentation
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Positive, Section
from gan_dist.ema import AverageKeys
from gan_dist.errors import InputError
from gan_dist.games.base import (
    GROUP,
    Game,
    GameKeys,
    buffers_of,
    check_networks,
    expect,
    in_groups,
    initial_weights,
    make_player,
)
from gan_dist.interfaces import Batch, Field, LatentSpace, Phase, repeated
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.networks.statistics import batch_norms, statistics_of
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.penalties import PENALTIES, Penalty
from gan_dist.player import Player


class Generation(GameKeys):
    """Images from random latents, optionally of a given class."""

    latent: Positive = 100
    """Numbers in a latent vector."""
    latent_distribution: Literal["normal", "uniform"] = "normal"
    """Of each number of a latent: standard normal, or uniform in [-1, 1]."""
    discriminator_steps: Positive = 1
    """Discriminator updates for each generator update; each takes a batch of its own."""
    first: Literal["generator", "discriminator"] = "generator"
    """Who plays first in a step in which both do."""
    fakes: Literal["shared", "fresh"] = "shared"
    """shared: the discriminator judges the images that the generator's update of this step was computed on. fresh: images of
    other latents, made by the generator as it is then."""
    batches: Literal["shared", "separate"] = "shared"
    """shared: both players use the real images of a step. separate: they take turns, each with a batch of its own, so that a
    generator update and a discriminator update take two steps."""
    generator_batch: Positive = 1
    """Generated images in a generator update for each image of the batch (SNGAN: 2)."""
    pack: Positive = 1
    """Images that the discriminator judges together, stacked in channels (PacGAN; Lin et al., 2018). Each counts as an image
    of the batch."""
    top_k: schedules.ScheduledProbability = 1.0
    """Part of the generated images of a micro-batch, those that the discriminator believes most, that the generator learns
    from (Sinha et al., 2020). 1: all."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, NETWORKS, "dcgan"),
        "networks.discriminator": One(Network, NETWORKS, "dcgan"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "penalties": Many(Penalty, PENALTIES, "Penalties of either player, by name; none by default."),
        "augment": Many(
            Augmentation, AUGMENTATIONS, "Augmentations of what the discriminator sees, in this order.", in_order=True
        ),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": AverageKeys,
    }

    samples: ClassVar[Literal["images", "points"]] = "images"
    """What the players' networks make and judge."""

    def check(self, config: Config) -> None:
        check_networks(config, self.samples)
        by_period: dict[tuple[str, int], set[bool]] = {}
        penalty: Penalty
        for _, penalty in config.penalties:
            by_period.setdefault((penalty.of_player(), penalty.every), set()).add(penalty.full_precision)
        for (player, every), precisions in by_period.items():
            if len(precisions) > 1:
                raise ValueError(
                    f"penalties of the {player} with every: {every} are computed together, and have different "
                    "full_precision; make it the same"
                )
            if every > 1 and getattr(config.optimizers, player).lookahead_every:
                raise ValueError(
                    f"optimizers.{player}.lookahead_every counts updates, and its penalties with every: {every} make further "
                    "ones; set every: 1, or lookahead_every: 0"
                )
        if self.batches == "separate" and self.discriminator_steps > 1:
            raise ValueError("game.batches: separate takes game.discriminator_steps: 1; set one of them back")
        if self.batches == "separate" and self.first != "generator":
            raise ValueError("game.first has no effect with game.batches: separate; remove it")
        if self.batches == "separate" and self.fakes != "shared":
            raise ValueError("game.fakes has no effect with game.batches: separate, whose fakes are fresh; remove it")
        if twice := dict(config.augment).keys() & dict(config.penalties).keys():
            name = min(twice)
            raise ValueError(
                f"augment.{name} and penalties.{name} have one name, under which checkpoints keep what either of them keeps; "
                "give one of them another"
            )
        if config.training.micro_batch % self.pack:
            raise ValueError(
                f"game.pack = {self.pack} does not divide training.micro_batch = {config.training.micro_batch}"
            )
        if self.pack > 1 and config.data.labels:
            raise ValueError("game.pack above 1 stacks images of any class; set data.labels: false or game.pack: 1")
        if config.loss.uses_real and (self.generator_batch > 1 or self.top_k != 1):
            key = "game.generator_batch" if self.generator_batch > 1 else "game.top_k"
            raise ValueError(
                f"loss.kind = {config.loss.kind} pairs each generated image with a real one, which {key} does not have; "
                f"set {key}: 1"
            )

    def build(self, config: Config) -> Game:
        return GenerationGame(config)

    def fields_of(self, config: Config) -> dict[str, Field]:
        """Return what the game wants of each sample of the data."""
        data = config.data
        classes = {"class": Field("class", classes=data.classes)} if data.labels else {}
        return {"image": Field("image", channels=data.channels, size=data.size), **classes}

    def shape_of(self, config: Config) -> Shape:
        """Return what the generator makes, of latents."""
        return Shape(config.data.size, config.data.channels, self.latent, config.data.classes)


class GenerationGame(Game):
    """A generator that turns latents into images, against a discriminator that tells them from real ones."""

    rivals = ("D", "G")
    in_turn = False

    def __init__(self, config: Config) -> None:
        keys: Generation = config.game
        self.seed, self.keys, self.classes = config.run.seed, keys, config.data.classes
        self.latent: int = keys.latent
        self.shape = keys.shape_of(config)
        self._micro_batch: int = config.training.micro_batch
        self.pack: int = keys.pack
        self.dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
        self.fields = keys.fields_of(config)
        self.loss: losses.Loss = config.loss
        self.penalties = penalties.in_order(dict(config.penalties))
        self.augments: dict[str, Augment] = {}
        kinds = set[str]()
        for name, each in config.augment:  # a second one of a kind has random numbers of its own
            self.augments[name] = each.build(rng.key(self.seed, f"augment {name}") if each.kind in kinds else self.seed)
            kinds.add(each.kind)
        for augment in self.augments.values():
            augment.batch_size = config.training.batch
        self.modules = tuple(self.augments.values())
        self.kept_by = {name: penalty.statistics() for name, penalty in self.penalties}
        self.kept = {**self.augments, **{name: kept for name, kept in self.kept_by.items() if kept is not None}}
        self._judged: dict[str, tuple[Tensor, Tensor]] = {}
        # a penalty in a higher precision, or of weights that DeepSpeed gathers for it, has logits of its own
        self._exact, self._whole = config.training.precision in ("fp32", "fp64"), config.training.strategy != "zero3"
        self.kinds = config.networks.generator.kind, config.networks.discriminator.kind
        generator, discriminator = build_networks(config)
        self._takes_draws = bool(getattr(generator, "takes_draws", False))
        self.generator = self._player("G", generator, config.optimizers.generator, config.average)
        self.discriminator = self._player("D", discriminator, config.optimizers.discriminator)
        self.players = (self.generator, self.discriminator)
        separate = keys.batches == "separate"
        turns = [
            self._phases(self.generator, self.fool_discriminator, 2 if separate else keys.discriminator_steps),
            self._phases(self.discriminator, self.tell_apart, 2 if separate else 1, shift=int(separate)),
        ]
        # the generator first, usually: its images are then the discriminator's fakes, and are made only once
        self.phases = tuple(itertools.chain(*(turns if keys.first == "generator" else reversed(turns))))

    def check_start(self) -> None:
        for name, penalty in self.penalties:
            if penalty.of_each and batch_norms(self.discriminator.network):
                raise InputError(
                    f"penalties.{name} takes the gradient of each sample by itself, and networks.discriminator "
                    f"({self.kinds[1]}) has BatchNorm, which mixes them; set networks.discriminator.normalisation: layer "
                    "(dcgan), another network, or penalties.r1 instead"
                )

    def _player(
        self, name: str, network: nn.Module, optimizer: Optimizer, average: AverageKeys | None = None
    ) -> Player:
        own = self._penalties_of(name)
        seldom = sorted({penalty.every for _, penalty in own if penalty.every > 1})
        # an update of its own every n steps makes n + 1 of n: Adam as if there were n (Karras et al., StyleGAN2, 2020)
        slow = 1 / (1 + sum(1 / every for every in seldom)) if len(seldom) != 1 else seldom[0] / (seldom[0] + 1)
        kept = [self.kept_by[each] for each, _ in own] + ([*self.augments.values()] if name == "D" else [])
        attached = [each for module in kept if module is not None for each in statistics_of(module)]
        half_life, ramp = (average.half_life, average.ramp) if average else (None, 0.0)
        return make_player(name, network, optimizer, slow, half_life, attached, ramp)

    def _penalties_of(self, name: str) -> list[tuple[str, Penalty]]:
        role = {"G": "generator", "D": "discriminator"}[name]
        return [named for named in self.penalties if named[1].of_player() == role]

    def _phases(self, player: Player, loss: Callable[[Batch], Tensor], steps: int, shift: int = 0) -> Iterator[Phase]:
        """Yield the phases of a player that plays every so many steps: with its loss, then those of seldom penalties."""
        own = self._penalties_of(player.name)
        for every in sorted({1, *(penalty.every for _, penalty in own)}):
            due_now = [named for named in own if named[1].every == every]
            in_turn = due_now if every == 1 and player.name == "D" else []
            shared = [penalty.shares for _, penalty in in_turn if penalty.shares]
            together = (
                bool(shared) and self._whole and (self._exact or not any(each.full_precision for _, each in due_now))
            )
            if together:
                loss = functools.update_wrapper(functools.partial(self._judge_for, shared, loss), loss)
            yield Phase(
                player,
                loss if every == 1 else None,
                functools.partial(self.penalise, due_now, every) if due_now else None,
                twice=any(penalty.twice or penalty.reads_weights for _, penalty in due_now),
                full_precision=any(penalty.full_precision for _, penalty in due_now) or not due_now,
                every=every * steps,
                shift=shift,
                together=together,
            )

    def _judge_for(self, purposes: Sequence[str], loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """Return a loss whose logits, of these images, `images_and_logits` then gives to penalties."""
        self._judged = {purpose: self.images_and_logits(batch, purpose) for purpose in purposes}
        return loss(batch)

    def fool_discriminator(self, batch: Batch) -> Tensor:
        """Return the generator's loss; its images become the discriminator's."""
        wide = repeated(batch, self.keys.generator_batch)
        fake = self.generate(wide, "latent")
        expect(fake, (len(wide), *self.real(batch).shape[1:]), f"networks.generator ({self.kinds[0]})")
        if self.keys.fakes == "shared" and self.keys.first == "generator":
            batch.cache["fake"] = fake.detach()[:: self.keys.generator_batch]
        logits = self._judge(fake, wide, "fake")
        real = self._judge(self.real(batch), batch, "real") if self.loss.uses_real else None
        part = schedules.at(self.keys.top_k, self.images)
        loss = self.loss.generator if part == 1 else functools.partial(losses.of_best, self.loss, part)
        parts = batch.parts if self.loss.couples or part != 1 else 1
        return losses.by_part(loss, parts, logits, real)

    def tell_apart(self, batch: Batch) -> Tensor:
        """Return the discriminator's loss."""
        real, fake = (
            self._judged[purpose][1] if purpose in self._judged else self._judge(images(batch), batch, purpose)
            for purpose, images in (("real", self.real), ("fake", self.fakes))
        )
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        for name, value in losses.signs(self.loss, fake, real).items():
            self.metrics.add(f"score/{name}", value)
        for name, augment in self.augments.items():
            augment.observe(real.detach(), fake.detach(), batch)
            for figure, value in augment.figures().items():
                self.metrics.add(f"augment/{name}/{figure}", value)
        parts = batch.parts if self.loss.couples else 1
        return losses.by_part(self.loss.discriminator, parts, fake, real)

    def penalise(self, named: list[tuple[str, Penalty]], every: int, batch: Batch) -> Tensor:
        """Return the sum of some penalties by their weights, times the steps between them."""
        total = torch.zeros((), dtype=self.dtype, device=batch.positions.device)
        for name, penalty in named:
            value = penalty.value(self, batch, self.kept_by[name])
            self.metrics.add(f"penalty/{name}", value)
            total = total + schedules.number(penalty.factor, self.images) * value
        self._judged = {}  # else their graph would stay
        return every * total

    def images_and_logits(self, batch: Batch, purpose: str) -> tuple[Tensor, Tensor]:
        if purpose in self._judged:
            return self._judged[purpose]
        images = (self.real if purpose == "real" else self.fakes)(batch).detach().requires_grad_()
        return images, self._judge(images, batch, purpose)

    def logits_of(self, batch: Batch, purpose: str = "real") -> penalties.Logits:
        return lambda images: self._judge(images, batch, purpose)

    def real(self, batch: Batch) -> Tensor:
        return batch["image"]

    def fakes(self, batch: Batch) -> Tensor:
        """Return the images that the discriminator judges in this step, without gradients: made once."""
        if "fake" not in batch.cache:
            with torch.no_grad():
                purpose = "latent" if self.keys.fakes == "shared" else "latent of the discriminator"
                batch.cache["fake"] = self.generate(batch, purpose)
        return batch.cache["fake"]

    def generate(self, batch: Batch, purpose: str, noise: float = 0.0, **asked: Any) -> Any:
        """Return what the generator makes of one latent for each position; `purpose` keys all that is drawn.

        `noise` is the deviation of what is added to the latents: images beside those without.
        """
        latents = self._drawn(batch.draw, rng.key(self.seed, purpose)).to(self.dtype)
        if noise:
            added = batch.draw(rng.normal, rng.key(self.seed, f"noise on {purpose}"), self.latent)
            latents = latents + noise * added.to(self.dtype)
        if self._takes_draws:
            asked["draws"] = batch.draws(rng.key(self.seed, f"draws of {purpose}"))
        return self.generator(latents, batch.get("class"), **asked)

    def _judge(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        for augment in self.augments.values():
            augment.images = self.images
            images = augment(images, batch, purpose)
        count = self.pack
        if count > 1:
            images = images.reshape(len(images) // count, -1, *images.shape[2:])
        logits: Tensor = self.discriminator(images, batch.get("class"))
        expect(logits, (len(batch) // count,), f"networks.discriminator ({self.kinds[1]})")
        return logits

    def _drawn(self, draw: Callable[..., Tensor], key: int) -> Tensor:
        """Return latents (N, latent) that `draw` makes of a function of rng, a key and a count."""
        if self.keys.latent_distribution == "uniform":
            return 2 * draw(rng.uniform, key, self.latent) - 1
        return draw(rng.normal, key, self.latent)

    def _draw(self, key: int, numbers: Tensor) -> Tensor:
        """Draw a latent for each number: (N, latent)."""
        return self._drawn(lambda draw, key, count: draw(key, numbers, count), key)

    def state(self) -> dict[str, Tensor]:
        return {key: each for name, module in self.kept.items() for key, each in buffers_of(module, name).items()}

    @property
    def galleries(self) -> tuple[str, ...]:
        return ("reals", "live", *(("classes",) if self.classes else ()))

    @torch.no_grad()
    def of_classes(self, seed: int, classes: Sequence[int], each: int) -> Tensor:
        assert self.generator.average is not None
        network = self.generator.average.network
        weight = next(network.parameters())
        labels = torch.tensor(classes, device=weight.device).repeat_interleave(each)
        numbers = torch.arange(each, device=weight.device).repeat(len(classes))
        latents = self._draw(rng.key(seed, "sample"), numbers).to(weight.dtype)
        return torch.cat(
            [network(*group) for group in zip(*(torch.split(each, GROUP) for each in (latents, labels)), strict=True)]
        )

    @torch.no_grad()
    def samples(self, seed: int, first: int, count: int, label: int | None = None) -> Tensor:
        assert self.generator.average is not None
        network = self.generator.average.network
        weight = next(network.parameters())

        def draw(numbers: Tensor) -> Tensor:
            images: Tensor = network(*self._asked(seed, numbers, weight.dtype, label))
            return images

        return in_groups(draw, first, count, weight.device)

    def latent_space(self) -> LatentSpace:
        assert self.generator.average is not None
        uniform = self.keys.latent_distribution == "uniform"
        return LatentSpace(self.generator.average.network, self._draw, self.classes, uniform)

    @torch.no_grad()
    def live(self, seed: int, count: int) -> Tensor | None:
        """Draw whole micro-batches, as the discriminator sees them: layers that look across samples do it by these."""
        network = self.generator.network
        weight = next(network.parameters())
        if not self._whole:  # zero3 would gather weights, which all ranks must do together
            return None
        size = min(self._micro_batch, count)

        def draw(numbers: Tensor) -> Tensor:
            more: dict[str, Any] = {}
            if self._takes_draws:
                more["draws"] = rng.Draws(rng.key(seed, "draws of sample"), numbers)
            images: Tensor = network(*self._asked(seed, numbers, weight.dtype), **more)
            return images

        return in_groups(draw, 0, count // size * size, weight.device, size)

    def _asked(self, seed: int, numbers: Tensor, dtype: torch.dtype, label: int | None = None) -> tuple[Any, Any]:
        """Return latents and labels of the samples of these numbers."""
        labels = None
        if self.classes:
            labels = numbers % self.classes if label is None else torch.full_like(numbers, label)
        return self._draw(rng.key(seed, "sample"), numbers).to(dtype), labels


def build_networks(config: Config) -> tuple[nn.Module, nn.Module]:
    """Make the generator and the discriminator with the initial weights of the run's seed."""
    shape: Shape = config.game.shape_of(config)
    pack = config.game.pack
    judged = dataclasses.replace(shape, channels=shape.channels * pack, points=shape.points * pack)
    with initial_weights(config.run.seed):
        return config.networks.generator.generator(shape), config.networks.discriminator.discriminator(judged)
