"""Every key of a run: its type, meaning, unit and default, checked where it is defined."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_another_value(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise ValueError(f"{name} must not be true or false (what YAML also writes yes, no, on, off)")
        return value


class Run(Section):
    name: str = ""
    """What the run is called in its folder and on the dashboard. Default: the config file's name."""
    directory: str = ""
    """Where everything about the run is kept. Default: runs/<name> under the current folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the initial weights, the order of the samples, all latents and all noise."""
    deadline: str = ""
    """When to save and stop: a time (2026-11-23T18:30) or a duration from the start (3:50:00). Default: the end of the
    Slurm job less control.margin_seconds, where there is one."""
    fresh: bool = False
    """Begin anew: what run.directory holds is moved aside, nothing is deleted. For the command line; a job that Slurm
    starts again goes on all the same."""


class Data(Section):
    shards: str | list[str]
    """WebDataset shards: a folder of .tar files, a file, a brace pattern (train-{00000..00099}.tar), or a list of these."""
    source: str = ""
    """What to pack into data.shards when nothing is there yet: a SOURCE of `gan-dist pack`, for example `digits`."""
    image: str = "auto"
    """Which member of a sample is the image, by extension (jpg, or b.jpg where keys share a first dot). auto: the only image there is."""
    resolution: Annotated[int, Field(ge=4)]
    """Height and width of the training images in pixels. Larger stored images are centre-cropped and reduced by area."""
    channels: Literal[1, 3]
    """1 for grey, 3 for RGB; stored images must have as many."""
    labels: bool = False
    """Train on class labels: the integer in each sample's .cls member, or `label` in its .json member."""
    classes: Annotated[int, Field(ge=0)] = 0
    """Number of classes, with data.labels. 0: the largest label found plus one."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2, anew in every epoch."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read and decode, for each training process. 0: the training process does it. Changes no result."""
    streams: Positive = 1
    """Parts that the samples are cut into; slot j of a batch always reads part j * streams // batch. 1: a full shuffle."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Part of the samples that may turn out unreadable, each replaced by another; beyond it the run stops. 0: none."""
    cache: str = ""
    """Folder for indexes of shards whose own folder cannot be written. Default: $XDG_CACHE_HOME/gan_dist or ~/.cache/gan_dist."""


class Adam(Section):
    """Adam's settings for one player (Kingma and Ba, 2015)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's step size."""
    beta1: Fraction = 0.5
    """Decay of the gradient's running mean; 0.5 as in DCGAN (Radford et al., 2016)."""
    beta2: Fraction = 0.999
    """Decay of the squared gradient's running mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""


class Average(Section):
    half_life: Positive = 10_000
    """Half-life of the generator's moving average (EMA), in images. While fewer than 20 times as many have been
    seen it is a twentieth of the images seen, so that the average forgets the random start."""


class Generation(Section):
    """Images from random latents, optionally of a given class."""

    kind: Literal["generation"] = "generation"
    """The game that is played."""
    networks: Literal["article", "dcgan"] = "dcgan"
    """article: the 28x28 grey digit networks (docs/article.md). dcgan: Radford et al. (2016), any power of two from 8, grey or RGB."""
    latent: Positive = 100
    """Numbers in a latent vector, each standard normal."""
    base_channels: Positive = 64
    """DCGAN's width: channels of the layers next to the image; the layers inside have 2, 4, 8 times as many."""
    loss: Literal["minimax", "nonsaturating"] = "nonsaturating"
    """The generator's loss (Goodfellow et al., 2014): minimax descends log(1 - D(G(z))), nonsaturating -log D(G(z))."""
    discriminator_steps: Positive = 1
    """Discriminator updates for each generator update; each takes a batch of its own."""
    generator: Adam = Adam()
    """The generator's optimizer."""
    discriminator: Adam = Adam()
    """The discriminator's optimizer."""
    average: Average = Average()
    """The moving average of the generator's weights, which samples are drawn from."""


