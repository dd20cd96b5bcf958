"""Choose what to train on a source of images on a machine: game, size, channels, classes, networks; each with its reason."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gan_dist import units
from gan_dist.data.pack.classes import SPLITS
from gan_dist.errors import InputError
from gan_dist.recipes.look import Images, Machine

Kind = Literal["r3gan", "small_data", "few_shot", "small_network"]

MANY = 30_000
"""Images from which R3GAN trains without adaptive augmentation (docs/recipes.md)."""
SOME = 1_000
"""Images from which StyleGAN2-ADA's settings hold; below them those of DiffAugment for few."""
FEW = 100
"""Images below which nobody has reported good pictures."""
_SIDES_GPU = (64, 128, 256)
_SIDES_CPU = (16, 32)
_START = 4  # pixels that networks double from
_LEAST_CLASS = 10  # images of a class


@dataclasses.dataclass(frozen=True)
class Reasoned:
    """A value with the reason for it."""

    value: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to train, and why."""

    kind: Kind
    why: str
    size: tuple[int, int]
    """Height and width."""
    why_size: str
    channels: int
    why_channels: str
    labels: bool
    why_labels: str
    flip: bool
    why_flip: str
    batch: int
    micro_batch: int
    images: Images
    machine: Machine

    @property
    def square(self) -> bool:
        """Say whether DCGAN's networks can make it: a power of two from 8."""
        height, width = self.size
        return height == width and height >= 8 and height & (height - 1) == 0


def choose(images: Images, machine: Machine, resolution: tuple[int, int] | None = None) -> Choice:
    """Return what to train on images of one set. Raises InputError where nothing can be trained on them."""
    refuse_unreadable(images)
    size, why_size = _size(images, machine, resolution)
    kind, why = _kind(images, machine, size)
    channels, why_channels = _channels(images)
    labels, why_labels = _labels(images)
    flip, why_flip = _flip(images, channels)
    batch, micro = _batches(kind, size, images, machine)
    return Choice(
        kind=kind,
        why=why,
        size=size,
        why_size=why_size,
        channels=channels,
        why_channels=why_channels,
        labels=labels,
        why_labels=why_labels,
        flip=flip,
        why_flip=why_flip,
        batch=batch,
        micro_batch=micro,
        images=images,
        machine=machine,
    )


def refuse_unreadable(images: Images) -> None:
    """Raise InputError where there are not two images that can be read."""
    if len(images.pictures) < 2:
        first = f": {images.broken[0][0]}: {images.broken[0][1]}" if images.broken else ""
        raise InputError(
            f"{images.source}: {units.count(len(images.pictures), 'image')} can be read{first}; 2 are the least to train "
            f"on, and {FEW} the least that give pictures"
        )


def _kind(images: Images, machine: Machine, size: tuple[int, int]) -> tuple[Kind, str]:
    count = f"{images.images:,} images"
    if not machine.gpus:
        return "small_network", (
            f"there is no GPU: small networks with the loss of R3GAN, as in digits.yaml, at {units.pixels(size)} pixels. Expect "
            "shapes and colours, and no fine detail"
        )
    if images.images < SOME:
        least = f"; {FEW} are the least that anybody reports pictures from" if images.images < FEW else ""
        return "few_shot", f"{count} are few: StyleGAN2 with DiffAugment, the setting for 100 images{least}"
    if images.images < MANY or min(size) > max(_SIDES_GPU):
        large = f"{count} at {units.pixels(size)} pixels, where R3GAN has no published penalties"
        return "small_data", (
            f"{large if images.images >= MANY else f'{count}, between {SOME:,} and {MANY:,}'}: StyleGAN2 with adaptive "
            "augmentation (StyleGAN2-ADA's auto)"
        )
    return "r3gan", f"{count}, more than {MANY:,}: R3GAN"


