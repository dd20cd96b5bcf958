"""Adaptive discriminator augmentation, ADA (Karras et al., "Training GANs with limited data", 2020)."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_dist import rng, schedules
from gan_dist.augment import resampling
from gan_dist.augment.base import Augment, Augmentation
from gan_dist.config.section import Fraction, Positive
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import Gathering

if TYPE_CHECKING:
    from gan_dist.config.common import Config

Multiplier = Annotated[float, Field(ge=0, le=1)]

GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOUR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
OPERATIONS = (*GEOMETRY, *COLOUR, "filter", "noise", "cutout")

_BANDS = 4
_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of the bands in a natural image, which falls as 1/f^2

_CHANCES = (*OPERATIONS, "rotate after", *(f"filter {band}" for band in range(_BANDS)))
_UNIFORM = (
    "xflip",
    "rotate90",
    "xint x",
    "xint y",
    "rotate",
    "rotate after",
    "lumaflip",
    "hue",
    "cutout x",
    "cutout y",
)
_NORMAL = (
    *("scale", "aniso", "xfrac x", "xfrac y", "brightness", "contrast", "saturation", "noise"),
    *(f"filter {band}" for band in range(_BANDS)),
)
"""Names of the numbers that are drawn for an image, each always in the same place: append, never insert."""


class Ada(Augmentation):
    """Flips, turns, shifts, colours and more, each with probability p times its multiplier, image by image.

    p follows the discriminator (`target`), or `probability` says it. Default: pixel blitting, geometry and colour, the
    paper's bgc.
    """

    probability: schedules.ScheduledProbability = 0.0
    """p where it does not follow the discriminator (target: 0): a number in [0, 1] or a schedule."""
    target: Fraction = 0.6
    """Mean sign of the discriminator's logits of real images, in its own turn, above which p rises and below which it falls.
    0: `probability` is p."""
    speed: Positive = 500_000
    """Images in which p can go from 0 to 1. For fine-tuning 100,000 is usual."""
    most: Annotated[float, Field(gt=0, le=1)] = 1.0
    """p is capped here; the paper's own code has no cap. At 1 an operation is always done, and where no image is without it, it
    may be learned: 0.8 is safer for a small data set."""
    interval: Positive = 4
    """Updates of the discriminator between two changes of p, each by interval * training.batch / speed."""
    xflip: Multiplier = 1.0
    """Multiplier of p for: mirror, in half of the cases."""
    rotate90: Multiplier = 1.0
    """For: 0 to 3 quarter turns."""
    xint: Multiplier = 1.0
    """For: shift by whole pixels, up to 1/8 of the size."""
    scale: Multiplier = 1.0
    """For: zoom by 2^(0.2 N), N normal."""
    rotate: Multiplier = 1.0
    """For: turn by any angle, before or after `aniso`."""
    aniso: Multiplier = 1.0
    """For: stretch by 2^(0.2 N) one way and shrink the other."""
    xfrac: Multiplier = 1.0
    """For: shift by N/8 of the size."""
    brightness: Multiplier = 1.0
    """For: add 0.2 N."""
    contrast: Multiplier = 1.0
    """For: multiply by 2^(0.5 N)."""
    lumaflip: Multiplier = 1.0
    """For: invert the luma and keep the colour, in half of the cases."""
    hue: Multiplier = 1.0
    """For: turn the colours by any angle; nothing for grey images."""
    saturation: Multiplier = 1.0
    """For: multiply what is not grey by 2^N; nothing for grey images."""
    filter: Multiplier = 0.0
    """For: amplify each of four octaves by 2^N, with the same power in the whole."""
    noise: Multiplier = 0.0
    """For: add white noise of deviation 0.1 |N|."""
    cutout: Multiplier = 0.0
    """For: zero a rectangle of half the height and half the width."""

    @property
    def multipliers(self) -> dict[str, float]:
        """Multiplier of p by operation."""
        return {name: getattr(self, name) for name in OPERATIONS}

    def check(self, config: "Config") -> None:
        name = config.key_of(self)
        if not any(self.multipliers.values()):
            raise ValueError(f"{name}: all operations have multiplier 0, so it has no effect; raise one, or remove it")
        if config.data.channels not in (1, 3) and any(self.multipliers[each] for each in COLOUR):
            raise ValueError(_no_colour(name, config.data.channels))
        if self.target and self.probability != 0:
            raise ValueError(
                f"{name}.probability has no effect while p follows the discriminator; set {name}.target: 0, or remove it"
            )
        if not self.target:
            if self.probability == 0:
                raise ValueError(f"{name}.target: 0 leaves p at 0, so it has no effect; set {name}.probability")
            for key in ("speed", "most", "interval"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{name}.{key} has no effect with {name}.target: 0; remove one of them")

    def build(self, seed: int) -> Augment:
        return AdaptiveAugment(self, seed)


def _no_colour(name: str, channels: int) -> str:
    operations = ", ".join(f"{each}: 0" for each in COLOUR)
    return f"{name} changes colours of 1 or 3 channels, and the images have {channels}; set {operations} for it"


class Draws:
    """Random numbers of the images of a batch, (N,) float64 by name."""

    def __init__(self, seed: int, purpose: str, positions: Tensor, draw: Callable[..., Tensor] | None = None) -> None:
        """`draw` is the batch's, which may draw for others at once."""
        self._keys = {kind: rng.key(seed, f"ada {kind} {purpose}") for kind in ("chance", "uniform", "normal", "noise")}
        draw = self._draw = draw or (lambda draw, stream, count: draw(stream, positions, count))
        # one call for each kind: a call is some twenty small kernels
        self._chances = draw(rng.uniform, self._keys["chance"], len(_CHANCES))
        self._uniform = draw(rng.uniform, self._keys["uniform"], len(_UNIFORM))
        self._normal = draw(rng.normal, self._keys["normal"], len(_NORMAL)).double()

    def happens(self, name: str, probability: Tensor | float) -> Tensor:
        """Return where something of this probability happens: (N,) bool."""
        return self._chances[:, _CHANCES.index(name)] < probability

    def uniform(self, name: str) -> Tensor:
        """Return numbers in (0, 1)."""
        return self._uniform[:, _UNIFORM.index(name)]

    def normal(self, name: str) -> Tensor:
        return self._normal[:, _NORMAL.index(name)]

    def white_noise(self, like: Tensor) -> Tensor:
        """Return standard normal numbers for all pixels of images (N, C, H, W)."""
        return self._draw(rng.normal, self._keys["noise"], like[0].numel()).to(like.dtype).view(like.shape)