class Training(Section):
    images: Positive
    """When to stop: the number of images the discriminator has been shown. Rounded up to a whole batch."""
    batch: Positive
    """Images in a step over all processes together."""
    micro_batch: Positive
    """Images that pass a network together: BatchNorm's statistics are theirs, at any process count. Divides the batch."""
    strategy: Literal["ddp", "exact"] = "ddp"
    """How processes share the work. ddp: each holds both networks, gradients are averaged while they are computed. exact:
    likewise, but summed along one fixed tree, so that every process count gives the same bits."""
    precision: Literal["fp32", "fp64"] = "fp32"
    """Number format of weights and arithmetic; fp64 is for checks."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: GPUs where there are some."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, at some speed on a GPU; what has none raises. strategy: exact
    implies it."""

    @property
    def whole_images(self) -> int:
        """`images`, rounded up to a whole batch: where the run ends."""
        return -(-self.images // self.batch) * self.batch


class Checkpoint(Section):
    every: Positive = 100_000
    """Images between checkpoints. One is always written at the end."""
    keep: Annotated[int, Field(ge=2)] = 2
    """How many of the newest whole checkpoints to keep: at least 2, as the newest may be the one a crash damaged."""
    milestones: Annotated[int, Field(ge=0)] = 0
    """Keep the first checkpoint at or after every so many images for good. 0: none."""
    max_missed: Positive = 3
    """Saves in a row that may fail (a full disk) before the run stops."""


class Control(Section):
    hang_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A process that makes no progress for so long ends the job, with its name and its stack in RUN/logs."""
    max_bad_steps: Positive = 20
    """Updates of a player in a row that may be skipped for a loss or gradient that is not finite; then the run goes back
    to its last checkpoint, once, and the next time it stops."""
    desync_every: Annotated[int, Field(ge=0)] = 0
    """Images between two comparisons of the weights over processes, beside the one at each save. 0: at saves only."""
    margin_seconds: Annotated[float, Field(ge=0)] = 120.0
    """How long before the end of a Slurm job to save and stop."""


class Track(Section):
    every: Positive = 10_000
    """Images between two lines of metrics.jsonl, W&B points and console reports."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where a W&B key is set, else offline (read it with `wandb leet`)."""
    project: str = "gan_dist"
    """W&B project."""


class Sample(Section):
    every: Positive = 50_000
    """Images between two sample grids. One is always drawn at the end."""
    count: Positive = 64
    """Samples in a grid; their latents stay the same over the run."""


class Config(Section):
    run: Run = Run()
    """The run itself."""
    data: Data
    """Where the images come from."""
    game: Generation = Generation()
    """The game: its players, losses and optimizers."""
    training: Training
    """How much, how fast, on what."""
    checkpoint: Checkpoint = Checkpoint()
    """What is kept."""
    control: Control = Control()
    """When not to go on."""
    track: Track = Track()
    """What is reported."""
    sample: Sample = Sample()
    """Pictures while training."""

    @field_validator("data")
    @classmethod
    def _labels_and_classes(cls, data: Data) -> Data:
        if data.classes and not data.labels:
            raise ValueError(
                f"data.classes = {data.classes} has no effect without data.labels: true; set it or remove data.classes"
            )
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        batch, micro = self.training.batch, self.training.micro_batch
        if batch % micro:
            fitting = next(size for size in range(micro, 0, -1) if batch % size == 0)
            raise ValueError(
                f"training.micro_batch = {micro} does not divide training.batch = {batch}; for example {fitting} does"
            )
        if batch % self.data.streams:
            raise ValueError(f"data.streams = {self.data.streams} does not divide training.batch = {batch}")
        size, channels = self.data.resolution, self.data.channels
        if self.game.networks == "article" and (size, channels) != (28, 1):
            raise ValueError(
                "game.networks = article draws 28x28 grey images only; set data.resolution: 28 and data.channels: 1, "
                "or game.networks: dcgan"
            )
        if self.game.networks == "article" and self.game.base_channels != Generation().base_channels:
            raise ValueError("game.base_channels has no effect with game.networks = article; remove it")
        if self.game.networks == "dcgan" and (size < 8 or size & (size - 1)):
            raise ValueError(
                f"game.networks = dcgan needs a power of two from 8 as data.resolution, not {size}; "
                f"for example {max(8, 1 << (size.bit_length() - 1))}"
            )
        return self

    @property
    def directory(self) -> Path:
        return Path(self.run.directory or Path("runs") / self.run.name)

    @property
    def cache(self) -> Path:
        return Path(self.data.cache) if self.data.cache else default_cache()

    def flat(self) -> dict[str, Any]:
        """Every key with its value: {"training.batch": 64, ...}."""
        return dict(_flatten(self.model_dump(mode="json")))

    def mathematics(self) -> dict[str, Any]:
        """The keys that decide what is computed; the others may change when a run goes on."""
        return {key: value for key, value in self.flat().items() if not key.startswith(FREE_KEYS)}

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.mathematics(), sort_keys=True).encode()).hexdigest()[:16]


FREE_KEYS = (
    "run.name",
    "run.directory",
    "run.deadline",
    "run.fresh",
    "data.shards",
    "data.source",
    "data.workers",
    "data.cache",
    "data.max_bad_fraction",
    "training.images",
    "training.strategy",
    "training.device",
    "training.deterministic",
    "checkpoint.",
    "control.",
    "track.",
    "sample.",
)
"""Keys, or beginnings of keys, that may differ when a run goes on: they change paths, speed and reports."""


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def fields(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf key with its pydantic field: ("training.batch", FieldInfo), ... in order."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def differences(old: Config, new: Config) -> list[str]:
    """The mathematical keys in which two configs differ, each with both values."""
    before, after = old.mathematics(), new.mathematics()
    keys = dict.fromkeys([*before, *after])
    return [
        f"{key}: the run has {before.get(key)!r}, asked for is {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def default_cache() -> Path:
    """Where indexes go that cannot lie beside their shards."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gan_dist"
