"""The generation game: images from random latents (Goodfellow et al., 2014)."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_dist import losses, penalties, rng
from gan_dist.config import Adam, Config, Penalty
from gan_dist.games.base import Game, adam
from gan_dist.interfaces import Batch, Phase
from gan_dist.networks import article, dcgan
from gan_dist.player import Player

_GROUP = 32  # samples drawn together, always: rounding in a network may depend on the batch it sees


class Generation(Game):
    """A generator that turns latents into images, against a discriminator that tells them from real ones."""

    def __init__(self, config: Config) -> None:
        game = config.game
        self.seed, self.latent = config.run.seed, game.latent
        self.classes = config.data.classes
        self.generator_loss = losses.GENERATOR[game.loss]
        generator, discriminator = build_networks(config)
        penalty = game.penalty
        # an update of its own every n steps makes n + 1 of n: Adam as if there were n (Karras et al., StyleGAN2, 2020)
        lazy = penalty.every / (penalty.every + 1) if penalty.weights and penalty.every > 1 else 1.0
        self.generator = Player(
            "G", generator, _adam(game.generator), game.average.half_life, clip_norm=game.generator.clip_norm
        )
        self.discriminator = Player(
            "D", discriminator, _adam(game.discriminator, lazy), clip_norm=game.discriminator.clip_norm
        )
        self.players = (self.generator, self.discriminator)
        # the generator first: its images are then the discriminator's fakes, and are made only once
        self.phases = (
            Phase(self.generator, self.fool_discriminator, every=game.discriminator_steps),
            *self._discriminator_phases(penalty),
        )

    def _discriminator_phases(self, penalty: Penalty) -> list[Phase]:
        discriminator, loss = self.discriminator, self.tell_apart
        if not penalty.weights:
            return [Phase(discriminator, loss)]
        self.penalty = penalty
        self.step = penalty.step or penalties.usual_step(discriminator.network)
        how = {"twice": penalty.method == "exact", "full_precision": penalty.full_precision}
        if penalty.every == 1:
            return [Phase(discriminator, loss, self.keep_gradients_small, **how)]
        lazy = Phase(discriminator, None, self.keep_gradients_small, every=penalty.every, **how)
        return [Phase(discriminator, loss), lazy]

    def fool_discriminator(self, micro: Batch) -> Tensor:
        fake = self.generator(self._latents(micro), micro.get("class"))
        micro.cache["fake"] = fake.detach()
        return self.generator_loss(self.discriminator(fake, micro.get("class")))

    def tell_apart(self, micro: Batch) -> Tensor:
        real = self.discriminator(micro["image"], micro.get("class"))
        fake = self.discriminator(self._fakes(micro), micro.get("class"))
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        return losses.discriminator(real, fake)

    def keep_gradients_small(self, micro: Batch) -> Tensor:
        """The penalties that the config weighs, times the steps between them."""
        weights, real = self.penalty.weights, micro["image"]
        logits_of = functools.partial(self._logits, labels=micro.get("class"))
        total = torch.zeros((), dtype=real.dtype, device=real.device)
        for name, weight in weights.items():
            if name == "wgan_gp":
                between = rng.uniform(rng.key(self.seed, "between"), micro.positions, 1)[:, 0]
                value, weight = penalties.gradient_length(logits_of, real, self._fakes(micro), between), 2 * weight
            else:
                images = real if name == "r1" else self._fakes(micro)
                value = self._squared_gradient(logits_of, images, name, micro.positions)
            self.metrics.add(f"penalty/{name}", value)
            total = total + weight / 2 * value
        return self.penalty.every * total

    def _squared_gradient(self, logits_of: penalties.Logits, images: Tensor, name: str, positions: Tensor) -> Tensor:
        if self.penalty.method == "exact":
            return penalties.squared_gradient(logits_of, images)
        noise = rng.normal(rng.key(self.seed, f"noise of {name}"), positions, images[0].numel())
        return penalties.squared_difference(logits_of, images, noise.to(images.dtype).view_as(images), self.step)

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        logits: Tensor = self.discriminator(images, labels)
        return logits

    def _fakes(self, micro: Batch) -> Tensor:
        """The images that the generator of this step makes of the samples' latents, made once."""
        if "fake" not in micro.cache:
            with torch.no_grad():
                micro.cache["fake"] = self.generator(self._latents(micro), micro.get("class"))
        return micro.cache["fake"]

    def _latents(self, micro: Batch) -> Tensor:
        """One latent for each position of the run: (M, latent)."""
        latents = rng.normal(rng.key(self.seed, "latent"), micro.positions, self.latent)
        return latents.to(micro["image"].dtype)

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
    """The generator and the discriminator with the initial weights of the run's seed."""
    data, game = config.data, config.game
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(config.run.seed, "weights") % 2**63)
        if game.networks == "article":
            return article.Generator(game.latent, data.classes), article.Discriminator(data.classes)
        return (
            dcgan.Generator(data.resolution, data.channels, game.latent, game.base_channels, data.classes),
            dcgan.Discriminator(data.resolution, data.channels, game.base_channels, data.classes),
        )


def _adam(settings: Adam, lazy: float = 1.0) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    betas = settings.beta1**lazy, settings.beta2**lazy
    return adam(settings.learning_rate * lazy, betas, settings.epsilon)
