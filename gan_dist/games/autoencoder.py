"""Play with autoencoders: a VAE (Kingma and Welling, 2014), and one whose pixels a GAN judges (VAE-GAN; Larsen et al., 2016)."""

import abc
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from gan_dist import losses, rng, schedules, units
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Positive, Section
from gan_dist.ema import AverageKeys
from gan_dist.errors import InputError
from gan_dist.games.base import GROUP, Game, GameKeys, expect, in_groups, initial_weights, make_player
from gan_dist.interfaces import Batch, Field, LatentSpace, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.networks.autoencoder import Vae, drawn
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.player import Player

Deviation = Annotated[float, Bounds(gt=0)]


class Autoencoder(GameKeys):
    """A VAE: encode an image into a Gaussian of latents, and decode a draw of it (Kingma and Welling, 2014)."""

    latent: Positive = 64
    """Numbers in a latent vector."""
    beta: schedules.ScheduledNonnegative = 1.0
    """Weight of the divergence of an image's latents from the normal prior: 1 is the ELBO, more than 1 is beta-VAE (Higgins et
    al., 2017). A schedule from 0 warms it up."""
    deviation: Deviation = 0.3
    """Standard deviation of a pixel in [-1, 1] around its reconstruction. A smaller one weighs the reconstruction more: a
    good value is the error that reconstructions have."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.encoder": One(Network, NETWORKS, "autoencoder"),
        "networks.decoder": One(Network, NETWORKS, "autoencoder"),
        "optimizers.autoencoder": One(Optimizer, OPTIMIZERS, "adam"),
        "average": AverageKeys,
    }
    roles: ClassVar[Mapping[str, str]] = {"encoder": "A/encoder", "decoder": "A/decoder"}

    def check(self, config: Config) -> None:
        if config.data.labels:
            raise ValueError(f"data.labels has no effect with game.kind: {self.kind}; set data.labels: false")
        if config.data.fields:
            raise ValueError(
                f"game.kind: {self.kind} takes one image of a sample, not data.fields; remove them, and choose it by data.image"
            )
        if config.networks.decoder.samples != "images":
            raise ValueError(
                f"networks.decoder.kind = {config.networks.decoder.kind} is for points, and game.kind: {self.kind} is played "
                "with images; set networks.decoder.kind: autoencoder"
            )

    def build(self, config: Config) -> Game:
        return VaeGame(config)


class VaeGan(Autoencoder):
    """VAE-GAN: a VAE whose reconstructions a discriminator compares by its features (Larsen et al., 2016)."""

    deviation: Deviation = 1.0
    """Standard deviation of a feature of the discriminator around that of the reconstruction; 1 in the paper."""
    gamma: schedules.ScheduledProbability = 0.01
    """Weight of the reconstruction in the decoder's loss; 1 - gamma is that of the GAN. The reconstruction is a sum over
    features: the more of them, the smaller gamma. The paper's code has 1e-6 for faces of 64 pixels."""
    layer: Positive = 4
    """Which of the discriminator's features are compared. Of kind autoencoder: the 4th, the last convolution, as in the paper."""
    fakes: Literal["both", "samples"] = "both"
    """What the discriminator tells from real images: reconstructions and samples of the prior (the paper), or samples alone."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.encoder": One(Network, NETWORKS, "autoencoder"),
        "networks.decoder": One(Network, NETWORKS, "autoencoder"),
        "networks.discriminator": One(Network, NETWORKS, "autoencoder"),
        "loss": One(losses.Loss, losses.LOSSES, "nonsaturating"),
        "optimizers.encoder": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.decoder": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": AverageKeys,
    }
    roles: ClassVar[Mapping[str, str]] = {"encoder": "E", "decoder": "G", "discriminator": "D"}

    def check(self, config: Config) -> None:
        super().check(config)
        judge: Network = config.networks.discriminator
        if not judge.gives_features:
            raise ValueError(
                f"networks.discriminator.kind = {judge.kind} gives no features to compare images by; set kind: autoencoder"
            )

    def build(self, config: Config) -> Game:
        return VaeGanGame(config)


class _Encoding(Game):
    """What both games share: latents of images, and images of latents."""

    reconstructs: ClassVar[bool] = True
    goes = "from an image to its reconstruction"
    drawn_by: ClassVar[str] = "decoder"

    def __init__(self, config: Config) -> None:
        keys: Autoencoder = config.game
        data = config.data
        self.seed, self.keys = config.run.seed, keys
        self.latent: int = keys.latent
        self.dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
        self.fields = {"image": Field("image", channels=data.channels, size=data.size)}
        self.shape = Shape(data.size, data.channels, self.latent)
        self._average: AverageKeys = config.average
        self._decoder_kind: str = config.networks.decoder.kind

    def make(self, config: Config) -> tuple[nn.Module, nn.Module]:
        """Return encoder and decoder with their initial weights; the caller has seeded torch."""
        encoder = config.networks.encoder.encoder(self.shape)
        try:
            decoder = config.networks.decoder.generator(self.shape)
        except InputError as error:  # a generator has another place in other games
            raise InputError(str(error).replace("networks.generator.", "networks.decoder.")) from None
        if getattr(decoder, "takes_draws", False):
            raise InputError(
                f"networks.decoder.kind = {self._decoder_kind} draws noise of its own; choose another kind"
            )
        return encoder, decoder

    def player(self, name: str, network: nn.Module, optimizer: Optimizer) -> Player:
        """Return a player with a moving average."""
        return make_player(name, network, optimizer, half_life=self._average.half_life, ramp=self._average.ramp)

    @abc.abstractmethod
    def averaged(self) -> tuple[nn.Module, nn.Module]:
        """Return the averaged encoder and decoder."""

    def normal(self, batch: Batch, purpose: str) -> Tensor:
        """Return standard normal numbers (N, latent), a function of the samples' positions."""
        return batch.draw(rng.normal, rng.key(self.seed, purpose), self.latent).to(self.dtype)

    def distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return -log p of a Gaussian without its constant: a sum over all numbers of a sample, the mean over samples.

        A mean over pixels beside a sum over latents would weigh the divergence by the number of pixels.
        """
        return (found - wanted).square().flatten(1).sum(1).mean() / (2 * self.keys.deviation**2)

    def elbo(self, reconstruction: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return the negative ELBO, with `beta`; its two terms are figures."""
        divergence = divergence_of(mean, log_variance)
        self.metrics.add("elbo/reconstruction", reconstruction)
        self.metrics.add("elbo/kl", divergence)
        return reconstruction + schedules.number_of(self.keys.beta, self.images) * divergence

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        return {"input": shown["image"], "reconstruction": self.infer(shown)}

    @property
    def galleries(self) -> tuple[str, ...]:
        return ("reals", "samples", *(("live",) if self.rivals else ()))

    @torch.no_grad()
    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return the reconstruction of images by the mean of their latents, without noise.

        Raises InputError for images of another size than the training's, which the dense layers do not take.
        """
        self.takes(way)
        encoder, decoder = self.averaged()
        given = inputs.get(self.judged)
        images = inputs["input"] if given is None else given  # `gan-dist apply` calls what it has an input
        if images.shape[2:] != self.fields["image"].size:
            found, wanted = (units.pixels((size[0], size[1])) for size in (images.shape[2:], self.fields["image"].size))
            raise InputError(f"an image has {found} pixels, and this run takes {wanted}; resize it")
        mean, _ = encoder(images)
        reconstruction: Tensor = decoder(mean, None)
        return reconstruction

    @torch.no_grad()
    def samples(self, seed: int, first: int, count: int, label: int | None = None) -> Tensor:
        """Decode draws of the prior."""
        return self._decoded(self.averaged()[1], seed, first, count)

    def latent_space(self) -> LatentSpace:
        encoder, decoder = self.averaged()
        return LatentSpace(decoder, lambda key, numbers: rng.normal(key, numbers, self.latent), encoder=encoder)

    def _decoded(self, decoder: nn.Module, seed: int, first: int, count: int, size: int = GROUP) -> Tensor:
        weight = next(decoder.parameters())

        def draw(numbers: Tensor) -> Tensor:
            images: Tensor = decoder(rng.normal(rng.key(seed, "sample"), numbers, self.latent).to(weight.dtype), None)
            return images

        return in_groups(draw, first, count, weight.device, size)


class VaeGame(_Encoding):
    """One player, encoder and decoder: it descends the negative ELBO."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        with initial_weights(config.run.seed):
            network = Vae(*self.make(config))
        self.autoencoder = self.player("A", network, config.optimizers.autoencoder)
        self.players = (self.autoencoder,)
        self.phases = (Phase(self.autoencoder, self.explain),)

    def explain(self, batch: Batch) -> Tensor:
        """-log p(x|z) + beta * KL(q(z|x) || p(z)), for one z of q(z|x)."""
        x = batch["image"]
        rebuilt, mean, log_variance = self.autoencoder(x, self.normal(batch, "posterior"))
        expect(rebuilt, tuple(x.shape), f"networks.decoder ({self._decoder_kind})")
        return self.elbo(self.distance(rebuilt, x), mean, log_variance)

    def averaged(self) -> tuple[nn.Module, nn.Module]:
        assert self.autoencoder.average is not None
        network: Any = self.autoencoder.average.network
        return network.encoder, network.decoder


