"""Define what a source of images is to those who list, read and pack it."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One of several images of a sample."""

    field: str
    """Its name: the member of the sample is KEY.FIELD.png or KEY.FIELD.jpg."""
    place: tuple[Any, ...]
    role: Literal["image", "labels", "edges"]
    """labels: a map of numbers, or of colours that stand for classes. edges: those of the image that lies there."""
    lossless: bool
    """Whether it is always written as PNG. All members of a name have one ending."""
    channels: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    name: str
    """What a person calls it: its path within the source."""
    label: int | None
    place: tuple[Any, ...]
    """Where it lies: a kind of place and what finds it there (see `read`)."""
    size: int
    """Bytes, as stored."""
    stamp: int
    """Differs when the content does: a CRC-32 where reading it is free, else the time of change in seconds."""
    members: tuple[Member, ...] = ()
    """All images of a sample that has several; `place` is then the first one's."""


@dataclasses.dataclass(frozen=True)
class Source:
    items: list[Item]
    classes: dict[str, int]
    """Names of the classes, where the source has names."""
    skipped: list[tuple[str, str]]
    """What is no image: (name, reason)."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What a person should know about the labels."""
    parted: bool = False
    """Whether it has files of training and of test images, of which some were taken."""
