"""Define the steps that make a degraded image of a clean one. A new step is one class, the user's own included."""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.config.section import Part, Positive, Steps
from gan_dist.degrade.resample import Filter, resample

_LUMA = (0.299, 0.587, 0.114)
"""BT.601's weights of red, green and blue in a grey image."""


def _range(value: Any) -> Any:
    numbers = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers):
        raise ValueError(f"{value!r} is no range; write a number, or [least, most]")
    if numbers[0] < 0 or numbers[0] > numbers[1]:
        raise ValueError(f"{value!r} is no range; write a number from 0, or [least, most] in this order")
    return value


Range = Annotated[float | list[float], BeforeValidator(_range)]
"""A number from 0, or [least, most], between which one is drawn for each sample."""


def _within(least: float, most: float) -> AfterValidator:
    """Refuse a range with numbers outside of some."""

    def check(value: float | list[float]) -> float | list[float]:
        if any(not least <= each <= most for each in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{value} is outside of {least:g} to {most:g}; give a number or a range within")
        return value

    return AfterValidator(check)


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random numbers of one step for one sample: functions of key, name and position."""

    key: int
    position: int

    def uniform(self, name: str, count: int = 1) -> np.ndarray:
        """Return numbers in (0, 1): (count,) float64."""
        return rng.uniform_numpy(rng.key(self.key, name), self.position, count)

    def normal(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return standard normal numbers, float32."""
        return rng.normal_numpy(rng.key(self.key, name), self.position, math.prod(shape)).reshape(shape)

    def within(self, name: str, bounds: float | list[float]) -> float:
        """Return a number of a range."""
        if not isinstance(bounds, list):
            return bounds
        least, most = bounds
        return least + (most - least) * float(self.uniform(name)[0])

    def count(self, name: str, bounds: float | list[float]) -> int:
        """Return a whole number of a range, each as often as another: of rounded draws the ends would come half as often."""
        least, most = (round(each) for each in (bounds if isinstance(bounds, list) else [bounds, bounds]))
        return least + int((most - least + 1) * float(self.uniform(name)[0]))


class Degradation(Part):
    """A step: what it does to an image, and what it leaves of size and channels."""

    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Part of the samples that it is done to."""

    reshapes: ClassVar[bool] = False
    """Whether size or channels change, which must then be so for all samples."""

    @property
    def shrinks(self) -> int:
        """Say how many times smaller the sides become."""
        return 1

    def channels_of(self, channels: int) -> int:
        """Return the channels that an image of so many channels has afterwards. Raises ValueError for what it does not take."""
        return channels

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        """Return the image (H, W, C), numbers of 0..255, degraded. `size` is what this and the steps before make of it."""
        raise NotImplementedError(f"{type(self).__name__} has no degrade(image, draws, size)")

    def check(self, config: Config) -> None:
        if self.probability < 1 and self.reshapes:
            raise ValueError(
                f"data.degrade: {self.kind} changes size or channels, which all samples share; remove its probability"
            )


class Blur(Degradation):
    """Convolve with a Gaussian, mirrored at the edges."""

    sigma: Annotated[Range, _within(0, 100)] = Field([0.2, 3.0])
    """Its deviation in pixels, up to 100."""
    anisotropic: bool = False
    """Draw a second deviation, and the angle between the two axes."""

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        one = draws.within("sigma", self.sigma)
        if not self.anisotropic:
            return _filtered(image, _gaussian(one, one, 0.0))
        angle = np.pi * float(draws.uniform("angle")[0])
        return _filtered(image, _gaussian(one, draws.within("other sigma", self.sigma), angle))


class Motion(Degradation):
    """Convolve with a straight line of a drawn angle: the camera moved."""

    length: Annotated[Range, _within(0, 500)] = Field([5.0, 15.0])
    """Its length in pixels, up to 500."""

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        length, angle = draws.within("length", self.length), np.pi * float(draws.uniform("angle")[0])
        reach = int(np.ceil(length / 2)) + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
        return _filtered(image, kernel / kernel.sum())


class Downscale(Degradation):
    """Make the sides smaller: super-resolution. As MATLAB's imresize, antialiased."""

    factor: Positive = 4
    """How many times smaller."""
    filter: Filter = "bicubic"
    """bicubic is what papers have; area is the mean of the pixels."""

    reshapes: ClassVar[bool] = True

    @property
    def shrinks(self) -> int:
        return self.factor

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        return resample(image, size, self.filter)


class Resize(Degradation):
    """Resize by a drawn factor and filter (Real-ESRGAN; Wang et al., 2021). A later downscale, or the end, goes to its size."""

    scale: Annotated[Range, _within(0.05, 20)] = Field([0.5, 1.5])
    """The factor, from 0.05 to 20."""
    filters: Annotated[list[Filter], Field(min_length=1)] = Field(["area", "bilinear", "bicubic"])
    """Drawn from."""

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        scale = draws.within("scale", self.scale)
        kind = self.filters[int(draws.uniform("filter")[0] * len(self.filters))]
        height, width = (max(4, round(side * scale)) for side in image.shape[:2])
        return resample(image, (height, width), kind)


class Noise(Degradation):
    """Add Gaussian noise, and noise that grows with the light."""

    sigma: Range = 25.0
    """Deviation of 0..255."""
    shot: Range = 0.0
    """Variance added for each level of light: 1 is Poisson noise of as many photons as the pixel has levels, by a Gaussian."""
    grey: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the samples whose channels all get the same noise."""

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        sigma, shot = draws.within("sigma", self.sigma), draws.within("shot", self.shot)
        same = bool(self.grey) and float(draws.uniform("grey")[0]) < self.grey
        noise = draws.normal("noise", (*image.shape[:2], 1 if same else image.shape[2]))
        deviation = np.sqrt(sigma**2 + shot * image) if shot else sigma
        return np.asarray(image + deviation * noise)


class Jpeg(Degradation):
    """Encode as JPEG, and decode."""

    quality: Annotated[Range, _within(1, 100)] = Field([30.0, 95.0])
    """Of 1..100."""

    def channels_of(self, channels: int) -> int:
        if channels not in (1, 3):
            raise ValueError(
                f"data.degrade: jpeg takes 1 or 3 channels, not {channels}; remove it, or move it before a mask"
            )
        return channels

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        quality = round(draws.within("quality", self.quality))
        pixels = rounded(image)
        if pixels.shape[2] == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        good, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert good
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB if image.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
        return np.asarray(decoded).reshape(image.shape).astype(np.float64)


class Grey(Degradation):
    """Leave the luma alone, one channel: colourising."""

    reshapes: ClassVar[bool] = True

    def channels_of(self, channels: int) -> int:
        if channels != 3:
            raise ValueError(f"data.degrade: grey takes 3 channels, not {channels}; set data.channels: 3, or remove it")
        return 1

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        luma: np.ndarray = (image * np.array(_LUMA)).sum(2, keepdims=True)
        return luma


class Mask(Degradation):
    """Lose boxes or pixels: inpainting. What is lost is said by a further channel, 0 where it is and 255 elsewhere.

    It is the last step. With 1 and 3 channels before it, images of `gan-dist apply` are those with transparency.
    """

    boxes: Annotated[Range, _within(0, 1000)] = Field([1.0, 4.0])
    """How many: each number of a range as often as another. A box lies within the image, at every place as often as another."""
    size: Annotated[Range, _within(0, 1)] = Field([0.1, 0.4])
    """Their sides, as a part of the image's."""
    pixels: Annotated[Range, _within(0, 1)] = 0.0
    """Part of all pixels that are lost beside."""
    fill: Annotated[int, Field(ge=0, le=255)] = 128
    """What stands where something is lost."""

    reshapes: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        super().check(config)
        if any(isinstance(each, Mask) for each in config.data.degradations[:-1]):
            raise ValueError(
                "data.degrade: mask must be the last step, as others would blur its channel; move it there"
            )

    def channels_of(self, channels: int) -> int:
        if channels not in (1, 3):
            raise ValueError(
                f"data.degrade: mask takes 1 or 3 channels, not {channels}; change data.channels, or remove it"
            )
        return channels + 1

    def degrade(self, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        image = resample(image, size).clip(0, 255)  # which a resize may have left: a mask has no half pixels
        height, width = size
        there = np.ones((height, width, 1))
        for number in range(draws.count("boxes", self.boxes)):
            tall, wide = (
                max(1, round(side * draws.within(f"{name} {number}", self.size)))
                for name, side in (("height", height), ("width", width))
            )
            places = draws.uniform(f"place {number}", 2)
            top, left = int(places[0] * (height - tall + 1)), int(places[1] * (width - wide + 1))
            there[top : top + tall, left : left + wide] = 0
        if part := draws.within("pixels", self.pixels):
            there[draws.uniform("lost pixels", height * width).reshape(height, width, 1) < part] = 0
        return np.dstack([np.where(there > 0, image, self.fill), 255 * there])


DEGRADATIONS: dict[str, type[Degradation]] = {
    "blur": Blur,
    "motion": Motion,
    "downscale": Downscale,
    "resize": Resize,
    "noise": Noise,
    "jpeg": Jpeg,
    "grey": Grey,
    "mask": Mask,
}
DEGRADE = Steps(
    Degradation,
    DEGRADATIONS,
    "What makes the input of the target, a step after the other: [{kind: blur, sigma: [0.2, 3]}, {kind: downscale, factor: 4}, "
    "{kind: noise, sigma: 10}]. Default: none, as data.fields names both. What is drawn is drawn for each position of the run.",
)
"""The place of the steps, for games that learn to undo them."""


def rounded(image: np.ndarray) -> np.ndarray:
    """Return numbers as 8 bits."""
    made: np.ndarray = image.round().clip(0, 255).astype(np.uint8)
    return made


def _gaussian(one: float, other: float, angle: float) -> np.ndarray:
    reach = max(1, int(np.ceil(3 * max(one, other))))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(float)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-(along**2) / (2 * max(one, 1e-3) ** 2) - across**2 / (2 * max(other, 1e-3) ** 2))
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    made: np.ndarray = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
    return made.reshape(image.shape)
