"""Every key of a run: its type, meaning, unit and default, checked where it is defined."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from gan_dist.config.games import Generation
from gan_dist.config.section import Positive, Section


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


class DataField(Section):
    """One of several images of a sample."""

    member: str
    """Ending of the image after the sample's key: b.png."""
    channels: Literal[0, 1, 3] = 0
    """1 for grey, 3 for RGB. 0: as data.channels."""


class Data(Section):
    shards: str | list[str]
    """WebDataset shards: a folder of .tar files, a file, a pattern (train-{00000..00099}.tar or train-*.tar), a URL, or a list
    of these. pipe:COMMAND needs data.allow_pipe."""
    allow_pipe: bool = False
    """Run the shell commands in data.shards (pipe:COMMAND). For the command line alone: a config of another person must not
    run commands unasked."""
    source: str = ""
    """What to pack into data.shards when nothing is there yet: a SOURCE of `gan-dist pack`, for example `digits`."""
    image: str = "auto"
    """Which member of a sample is the image, by extension (jpg, or b.jpg where keys share a first dot). auto: the only image there is."""
    fields: dict[str, DataField] = {}  # noqa: RUF012  (pydantic copies it)
    """Several images of each sample, by the names under which the game asks for them: {a: {member: a.png}, b: {member:
    b.png, channels: 1}} where shards hold KEY.a.png and KEY.b.png. Default: one field, `image`, which data.image chooses."""
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
    """Folder for copies of remote shards, and for indexes of shards whose own folder cannot be written. Default:
    $GAN_DIST_CACHE (the Slurm templates set it to a folder of the node), $XDG_CACHE_HOME/gan_dist or ~/.cache/gan_dist."""


