"""Make ready what scores need on all ranks: extractors, and features of the real images."""

import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gan_dist import evaluation, rng
from gan_dist.config import Config
from gan_dist.data import loader, order
from gan_dist.data.index import Index
from gan_dist.evaluation import (
    Examples,
    Extractor,
    Features,
    Labelled,
    Metric,
    Ranks,
    SetMetric,
    Sets,
    collect,
    extractors,
    reference,
)
from gan_dist.evaluation.sets import FeatureSet
from gan_dist.interfaces import Batch
from gan_dist.scoring.images import ImageSet

_FEW = 2
"""Real images that tell the width of features; one has no covariance."""
Beat = Callable[[int, int], object]
"""Told how many real images of how many have been looked at."""


class _Launch(Protocol):
    """What is known of the ranks of a launch: the engine, or `engine.joined.Joined`."""

    rank: int
    world_size: int
    device: torch.device

    def gather(self, value: Any) -> list[Any]: ...


def ranks_of(launch: _Launch) -> Ranks:
    """Return how the ranks of a launch share an evaluation."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    return Ranks(launch.rank, launch.world_size, launch.gather, launch.device, platform.node(), first)


def ready(
    metrics: Mapping[str, Metric], named: Mapping[str, Extractor]
) -> tuple[dict[str, Metric], dict[str, Extractor]]:
    """Return metrics and the extractors that they ask for, each network once, by whatever names it was asked for.

    Raises InputError for features that do not exist.
    """
    found = extractors(dict(metrics), dict(named))
    first: dict[str, str] = {}
    for name, extractor in found.items():
        first[name] = next(other for other, known in found.items() if known == extractor)
    same = {
        name: metric.model_copy(update={"features": first[metric.features]})
        if isinstance(metric, SetMetric)
        else metric
        for name, metric in metrics.items()
    }
    return same, {name: found[name] for name in dict.fromkeys(first.values())}


def check(config: Config, real: int) -> None:
    """Raise InputError before a training for scores that could not be computed of `real` images of the data set."""
    metrics, found = ready(dict(config.evaluate.scores), dict(config.evaluate.features))
    evaluation.check(metrics, found, config.evaluate.samples, min(config.evaluate.reals or real, real))


def training_data(config: Config, ranks: Ranks) -> Index:
    """Return the index of a run's training data."""
    ranks.together(lambda: loader.prepare(config, progress=False) if ranks.writes else None)
    return loader.open_index(config)


def learnt(
    metrics: Mapping[str, Metric], config: Config, index: Callable[[], Index], ranks: Ranks, beat: Beat
) -> dict[str, Metric]:
    """Return the metrics, those that learn from the run's training data with what they learnt. Every rank calls it.

    `index` opens the training data, where a metric wants them. Raises InputError on all ranks.
    """
    if all(type(metric).learn is Metric.learn for metric in metrics.values()):
        return dict(metrics)
    found = index()

    def draw(numbers: range) -> Batch:
        chosen = order.permute(rng.key(config.run.seed, "examples"), len(found), np.array(numbers))
        return loader.load(found, config, chosen.tolist(), ranks.device)

    stamps = [stamp for field in found.images.values() for stamp in field.stamps]
    digest = hashlib.sha256(repr((found.digest, stamps, config.run.seed, config.data.size)).encode()).hexdigest()
    examples = Examples(draw, len(found), digest, config.cache / "evaluation", ranks, lambda: beat(0, len(found)))
    return {name: metric.learn(examples) for name, metric in metrics.items()}


def sets_of(
    extractors: Mapping[str, Extractor],
    real: ImageSet,
    cache: Path,
    ranks: Ranks,
    beat: Beat = lambda done, total: None,
    metrics: Mapping[str, Metric] | None = None,
) -> Sets:
    """Return extractors on this rank's device, and the features of the real images: kept ones, or looked at now.

    `real` is in its shuffled order. Where all `metrics` of an extractor compare with no real image, it looks at two of them
    alone. Every rank calls it. Raises InputError on all ranks for weights that will not do.
    """
    sets = [metric for metric in (metrics or {}).values() if isinstance(metric, SetMetric)]
    alone = {metric.features for metric in sets} - {metric.features for metric in sets if metric.compares}
    features: dict[str, Features] = {}
    references: dict[str, FeatureSet] = {}
    labels = torch.from_numpy(real.labels) if real.labels is not None else torch.zeros(0, dtype=torch.int64)
    data = Labelled(
        images=lambda numbers: real.draw(numbers, ranks.device),
        labels=labels,
        digest=str(real.facts["data"]),
        cache=cache / "evaluation",
        beat=lambda: beat(0, real.count),
        ranks=ranks,
    )
    for name, extractor in extractors.items():
        made = features[name] = ranks.together(lambda extractor=extractor: extractor.build(ranks.device, data))  # type: ignore[misc]
        seen = real.shuffled(_FEW) if name in alone else real
        about = {"version": 2, "real": seen.identity, "extractor": made.identity}
        work = collect(lambda numbers, seen=seen: seen.draw(numbers, ranks.device), seen.count, made, ranks, beat)  # type: ignore[misc]
        references[name] = reference(about, cache, work, seen.count, ranks)
    return Sets(features, references, cache)
