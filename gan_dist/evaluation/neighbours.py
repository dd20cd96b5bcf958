"""Scores by the neighbours of each sample: is it like the data, is all of the data there, is it a copy?"""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gan_dist.evaluation import scores
from gan_dist.evaluation.base import SetMetric
from gan_dist.evaluation.pairs import MOST_NEIGHBOURS, Wants
from gan_dist.evaluation.sets import Comparison

_K = Annotated[int, Field(ge=1, le=MOST_NEIGHBOURS)]


class Prdc(SetMetric):
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020).

    A sample's ball reaches to its k-th nearest neighbour in its own set. precision: part of the generated images in the ball
    of a real one; recall: of the real ones in that of a generated one; density: mean number of balls over k, may exceed 1;
    coverage: part of the real images with a generated one in their ball, about 1 - 2^-k at best. A ball's border belongs to
    it for precision and recall, as in torch-fidelity, and not for density and coverage, as in prdc. Two samples of one
    distribution do not reach 1. Memorised images score best: look at `authenticity` too.
    """

    k: _K = 3
    """Of precision and recall."""
    k_coverage: _K = 5
    """Of density and coverage."""

    better: ClassVar[Mapping[str, Literal["lower", "higher"]]] = dict.fromkeys(
        ("precision", "recall", "density", "coverage"), "higher"
    )
    reads_rows: ClassVar[bool] = True

    def parts(self) -> Collection[str]:
        return tuple(self.better)

    def wants(self) -> Wants:
        return Wants(neighbours=True, balls=frozenset({self.k, self.k_coverage}))

    def least(self, width: int) -> int:
        return max(self.k, self.k_coverage) + 1

    def score(self, sets: Comparison) -> dict[str, float]:
        """Return the four scores."""
        return {
            "precision": scores.precision(sets.pairs, self.k),
            "recall": scores.recall(sets.pairs, self.k),
            "density": scores.density(sets.pairs, self.k_coverage),
            "coverage": scores.coverage(sets.pairs, self.k_coverage),
        }


class Authenticity(SetMetric):
    """The percentage of generated images whose nearest real image has another real image nearer (Alaa et al., 2022).

    Copies of the data score 0. It finds some copies, and proves nothing where it finds none.
    """

    better: ClassVar[Literal["lower", "higher"]] = "higher"
    reads_rows: ClassVar[bool] = True

    def parts(self) -> Collection[str]:
        return ("",)

    def wants(self) -> Wants:
        return Wants(neighbours=True)

    def score(self, sets: Comparison) -> float:
        """Return the percentage."""
        return scores.authenticity(sets.pairs, sets.real_pairs)


class Neighbours(SetMetric):
    """A picture of the generated images that are nearest to a real one, beside it: look here first for copies.

    score/NAME is the median distance of generated images to the nearest real one, over that of real images to another:
    well below 1 means copies. features: pixels shows what a person calls a copy, inception finds it moved or recoloured.
    """

    features: str = "pixels"
    """What looks at the images; see `fid`."""
    count: Annotated[int, Field(ge=1, le=100)] = 32
    """Pairs in the picture."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"
    reads_rows: ClassVar[bool] = True

    def parts(self) -> Collection[str]:
        return ("",)

    def wants(self) -> Wants:
        return Wants(neighbours=True)

    def score(self, sets: Comparison) -> float:
        """Return the ratio of the medians."""
        return scores.nearness(sets.pairs, sets.real_pairs)

    def shows(self, sets: Comparison) -> list[tuple[int, int]]:
        """Return the nearest pairs, the nearest first."""
        closest = sets.pairs.to_real.argsort(stable=True)[: self.count].tolist()
        return [(number, int(sets.pairs.nearest[number])) for number in closest]
