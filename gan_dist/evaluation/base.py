"""Define what a metric is. A new metric is one class, the user's own included."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from gan_dist.config.control import LOGITS
from gan_dist.config.section import Part
from gan_dist.errors import InputError
from gan_dist.evaluation.pairs import Wants
from gan_dist.evaluation.ranks import Ranks
from gan_dist.interfaces import Batch

if TYPE_CHECKING:
    from gan_dist.config import Config
    from gan_dist.evaluation.features import Extractor
    from gan_dist.evaluation.sets import Comparison

State = dict[str, Tensor]
"""What a metric accumulates: sums, or features one below the other. Tensors only, as ranks exchange them."""

_NAME = re.compile(r"(?!images-)\w[\w.+-]{0,99}")
_PART = re.compile(r"(?!images-)\w[\w .+-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Examples:
    """The training data, for a metric that learns from them."""

    draw: Callable[[range], Batch]
    """Samples with all their fields by number, in a fixed shuffled order, on this rank's device."""
    count: int
    digest: str
    """Of the data, and of what is seen of them."""
    cache: Path
    """Folder for what is learnt."""
    ranks: Ranks
    beat: Callable[[], object]
    """Call it often: the watchdog takes silence for a hang."""


class Metric(Part):
    """A score of generated images: its keys are those of `evaluate.scores.NAME` in the config.

    An evaluation cuts the samples into parts. `begin` and `add` accumulate one part on one rank, `merge` puts the parts
    together in the order of the samples, `value` is computed once. A metric keeps nothing in itself.
    """

    compares: ClassVar[bool] = True
    """Whether it looks at real images at all: they are not read for those that do not."""

    better: ClassVar[Literal["lower", "higher"] | Mapping[str, Literal["lower", "higher"]]] = "lower"
    """Which values are better, or for each name of several: the run's summary in W&B shows the best one."""

    def parts(self) -> Collection[str] | None:
        """Return the names of its values that `evaluate.best` may name, "" for `score/NAME` itself; None: any.

        Errors and deviations are none of them.
        """
        return None

    def prepare(self) -> None:
        """Look for the files that the metric reads, before a training begins. Raises InputError where one will not do."""

    def for_game(self, game: Any) -> "Metric":
        """Return the metric that scores this game: itself, unless it needs to know something of the game."""
        return self

    def learn(self, examples: Examples) -> "Metric":
        """Return the metric with what it had to learn from the training data; itself, where that is nothing. All ranks call it."""
        return self

    def begin(self) -> State:
        """Return the state of a part that has no samples yet."""
        return {}

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        """Take in generated samples, (N, C, H, W) in [-1, 1], and as many real ones; fewer, or None, where the data set is smaller.

        Sums belong in float64.
        """
        raise NotImplementedError(f"{type(self).__name__} has no add(state, fake, real)")

    def add_shown(self, state: State, fake: Tensor, shown: Batch) -> None:
        """Take in generated images with the samples they were made of, all fields, of a game that turns images into images."""

    def merge(self, states: Sequence[State]) -> State:
        """Return the state of all parts together; they come in the order of the samples, on the CPU.

        Here each name's tensors are added up in this order. A metric that keeps features overrides it by
        `return concatenated(states)`.
        """
        return added(states)

    def value(self, state: State) -> dict[str, float] | float:
        """Return the score, or several by name; the one named "" is `score/NAME` itself."""
        raise NotImplementedError(f"{type(self).__name__} has no value(state)")


class SetMetric(Metric):
    """A score of two whole sets of features: of generated images and of real ones.

    An extractor looks at each image once, whatever number of metrics take its features. They lie in files, so that no rank
    holds all of them, and those of the real images stay for the next evaluation. A metric says what it wants of the pairs
    (`wants`), and computes its value on rank 0 (`score`).
    """

    features: str = "inception"
    """What looks at the images: a name of evaluate.features, or a built-in kind: inception, vgg16, dinov2, clip, random,
    pixels, classifier."""

    reads_rows: ClassVar[bool] = False
    """Whether it reads features one by one: of real images then at most the first 50,000 count."""

    def wants(self) -> Wants:
        """Return what of the pairs of samples it needs (pairs.py); nothing by default."""
        return Wants()

    def least(self, width: int) -> int:
        """Return how many images it needs of each set, for features of `width` numbers."""
        return 2

    def check_extractor(self, name: str, extractor: "Extractor") -> None:
        """Raise InputError, before any image is drawn, for features that the score called `name` cannot be made of."""

    def score(self, sets: "Comparison") -> dict[str, float] | float:
        """Return the score, or several by name; the one named "" is `score/NAME` itself. Rank 0 calls it."""
        raise NotImplementedError(f"{type(self).__name__} has no score(sets)")

    def shows(self, sets: "Comparison") -> list[tuple[int, int]]:
        """Return pairs of a generated image and a real one, by number, that a person should see. Rank 0 calls it."""
        return []

    def check(self, config: "Config") -> None:
        if getattr(config.game, "samples", "images") != "images":
            raise ValueError(f"the score {self.kind} looks at images, and game.kind = {config.game.kind} makes none")
        if config.data.channels == 4:
            raise ValueError(f"the score {self.kind} knows no images with transparency (data.channels = 4); remove it")