class AdaptiveAugment(Augment):
    """The pipe, and the p that goes into it."""

    def __init__(self, keys: Ada, seed: int) -> None:
        super().__init__()
        self.seed, self.probability = seed, keys.probability
        self.controller = Controller(keys.target, keys.speed, keys.interval, keys.most) if keys.target else None
        self.pipe = Pipe(keys.multipliers)

    def forward(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            full = images if images.dtype == torch.float64 else images.float()
            made: Tensor = self.pipe(full, Draws(self.seed, purpose, batch.positions, batch.draw), self.strength())
            return made.to(images.dtype)

    def strength(self) -> Tensor | float:
        """Return p."""
        return schedules.at(self.probability, self.images) if self.controller is None else self.controller.probability

    def observe(self, real: Tensor, fake: Tensor, batch: Batch) -> None:
        if self.controller is not None:
            self.controller.see(real, self.batch_size)

    def figures(self) -> dict[str, Tensor]:
        return {} if self.controller is None else {"probability": self.controller.probability}


class Controller(Gathering):
    """p, which follows the signs of the discriminator's logits of real images (Karras et al., 2020, section 3).

    Every `interval` updates of the discriminator p moves by the images of these updates over `speed`: up where the mean
    sign of their logits is above `target`, down where it is below. It stays within 0 and `most`. An update that is skipped, as
    it was not finite, does not count.
    """

    probability: Tensor
    signs: Tensor
    updates: Tensor
    step_sign: Tensor
    _sums = ("step_sign",)

    def __init__(self, target: float, speed: int, interval: int, most: float) -> None:
        super().__init__()
        self.target, self.speed, self.interval, self.most = target, speed, interval, most
        self.batch_size = 0
        self.register_buffer("probability", torch.zeros(()))
        # since the last change: the sum of the updates' mean signs, and their number
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))
        self.register_buffer("step_sign", torch.zeros(()), persistent=False)
        self.register_buffer("step_count", torch.zeros(()), persistent=False)

    def see(self, logits: Tensor, batch_size: int) -> None:
        """Gather the logits of the real images of a pass, of a step of `batch_size` images."""
        if self.tracking:
            self.batch_size = batch_size
            for part in logits.detach().chunk(self.parts):
                self._gather((part.sign().mean(dtype=self.step_sign.dtype),))

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        if not self._gathered:
            return
        assert self.batch_size, "the game sets Augment.batch_size"
        signs, updates = self.signs + self.step_sign / self.step_count, self.updates + 1
        due = updates >= self.interval
        move = (signs / updates - self.target).sign() * (self.interval * self.batch_size / self.speed)
        moved = {
            "probability": torch.where(due, (self.probability + move).clamp(0, self.most), self.probability),
            "signs": torch.where(due, 0.0, signs),
            "updates": torch.where(due, 0.0, updates),
        }
        for name, value in moved.items():
            buffer = getattr(self, name)
            buffer.copy_(value if good is None else torch.where(good, value, buffer))
        self.drop()


