"""Evaluate a generator on all ranks together, with a result that does not depend on how many there are."""

import contextlib
import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan_dist.errors import InputError
from gan_dist.evaluation.base import Metric, SetMetric, State, check_name, check_part
from gan_dist.evaluation.features import Extractor, Features, quantised
from gan_dist.evaluation.ranks import Ranks
from gan_dist.evaluation.sets import Collector, Comparison, FeatureSet, compare, scratch
from gan_dist.interfaces import Batch

PASS = 32
"""Samples drawn together, always: rounding in a network may depend on the batch it sees."""
_PART = 4 * PASS
"""Real images whose features are exchanged together."""
_MOST_PARTS = 64  # so many states are exchanged at most, whatever the number of samples

Images = Callable[[range], Tensor]
"""The images of some sample numbers: (N, C, H, W) in [-1, 1] on this rank's device."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    scores: dict[str, float]
    """By name: score/NAME, or score/NAME/PART for a metric of several values. Empty on other ranks than 0."""
    seconds: float
    """Wall time on this rank, waiting for others included."""
    samples: int
    reals: int
    shown: dict[str, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    """By metric: numbers of generated images and of real ones that a person should see side by side. Empty on other ranks."""


@dataclasses.dataclass(frozen=True)
class Sets:
    """What metrics of sets need beside the images."""

    features: Mapping[str, Features]
    """Extractors by the names under which metrics ask for them."""
    references: Mapping[str, FeatureSet]
    """Features of the real images by the same names."""
    cache: Path
    """Folder in which the features of generated images lie while they are needed."""


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
    ranks: Ranks = Ranks(),  # noqa: B008  # it is frozen
    sets: Sets | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    shown: Callable[[range], Batch] | None = None,
) -> Evaluation:
    """Score `count` generated samples against the first `count` of `reals` real ones. Every rank calls it.

    Part p of the samples is drawn and accumulated by rank p % ranks, 32 samples at a time; rank 0 merges the parts in the
    order of the samples. So every rank count gives the same bits, if `fake` and `real` give the same for the same numbers.
    Number n of `real` should be the n-th of the data set in a shuffled order: shards may be sorted by class. `sets` has
    extractors and the features of the real images for metrics of sets. `progress` is told how many samples of how many are
    done on this rank; what it raises ends the evaluation. `shown` are the samples that images are made of, whole. Raises
    InputError for a metric that cannot be computed of what is there, and ScoreError on every rank where anything fails on one.
    """
    began = time.perf_counter()
    of_sets = {name: metric for name, metric in metrics.items() if isinstance(metric, SetMetric)}
    of_parts = {name: metric for name, metric in metrics.items() if name not in of_sets}
    for name in of_parts:
        check_name(name)
    real = real if any(metric.compares for metric in of_parts.values()) else None
    if of_sets:
        assert sets is not None, "metrics of sets need extractors and references"
        widths = {name: found.rows.shape[1] for name, found in sets.references.items()}
        there = {name: found.moments.count for name, found in sets.references.items()}
        for name, metric in of_sets.items():
            check_count(name, metric, widths[metric.features], count, there[metric.features])
    cut = parts(count)
    total, done = sum(len(part) for part in cut[ranks.rank :: ranks.count]), 0
    states: list[tuple[int, dict[str, State]]] = []

    def taken(numbers: range, accumulated: dict[str, State]) -> Tensor:
        nonlocal done
        images = fake(numbers)
        if of_parts:
            of_real = _reals(real, numbers, reals)
            for name, metric in of_parts.items():
                metric.add(accumulated[name], images, of_real)
        if shown is not None:
            for name, metric in of_parts.items():
                metric.add_shown(accumulated[name], images, shown(numbers))
        done += len(numbers)
        progress(done, total)
        return images

    def beat() -> None:
        progress(done, total)

    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(ranks.agreed())
        collectors: dict[str, Collector] = {}
        if sets is not None and of_sets:
            folder = stack.enter_context(scratch(sets.cache, ranks))
            for name in dict.fromkeys(metric.features for metric in of_sets.values()):
                collectors[name] = stack.enter_context(contextlib.closing(Collector(folder / name, count, ranks)))
        for turn in range(0, len(cut), ranks.count):
            part, rows = turn + ranks.rank, {}
            if part < len(cut):
                accumulated = {name: metric.begin() for name, metric in of_parts.items()}
                drawn = (taken(numbers, accumulated) for numbers in _passes(cut[part]))
                rows = _look(drawn, {name: sets.features[name] for name in collectors} if sets else {})
                states.append((part, {name: _to_cpu(state) for name, state in accumulated.items()}))
            _share(rows, collectors, ranks)
        everyone = ranks.gather(states)
        compared = _compare(of_sets, collectors, sets, ranks, beat) if sets else {}

        def finish(beat: Callable[[], object]) -> tuple[dict[str, float], dict[str, list[tuple[int, int]]]]:
            scores = _merge(of_parts, [state for rows in everyone for state in rows], len(cut))
            pairs = {}
            for name, metric in of_sets.items():
                beat()
                both = dataclasses.replace(compared[metric.features], beat=beat)
                scores |= named(name, metric.score(both))
                if chosen := metric.shows(both):
                    pairs[name] = chosen
            return scores, pairs

        scores, pointed_at = ranks.on_main(finish, beat) or ({}, {})
    ordered = {name: scores[name] for name in _in_order(metrics, scores)}
    compared_with = min(count, reals) if real is not None else 0
    return Evaluation(ordered, time.perf_counter() - began, count, compared_with, pointed_at)


@torch.no_grad()
def collect(
    real: Images,
    count: int,
    features: Features,
    ranks: Ranks,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Callable[[Collector], None]:
    """Return what gives a collector the features of the first `count` real images. Raises ScoreError on every rank.

    Parts are dealt as in `evaluate`, so that every rank count gives the same bits.
    """

    def work(collector: Collector) -> None:
        with ranks.agreed() as own:
            for turn in range(0, count, own.count * _PART):
                first = turn + own.rank * _PART
                numbers = range(first, min(first + _PART, count))
                rows = _look((real(each) for each in _passes(numbers)), {"": features}) if numbers else {}
                _share(rows, {"": collector}, own)
                progress(min(count, turn + own.count * _PART), count)

    return work


def _look(drawn: Iterator[Tensor], features: Mapping[str, Features]) -> dict[str, np.ndarray]:
    """Return the features of images that come in passes, (N, D) float32 of each extractor."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for images in drawn:
        if features:
            pixels = quantised(images)
            for name, each in features.items():
                rows[name].append(each.of(pixels).cpu().numpy())
    return {name: np.concatenate(found) for name, found in rows.items()}


