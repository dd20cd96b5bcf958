"""Pass once over all pairs of two sets of features, block by block: neighbours and sums of kernels.

Of 50,000 x 2048 features against as many, all distances are 10 GB. Blocks of at most 1,000 x 10,000 need 80 MB beside the
features. A block is computed by one rank and is the same on every number of ranks, and so is everything made of it.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_dist.evaluation.ranks import Ranks, full_precision

MOST_NEIGHBOURS = 10
"""Neighbours whose distances are kept: `k` of a metric is at most this."""
_ROWS, _COLUMNS = 1000, 10_000  # of a block
_GROUPS = 20
"""Groups of a set whose sums of kernels are kept apart, for the jackknife."""
GAUSSIAN = 10.0
"""Bandwidth of CMMD's kernel (Jayasumana et al., 2024)."""


@dataclasses.dataclass(frozen=True)
class Wants:
    """What metrics need of the pairs."""

    neighbours: bool = False
    balls: frozenset[int] = frozenset()
    """For which k to look who lies in a ball as large as the distance to the k-th neighbour."""
    kernels: frozenset[str] = frozenset()
    """Names of KERNELS."""

    @property
    def kept(self) -> list[str]:
        """Return the names of what is kept of the pairs of real images."""
        return [*(["neighbours"] if self.neighbours else []), *sorted(self.kernels)]

    def __or__(self, other: "Wants") -> "Wants":
        kernels, balls = self.kernels | other.kernels, self.balls | other.balls
        return Wants(self.neighbours or other.neighbours, balls, kernels)


@dataclasses.dataclass(frozen=True)
class Within:
    """Pairs of a set with itself, a sample's pair with itself left out."""

    distances: Tensor
    """(N, k) squared distances of each sample to its nearest others, ascending; (N, 0) where nobody wanted them."""
    sums: Mapping[str, Tensor]
    """Of each kernel: (groups, groups) float64 sums over the pairs of two groups."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Pairs of generated samples (M) with real ones (N)."""

    counts: Mapping[int, Tensor]
    """For each k: (M,) in how many balls of real samples a generated one lies, their borders left out."""
    inside: Mapping[int, Tensor]
    """For each k: (N,) whether a real sample lies in the ball of any generated one, or on its border."""
    nearest: Tensor
    """(M,) the real sample nearest to each generated one."""
    to_real: Tensor
    """(M,) its squared distance."""
    to_fake: Tensor
    """(N,) squared distance of each real sample to the nearest generated one."""
    sums: Mapping[str, Tensor]
    """Of each kernel: (groups, groups) float64."""
    like: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    """For each k: (M,) whether a generated sample lies in the ball of any real one, or on its border."""
    covered: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    """For each k: (N,) whether the ball of a real sample holds any generated one, its border left out."""