class Pipe(nn.Module):
    """All operations in the paper's order, on images (N, C, H, W) in fp32 or fp64; linear in the images but for what it adds."""

    wavelet: Tensor
    bands: Tensor

    def __init__(self, multipliers: Mapping[str, float]) -> None:
        super().__init__()
        self.multipliers = dict(multipliers)
        self.register_buffer("wavelet", torch.tensor(resampling.SYM6, dtype=torch.float64), persistent=False)
        self.register_buffer("bands", resampling.wavelet_bands(_BANDS - 1), persistent=False)

    def forward(self, images: Tensor, draws: Draws, strength: Tensor | float) -> Tensor:
        """Return the images, each changed by its own draws; `strength` is p."""
        probability = {name: strength * each for name, each in self.multipliers.items() if each}
        if any(name in probability for name in GEOMETRY):
            images = resampling.affine(images, *_geometry(draws, probability, images), self.wavelet)
        if any(name in probability for name in COLOUR):
            images = _colour(images, draws, probability)
        if "filter" in probability:
            gains = _band_gains(draws, probability["filter"])
            images = resampling.weigh_bands(images, gains @ self.bands.to(gains.dtype))
        if "noise" in probability:
            deviation = torch.where(
                draws.happens("noise", probability["noise"]), 0.1 * draws.normal("noise").abs(), 0.0
            )
            images = images + _per_image(deviation, images) * draws.white_noise(images)
        if "cutout" in probability:
            images = images * _kept(draws, probability["cutout"], images)
        return images


Probabilities = Mapping[str, Tensor | float]
"""Probability of each operation that has one."""


def _value(draws: Draws, probability: Probabilities, name: str, value: Tensor, neutral: float) -> Tensor:
    """Return the value for the images that have an operation, and what changes nothing for the others: (N,)."""
    return torch.where(draws.happens(name, probability.get(name, 0.0)), value, neutral)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype)[:, None, None, None]