class Training(Section):
    images: Positive
    """When to stop: the number of images the discriminator has been shown. Rounded up to a whole batch."""
    batch: Positive
    """Images in a step over all processes together."""
    micro_batch: Positive
    """Images that pass a network together: BatchNorm's statistics are theirs, at any process count. Divides the batch."""
    micro_batches_per_pass: Literal["auto"] | Positive = "auto"
    """How many micro-batches go through the networks at once: speed and memory only, as BatchNorm works on each by itself.
    auto: what is fastest here, measured at the first start. strategy: exact takes one. A process that has
    fewer takes those."""
    strategy: Literal["ddp", "exact", "zero1", "zero2", "zero3"] = "ddp"
    """How processes share the work (docs/engines.md). ddp: each holds both networks, gradients are averaged while they
    are computed. exact: likewise, but summed along one fixed tree, so that every process count gives the same bits; it keeps
    training.device, threads and channels_last as the run began. zero1, zero2, zero3: DeepSpeed cuts the optimizers' state,
    then the gradients, then the weights over the processes."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Number format of the networks' arithmetic. bf16 and fp16 compute convolutions and products in 16 bits; weights,
    moments, averages, losses and penalties stay in 32. fp16 needs a GPU. fp64 is for checks."""
    tf32: bool = False
    """Let a GPU round the factors of fp32 products to 10 bits of mantissa (TF32): faster, and not the same numbers. Refused
    on a CPU, which has no such thing."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: GPUs where there are some."""
    processes: Annotated[int, Field(ge=0)] = 0
    """How many processes the launcher must start; another count is refused. 0: any."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each process on a CPU. 0: what the launcher says; with strategy: exact those of the run's first start, as
    they decide about bits."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, at some speed on a GPU; what has none raises. strategy: exact
    implies it."""
    channels_last: bool = True
    """Keep images and weights in memory pixel by pixel (NHWC), which convolutions like; ZeRO keeps weights as they are."""
    compile: bool = False
    """Compile the networks by torch.compile; not with a penalty that differentiates twice, nor with strategy: exact or ZeRO."""

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
    def _one_choice_of_images(cls, data: Data) -> Data:
        if data.fields and data.image != "auto":
            raise ValueError(f"data.image = {data.image} has no effect with data.fields; remove one of them")
        if "class" in data.fields:
            raise ValueError("data.fields names a field class, which data.labels makes; choose another name")
        return data

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
        training, batch, micro = self.training, self.training.batch, self.training.micro_batch
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
        if training.strategy == "exact" and training.micro_batches_per_pass not in ("auto", 1):
            raise ValueError(
                f"training.micro_batches_per_pass = {training.micro_batches_per_pass} would change the bits that "
                "training.strategy: exact keeps; remove it, or set training.strategy: ddp"
            )
        parts, passes = training.batch // training.micro_batch, training.micro_batches_per_pass
        if passes != "auto" and passes > parts:
            raise ValueError(
                f"training.micro_batches_per_pass = {passes} has no effect beyond the {parts} micro-batch(es) of a batch; set "
                f"{parts}, or auto"
            )
        if training.strategy == "exact" and training.compile:
            # on a CPU 1, 2 and 4 processes had the same bits; on a GPU inductor tunes kernels by timing them
            raise ValueError(
                "training.compile makes kernels for the machine it runs on, and was not proved to keep the bits of "
                "training.strategy: exact; set training.compile: false, or training.strategy: ddp"
            )
        if training.precision in ("fp32", "fp64") and not self.game.penalty.full_precision:
            raise ValueError(
                f"game.penalty.full_precision: false has no effect with training.precision: {training.precision}; remove it, "
                "or set training.precision: bf16"
            )
        if self.game.penalty.method == "finite_difference" and not self.game.penalty.full_precision:
            raise ValueError(
                "game.penalty.method: finite_difference subtracts two logits that are nearly the same, of which 16 bits leave "
                "only rounding; remove game.penalty.full_precision: false, or set game.penalty.method: exact"
            )
        if self.game.networks == "article" and training.micro_batch == 1:
            raise ValueError(
                "game.networks: article normalises single numbers over the samples of a micro-batch, which takes two; set "
                "training.micro_batch: 2 or more"
            )
        if training.tf32 and (training.device == "cpu" or training.precision == "fp64"):
            what = "device: cpu" if training.device == "cpu" else "precision: fp64"
            raise ValueError(f"training.tf32 has no effect with training.{what}; remove it")
        if training.precision == "fp64" and training.strategy.startswith("zero"):
            raise ValueError(
                "training.precision: fp64 has no ZeRO, which keeps weights in fp32; set training.strategy: ddp or exact, "
                "or training.precision: fp32"
            )
        if training.compile and training.strategy.startswith("zero"):
            raise ValueError(
                f"training.compile was not proved with training.strategy: {training.strategy}; set training.compile: false, "
                "or training.strategy: ddp"
            )
        if training.compile and self.game.penalty.weights and self.game.penalty.method == "exact":
            raise ValueError(
                "training.compile cannot differentiate twice, as game.penalty.method: exact needs; set training.compile: "
                "false, or game.penalty.method: finite_difference"
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
        """A hash of what decides the mathematics. Keys at their default are left out, so that a version with more keys
        knows its older runs."""
        usual = {key: field.default for key, field in fields() if not field.is_required()}
        chosen = {key: value for key, value in self.mathematics().items() if key not in usual or value != usual[key]}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


FREE_KEYS = (
    "run.name",
    "run.directory",
    "run.deadline",
    "run.fresh",
    "data.shards",
    "data.allow_pipe",
    "data.source",
    "data.workers",
    "data.cache",
    "data.max_bad_fraction",
    "training.images",
    "training.micro_batches_per_pass",
    "training.strategy",
    "training.device",
    "training.processes",
    "training.threads",
    "training.deterministic",
    "training.channels_last",
    "training.compile",
    "checkpoint.",
    "control.",
    "track.",
    "sample.",
)
"""Keys, or beginnings of keys, that may differ when a run goes on: they change paths, speed and reports. What of them moves
rounding, `exact` keeps all the same (other_bits)."""


def _flatten(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, _ in fields():
        value: Any = tree
        for name in key.split("."):
            value = value[name]
        yield key, value


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


def other_bits(kept: Mapping[str, Any], config: Config) -> str:
    """What of a config `strategy: exact` refuses, as it would move the bits of a run whose first start `kept` these values
    of training.*; empty where nothing does. Keys that leave it to the machine ask for nothing."""
    training = config.training
    asked = {"device": training.device, "threads": training.threads, "channels_last": training.channels_last}
    left = {"device": "auto", "threads": 0, "channels_last": None}
    other = {key: value for key, value in asked.items() if value != left[key] and value != kept.get(key, value)}
    if training.strategy != "exact" or not other:
        return ""
    wanted = " and ".join(f"training.{key} = {json.dumps(value)}" for key, value in other.items())
    began = " and ".join(f"training.{key}: {json.dumps(kept[key])}" for key in other)
    return f"{wanted} would change the bits that training.strategy: exact keeps; set {began}, as the run began, or another strategy"


def default_cache() -> Path:
    """Where indexes go that cannot lie beside their shards, and copies of remote shards."""
    if own := os.environ.get("GAN_DIST_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "gan_dist"
    try:
        return Path.home() / ".cache" / "gan_dist"
    except RuntimeError:  # no HOME, and a user id that nobody knows, as in containers; mostly no cache is needed
        return Path(tempfile.gettempdir()) / f"gan_dist-{os.getuid()}"