def better(metrics: Mapping[str, Metric], score: str) -> str:
    """Return which values of a score (fid, or prdc/recall) are better: "lower" or "higher"."""
    name, _, part = score.partition("/")
    found = getattr(metrics.get(name), "better", "lower")
    return found if isinstance(found, str) else found.get(part, "lower")


def added(states: Sequence[State]) -> State:
    """Return the sums of several parts: each name's tensors, added one after the other."""
    total: State = {}
    for state in states:
        for name, tensor in state.items():
            total[name] = total[name] + tensor if name in total else tensor
    return total


def concatenated(states: Sequence[State]) -> State:
    """Return the rows of several parts: each name's tensors, one below the other."""
    names = dict.fromkeys(name for state in states for name in state)
    return {name: torch.cat([state[name] for state in states if name in state]) for name in names}


def check_name(name: str) -> str:
    """Return the name itself, fit for `score/NAME`. Raises InputError for one that is taken or no name."""
    if name in LOGITS:
        raise InputError(f"evaluate.scores.{name}: score/{name} is the mean logit in metrics.jsonl; give another name")
    if not _NAME.fullmatch(name):
        raise InputError(f"evaluate.scores: {name!r} is no name of a score; give letters, digits and -_.+")
    return name


def check_part(name: str, part: str) -> str:
    """Return a part of a score itself, fit for `score/NAME/PART`; "" is the score. Raises InputError for one that is no name."""
    if part and not all(_PART.fullmatch(each) for each in part.split("/")):
        raise InputError(f"the score {name} has a part {part!r}; call it by letters, digits, blanks and -_.+")
    return part


class Pixels(Metric):
    """The Frechet distance between diagonal Gaussians of pixel values: a smoke signal, not FID.

    The mean over pixels and channels of (difference of means)^2 + (difference of deviations)^2, with values in [-1, 1].
    It sees brightness, contrast and where they are, and nothing of shapes: noise of the right mean and deviation has
    the score 0, so compare it within one run only. 0 is best; a young or collapsed generator has a large one.
    Images are rounded to 8 bits, as they are when saved, so that all sums are exact. NaN where a sample is not finite.
    """

    def parts(self) -> Collection[str]:
        return ("",)

    def check(self, config: "Config") -> None:
        if config.data.drawn:
            raise ValueError(
                f"the score pixels compares with real images, and game.kind: {config.game.kind} has none; remove it"
            )

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        """Add up pixels and their squares, (C * H * W,) in float64."""
        for name, images in (("fake", fake), ("real", real)):
            if images is None or not len(images):
                continue
            # whole numbers below 2^53: no sum is rounded, in whatever order
            pixels = ((images.double() + 1) * 127.5).round().clamp(0, 255).flatten(1)
            sums = {"count": pixels.new_tensor([len(pixels)]), "sum": pixels.sum(0), "squares": pixels.square().sum(0)}
            for part, tensor in sums.items():
                key = f"{name}_{part}"
                state[key] = state[key] + tensor if key in state else tensor

    def value(self, state: State) -> float:
        """Return the distance. Raises InputError where there was no real image to compare with."""
        if "real_count" not in state:
            raise InputError("evaluate.scores: pixels compares with real images, and there are none; remove it")
        (fake_mean, fake_deviation), (real_mean, real_deviation) = _moments(state, "fake"), _moments(state, "real")
        distance = (fake_mean - real_mean).square() + (fake_deviation - real_deviation).square()
        return float(distance.mean())


def _moments(state: State, name: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each pixel, in units of [-1, 1]."""
    count = state[f"{name}_count"]
    mean = state[f"{name}_sum"] / count
    variance = (state[f"{name}_squares"] / count - mean.square()).clamp(min=0)
    return mean / 127.5, variance.sqrt() / 127.5
