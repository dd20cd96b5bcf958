"""Numbers that change over a run as pure functions of the images seen: there is nothing to save.

Any key that says `Scheduled` takes a number, or a schedule: `learning_rate: {kind: cosine, start: 2e-4, stop: 5e-5,
end: 10_000_000}`. All positions are in images.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor

from gan_dist.config import parts
from gan_dist.config.section import Part
from gan_dist.errors import InputError


class Schedule(Part):
    """A number as a function of the images seen."""

    def at(self, images: int) -> float:
        """Return the value when so many images have been seen."""
        raise NotImplementedError


class _Ramp(Schedule):
    start: float
    """Value until `begin`."""
    stop: float
    """Value from `end` on."""
    begin: Annotated[int, Field(ge=0)] = 0
    """Position in images at which the change begins."""
    end: Annotated[int, Field(gt=0)]
    """Position in images at which the change ends."""

    @model_validator(mode="after")
    def _ordered(self) -> "_Ramp":
        if self.end <= self.begin:
            raise ValueError(f"a schedule must end after it begins: begin = {self.begin}, end = {self.end}")
        return self

    def progress(self, images: int) -> float:
        """0 until `begin`, 1 from `end` on, linear between them."""
        return min(1.0, max(0.0, (images - self.begin) / (self.end - self.begin)))


class Linear(_Ramp):
    """A straight line from `start` to `stop`; from a small start it is a warm-up."""

    def at(self, images: int) -> float:
        return self.start + (self.stop - self.start) * self.progress(images)


class Cosine(_Ramp):
    """Half a cosine wave from `start` to `stop`: flat at both ends (Loshchilov and Hutter, 2017, eq. 5)."""

    periods: Annotated[int, Field(gt=0)] = 1
    """Equal parts of begin..end that each go from `start` to `stop`: warm restarts (the same, section 3). ESRGAN's first phase
    has 4."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions did not have, where it has no effect: old runs keep their fingerprints."""
        found: dict[str, Any] = dump(self)
        return {name: value for name, value in found.items() if name != "periods" or value != 1}

    def at(self, images: int) -> float:
        progress = self.progress(images) * self.periods
        part = progress - min(math.floor(progress), self.periods - 1)
        return self.stop + (self.start - self.stop) * (1 + math.cos(math.pi * part)) / 2


class Steps(Schedule):
    """A number that is multiplied by `factor` at some positions."""

    start: float
    """Value at first."""
    at_images: list[int]
    """Positions in images at which it is multiplied."""
    factor: float = 0.1
    """What it is multiplied by."""

    def at(self, images: int) -> float:
        return self.start * self.factor ** sum(images >= position for position in self.at_images)


class Exponential(Schedule):
    """A number that is multiplied by `factor` over every `every` images, evenly, down to `least`."""

    start: float
    """Value at first."""
    factor: Annotated[float, Field(gt=0, lt=1)]
    """What it is multiplied by over `every` images."""
    every: Annotated[int, Field(gt=0)]
    """Images; for `factor` once an epoch, the number of samples."""
    least: float = 0.0
    """Value below which it does not fall."""

    def at(self, images: int) -> float:
        value: float = self.start * self.factor ** (images / self.every)
        return max(self.least, value)


class WarmUp(Schedule):
    """A straight line from 0 to `stop` over the first images, and `stop` from then on."""

    stop: float
    """Value after the warm-up."""
    end: Annotated[int, Field(gt=0)]
    """Position in images at which it is reached."""

    def at(self, images: int) -> float:
        return self.stop * min(1.0, (images + 1) / self.end)


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "steps": Steps,
    "exponential": Exponential,
    "warm_up": WarmUp,
}


def _read(value: Any) -> Any:
    """Return a schedule from its keys; anything else is left to the field's own type."""
    if not isinstance(value, dict):
        return value
    try:
        kind, found = parts.find(str(value.get("kind", "")), Schedule, SCHEDULES, "kind of a schedule")
    except InputError as error:
        raise ValueError(str(error)) from None  # which pydantic gives with the key
    return found.model_validate({**value, "kind": kind})


def _within(least: float, below: float = math.inf, most: float = math.inf) -> AfterValidator:
    """Refuse a schedule with values outside of [least, below), or above `most`, at its positions."""

    def check(value: Any) -> Any:
        if not isinstance(value, Schedule):
            return value
        numbers = (getattr(value, name, 0) for name in ("begin", "end", "at_images"))
        positions = [
            0,
            2**53,
            *(each for number in numbers for each in (number if isinstance(number, list) else [number])),
        ]
        for position in sorted(set(positions)):
            try:
                found = float(value.at(position))
            except Exception as error:  # a user's schedule may raise anything
                raise ValueError(f"at {position} images the schedule fails: {type(error).__name__}: {error}") from None
            if not least <= found < below or found > most:
                bound = f" and below {below:g}" if below < math.inf else ""
                bound = f" and at most {most:g}" if most < math.inf else bound
                raise ValueError(
                    f"at {position} images the schedule gives {found:g}; it must be at least {least:g}{bound}"
                )
        return value

    return AfterValidator(check)


ScheduledBase = SerializeAsAny[Schedule]
Scheduled = Annotated[float | ScheduledBase, BeforeValidator(_read)]
"""A number or a schedule."""
ScheduledPositive = Annotated[Annotated[float, Field(gt=0)] | ScheduledBase, BeforeValidator(_read), _within(0)]
"""A number above 0, or a schedule, which may reach 0."""
ScheduledNonnegative = Annotated[Annotated[float, Field(ge=0)] | ScheduledBase, BeforeValidator(_read), _within(0)]
ScheduledFraction = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | ScheduledBase, BeforeValidator(_read), _within(0, 1)
]
ScheduledProbability = Annotated[
    Annotated[float, Field(ge=0, le=1)] | ScheduledBase, BeforeValidator(_read), _within(0, most=1)
]
ScheduledCount = Annotated[Annotated[int, Field(gt=0)] | ScheduledBase, BeforeValidator(_read), _within(0)]


def at(value: "float | Schedule", images: int) -> float:
    """Return the number that a Scheduled key has when so many images have been seen."""
    return value.at(images) if isinstance(value, Schedule) else value


class Moving:
    """A position that a recorded step will have, other ones at each replay: what computes with it on the host would be frozen.

    Only `number` makes something of it, a tensor that is filled before each replay. All else raises FrozenError.
    """

    def __init__(self, number: Callable[[Callable[[int], float]], Tensor]) -> None:
        self.number = number

    def _refuse(self, *others: object) -> Any:
        raise FrozenError("computes on the host with the position of the step, which would be frozen")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __index__ = __float__ = _refuse
    __eq__ = __ne__ = __hash__ = _refuse


class FrozenError(RuntimeError):
    """What is recorded holds a number that changes from step to step."""


def number(function: Callable[[int], float], images: int) -> float | Tensor:
    """Return what a function of the images seen gives now: in a step that is recorded as a tensor, as it changes with replays.

    For numbers that multiply tensors. `at` is for those that the host needs: a step that uses a schedule so is not recorded.
    """
    return images.number(function) if isinstance(images, Moving) else function(images)


def number_of(value: "float | Schedule", images: int) -> float | Tensor:
    """Return what a Scheduled key that multiplies tensors has when so many images have been seen, as `number` does."""
    return number(value.at, images) if isinstance(value, Schedule) else value
