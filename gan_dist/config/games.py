"""The keys of games: networks, losses, penalties, and each player's optimizer."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gan_dist.config.section import Fraction, Positive, Section


class Adam(Section):
    """Adam's settings for one player (Kingma and Ba, 2015)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's step size."""
    beta1: Fraction = 0.5
    """Decay of the gradient's running mean; 0.5 as in DCGAN (Radford et al., 2016)."""
    beta2: Fraction = 0.999
    """Decay of the squared gradient's running mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Longest gradient (L2 norm over all weights of the player); a longer one is scaled down to it. 0: any."""


class Average(Section):
    half_life: Positive = 10_000
    """Half-life of the generator's moving average (EMA), in images. While fewer than 20 times as many have been
    seen it is a twentieth of the images seen, so that the average forgets the random start."""


class Penalty(Section):
    """Penalties on the discriminator's gradient with respect to images; all are off by default."""

    r1: Annotated[float, Field(ge=0)] = 0.0
    """Weight gamma of gamma/2 E||grad D(x)||^2 on real images (Mescheder et al., 2018). 0: none."""
    r2: Annotated[float, Field(ge=0)] = 0.0
    """The same on generated images."""
    wgan_gp: Annotated[float, Field(ge=0)] = 0.0
    """Weight lambda of lambda E(||grad D(x)|| - 1)^2 between real and generated images (Gulrajani et al., 2017)."""
    every: Positive = 1
    """Steps between penalties, each then so many times as strong (Karras et al., 2020). 1: in every discriminator update;
    more: an update of its own, with Adam corrected for it."""
    method: Literal["exact", "finite_difference"] = "exact"
    """exact: by differentiating twice. finite_difference: from D at x and at x plus a little noise, which needs no second
    derivative, but is noisy and for LeakyReLU networks another regulariser (docs/engines.md); for r1 and r2 alone."""
    step: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of that noise, for images in [-1, 1]. 0: 0.03 for a discriminator of kinked activations, else 0.01."""
    full_precision: bool = True
    """Compute penalties in fp32 where training.precision is bf16 or fp16."""

    @property
    def weights(self) -> dict[str, float]:
        """The penalties that are on."""
        return {name: weight for name in ("r1", "r2", "wgan_gp") if (weight := getattr(self, name))}

    @model_validator(mode="after")
    def _has_effect(self) -> "Penalty":
        usual = {"every": 1, "method": "exact", "step": 0.0, "full_precision": True}
        changed = [name for name, value in usual.items() if getattr(self, name) != value]
        if changed and not self.weights:
            raise ValueError(
                f"game.penalty.{changed[0]} has no effect without a penalty; set game.penalty.r1, r2 or wgan_gp"
            )
        if self.step and self.method == "exact":
            raise ValueError("game.penalty.step has no effect with game.penalty.method: exact; remove it")
        if self.wgan_gp and self.method == "finite_difference":
            raise ValueError(
                "game.penalty.wgan_gp needs the gradient's length, which finite differences do not give; set "
                "game.penalty.method: exact, or use r1"
            )
        return self


class Generation(Section):
    """Images from random latents, optionally of a given class."""

    kind: Literal["generation"] = "generation"
    """The game that is played."""
    networks: Literal["article", "dcgan"] = "dcgan"
    """article: the 28x28 grey digit networks (docs/article.md). dcgan: Radford et al. (2016), any power of two from 8, grey or RGB."""
    latent: Positive = 100
    """Numbers in a latent vector, each standard normal."""
    base_channels: Positive = 64
    """DCGAN's width: channels of the layers next to the image; the layers inside have 2, 4, 8 times as many."""
    loss: Literal["minimax", "nonsaturating"] = "nonsaturating"
    """The generator's loss (Goodfellow et al., 2014): minimax descends log(1 - D(G(z))), nonsaturating -log D(G(z))."""
    discriminator_steps: Positive = 1
    """Discriminator updates for each generator update; each takes a batch of its own."""
    penalty: Penalty = Penalty()
    """Penalties on the discriminator's gradient."""
    generator: Adam = Adam()
    """The generator's optimizer."""
    discriminator: Adam = Adam()
    """The discriminator's optimizer."""
    average: Average = Average()
    """The moving average of the generator's weights, which samples are drawn from."""