def groups(count: int) -> list[range]:
    """Cut numbers 0..count-1 into 20 groups of almost equal size; fewer than 40 into groups of two or more."""
    number = max(1, min(_GROUPS, count // 2))
    return [range(count * i // number, count * (i + 1) // number) for i in range(number)]


def blocks(rows: int, columns: int, ranks: Ranks) -> int:
    """Return how many blocks of the pairs of two sets this rank computes, each of which is a `beat`."""
    own = len(list(_pieces(rows, _ROWS))[ranks.rank :: ranks.count])
    return own * len(list(_pieces(columns, _COLUMNS)))


def seconds(rows: np.ndarray, ranks: Ranks) -> float:
    """Return how long a block takes on this rank, about: the distances of one, twice, as neighbours are sought in them."""
    own, others = (next(_pieces(len(rows), most))[1] for most in (_ROWS, _COLUMNS))
    a, b = (_centred(rows, numbers, torch.zeros(rows.shape[1], device=ranks.device)) for numbers in (own, others))
    took = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with full_precision():
            distances = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * (a @ b.T)
        float(distances.amin())  # waits for a GPU
        took = time.perf_counter() - began
    return 2 * took


def within(
    rows: np.ndarray,
    wants: Wants,
    ranks: Ranks,
    beat: Callable[[], object] = lambda: None,
    around: np.ndarray | None = None,
) -> Within:
    """Return what is wanted of the pairs of a set (N, D) with itself. Every rank calls it.

    `around`: the set that it is compared with, the real one: distances that are compared must be rounded alike.
    """
    most = min(MOST_NEIGHBOURS, len(rows) - 1) if wants.neighbours else 0
    kept: dict[int, np.ndarray] = {}
    sums: _Sums = {}
    with full_precision():
        for number, block in _blocks(rows, rows, rows if around is None else around, wants.kernels, ranks):
            beat()
            if most:
                distances = block.distances.masked_fill(block.itself(), torch.inf)
                old = torch.from_numpy(kept[number]).to(distances.device) if number in kept else distances[:, :0]
                together = torch.cat([old, distances], 1)
                nearest = together.topk(min(most, together.shape[1]), largest=False).values
                kept[number] = nearest.cpu().numpy()
            _sum(sums, number, block, itself=True)
    everyone = ranks.gather((kept, sums))
    return Within(
        torch.from_numpy(_in_order([of_rank[0] for of_rank in everyone])) if most else torch.zeros(len(rows), 0),
        _together([of_rank[1] for of_rank in everyone], wants.kernels, len(rows), len(rows)),
    )


def between(
    fake: np.ndarray,
    real: np.ndarray,
    fake_within: Within,
    real_within: Within,
    wants: Wants,
    ranks: Ranks,
    beat: Callable[[], object] = lambda: None,
) -> Between:
    """Return what is wanted of the pairs of generated samples (M, D) with real ones (N, D). Every rank calls it."""
    device = ranks.device
    nearest: dict[int, np.ndarray] = {}
    found: dict[int, np.ndarray] = {}
    counts: dict[int, dict[int, np.ndarray]] = {k: {} for k in wants.balls}
    like: dict[int, dict[int, np.ndarray]] = {k: {} for k in wants.balls}
    inside = {k: torch.zeros(len(real), dtype=torch.bool, device=device) for k in wants.balls}
    covered = {k: torch.zeros(len(real), dtype=torch.bool, device=device) for k in wants.balls}
    to_fake = torch.full((len(real),), torch.inf, device=device)
    sums: _Sums = {}
    of_fake, of_real = fake_within.distances.to(device), real_within.distances.to(device)
    with full_precision():
        for number, block in _blocks(fake, real, real, wants.kernels, ranks):
            beat()
            rows, columns = _slice(block.rows), _slice(block.columns)
            if wants.neighbours:
                least, first = block.nearest()
                place, distance = first.cpu().numpy(), least.cpu().numpy()
                if number in found:
                    nearer = distance < found[number]
                    place = np.where(nearer, place, nearest[number])
                    distance = np.where(nearer, distance, found[number])
                nearest[number], found[number] = place, distance
                to_fake[columns] = torch.minimum(to_fake[columns], block.distances.amin(0))
            tie = block.rounding[0] + block.rounding[1]
            for k in wants.balls:
                from_border = block.distances - of_real[columns, k - 1][None]
                held = from_border < -tie
                counts[k][number] = held.sum(1).cpu().numpy() + counts[k].get(number, 0)
                covered[k][columns] |= held.any(0)
                near = (from_border <= tie).any(1).cpu().numpy()
                like[k][number] = near | like[k].get(number, False)
                from_border = block.distances - of_fake[rows, k - 1][:, None]
                inside[k][columns] |= (from_border <= tie).any(0)
            _sum(sums, number, block, itself=False)
    of_reals = [{k: there.cpu() for k, there in each.items()} for each in (inside, covered)]
    everyone: list[Any] = ranks.gather((nearest, found, counts, of_reals, to_fake.cpu(), sums, like))
    empty = torch.zeros(0)
    return Between(
        {k: torch.from_numpy(_in_order([of_rank[2][k] for of_rank in everyone])) for k in wants.balls},
        {k: torch.stack([of_rank[3][0][k] for of_rank in everyone]).any(0) for k in wants.balls},
        torch.from_numpy(_in_order([of_rank[0] for of_rank in everyone])) if wants.neighbours else empty,
        torch.from_numpy(_in_order([of_rank[1] for of_rank in everyone])) if wants.neighbours else empty,
        torch.stack([of_rank[4] for of_rank in everyone]).amin(0),
        _together([of_rank[5] for of_rank in everyone], wants.kernels, len(fake), len(real)),
        {k: torch.from_numpy(_in_order([of_rank[6][k] for of_rank in everyone])) for k in wants.balls},
        {k: torch.stack([of_rank[3][1][k] for of_rank in everyone]).any(0) for k in wants.balls},
    )


@dataclasses.dataclass(frozen=True)
class _Block:
    """Pairs of some rows with some columns."""

    rows: range
    columns: range
    group: tuple[int, int]
    """Numbers of the groups that rows and columns are of."""
    distances: Tensor
    """(rows, columns) squared: exactly 0 of equal samples, more of others."""
    rounding: tuple[Tensor, Tensor]
    """(rows, 1) and (1, columns): their sum is by how much rounding moves each distance. Those that differ by less are equal."""
    kernels: Mapping[str, Tensor]

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Return each row's least distance, and the number of the first column that has it: both (rows,)."""
        least = self.distances.amin(1)
        numbers = torch.arange(self.columns.start, self.columns.stop, device=least.device)
        last = self.columns.stop - 1  # where all distances are NaN
        return least, torch.where(self.distances == least[:, None], numbers[None], last).amin(1)

    def itself(self) -> Tensor:
        """Return where a row and a column are the same sample: (rows, columns) bool."""
        rows, columns = (torch.arange(r.start, r.stop, device=self.distances.device) for r in (self.rows, self.columns))
        return rows[:, None] == columns[None]


def _blocks(
    rows: np.ndarray, columns: np.ndarray, around: np.ndarray, kernels: frozenset[str], ranks: Ranks
) -> Iterator[tuple[int, _Block]]:
    """Yield this rank's blocks, each with the number of its rows; those of the same rows follow each other."""
    device = ranks.device
    # around a point amid the features: |a - b|^2 by |a|^2 + |b|^2 - 2 a.b loses digits where they lie far from 0
    centre = torch.from_numpy(np.array(around[:_ROWS])).double().mean(0).float().to(device)
    part = (2 + len(centre) ** 0.5 / 4) * torch.finfo(
        torch.float32
    ).eps  # errors of a sum of D products grow as sqrt(D)
    of_columns = _names(columns, device)
    names = (of_columns if rows is columns else _names(rows, device)), of_columns
    of_rows = list(_pieces(len(rows), _ROWS))
    for number in range(ranks.rank, len(of_rows), ranks.count):
        group, own = of_rows[number]
        a = _centred(rows, own, centre)
        for other_group, others in _pieces(len(columns), _COLUMNS):
            b = _centred(columns, others, centre)
            products, lengths = a @ b.T, (a.square().sum(1)[:, None], b.square().sum(1)[None])
            distances = (lengths[0] + lengths[1]).sub_(products, alpha=2)
            distances.clamp_(min=torch.finfo(torch.float32).tiny)
            distances.masked_fill_(names[0][_slice(own)][:, None] == names[1][_slice(others)][None], 0)
            made = {}
            if "polynomial" in kernels:
                shifted = (a @ centre)[:, None] + (b @ centre)[None] + centre.square().sum()
                made["polynomial"] = ((products + shifted) / len(centre) + 1) ** 3
            if "gaussian" in kernels:  # 1 - k: where all k are near 1 their differences keep their digits
                made["gaussian"] = -torch.expm1(distances / (-2 * GAUSSIAN**2))
            yield (
                number,
                _Block(own, others, (group, other_group), distances, (part * lengths[0], part * lengths[1]), made),
            )


def _names(rows: np.ndarray, device: torch.device) -> Tensor:
    """Return a number for each row, the same for equal rows only: (N,) int64."""
    plain = (np.ascontiguousarray(row) + 0.0 for row in rows)  # -0.0 becomes 0.0
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in plain)
    return torch.from_numpy(np.frombuffer(digests, np.int64).copy()).to(device)


KERNELS = ("polynomial", "gaussian")
"""polynomial: (a.b / D + 1)^3 of KID. gaussian: 1 - exp(-|a - b|^2 / (2 * 10^2)) of CMMD."""


def _pieces(count: int, most: int) -> Iterator[tuple[int, range]]:
    """Yield ranges of at most `most` numbers, each within one group, with the number of the group."""
    for group, numbers in enumerate(groups(count)):
        for first in range(numbers.start, numbers.stop, most):
            yield group, range(first, min(first + most, numbers.stop))


def _centred(rows: np.ndarray, numbers: range, centre: Tensor) -> Tensor:
    # a copy: torch must not see memory that a file maps read-only
    return torch.from_numpy(np.array(rows[numbers.start : numbers.stop])).to(centre.device) - centre


def _slice(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop)


_Sums = dict[tuple[int, int], dict[str, np.ndarray]]
"""(number of the rows, their group) -> kernel -> (groups of the columns,)."""


def _sum(sums: _Sums, number: int, block: _Block, itself: bool) -> None:
    """Add a block's kernels to the sums of its rows."""
    for name, values in block.kernels.items():
        if itself and max(block.rows.start, block.columns.start) < min(block.rows.stop, block.columns.stop):
            values = values.masked_fill(block.itself(), 0)
        own = sums.setdefault((number, block.group[0]), {}).setdefault(name, np.zeros(_GROUPS))
        own[block.group[1]] += float(values.sum(dtype=torch.float64))


def _together(everyone: Sequence[_Sums], kernels: frozenset[str], rows: int, columns: int) -> dict[str, Tensor]:
    """Return the sums of every kernel, (groups of rows, groups of columns), added in the order of the rows."""
    totals = {name: torch.zeros(len(groups(rows)), len(groups(columns)), dtype=torch.float64) for name in kernels}
    found = {key: of_rows for of_rank in everyone for key, of_rows in of_rank.items()}
    for (_, group), of_rows in sorted(found.items(), key=lambda item: item[0]):
        for name, own in of_rows.items():
            totals[name][group] += torch.from_numpy(own)[: totals[name].shape[1]]
    return totals


def _in_order(everyone: Sequence[dict[int, np.ndarray]]) -> np.ndarray:
    """Return what belongs to rows, one below the other."""
    found = {number: of_rows for of_rank in everyone for number, of_rows in of_rank.items()}
    return np.concatenate([found[number] for number in sorted(found)])
