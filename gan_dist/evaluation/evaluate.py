"""Evaluate a generator on all ranks together, with a result that does not depend on how many there are."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gan_dist.errors import InputError
from gan_dist.evaluation.base import Metric, State, check_name

PASS = 32
"""Samples drawn together, always: rounding in a network may depend on the batch it sees."""
_MOST_PARTS = 64  # so many states are exchanged at most, whatever the number of samples

Images = Callable[[range], Tensor]
"""The images of some sample numbers: (N, C, H, W) in [-1, 1] on this rank's device."""


class ScoreError(Exception):
    """A metric failed: the message says how. Training can go on without."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    scores: dict[str, float]
    """By name: score/NAME, or score/NAME/PART for a metric of several values. Empty on other ranks than 0."""
    seconds: float
    """Wall time on this rank, waiting for others included."""
    samples: int
    reals: int


def parts(count: int) -> list[range]:
    """Return the sample numbers 0..count-1 in at most 64 parts of whole passes; a part is summed by one rank."""
    size = -(-count // (_MOST_PARTS * PASS)) * PASS
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


@torch.no_grad()
def evaluate(
    metrics: Mapping[str, Metric],
    fake: Images,
    real: Images | None,
    count: int,
    reals: int = 0,
    *,
    rank: int = 0,
    ranks: int = 1,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    features: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Evaluation:
    """Score `count` generated samples against the first `count` of `reals` real ones. Every rank calls it.

    Part p of the samples is drawn and accumulated by rank p % ranks, 32 samples at a time; rank 0 merges the parts in the
    order of the samples. So every rank count gives the same bits, if `fake`, `real` and `features` give the same for the
    same numbers. Number n of `real` should be the n-th of the data set in a shuffled order: shards may be sorted by class.
    `gather` returns the value of every rank on every rank; `features` turns images into (N, F);
    `progress` is told how many samples of how many are done on this rank. Raises InputError for a metric that needs
    features where there are none, ScoreError on every rank (of merging: on rank 0) where a metric or the drawing fails, and
    AssertionError where a part is missing or twice.
    """
    began = time.perf_counter()
    _check_needs(metrics, features is not None)
    cut = parts(count)
    own = range(rank, len(cut), ranks)
    total, done = sum(len(cut[part]) for part in own), 0
    states: list[tuple[int, dict[str, State]]] = []
    problem = ""
    try:
        for part in own:
            accumulated = {name: metric.begin() for name, metric in metrics.items()}
            for numbers in _passes(cut[part]):
                _add(metrics, accumulated, fake(numbers), _reals(real, numbers, reals), features)
                done += len(numbers)
                progress(done, total)
            states.append((part, {name: _to_cpu(state) for name, state in accumulated.items()}))
    except Exception as error:  # a user's metric may raise anything; the other ranks must not wait for this one
        problem = f"{type(error).__name__}: {error}"
    everyone = gather((problem, states))
    if problems := [said for said, _ in everyone if said]:
        raise ScoreError(problems[0])
    scores: dict[str, float] = {}
    if rank == 0:
        try:
            scores = _merge(metrics, [state for _, rows in everyone for state in rows], len(cut))
        except AssertionError:
            raise
        except Exception as error:
            raise ScoreError(f"{type(error).__name__}: {error}") from error
    return Evaluation(scores, time.perf_counter() - began, count, min(count, reals) if real is not None else 0)


def check(metrics: Mapping[str, Metric], features: bool) -> None:
    """Raise InputError before a training for a name that is taken, and a metric whose features or files are not there."""
    _check_needs(metrics, features)
    for metric in metrics.values():
        metric.prepare()


def _check_needs(metrics: Mapping[str, Metric], features: bool) -> None:
    for name, metric in metrics.items():
        check_name(name)
        if metric.needs == "features" and not features:
            raise InputError(f"evaluate.scores.{name} needs features of images, and no network for them is set")


def _merge(metrics: Mapping[str, Metric], rows: list[tuple[int, dict[str, State]]], count: int) -> dict[str, float]:
    """Return the scores of all parts, in whatever order they arrive."""
    rows = sorted(rows, key=lambda row: row[0])
    numbers = [part for part, _ in rows]
    assert numbers == list(range(count)), f"parts {numbers} of {count}: each must be there once"
    scores: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric.value(metric.merge([states[name] for _, states in rows]))
        if isinstance(value, dict):
            scores |= {f"score/{name}/{part}": float(number) for part, number in value.items()}
        else:
            scores[f"score/{name}"] = float(value)
    return scores


def _passes(numbers: range) -> Iterator[range]:
    for first in range(numbers.start, numbers.stop, PASS):
        yield range(first, min(first + PASS, numbers.stop))


def _reals(real: Images | None, numbers: range, reals: int) -> Tensor | None:
    """Return the real images of these numbers that the data set has; None where it has none."""
    there = range(numbers.start, min(numbers.stop, reals))
    return real(there) if real is not None and there else None


def _add(
    metrics: Mapping[str, Metric],
    states: dict[str, State],
    fake: Tensor,
    real: Tensor | None,
    features: Callable[[Tensor], Tensor] | None,
) -> None:
    """Give the images of one pass, or their features, which are computed once, to every metric."""
    given = {"samples": (fake, real)}
    if features is not None and any(metric.needs == "features" for metric in metrics.values()):
        given["features"] = features(fake), None if real is None else features(real)
    for name, metric in metrics.items():
        metric.add(states[name], *given[metric.needs])


def _to_cpu(state: State) -> State:
    return {name: tensor.cpu() for name, tensor in state.items()}
