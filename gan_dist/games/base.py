"""Define what a game is: players and phases. A new game is one file: a section of keys, and a class with these two."""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_dist import rng, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Part, Section, Steps
from gan_dist.ema import RAMP, AverageKeys
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch, Field, LatentSpace, Phase
from gan_dist.metrics import Metrics
from gan_dist.networks import Network, Shape
from gan_dist.networks.statistics import Statistics
from gan_dist.optimizers import Optimizer
from gan_dist.player import Player
from gan_dist.pool import Pool


class TranslatorAverage(AverageKeys):
    """The moving average (EMA) of generators that turn images into images, for grids, scores and `gan-dist apply`."""

    half_life: schedules.ScheduledCount = 1_000
    """Half-life of the average in images."""


class GameKeys(Part):
    """A game's section of the config, and the places for the parts that it is made of."""

    parts: ClassVar[Mapping[str, One | Many | Steps | type[Section]]] = {}
    """Config key -> what may stand there: {"loss": One(...), "networks.generator": One(...), "average": AverageKeys}."""

    roles: ClassVar[Mapping[str, str]] = {"generator": "G", "discriminator": "D"}
    """What a user calls a network -> the name of its player, or PLAYER/MODULE where it is a part of the player's network."""

    def build(self, config: Config) -> "Game":
        """Build the game that a config describes."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Handover:
    """An averaged network that a run hands over, and what is known of its inputs (`gan-dist export`)."""

    network: nn.Module
    place: str
    """Section of the config that made it, below `networks`."""
    shape: Shape
    takes: Literal["latents", "images"]
    distribution: Literal["normal", "uniform"] = "normal"
    """Of each number of a latent."""
    draws_key: int | None = None
    """Key of the random numbers that it draws for each image (dropout); None: it draws none."""
    multiple: int = 1
    """Sides of images that it takes are multiples of it."""
    fill: float | None = None
    """What stands where the last channel of an input says that something is missing; None: it says nothing of that."""
    encoder: nn.Module | None = None
    """What turns an image into means and log-variances of its latents, made by the section `networks.encoder`; None: nothing."""
    label_map: Mapping[str, Any] | None = None
    """Keys of the label map (config/data_field.py) that it takes as a channel for each class; None: it takes colours."""


class Game(abc.ABC):
    """The players in a fixed order, and the phases of a step in the order they are played."""

    fields: Mapping[str, Field]
    """What its samples must contain."""
    players: tuple[Player, ...]
    phases: tuple[Phase, ...]
    metrics: Metrics
    """Where losses record what a person wants to see; the engine sets it."""
    modules: Sequence[nn.Module] = ()
    """What belongs to no player and computes on the device: an augmentation, fixed features of a perceptual loss."""
    rivals: ClassVar[tuple[str, str] | None] = None
    """Names of the player that judges and of the one whose images it judges, for the signals of collapse; None: there are none."""
    in_turn: ClassVar[bool] = True
    """Whether a phase uses what an earlier one of the same step has put into `batch.cache`, and cannot be played without it."""
    images: int = 0
    """Position of the step that is being played, for what changes over the run."""

    def due(self, images: int, batch: int) -> Iterator[Phase]:
        """Yield the phases that are played in the step of `batch` images that begins at `images`."""
        step = images // batch
        for phase in self.phases:
            if (
                (step + 1 + phase.shift) % phase.every == 0
                and phase.begin <= images
                and (phase.end is None or images < phase.end)
            ):
                yield phase

    def average(self, images: int, batch: int) -> None:
        """Let the moving averages follow the step of `batch` images that begins at `images`."""
        for player in self.players:
            if player.average is not None:
                player.average.update(images, batch)

    def state(self) -> dict[str, Tensor]:
        """Return what the game keeps from step to step beside its players, by name; every rank holds the same. Live tensors."""
        return {}

    pools: Sequence[Pool] = ()
    """Earlier images that it shows again; each rank holds those of its own slots."""

    def check_start(self) -> None:  # noqa: B027  nothing to say is the usual case
        """Raise InputError for what a new run should not begin with; a run that has begun goes on."""

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        """Return the columns of the picture grid, by name: (count, C, H, W) in [-1, 1] each.

        `shown` has the first `count` samples of the data set, for games whose pictures begin with some.
        """
        return {"samples": self.samples(seed, 0, count)}

    def samples(self, seed: int, first: int, count: int, label: int | None = None) -> Tensor:
        """Draw samples number `first`, ... of a seed from the averaged generator: (count, C, H, W) in [-1, 1].

        The same number of the same seed gives the same image, however many are drawn with it. Without `label` the classes
        take turns: number n is of class n modulo their count. Raises InputError for a game that draws nothing from latents.
        """
        raise InputError(f"{type(self).__name__} turns images into images and draws none from latents")

    def latent_space(self) -> LatentSpace:
        """Return what its samples are drawn from, for walks. Raises InputError for a game that draws nothing from latents."""
        raise InputError(f"{type(self).__name__} draws nothing from latents, so there is nothing to walk between")

    def live(self, seed: int, count: int) -> Tensor | None:
        """Draw about `count` of the same samples from the generator as it trains now: (N, C, H, W). It leaves no trace.

        None where it cannot be asked, as this rank does not hold it whole.
        """
        return None

    makes_points: ClassVar[bool] = False
    """Whether its samples are points (N, D), which `chart` shows, and no images."""

    def chart(self, samples: Tensor) -> Tensor:
        """Draw points in one picture: (N, D) -> (C, H, W) in [-1, 1]."""
        raise InputError(f"{type(self).__name__} draws no points")

    def takes(self, way: str) -> str:
        """Name the field whose images `infer` takes on a way. Raises InputError for a way that it does not know."""
        one_way(way, self.goes)
        return "input"

    goes: ClassVar[str] = "from input to output"
    """The way of a game that has only one, in words."""
    multiple: int = 1
    """Sides of images that `infer` takes are multiples of it; other images are padded."""
    scale: int = 1
    """How many times larger the sides of what `infer` returns are than those of what it takes."""
    least: int = 1
    """Pixels that sides of images have at least; smaller images are padded."""
    judged: ClassVar[str] = "image"
    """The field that `generated` images are scored against."""

    @property
    def galleries(self) -> tuple[str, ...]:
        """Name the pictures to draw beside the grid: some of `reals`, `live`, `classes`, `samples` (gan_dist/gallery.py).

        By default `reals`, unless the grid shows data itself.
        """
        return ("reals",) if self.judged in self.fields and not self.shows_data else ()

    def of_classes(self, seed: int, classes: Sequence[int], each: int) -> Tensor:
        """Draw a row of `each` samples for each class, of the same latents: (len(classes) * each, C, H, W) in [-1, 1].

        Raises InputError for a game without classes.
        """
        raise InputError(f"{type(self).__name__} draws no samples of a class")

    has_targets: ClassVar[bool] = True
    """Whether what `generated` makes of a sample has its target in the same sample, of a game that turns images into images."""
    ways: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Ways between sets without pairs: of which field's images `infer` makes images like which field's, {"AB": ("A", "B")}."""
    reconstructs: ClassVar[bool] = False
    """Whether `infer` answers an image by the image itself, which scores of pairs then compare, and `generated` draws others."""

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        """Draw images for a score, one for each number: (len(numbers), C, H, W). `shown` has as many samples of the data set."""
        return self.samples(seed, numbers.start, len(numbers))

    def baseline(self, shown: Batch) -> Tensor | None:
        """Return the inputs as images like the outputs, which scores show beside them; None where that means nothing."""
        return None

    drawn_by: ClassVar[str] = "generator"
    """Section below `networks` of the network that draws from latents."""
    shape: Shape
    """What that network makes."""

    def hand_over(self, way: str = "") -> Handover:
        """Return the network that draws, or that turns images into images on a way. Raises InputError for another way."""
        shape = getattr(self, "shape", None)
        if shape is None or (self.shows_data and not self.reconstructs):
            raise InputError(
                f"{type(self).__name__} hands no network over: it defines no hand_over (docs/extending.md)"
            )
        one_way(way, "from latents")
        space = self.latent_space()
        distribution: Literal["normal", "uniform"] = "uniform" if space.uniform else "normal"
        return Handover(space.network, self.drawn_by, shape, "latents", distribution, encoder=space.encoder)

    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return the averaged network's answer to given images: (N, C, H, W) in [-1, 1].

        Raises InputError for a game that takes no images.
        """
        raise InputError(f"{type(self).__name__} takes no images: draw from it with `gan-dist generate`")

    @property
    def shows_data(self) -> bool:
        """Say whether `pictures` needs samples of the data set."""
        return type(self).infer is not Game.infer


def make_player(
    name: str,
    network: nn.Module,
    optimizer: Optimizer,
    slow: float = 1.0,
    half_life: "int | schedules.Schedule | None" = None,
    attached: Sequence[Statistics] = (),
    ramp: float = RAMP,
) -> Player:
    """Make a player with the optimizer of its section of the config, and a moving average where `half_life` says so."""
    ahead: int | Callable[[int], float] | None = (
        half_life.at if isinstance(half_life, schedules.Schedule) else half_life
    )
    return Player(
        name,
        network,
        functools.partial(optimizer.make, slow=slow),
        average_half_life=ahead,
        average_ramp=ramp,
        clip_norm=optimizer.clip_norm,
        settings=functools.partial(optimizer.settings, slow=slow),
        attached=attached,
    )


@contextlib.contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Seed the networks that are made while the block lasts by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(seed, "weights") % 2**63)
        yield


GROUP = 32
"""Samples drawn together, always: rounding in a network may depend on the batch it sees."""


def in_groups(
    draw: Callable[[Tensor], Tensor], first: int, count: int, device: torch.device, size: int = GROUP
) -> Tensor:
    """Return samples number `first` to `first + count - 1` of those that `draw` makes of (size,) numbers: (count, C, H, W).

    A sample is always drawn with the same others, so it is the same whatever is asked for beside it.
    """
    groups = range(first // size, (first + count - 1) // size + 1)
    samples = [draw(torch.arange(group * size, (group + 1) * size, device=device)) for group in groups]
    start = first - groups.start * size
    return torch.cat(samples)[start : start + count]


def expect(made: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Raise InputError, naming what made it, unless a tensor begins with these sizes. Costs no synchronisation."""
    if not isinstance(made, Tensor) or tuple(made.shape[: len(shape)]) != shape:
        made_shape = tuple(made.shape) if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise InputError(f"{what} gives {made_shape}; a tensor of {', '.join(map(str, shape))} is needed")


