"""Compute scores from moments, sums of kernels and neighbours: pure functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gan_dist.evaluation.pairs import Between, Within, groups


def polynomial_mmd(fake: Tensor, real: Tensor, both: Tensor, fakes: int, reals: int) -> tuple[float, float]:
    """Return KID (Binkowski et al., 2018), unbiased, over all pairs, and its standard error by a jackknife over groups.

    `fake`, `real` and `both` are (groups, groups) sums of the kernel over pairs of different samples. The error is NaN where
    a set has fewer than 40 samples.
    """
    sizes = [torch.tensor([len(group) for group in groups(count)]).double() for count in (fakes, reals)]

    def of(kept_fake: Tensor, kept_real: Tensor) -> float:
        m, n = float(sizes[0][kept_fake].sum()), float(sizes[1][kept_real].sum())
        of_fake = fake[kept_fake][:, kept_fake].sum() / (m * (m - 1))
        of_real = real[kept_real][:, kept_real].sum() / (n * (n - 1))
        return float(of_fake + of_real - 2 * both[kept_fake][:, kept_real].sum() / (m * n))

    everything = [torch.ones(len(size), dtype=torch.bool) for size in sizes]
    count = len(sizes[0])
    if count != len(sizes[1]) or count < 20:
        return of(*everything), math.nan
    without = []
    for left in range(count):
        kept = torch.arange(count) != left
        without.append(of(kept, kept))
    values = torch.tensor(without, dtype=torch.float64)
    return of(*everything), float(((count - 1) / count * (values - values.mean()).square().sum()).sqrt())


def gaussian_mmd(fake: Tensor, real: Tensor, both: Tensor, fakes: int, reals: int) -> float:
    """Return CMMD (Jayasumana et al., 2024): 1,000 times the squared MMD, a sample's pair with itself counted.

    The sums are of 1 - k, so that the ones cancel exactly.
    """
    return float(1000 * (2 * both.sum() / (fakes * reals) - fake.sum() / fakes**2 - real.sum() / reals**2))


def subset_mmd(fake: Tensor, real: Tensor, chosen: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return mean and deviation of KID over subsets, as papers give it; `chosen` are the rows of each subset."""
    values = []
    for of_fake, of_real in chosen:
        a, b = fake[of_fake].double(), real[of_real].double()
        size, width = a.shape

        def kernel(x: Tensor, y: Tensor, width: int = width) -> Tensor:
            return (x @ y.T / width + 1) ** 3

        aa, bb = kernel(a, a), kernel(b, b)
        pairs = aa.sum() - aa.trace() + bb.sum() - bb.trace()
        values.append(float(pairs / (size * (size - 1)) - 2 * kernel(a, b).mean()))
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std(correction=0))


def inception_score(logits: Tensor, splits: int) -> tuple[float, float]:
    """Return mean and deviation over splits of exp(mean KL(p(class | image) || p(class))) (Salimans et al., 2016)."""
    values = []
    for first, last in ((len(logits) * i // splits, len(logits) * (i + 1) // splits) for i in range(splits)):
        log_p = logits[first:last].double().log_softmax(1)
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).log())).sum(1).mean()
        values.append(float(divergence.exp()))
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std(correction=0))


def precision(pairs: Between, k: int) -> float:
    """Return the share of generated samples within the ball of some real one (Kynkaanniemi et al., 2019)."""
    return float(pairs.like[k].double().mean())


def recall(pairs: Between, k: int) -> float:
    """Return the share of real samples within the ball of some generated one (Kynkaanniemi et al., 2019)."""
    return float(pairs.inside[k].double().mean())


def density(pairs: Between, k: int) -> float:
    """Return the mean number of balls of real samples that a generated one lies in, over k (Naeem et al., 2020)."""
    return float(pairs.counts[k].double().mean() / k)


def coverage(pairs: Between, k: int) -> float:
    """Return the share of real samples whose ball holds a generated one (Naeem et al., 2020)."""
    return float(pairs.covered[k].double().mean())


def authenticity(pairs: Between, real: Within) -> float:
    """Return the percentage of generated samples whose nearest real one has another real one nearer (Alaa et al., 2022)."""
    return float(100 * (real.distances[pairs.nearest, 0] < pairs.to_real).double().mean())


def nearness(pairs: Between, real: Within) -> float:
    """Return the median distance of generated samples to the nearest real one, over that of a real one to another."""
    to_real, between_reals = pairs.to_real.sqrt().median(), real.distances[:, 0].sqrt().median()
    return float(to_real / between_reals) if between_reals > 0 else math.nan
