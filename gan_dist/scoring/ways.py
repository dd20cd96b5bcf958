"""Score both ways between two sets without pairs, and the images as they are, which say what translation is worth."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gan_dist.config import Config
from gan_dist.data import checks
from gan_dist.data.geometry import geometry
from gan_dist.data.index import Index
from gan_dist.errors import InputError
from gan_dist.evaluation import Metric, SetMetric
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.scoring.images import ImageSet, of_index


class Compared(NamedTuple):
    """Images of a domain, and the real images of a domain that they are scored against."""

    label: str
    """The way, or the domain where images are scored as they are: a part of the names of the scores."""
    words: str
    images: int
    fake: Callable[[range], Tensor]
    real: ImageSet


def compared(
    game: Game, config: Config, index: Index, where: Mapping[str, str], reals: int, device: torch.device
) -> Iterator[Compared]:
    """Yield what is to be compared beside the way that all scores are of: inputs as they are, and the other ways.

    `where` says from where each domain's images are; at most `reals` real images count.
    """
    sets = {
        name: of_index(index, geometry(config), checks.channels(config, name), name, where[name])
        for way in game.ways.values()
        for name in way
    }
    for way, (source, target) in game.ways.items():
        inputs, real = sets[source].shuffled(), sets[target].shuffled(reals)

        def as_is(numbers: range, inputs: ImageSet = inputs) -> Tensor:
            return inputs.draw(numbers, device)

        def translated(numbers: range, inputs: ImageSet = inputs, way: str = way) -> Tensor:
            positions = torch.arange(numbers.start, numbers.stop, device=device)
            return game.infer(Batch({"input": inputs.draw(numbers, device)}, positions), way)

        if target != game.judged:
            yield Compared(way, f"{source} to {target} against {target}", inputs.count, translated, real)
        if inputs.channels == real.channels:
            yield Compared(source, f"{source} as it is against {target}", inputs.count, as_is, real)


def of_sets(metrics: Mapping[str, Metric], label: str) -> dict[str, Metric]:
    """Return the metrics that compare two sets, under names with a label."""
    return {f"{name}_{label}": metric for name, metric in metrics.items() if isinstance(metric, SetMetric)}


def named(against: str | None, config: Config) -> dict[str, str]:
    """Return what --against names by set, A=SHARDS,B=SHARDS; nothing where it names one for all. Raises InputError."""
    found = dict(re.findall(r"(?:^|,)(\w+)=(.*?)(?=,\w+=|$)", against or ""))
    if unknown := [name for name in found if name not in config.data.sets]:
        sets = ", ".join(filter(None, config.data.sets)) or "one set without a name"
        raise InputError(f"--against {against}: the run has no set {unknown[0]}, but {sets}; fix the name")
    return found


def inputs(game: Game, index: Index) -> int:
    """Return how many inputs a data set has for what `generated` makes: of sets without pairs those of one."""
    source = next((source for source, target in game.ways.values() if target == game.judged), None)
    return len(index) if source is None else len(index.images[source])
