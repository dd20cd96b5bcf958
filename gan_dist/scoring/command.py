"""Score what `gan-dist evaluate` is given: a run's checkpoints or somebody's images."""

import argparse
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gan_dist import rng, run_directory, units
from gan_dist.checkpoint import store
from gan_dist.config import Config, default_cache
from gan_dist.data import checks, index as index_module, loader, order, shards
from gan_dist.data.geometry import geometry
from gan_dist.data.index import Index
from gan_dist.data.names import is_remote
from gan_dist.errors import InputError
from gan_dist.evaluation import (
    EXTRACTORS,
    Evaluation,
    Extractor,
    Metric,
    Ranks,
    ScoreError,
    SetMetric,
    Sets,
    check,
    evaluate,
    pairs,
)
from gan_dist.evaluation.pairs import Wants
from gan_dist.evaluation.sets import MOST_ROWS
from gan_dist.games.base import Game
from gan_dist.generate import load, locate
from gan_dist.interfaces import Batch
from gan_dist.scoring import choice, ways
from gan_dist.scoring.images import ImageSet, of_index, of_source
from gan_dist.scoring.pictures import pictures_of
from gan_dist.scoring.prepare import learnt, ranks_of, ready, sets_of, training_data
from gan_dist.scoring.record import lines_of
from gan_dist.tracking import media, records

Images = Callable[[range], Tensor]

_USUAL = 10_000
"""Generated images of a run, where nobody says how many."""


