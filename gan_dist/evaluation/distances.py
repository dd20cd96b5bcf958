"""Distances between two sets of features: FID and its kin, KID, CMMD, and the inception score."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gan_dist import rng
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.evaluation import moments, scores
from gan_dist.evaluation.base import SetMetric
from gan_dist.evaluation.features import Extractor
from gan_dist.evaluation.pairs import Wants
from gan_dist.evaluation.sets import Comparison

_LIMIT_SIZES = 15
_SEED = 2020


class Frechet(SetMetric):
    """The Frechet distance between Gaussians of features (Heusel et al., 2017): `fid` by Inception, `fd` by others.

    0 is best. It is biased upwards by about b / N, with a b that depends on the model: compare equal numbers of images, and
    show differences only beyond the noise of several seeds. Publications take 50,000 generated images and all real ones.
    """

    few: bool = False
    """Compute it of fewer images than features have numbers, where the covariance is singular and the bias huge."""
    limit: bool = False
    """Also give score/NAME/limit, the value that a line in 1 / N predicts for infinitely many generated images (Chong and
    Forsyth, 2020): 15 more distances."""

    def parts(self) -> Collection[str]:
        return ("", "limit") if self.limit else ("",)

    def least(self, width: int) -> int:
        return self._smallest(width) + self.limit

    def _smallest(self, width: int) -> int:
        """Return how many images a covariance of `width` numbers needs."""
        return 2 if self.few else width + 1

    def score(self, sets: Comparison) -> dict[str, float]:
        """Return the distance, and its limit."""
        found = {"": moments.frechet(sets.fake.moments, sets.real.moments)}
        if self.limit:
            found["limit"] = self._limit(sets)
        return found

    def _limit(self, sets: Comparison) -> float:
        """Return the intercept of a line through distances of 15 sizes, nested in one another."""
        rows = torch.from_numpy(sets.fake.rows.copy())
        least = max(self._smallest(rows.shape[1]), min(5000, len(rows) // 10))
        sizes = torch.linspace(least, len(rows), _LIMIT_SIZES).long().tolist()
        root, distances = moments.root_of(sets.real.moments.covariance), []
        for fake in moments.nested(rows, sizes):
            sets.beat()  # of 2,048 numbers each takes seconds
            distances.append(moments.frechet(sets.real.moments, fake, root))
        inverse = torch.tensor([1 / size for size in sizes], dtype=torch.float64)
        design = torch.stack([torch.ones_like(inverse), inverse], 1)
        line = torch.linalg.lstsq(design, torch.tensor(distances, dtype=torch.float64)[:, None]).solution
        return float(line[0, 0])


class Fd(Frechet):
    """The Frechet distance by features that are not Inception's: FD-DINOv2 (Stein et al., 2023)."""

    features: str = "dinov2"
    """What looks at the images; see `fid`. Values of two kinds of features cannot be compared."""


class Kid(SetMetric):
    """The kernel distance by (a.b / D + 1)^3 (Binkowski et al., 2018): unbiased, so it may be below 0, and good of few images.

    score/NAME is over all pairs of samples, score/NAME/error its standard error by a jackknife. Papers often give 1,000
    times as much.
    """

    subsets: Annotated[int, Field(ge=0)] = 0
    """Also give score/NAME/subsets and score/NAME/subsets/deviation, over so many random subsets, as papers do (100). 0: none."""
    size: Positive = 1000
    """Images in a subset."""

    reads_rows: ClassVar[bool] = True

    def parts(self) -> Collection[str]:
        return ("", "subsets") if self.subsets else ("",)

    def wants(self) -> Wants:
        return Wants(kernels=frozenset({"polynomial"}))

    def least(self, width: int) -> int:
        return self.size if self.subsets else 2

    def score(self, sets: Comparison) -> dict[str, float]:
        """Return the distance, its error, and mean and deviation over subsets."""
        fake, real = sets.fake.rows, sets.real.rows
        value, error = scores.polynomial_mmd(*_sums(sets, "polynomial"), len(fake), len(real))
        found = {"": value, "error": error}
        if self.subsets:
            chosen = [
                (_choice("fake", number, len(fake), self.size), _choice("real", number, len(real), self.size))
                for number in range(self.subsets)
            ]
            whole = torch.from_numpy(fake.copy()), torch.from_numpy(real.copy())
            found["subsets"], found["subsets/deviation"] = scores.subset_mmd(*whole, chosen)
        return found


def _sums(sets: Comparison, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return a kernel's sums over pairs of generated images, of real ones, and of both."""
    return sets.fake_pairs.sums[kernel], sets.real_pairs.sums[kernel], sets.pairs.sums[kernel]


def _choice(what: str, number: int, count: int, size: int) -> Tensor:
    """Return `size` different numbers below `count`."""
    return rng.uniform(rng.key(_SEED, f"subset of {what}", number), torch.arange(count), 1)[:, 0].argsort()[:size]


class Cmmd(SetMetric):
    """The distance of CLIP's embeddings by a Gaussian kernel of bandwidth 10, times 1,000 (Jayasumana et al., 2024)."""

    features: str = "clip"
    """What looks at the images; see `fid`. Published values are by clip."""

    reads_rows: ClassVar[bool] = True

    def parts(self) -> Collection[str]:
        return ("",)

    def wants(self) -> Wants:
        return Wants(kernels=frozenset({"gaussian"}))

    def score(self, sets: Comparison) -> float:
        """Return the distance."""
        return scores.gaussian_mmd(*_sums(sets, "gaussian"), len(sets.fake.rows), len(sets.real.rows))


class InceptionScore(SetMetric):
    """exp of the mean KL divergence of p(class | image) from p(class) (Salimans et al., 2016): for comparison with papers only.

    It knows no real images, and rewards classes of ImageNet. score/NAME/deviation is that over the splits.
    """

    splits: Positive = 10
    """Parts of which the mean is taken."""

    better: ClassVar[Literal["lower", "higher"] | Mapping[str, Literal["lower", "higher"]]] = {"": "higher"}
    reads_rows: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def parts(self) -> Collection[str]:
        return ("",)

    def least(self, width: int) -> int:
        return 2 * self.splits

    def check_extractor(self, name: str, extractor: Extractor) -> None:
        if not extractor.may_name_classes:
            raise InputError(f"the score {name} needs features that name classes: inception with layer 2048")

    def score(self, sets: Comparison) -> dict[str, float]:
        """Return mean and deviation over splits of the shuffled images: they may be sorted by class."""
        if sets.features.logits is None:  # of a user's extractor
            raise InputError(
                f"evaluate.scores: {self.kind} needs features that name classes: inception with layer 2048"
            )
        rows = torch.from_numpy(sets.fake.rows[_choice("split", 0, len(sets.fake.rows), len(sets.fake.rows)).numpy()])
        logits = torch.cat([sets.features.logits(part).cpu() for part in torch.split(rows, 1000)])
        mean, deviation = scores.inception_score(logits, self.splits)
        return {"": mean, "deviation": deviation}