def _share(rows: dict[str, np.ndarray], collectors: Mapping[str, Collector], ranks: Ranks) -> None:
    """Give every rank's features to the collectors of all ranks. Where there are none, ranks hear that one has given up."""
    for of_rank in ranks.gather(rows):
        for name, found in of_rank.items():
            collectors[name].add(found)


def _compare(
    metrics: Mapping[str, SetMetric],
    collectors: Mapping[str, Collector],
    sets: Sets,
    ranks: Ranks,
    beat: Callable[[], object],
) -> dict[str, Comparison]:
    """Return generated and real images as each extractor sees them, with the pairs that the metrics want."""
    found = {}
    for name, collector in collectors.items():
        wants = functools.reduce(operator.or_, [each.wants() for each in metrics.values() if each.features == name])
        found[name] = compare(sets.features[name], collector.done(), sets.references[name], wants, ranks, beat)
    return found


def named(name: str, value: Mapping[str, float] | float) -> dict[str, float]:
    """Return the values of a metric by the names of its scores. Raises InputError for a part that cannot be one."""
    if isinstance(value, Mapping):
        return {f"score/{name}/{check_part(name, part)}".rstrip("/"): float(number) for part, number in value.items()}
    return {f"score/{name}": float(value)}


def _in_order(metrics: Mapping[str, Metric], scores: Mapping[str, float]) -> list[str]:
    """Return the names of scores in the order of their metrics."""
    return [name for metric in metrics for name in scores if name.split("/")[1] == metric]


def check_count(name: str, metric: SetMetric, width: int, generated: int, real: int | None) -> None:
    """Raise InputError where a metric needs more images than there are; `real` None: that is not known yet."""
    least = metric.least(width)
    for what, there in (("generated", generated), ("real", real)):
        if there is not None and there < least and (what == "generated" or metric.compares):
            keys = "evaluate.samples or --n" if what == "generated" else "evaluate.reals or --reals"
            raise InputError(
                f"the score {name} needs {least:,} {what} images or more, and there are {there:,}; give more ({keys}), or "
                "remove it"
            )


def check(
    metrics: Mapping[str, Metric], extractors: Mapping[str, Extractor], generated: int, real: int | None = None
) -> None:
    """Raise InputError before any work for a name that is taken, files that are not there, and too few images."""
    for extractor in extractors.values():
        extractor.prepare()
    for name, metric in metrics.items():
        check_name(name)
        metric.prepare()
        if isinstance(metric, SetMetric):
            extractor = extractors[metric.features]
            metric.check_extractor(name, extractor)
            if extractor.width is not None:
                check_count(name, metric, extractor.width, generated, real)


def _merge(metrics: Mapping[str, Metric], rows: list[tuple[int, dict[str, State]]], count: int) -> dict[str, float]:
    """Return the scores of all parts, in whatever order they arrive."""
    rows = sorted(rows, key=lambda row: row[0])
    numbers = [part for part, _ in rows]
    assert numbers == list(range(count)), f"parts {numbers} of {count}: each must be there once"
    scores: dict[str, float] = {}
    for name, metric in metrics.items():
        scores |= named(name, metric.value(metric.merge([states[name] for _, states in rows])))
    return scores


def _passes(numbers: range) -> Iterator[range]:
    for first in range(numbers.start, numbers.stop, PASS):
        yield range(first, min(first + PASS, numbers.stop))


def _reals(real: Images | None, numbers: range, reals: int) -> Tensor | None:
    """Return the real images of these numbers that the data set has; None where it has none."""
    there = range(numbers.start, min(numbers.stop, reals))
    return real(there) if real is not None and there else None


def _to_cpu(state: State) -> State:
    return {name: tensor.cpu() for name, tensor in state.items()}