class Progress(Protocol):
    def begin(self, what: str, blocks: int = 0, seconds: float = 0.0) -> None: ...
    def __call__(self, done: int, total: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """What the command line asks for, and what does it."""

    options: argparse.Namespace
    metrics: Mapping[str, Metric]
    extractors: Mapping[str, Extractor]
    ranks: Ranks
    scratch: Path
    progress: Progress

    def features_of(self, real: ImageSet, cache: Path) -> Sets | None:
        """Return extractors and the features of the real images; None where no score looks at features."""
        if not self.extractors:
            return None
        self.progress.begin(f"{real.count:,} real images")
        return sets_of(self.extractors, real, cache, self.ranks, self.progress, self.metrics)

    def pairs(self, metrics: Mapping[str, Metric], sets: Sets | None, count: int) -> tuple[int, float]:
        """Return the blocks of pairs that this rank will compute for `count` images, and the seconds of one, about."""
        blocks, seconds = 0, 0.0
        for name, real in (sets.references if sets else {}).items():
            wants = [each.wants() for each in metrics.values() if isinstance(each, SetMetric) and each.features == name]
            wanted = functools.reduce(operator.or_, wants, Wants())
            if wanted != Wants():
                fakes, reals = min(count, MOST_ROWS), len(real.rows)
                new = not all((real.folder / f"{kept}.safetensors").exists() for kept in wanted.kept)
                blocks += pairs.blocks(fakes, fakes, self.ranks) + pairs.blocks(fakes, reals, self.ranks)
                blocks += new * pairs.blocks(reals, reals, self.ranks)
                seconds = max(seconds, pairs.seconds(real.rows, self.ranks))
        return blocks, seconds


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of one checkpoint or of one set of images. Lines are on rank 0 only."""

    title: str
    lines: list[dict[str, Any]]
    notes: list[str]
    pictures: list[str]
    problem: str = ""
    """Why the scores are not written down; empty where they are."""


def score(options: argparse.Namespace, launch: Any, scratch: Path, progress: Progress) -> list[Scored]:
    """Score what the command line names. Every rank calls it. Raises InputError."""
    ranks = ranks_of(launch)
    own = choice.scores_of(Path(options.what))
    metrics, named = choice.parts(
        options.scores, options.features, options.weights, options.resize, options.classifier, own
    )
    metrics, extractors = ready(metrics, named)
    if options.reals and not any(metric.compares for metric in metrics.values() if isinstance(metric, SetMetric)):
        raise InputError(
            f"--reals {options.reals} has no effect on {options.scores}, which compare with no set of real images; remove it"
        )
    task = Task(options, metrics, extractors, ranks, scratch, progress)
    try:
        if choice.is_run(Path(options.what)):
            return list(_of_run(task))
        return [_of_images(task)]
    except ScoreError as error:
        raise InputError(str(error)) from None


def _of_run(task: Task) -> Iterator[Scored]:
    """Yield the scores of a run's checkpoints."""
    options, ranks, progress = task.options, task.ranks, task.progress
    path = Path(options.what)
    run = run_directory.locate(path)
    names = [options.checkpoint]
    if options.checkpoint == "all":
        every = store.names(run / "checkpoints")
        names = [name for name in every if store.describe(run / "checkpoints" / name)["whole"]]
        if not names:
            raise InputError(f"{run} has no whole checkpoint{' yet' if not every else ''}; train first")
    sets, real, count, learning = None, None, options.n or _USUAL, dict[str, Metric]()
    for wanted in names:
        name = ranks.gather(locate(path, wanted)[1])[0]
        game, config, name = load(run, name, ranks.device)
        own = _for(game, config, task.metrics)
        if real is None:
            index, real = _reals_of_run(task, config, game)
            if game.shows_data and not game.reconstructs and not options.n:  # no input twice
                count = min(count, ways.inputs(game, index))
            if real.count:  # shards may be sorted by class
                real = real.shuffled(options.reals)
            check(own, task.extractors, count, real.count)
            sets = task.features_of(real, config.cache)
            learning = learnt(own, config, functools.partial(training_data, config, ranks), ranks, progress)
        own = {
            name: learning[name] if type(metric).learn is not Metric.learn else metric for name, metric in own.items()
        }
        assert real is not None
        about = {
            "images": int(name.removeprefix("images-")),
            "checkpoint": name,
            "digest": store.describe(run / "checkpoints" / name, hashes=False)["digest"],
            "average": True,
            "seed": options.seed,
            "labels": "number modulo classes" if config.data.classes else None,
            "by": "gan-dist evaluate",
        }
        progress.begin(f"{name}, generated images", *task.pairs(own, sets, count))
        fake, paired, shown = drawn(game, config, options.seed, index, real, ranks.device)
        found = evaluated(task, own, fake, paired, real, count, sets, shown)
        lines = lines_of(found, own, sets, real, ranks.device, about)
        scored = Scored(f"{run} {name}", lines, [*notes(sets), *real.notes()], [])
        if ranks.is_main:
            draw = functools.partial(pictures_of, found, fake, functools.partial(real.draw, device=ranks.device))
            scored = _keep(run, scored, about["images"], draw)
        yield scored
        for each in _of_ways(task, game, config, own, index, about) if game.ways else ():
            yield _keep(run, each, about["images"], dict) if ranks.is_main else each


def _of_ways(
    task: Task, game: Game, config: Config, metrics: Mapping[str, Metric], index: Index, about: Mapping[str, Any]
) -> Iterator[Scored]:
    """Yield the scores of two sets for the other way, and for inputs as they are."""
    options, ranks = task.options, task.ranks
    against = ways.named(options.against, config)
    where = {name: against.get(name, str(shards)) for name, shards in config.data.sets.items()}
    for each in ways.compared(game, config, index, where, options.reals, ranks.device):
        own = ways.of_sets(metrics, each.label)
        if not own:
            return
        count = min(options.n or each.images, each.images)
        check(own, task.extractors, count, each.real.count)
        sets = task.features_of(each.real, config.cache)
        task.progress.begin(f"{each.words}, {count:,} images", *task.pairs(own, sets, count))
        found = evaluated(task, own, each.fake, each.fake, each.real, count, sets)
        lines = lines_of(found, own, sets, each.real, ranks.device, {**about, "way": each.label})
        yield Scored(f"{options.what} {about['checkpoint']}, {each.words}", lines, notes(sets), [])


def _keep(run: Path, scored: Scored, images: int, draw: Callable[[], Mapping[str, media.Image]]) -> Scored:
    """Write scores and pictures into a run. Where that fails the scores can still be printed: `problem` says it."""
    written: list[str] = []
    path, problem = run / "scores.jsonl", ""
    try:
        records.write_scores(path, scored.lines)
        path = run / "media"
        for label, picture in draw().items():
            written.append(str(media.write(path, images, label, picture)))
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror or error}): make room, or fix its permissions"
    except Exception as error:  # a user's score may point at images that are not there
        problem = f"what scores point at cannot be shown: {type(error).__name__}: {error}"
    return dataclasses.replace(scored, pictures=written, problem=problem)