class VaeGanGame(_Encoding):
    """An encoder and a decoder, against a discriminator that tells their images from real ones, and compares them.

    Each loss is that of algorithm 1 of the paper. All of them see the images that encoder and decoder made in their own
    turns, before their updates.
    """

    rivals = ("D", "G")
    keys: VaeGan

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.loss: losses.Loss = config.loss
        self._micro_batch: int = config.training.micro_batch
        self._whole = config.training.strategy != "zero3"
        self._judge_kind: str = config.networks.discriminator.kind
        with initial_weights(config.run.seed):
            encoder, decoder = self.make(config)
            judge = config.networks.discriminator.discriminator(Shape(config.data.size, config.data.channels))
        self.encoder = self.player("E", encoder, config.optimizers.encoder)
        self.decoder = self.player("G", decoder, config.optimizers.decoder)
        self.discriminator = make_player("D", judge, config.optimizers.discriminator)
        self.players = (self.encoder, self.decoder, self.discriminator)
        self.phases = (
            Phase(self.encoder, self.encode),
            Phase(self.decoder, self.decode),
            Phase(self.discriminator, self.tell_apart),
        )

    def encode(self, batch: Batch) -> Tensor:
        """-log p(Dis_l(x)|z) + beta * KL(q(z|x) || p(z)). No gradient of the GAN reaches the encoder."""
        x = batch["image"]
        mean, log_variance = self.encoder(x)
        latents = drawn(mean, log_variance, self.normal(batch, "posterior"))
        batch.cache["latents"] = latents.detach()
        rebuilt = self.decoder(latents, None)
        expect(rebuilt, tuple(x.shape), f"networks.decoder ({self._decoder_kind})")
        (real, _), (fake, _) = self.judge(batch, x, rebuilt)
        return self.elbo(self.distance(fake, real.detach()), mean, log_variance)

    def decode(self, batch: Batch) -> Tensor:
        """-gamma * log p(Dis_l(x)|z) + (1 - gamma) * (the generator's side of the GAN)."""
        rebuilt = self.decoder(batch.cache["latents"], None)
        sample = self.decoder(self.normal(batch, "prior"), None)
        batch.cache["rebuilt"], batch.cache["sample"] = rebuilt.detach(), sample.detach()
        (wanted, real), (found, of_rebuilt), (_, of_sample) = self.judge(batch, batch["image"], rebuilt, sample)
        gamma = schedules.number_of(self.keys.gamma, self.images)
        adversarial = self._over_fakes(self.loss.generator, batch, of_rebuilt, of_sample, real.detach())
        self.metrics.add("distance/adversarial", adversarial)
        return gamma * self.distance(found, wanted.detach()) + (1 - gamma) * adversarial

    def tell_apart(self, batch: Batch) -> Tensor:
        """-[log D(x) + (log(1 - D(reconstruction)) + log(1 - D(sample))) / 2]; the paper has no / 2."""
        images = batch["image"], batch.cache["rebuilt"], batch.cache["sample"]
        (_, real), (_, of_rebuilt), (_, of_sample) = self.judge(batch, *images)
        for name, logits in (("real", real), ("fake", of_sample), ("reconstruction", of_rebuilt)):
            self.metrics.add(f"score/{name}", logits)
        for name, value in losses.signs(self.loss, of_sample, real).items():
            self.metrics.add(f"score/{name}", value)
        return self._over_fakes(self.loss.discriminator, batch, of_rebuilt, of_sample, real)

    def judge(self, batch: Batch, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the discriminator's features and logits of several images of each sample.

        They pass it together, as in the paper's code, so that BatchNorm does not hide in which they differ.
        """
        parts, count = batch.parts, len(images)
        groups = zip(*(each.chunk(parts) for each in images), strict=True)
        seen = torch.cat([piece for group in groups for piece in group])  # a micro-batch stays one
        layers = self.discriminator(seen, None, features=True)[0]
        if self.keys.layer >= len(layers):
            raise InputError(
                f"game.layer = {self.keys.layer}, and networks.discriminator ({self._judge_kind}) has {len(layers) - 1} layers "
                "below its logits; choose one of them"
            )
        features, logits = (each.chunk(parts * count) for each in (layers[self.keys.layer - 1], layers[-1]))
        return [(torch.cat(features[place::count]), torch.cat(logits[place::count])) for place in range(count)]

    def _over_fakes(
        self, side: Callable[..., Tensor], batch: Batch, rebuilt: Tensor, sample: Tensor, real: Tensor
    ) -> Tensor:
        parts = batch.parts if self.loss.couples else 1
        of_sample = losses.by_part(side, parts, sample, real)
        if self.keys.fakes == "samples":
            return of_sample
        return (of_sample + losses.by_part(side, parts, rebuilt, real)) / 2

    def averaged(self) -> tuple[nn.Module, nn.Module]:
        assert self.encoder.average is not None
        assert self.decoder.average is not None
        return self.encoder.average.network, self.decoder.average.network

    @torch.no_grad()
    def live(self, seed: int, count: int) -> Tensor | None:
        """Draw whole micro-batches by the decoder as it trains now."""
        if not self._whole:  # zero3 would gather weights, which all ranks must do together
            return None
        size = min(self._micro_batch, count)
        return self._decoded(self.decoder.network, seed, 0, count // size * size, size)


def divergence_of(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q(z|x) || N(0, 1)) in nats: a sum over latents, the mean over samples (Kingma and Welling, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