def _geometry(draws: Draws, probability: Probabilities, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine map from a pixel to where it is taken from: (N, 2, 2), and (N, 2) in pixels, x first."""
    height, width = images.shape[2:]

    def shift(name: str, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([_value(draws, probability, name, each, 0.0) for each in (x, y)], -1)[..., None]

    flip = _value(draws, probability, "xflip", 1 - 2 * (2 * draws.uniform("xflip")).floor(), 1.0)
    quarters = _value(draws, probability, "rotate90", (4 * draws.uniform("rotate90")).floor(), 0.0)
    whole = [
        ((2 * draws.uniform(f"xint {axis}") - 1) / 8 * size).round() for axis, size in (("x", width), ("y", height))
    ]
    scale = _value(draws, probability, "scale", 2 ** (0.2 * draws.normal("scale")), 1.0)
    aniso = _value(draws, probability, "aniso", 2 ** (0.2 * draws.normal("aniso")), 1.0)
    part = [draws.normal(f"xfrac {axis}") / 8 * size for axis, size in (("x", width), ("y", height))]
    # one of two turns happens with the probability of the operation
    either = probability.get("rotate", 0.0)
    each = 1 - (1 - either) ** 0.5
    before, after = (
        torch.where(draws.happens(name, each), (2 * draws.uniform(name) - 1) * math.pi, 0.0)
        for name in ("rotate", "rotate after")
    )

    blit = _diagonal(flip, torch.ones_like(flip)) @ _turn(quarters * (math.pi / 2))
    stretch = _turn(before) @ _diagonal(1 / aniso, aniso) @ _turn(after)
    linear = blit @ (stretch / scale[:, None, None])
    offset = -(blit @ shift("xint", *whole)) - linear @ shift("xfrac", *part)
    return linear, offset[..., 0]


def _turn(angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], -1))


def _colour(images: Tensor, draws: Draws, probability: Probabilities) -> Tensor:
    """Change luma (the mean of the channels) and chroma (what is left), on which all five operations act apart."""
    channels = images.shape[1]
    if channels not in (1, 3):
        raise InputError(_no_colour("augment: ada", channels))
    add = _value(draws, probability, "brightness", 0.2 * draws.normal("brightness"), 0.0)
    times = _value(draws, probability, "contrast", 2 ** (0.5 * draws.normal("contrast")), 1.0)
    sign = _value(draws, probability, "lumaflip", 1 - 2 * (2 * draws.uniform("lumaflip")).floor(), 1.0)
    luma = images.mean(1, keepdim=True)
    grey = _per_image(sign * times, images) * (luma + _per_image(add, images))
    if channels == 1:
        return grey
    hue = _value(draws, probability, "hue", (2 * draws.uniform("hue") - 1) * math.pi, 0.0)
    times = times * _value(draws, probability, "saturation", 2 ** draws.normal("saturation"), 1.0)
    chroma = images - luma
    across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / 3**0.5  # the chroma, a quarter of the colour circle on
    return grey + _per_image(times * hue.cos(), images) * chroma + _per_image(times * hue.sin(), images) * across


def _band_gains(draws: Draws, probability: Tensor | float) -> Tensor:
    """Return gains of the bands, lowest first: (N, 4). Each band's own change keeps the power of a natural image."""
    gains, norms = [], []
    for band, power in enumerate(_POWER):
        gain = torch.where(draws.happens(f"filter {band}", probability), 2 ** draws.normal(f"filter {band}"), 1.0)
        gains.append(gain)
        norms.append((1 + power * (gain.square() - 1)).sqrt())
    return torch.stack(gains, 1) / torch.stack(norms, 1).prod(1, keepdim=True)


def _kept(draws: Draws, probability: Tensor | float, images: Tensor) -> Tensor:
    """Return 0 in a rectangle of half the size of the images that have one, and 1 elsewhere: (N, 1, H, W)."""
    inside = draws.happens("cutout", probability)[:, None, None]
    for dim, axis in ((2, "y"), (1, "x")):
        size = images.shape[dim + 1]
        centres = (torch.arange(size, dtype=torch.float64, device=images.device) + 0.5) / size
        near = (centres - draws.uniform(f"cutout {axis}")[:, None]).abs() < 0.25
        inside = inside & near.unsqueeze(3 - dim)
    return (~inside).to(images.dtype)[:, None]