def _for(game: Game, config: Config, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the metrics for a game. Raises InputError where one cannot score it."""
    own = {}
    for name, metric in metrics.items():
        try:
            metric.check(config)
        except ValueError as error:
            raise InputError(str(error)) from None
        own[name] = metric.for_game(game)
    return own


def _reals_of_run(task: Task, config: Config, game: Game) -> tuple[Index, ImageSet]:
    """Return the index of the run's data, and the real images: the run's, or those of --against."""
    against, ranks = task.options.against, task.ranks
    if config.data.drawn and against:
        raise InputError(f"--against {against} has no effect: {config.game.kind} draws its own samples; remove it")
    channels = 0 if config.data.drawn else checks.channels(config, game.judged)
    named = ways.named(against, config)
    if against and not named and not _are_shards(against):
        if game.shows_data and not game.reconstructs:
            raise InputError(
                f"--against {against}: the run turns images into images, and takes them from shards; pack them (`gan-dist pack`)"
            )
        return index_module.nothing(), of_source(against, task.scratch / "real", (config.data.size, channels))
    if against:
        sets = config.data.shards
        shards = {**sets, **(named or {game.judged: against})} if isinstance(sets, dict) else against
        config = config.with_({"data.shards": shards, "data.source": ""})
    ranks.together(lambda: loader.prepare(config, progress=False) if ranks.writes else None)
    index = loader.open_index(config)
    if config.data.drawn:
        return index, ImageSet(0, (0, 0), 0, lambda number: np.zeros(0), {"data": ""})
    where = named.get(game.judged, "" if named else against) or str(config.data.shards)
    return index, of_index(index, geometry(config), channels, game.judged, where)


def drawn(
    game: Game, config: Config, seed: int, index: Index, real: ImageSet, device: torch.device
) -> tuple[Images, Images, Callable[[range], Batch] | None]:
    """Return what draws a game's images by number, their real counterparts, and the samples that they are made of, if any."""
    if not game.shows_data or not len(index):  # an autoencoder's images are compared with anybody's
        none = Batch({}, torch.arange(0))
        return lambda numbers: game.generated(seed, numbers, none), lambda numbers: real.draw(numbers, device), None

    total = ways.inputs(game, index)

    @functools.lru_cache(maxsize=1)  # a game that turns images into images is scored against them at once
    def shown(numbers: range) -> Batch:
        chosen = order.permute(rng.key(config.run.seed, "evaluate"), total, np.array(numbers) % total)
        return loader.load(index, config, chosen.tolist(), device)

    return (
        lambda numbers: game.generated(seed, numbers, shown(numbers)),
        lambda numbers: shown(numbers)[game.judged],
        shown,
    )


def _of_images(task: Task) -> Scored:
    """Return the scores of somebody's images."""
    options, metrics, ranks, scratch, progress = task.options, task.metrics, task.ranks, task.scratch, task.progress
    if not options.against:
        raise InputError(f"{options.what} is no run, so nobody knows its real images: add --against SHARDS or IMAGES")
    if options.checkpoint or options.seed:
        raise InputError(f"--checkpoint and --seed are for runs, and {options.what} is none; remove them")
    for name, metric in metrics.items():
        if type(metric).for_game is not Metric.for_game:
            raise InputError(f"the score {name} is of a game, and {options.what} is no run; remove it")
    fake = of_source(options.what, scratch / "fake")
    if options.n > fake.count:
        raise InputError(f"--n {options.n}: {options.what} holds {fake.count:,} images; give that number or less")
    fake = fake.shuffled(options.n)
    if _are_shards(options.against):
        real = _of_shards(options.against, fake, ranks)
    else:
        real = of_source(options.against, scratch / "real", (fake.size, fake.channels))
    real = real.shuffled(options.reals)
    check(metrics, task.extractors, fake.count, real.count)
    sets = task.features_of(real, default_cache())
    progress.begin(f"{fake.count:,} images", *task.pairs(metrics, sets, fake.count))

    def of_fake(numbers: range) -> Tensor:
        return fake.draw(numbers, ranks.device)

    def of_real(numbers: range) -> Tensor:
        return real.draw(numbers, ranks.device)

    found = evaluated(task, metrics, of_fake, of_real, real, fake.count, sets)
    about = {"images": None, "checkpoint": None, "generated": dict(fake.facts), "by": "gan-dist evaluate"}
    lines = lines_of(found, metrics, sets, real, ranks.device, about)
    return Scored(options.what, lines, [*notes(sets), *fake.notes(), *real.notes()], [])


def _are_shards(name: str) -> bool:
    """Say whether --against names shards: a folder with .tar files, a .tar file, a pattern or an address."""
    path = Path(name)
    if path.is_dir():
        return any(path.rglob("*.tar"))
    return name.endswith(".tar") or (not path.exists() and ("{" in name or "*" in name or is_remote(name)))


def _of_shards(name: str, fake: ImageSet, ranks: Ranks) -> ImageSet:
    """Return the images of shards at the size of generated ones."""
    cache = default_cache()

    def prepare() -> None:
        if ranks.writes:
            index_module.build(shards.fetch(shards.expand(name), cache), cache, progress=False)

    ranks.together(prepare)
    index = index_module.load(shards.places(shards.expand(name), cache), cache)
    if not len(index):
        raise InputError(f"--against {name}: there is no image in these shards; see `gan-dist index`")
    scale = np.minimum(index.height / fake.size[0], index.width / fake.size[1])
    least = int(np.where(index.width > 0, scale, np.inf).argmin())
    if scale[least] < 1 and index.width[least]:
        raise InputError(
            f"--against {name}: {index.key(least)} is {index.width[least]}x{index.height[least]}, smaller than the images "
            f"that are scored ({units.pixels(fake.size)}); give real images of that size or larger"
        )
    if other := next((sample for kind, sample in index.channels.items() if kind != str(fake.channels)), ""):
        raise InputError(
            f"--against {name}: {other} has other channels than the images that are scored ({fake.channels}); convert "
            f"with `gan-dist pack --channels {fake.channels}`"
        )
    return of_index(index, fake.size, fake.channels, where=name)


def evaluated(
    task: Task,
    metrics: Mapping[str, Metric],
    fake: Images,
    paired: Images,
    real: ImageSet,
    count: int,
    sets: Sets | None,
    shown: Callable[[range], Batch] | None = None,
) -> Evaluation:
    """Return what an evaluation found. Raises InputError on all ranks where it failed."""
    problem, found = "", None
    try:
        found = evaluate(
            metrics,
            fake,
            paired if real.count else None,
            count,
            real.count,
            ranks=task.ranks,
            sets=sets,
            progress=task.progress,
            shown=shown,
        )
    except (ScoreError, InputError) as error:
        problem = str(error)
    if problems := [said for said in task.ranks.gather(problem) if said]:
        raise InputError(problems[0])
    assert found is not None
    return found


def notes(sets: Sets | None) -> list[str]:
    """Return what a reader of the scores must know."""
    said = []
    for name, features in (sets.features if sets else {}).items():
        kind = features.facts.get("kind", name)
        extractor = EXTRACTORS.get(str(kind))
        if extractor is not None and extractor.trend:
            said.append(f"{name} features are of a seeded random network: a trend within a run, and no measure")
        digest = str(features.facts.get("sha256", ""))
        if extractor is not None and extractor.digest and not digest.startswith(extractor.digest):
            said.append(
                f"the weights of {name} (SHA-256 {digest[:8]}...) are not the published ones ({extractor.digest}...)"
            )
        if "accuracy" in features.facts:
            said.append(f"the classifier names {features.facts['accuracy']:.1%} of held-out images")
    return said