def _size(images: Images, machine: Machine, asked: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    if asked is not None:
        smaller = sum(picture.size[0] < asked[0] or picture.size[1] < asked[1] for picture in images.pictures)
        enlarged = f"; {smaller:,} of {len(images.pictures):,} images are smaller, and are enlarged" if smaller else ""
        return asked, f"as asked{enlarged}"
    return fitting_size([images], _SIDES_GPU if machine.gpus else _SIDES_CPU)


def fitting_size(sets: Sequence[Images], sides: Sequence[int]) -> tuple[tuple[int, int], str]:
    """Return height and width for images, with a shorter side among `sides` or less, and why.

    Nine of ten images of one shape that is no square keep it, nearly: networks double both sides from some 4 pixels.
    """
    least = min(images.shorter(0.05) for images in sets)
    side = max((each for each in sides if each <= least), default=0) or max(8, 1 << (least.bit_length() - 1))
    reason = f"19 of 20 images have {least} pixels or more on their shorter side"
    if side < least:
        reason += f"; {units.pixels((2 * side, 2 * side))} take 4 times as long"
    wide = sets[0].aspect
    start = round(_START * max(wide, 1 / wide))
    if start == _START or any(images.of_aspect(wide) < 0.9 for images in sets):
        kept = min(wide, 1 / wide)
        crop = f"; the middle square is cut out, {kept:.0%} of a usual image" if kept < 0.95 else ""
        return (side, side), reason + crop
    longer = side * start // _START
    size = (side, longer) if wide > 1 else (longer, side)
    shape = size[1] / size[0]
    cut = 1 - min(wide / shape, shape / wide)
    crop = f", of which {cut:.0%} is cut off" if cut > 0.005 else ""
    return size, f"{reason}; 9 of 10 are {wide:.2f} times as wide as high{crop}"


def _channels(images: Images) -> tuple[int, str]:
    channels = images.channels
    clear = sum(picture.channels == 4 for picture in images.pictures)
    if channels == 1:
        return 1, "all images are grey"
    if channels == 4:
        return 4, f"{clear:,} of {len(images.pictures):,} images are transparent somewhere; 3 makes that white"
    return 3, f"{clear:,} images are transparent somewhere, which becomes white" if clear else ""


def _labels(images: Images) -> tuple[bool, str]:
    count, classes = images.images, images.classes
    if not classes or len(classes) < 2:
        return False, ""
    named = f"{len(classes)} classes"
    if images.unlabelled:
        return False, f"{images.unlabelled:,} of {count:,} images have no class; give them one, then set this true"
    if {name.lower() for name in classes} <= SPLITS:
        return False, f"the folders {', '.join(classes)} are parts of a data set, and no classes"
    least = min(classes, key=lambda name: classes[name])
    if classes[least] < _LEAST_CLASS:
        return (
            False,
            f"{named}, but {least} has {units.count(classes[least], 'image')}; true trains on them all the same",
        )
    return True, f"{named}: {_some(list(classes))}; false draws images of any class"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _flip(images: Images, channels: int) -> tuple[bool, str]:
    if channels == 1 and images.shorter(0.5) <= 32:
        return False, "small grey images are often digits or letters, of which a mirror image is none"
    return True, "mirror images count as images; set false for text, and where left and right differ"


def _batches(kind: Kind, size: tuple[int, int], images: Images, machine: Machine) -> tuple[int, int]:
    """Return training.batch and training.micro_batch, neither more than there are images."""
    batch, micro = {"r3gan": (256, 32), "small_data": (64, 8), "few_shot": (8, 4), "small_network": (64, 32)}[kind]
    if kind in ("r3gan", "small_data"):
        area, room = size[0] * size[1], min((memory for _, memory in machine.gpus), default=0)
        reference = 64 * 64 if kind == "r3gan" else 128 * 128
        shrink = max(1, round(math.sqrt(area / reference))) * (1 if room > 40e9 else 2 if room > 20e9 else 4)
        micro = max(4, min(micro, micro // shrink))
        micro = 1 << (micro.bit_length() - 1)
    usable = max(2, len(images.pictures) if images.looked == images.images else images.images)
    batch = min(batch, 1 << (usable.bit_length() - 1))
    return batch, min(micro, batch)


def shards_of_pack(source: str) -> bool:
    """Say whether a source is a folder that `gan-dist pack` made."""
    return os.path.isdir(source) and (Path(source) / "pack.json").is_file() and any(Path(source).glob("*.tar"))
