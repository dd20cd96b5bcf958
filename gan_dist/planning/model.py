"""Model the time of a step on W processes: T = max(H, F + c b) + links, with b images on each process.

H is the host's time to start all kernels, F the device's time that does not depend on the images, c its time for each
image. Links take alpha for each collective and bytes / beta for what a process sends: a ring's all-reduce of P weights
sends 2 (W - 1) / W x 4P bytes. The model reproduces the published tables of StyleGAN3 and StyleGAN2-ADA (docs/speed.md, tests/unit/planning).
"""

import dataclasses
import math
from collections.abc import Sequence

_LEAST = 1e-12  # seconds: what divides must not be 0
_ROUGH = 0.03  # relative error beyond which two constants are too few


@dataclasses.dataclass(frozen=True)
class Link:
    """What a message between two processes takes: alpha + bytes / beta."""

    alpha: float
    """Seconds of a collective that carries nothing."""
    beta: float
    """Bytes a second that a process sends."""


@dataclasses.dataclass(frozen=True)
class Links:
    """The connections of all processes."""

    inside: Link
    """Of a node."""
    between: Link
    """Nodes; beta is what each process sends, not each node."""
    per_node: int = 8
    """Processes on a node."""

    def seconds(self, collectives: float, sent: float, processes: int) -> float:
        """Return what `collectives` operations take in which each process sends `sent` bytes in all.

        Between nodes a collective climbs a tree over them: alpha once for each doubling. The backward hides nothing of it.
        """
        if processes == 1:
            return 0.0
        alpha, beta = self.inside.alpha, self.inside.beta
        if processes > self.per_node:
            alpha += self.between.alpha * math.ceil(math.log2(math.ceil(processes / self.per_node)))
            beta = min(beta, self.between.beta)
        return collectives * alpha + sent / beta


@dataclasses.dataclass(frozen=True)
class Work:
    """Seconds of a process's part of a step."""

    fixed: float
    """Of the device, whatever the images: weights, optimizer, average, gaps between kernels (F)."""
    image: float
    """Of the device for each image (c)."""
    host: float = 0.0
    """Of the host to start what an update has (a part of H)."""
    host_pass: float = 0.0
    """Of the host to start what one pass through the networks has (the rest of H)."""
    fixed_pass: float = 0.0
    """Of the device for each pass."""

    def started(self, passes: float) -> float:
        """Return H."""
        return self.host + self.host_pass * passes

    def kept_busy(self, passes: float) -> float:
        """Return F."""
        return self.fixed + self.fixed_pass * passes

    def seconds(self, images: float, passes: float = 1) -> float:
        """Return max(H, F + c b)."""
        return max(self.started(passes), self.kept_busy(passes) + self.image * images)


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured step."""

    images: float
    """On each process."""
    seconds: float
    links: float = 0.0
    """Seconds of it that links took."""


def fit(points: Sequence[Point]) -> Work:
    """Return F and c of measured steps, by least squares of the relative error; neither is negative.

    Steps that all had as many images say nothing of F: it is then 0.
    """
    weights = [1 / max(point.seconds, _LEAST) for point in points]
    rows = [(weight, weight * point.images) for weight, point in zip(weights, points, strict=True)]
    wanted = [weight * (point.seconds - point.links) for weight, point in zip(weights, points, strict=True)]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(row[i] * y for row, y in zip(rows, wanted, strict=True)) for i in (0, 1))
    only_fixed, only_image = Work(max(0.0, ay / aa), 0.0), Work(0.0, max(0.0, by / bb))
    determinant = aa * bb - ab * ab
    if determinant < 1e-9 * aa * bb:
        return only_image
    work = Work((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant)
    if work.fixed < 0:
        return only_image
    return only_fixed if work.image < 0 else work


def fit_with_host(points: Sequence[Point]) -> Work:
    """Return F and c, and H where the steps with the fewest images take no less time than those with more.

    Tries which of the steps with the fewest images the host alone decided; their mean is H. That needs steps of three
    sizes that F and c miss by 3 %, and at least half of the error must go.
    """
    sizes = sorted({point.images for point in points})
    best = fit(points)
    least = max(error(best, points), _ROUGH)
    for most in sizes[:-1] if len(sizes) > 2 else ():
        few = [point.seconds - point.links for point in points if point.images <= most]
        work = dataclasses.replace(fit([point for point in points if point.images > most]), host=sum(few) / len(few))
        if error(work, points) < least / 2:
            best, least = work, error(work, points) * 2
    return best


def error(work: Work, points: Sequence[Point]) -> float:
    """Return the largest relative error of the model's steps."""
    return max(abs((work.seconds(point.images) + point.links) / point.seconds - 1) for point in points)