def check_networks(config: Config, samples: str = "images", of_images: bool = False) -> None:
    """Raise ValueError for a generator or a discriminator of other samples, or, with `of_images`, a generator of latents."""
    keys: GameKeys = config.game
    for role in ("generator", "discriminator"):
        network: Network = getattr(config.networks, role)
        place = keys.parts[f"networks.{role}"]
        usual = f"set networks.{role}.kind: {place.default}" if isinstance(place, One) else "choose another"
        if network.samples != samples:
            raise ValueError(
                f"networks.{role}.kind = {network.kind} is for {network.samples}, and game.kind: {keys.kind} is played with "
                f"{samples}; {usual}"
            )
        if of_images and role == "generator" and network.of_latents:
            raise ValueError(
                f"networks.{role}.kind = {network.kind} draws from latents, and game.kind: {keys.kind} turns images into "
                f"images; {usual}"
            )


def refuse_dropout(config: Config) -> None:
    """Raise InputError for a generator with dropout, in a game that draws no noise: nothing would be dropped."""
    if rate := getattr(config.networks.generator, "dropout", 0):
        raise InputError(
            f"networks.generator.dropout = {rate:g} has no effect: game.kind: {config.game.kind} draws no noise; set it to 0"
        )


def one_way(way: str, which: str) -> None:
    """Raise InputError for a way given to a game that has only one."""
    if way:
        raise InputError(f"this run goes one way, {which}; remove --way {way}")


def buffers_of(module: nn.Module | None, name: str) -> dict[str, Tensor]:
    """Return the saved buffers of a module as part of a game's state."""
    return {} if module is None else {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
