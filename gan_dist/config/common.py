"""Define the keys that every run has, whatever is played: their types, meanings, units and defaults."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from gan_dist.config import legacy, tree
from gan_dist.config.control import Control
from gan_dist.config.data import Data
from gan_dist.config.evaluate import Evaluate
from gan_dist.config.phases import Span
from gan_dist.config.section import FREE, Positive, Section
from gan_dist.config.start import Start


class Run(Section):
    name: Annotated[str, FREE] = ""
    """What the run is called in its folder and on the dashboard. Default: the config file's name."""
    directory: Annotated[str, FREE] = ""
    """Where everything about the run is kept. Default: runs/<name> under the current folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the initial weights, the order of the samples, all latents and all noise."""
    deadline: Annotated[str, FREE] = ""
    """When to save and stop: a time (2026-11-23T18:30) or a duration from the start (3:50:00). Default: the end of the
    Slurm job less control.margin_seconds, where there is one."""
    fresh: Annotated[bool, FREE] = False
    """Start from nothing: what run.directory holds is moved aside, nothing is deleted. For the command line; a job that Slurm
    starts again goes on all the same."""


class Training(Section):
    images: Annotated[Positive, FREE]
    """When to stop: the number of images the discriminator has been shown. Rounded up to a whole batch."""
    batch: Positive
    """Images in a step over all processes together."""
    micro_batch: Positive
    """Images that pass a network together: BatchNorm's statistics are theirs, at any process count. Divides the batch."""
    micro_batches_per_pass: Annotated[Literal["auto"] | Positive, FREE] = "auto"
    """How many micro-batches go through the networks at once: speed and memory only, as BatchNorm works on each by itself.
    auto: what is fastest here, measured at the first start. strategy: exact takes one. A process that has
    fewer takes those."""
    strategy: Annotated[Literal["ddp", "exact", "zero1", "zero2", "zero3"], FREE] = "ddp"
    """How processes share the work (docs/many-ranks.md). ddp: each holds both networks, gradients are averaged while they
    are computed. exact: likewise, but summed along one fixed tree, so that every process count gives the same bits; it keeps
    training.device, threads and channels_last as the run began. zero1, zero2, zero3: DeepSpeed cuts the optimizers' state,
    then the gradients, then the weights over the processes."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Number format of the networks' arithmetic. bf16 and fp16 compute convolutions and products in 16 bits; weights,
    moments, averages, losses and penalties stay in 32. fp16 needs a GPU. fp64 is for checks."""
    tf32: bool = False
    """Let a GPU round the factors of fp32 products to 10 bits of mantissa (TF32): faster, and not the same numbers. Refused
    on a CPU, which has no such thing."""
    device: Annotated[Literal["auto", "cuda", "cpu"], FREE] = "auto"
    """auto: GPUs where there are some."""
    processes: Annotated[int, Field(ge=0), FREE] = 0
    """How many processes the launcher must start; another count is refused. 0: any."""
    threads: Annotated[int, Field(ge=0), FREE] = 0
    """Threads of each process on a CPU. 0: what the launcher says; with strategy: exact those of the run's first start, as
    they decide about bits."""
    deterministic: Annotated[bool, FREE] = False
    """Only algorithms that give the same bits every time, at some speed on a GPU; what has none raises. strategy: exact
    implies it."""
    channels_last: Annotated[Literal["auto"] | bool, FREE] = True
    """Keep images and weights in memory pixel by pixel (NHWC), which convolutions like; ZeRO keeps weights as they are. auto:
    under ddp what is faster here, measured at the first start, as convolutions in groups may like it less; else true."""
    graphs: Annotated[Literal["auto", "off"], FREE] = "off"
    """Experimental, and not run on a GPU yet. auto: record each phase of a step as one CUDA graph, which is then launched as one;
    on a GPU, with strategy: ddp or exact. What cannot be recorded runs as without, and the run says why. The bits
    are those without, but under ddp at more than 2 ranks, where the sum has another order."""
    compile: Annotated[bool, FREE] = False
    """Experimental, and not run on a GPU yet. Compile losses and penalties together with their gradients by torch.compile; not
    with strategy: exact or ZeRO. What cannot be compiled runs as without, and the run says why. It changes rounding."""

    @property
    def whole_images(self) -> int:
        """`images`, rounded up to a whole batch: where the run ends."""
        return -(-self.images // self.batch) * self.batch

    def check(self, config: "Config") -> None:
        batch, micro, passes = self.batch, self.micro_batch, self.micro_batches_per_pass
        if batch % micro:
            fitting = next(size for size in range(micro, 0, -1) if batch % size == 0)
            raise ValueError(
                f"training.micro_batch = {micro} does not divide training.batch = {batch}; for example {fitting} does"
            )
        if self.strategy == "exact" and passes not in ("auto", 1):
            raise ValueError(
                f"training.micro_batches_per_pass = {passes} would change the bits that training.strategy: exact keeps; "
                "remove it, or set training.strategy: ddp"
            )
        if passes != "auto" and passes > batch // micro:
            raise ValueError(
                f"training.micro_batches_per_pass = {passes} has no effect beyond the {batch // micro} micro-batch(es) of a "
                f"batch; set {batch // micro}, or auto"
            )
        if self.strategy == "exact" and self.compile:
            # on a CPU 1, 2 and 4 ranks had the same bits; on a GPU inductor tunes kernels by timing them
            raise ValueError(
                "training.compile makes kernels for the machine it runs on, and was not proved to keep the bits of "
                "training.strategy: exact; set training.compile: false, or training.strategy: ddp"
            )
        if self.tf32 and (self.device == "cpu" or self.precision == "fp64"):
            what = "device: cpu" if self.device == "cpu" else "precision: fp64"
            raise ValueError(f"training.tf32 has no effect with training.{what}; remove it")
        if self.precision == "fp64" and self.strategy.startswith("zero"):
            raise ValueError(
                "training.precision: fp64 has no ZeRO, which keeps weights in fp32; set training.strategy: ddp or exact, "
                "or training.precision: fp32"
            )
        if self.compile and self.strategy.startswith("zero"):
            raise ValueError(
                f"training.compile was not proved with training.strategy: {self.strategy}; set training.compile: false, "
                "or training.strategy: ddp"
            )


class Checkpoint(Section):
    all_free = True

    every: Positive = 100_000
    """Images between checkpoints. One is always written at the end."""
    keep: Annotated[int, Field(ge=2)] = 2
    """How many of the newest whole checkpoints to keep: at least 2, as the newest may be the one a crash damaged."""
    milestones: Annotated[int, Field(ge=0)] = 0
    """Keep the first checkpoint at or after every so many images for good. 0: none."""
    max_missed: Positive = 3
    """Saves in a row that may fail (a full disk) before the run stops."""


class Track(Section):
    all_free = True

    every: Positive = 10_000
    """Images between two lines of metrics.jsonl, W&B points and console reports."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where a W&B key is set, else offline: written at the end of each start, read with `wandb leet`."""
    project: str = ""
    """W&B project. Default: $WANDB_PROJECT, else gan_dist."""

    if TYPE_CHECKING:  # compose.py adds it
        panels: Section = Section()


class Sample(Section):
    all_free = True

    every: Positive = 50_000
    """Images between two sample grids. One is always drawn at the end."""
    count: Positive = 64
    """Samples in a grid; their latents stay the same over the run."""


class Config(Section):
    """The keys of a run. compose.py adds the sections of the game that is played, and of its parts."""

    run: Run = Run()
    """The run itself."""
    data: Data
    """Where the images come from."""
    training: Training
    """How much, how fast, on what."""
    start: Start = Start()
    """What the run begins with."""
    phases: dict[str, Span] = Field({})
    """From when to when players are trained, in images: {discriminator: {begin: 20_000}}. Outside of its span a player stays as
    it is, and costs no updates. Default: all of them over the whole run."""
    checkpoint: Checkpoint = Checkpoint()
    """What is kept."""
    control: Control = Control()
    """When not to go on."""
    track: Track = Track()
    """What is reported."""
    sample: Sample = Sample()
    """Pictures while training."""
    evaluate: Evaluate = Evaluate()
    """Scores while training."""

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    """SHA-256 of the user's file of each kind that lies in one."""
    _contents: dict[str, str] = PrivateAttr(default_factory=dict)
    """{key: SHA-256} of what keys name that counts by its content: weights to begin with, files of helper networks."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the sections that compose.py adds: `config.game`, `config.networks.generator`, ..."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for section in tree.sections(self):
            try:
                section.check(self)
            except ValueError:
                raise
            except Exception as error:  # a user's check may raise anything
                raise ValueError(f"{type(section).__name__}.check fails: {type(error).__name__}: {error}") from error
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # the class is composed at run time: another process composes it again
        from gan_dist.config.compose import rebuild

        return rebuild, (self.model_dump(mode="json"), self._sources, self._contents)

    @property
    def directory(self) -> Path:
        return Path(self.run.directory or Path("runs") / self.run.name)

    @property
    def cache(self) -> Path:
        return Path(self.data.cache) if self.data.cache else default_cache()

    @property
    def sources(self) -> dict[str, str]:
        """SHA-256 of the user's file of each kind that lies in one."""
        return self._sources

    @property
    def contents(self) -> dict[str, str]:
        """{key: SHA-256} of what keys name that counts by its content, once that was looked at."""
        return self._contents

    def with_contents(self, contents: Mapping[str, str]) -> "Config":
        """Return a copy whose keys of these names count by the content that they name."""
        copied = self.model_copy()
        copied._contents = dict(contents)
        return copied

    def with_(self, changes: Mapping[str, Any]) -> "Config":
        """Return a copy with other values of some keys: with_({"training.batch": 8}). Contradictions are not looked for."""
        copied: Config = tree.changed(self, changes)
        return copied

    def with_classes(self, count: Callable[[], int]) -> "Config":
        """Return a copy with as many classes as `count` says, where data.labels is on and data.classes leaves it to the data."""
        return self.with_({"data.classes": count()}) if self.data.labels and not self.data.classes else self

    def key_of(self, section: Section) -> str:
        """Return the key of a section: penalties.r1, or the name that a user gave to a part of that kind."""
        return next(key for key, each in tree.named(self) if each is section)

    def flat(self) -> dict[str, Any]:
        """Every key with its value: {"training.batch": 64, ...}."""
        return dict(tree.flat(self, self.model_dump(mode="json")))

    def mathematics(self) -> dict[str, Any]:
        """Return the keys that decide what is computed; the others may change when a run goes on.

        A kind in a user's file is named by its class and by the hash of the file, wherever it lies.
        """
        free = {key for key, is_free in tree.leaves(self) if is_free}
        keys = {key: self._without_place(key, value) for key, value in self.flat().items() if key not in free}
        keys |= {key: f"content with SHA-256 {digest[:16]}" for key, digest in self._contents.items() if key in keys}
        return {**keys, **dict(tree.orders(self))}

    def _without_place(self, key: str, value: Any) -> Any:
        """Return a kind in a user's file by class and content; schedules have kinds inside of their value."""
        if isinstance(value, dict):
            return {name: self._without_place(name, each) for name, each in value.items()}
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            return [self._without_place(key, each) for each in value]
        if key.rpartition(".")[2] == "kind" and value in self._sources:
            return f"{value.rpartition(':')[2]} of a file with SHA-256 {self._sources[value][:16]}"
        return value

    def fingerprint(self) -> str:
        """Return a hash of what decides the mathematics.

        Keys at their default do not count, so that a version with more keys knows its older runs; neither do new names of
        old keys (legacy.py).
        """
        usual = {key: field.default for key, field in tree.fields(type(self)) if not field.is_required()}
        chosen = {key: value for key, value in self.mathematics().items() if key not in usual or value != usual[key]}
        chosen = legacy.names(chosen, self.mathematics())
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Config, new: Config) -> list[str]:
    """Return the mathematical keys in which two configs differ, each with both values."""
    before, after = (dict(tree.spread(config.mathematics())) for config in (old, new))
    keys = dict.fromkeys([*before, *after])
    return [
        f"{key}: the run has {before.get(key)!r}, asked for is {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def other_bits(chosen: Mapping[str, Any], config: Config) -> str:
    """Return an error message if `config` changes device, threads or memory format of an `exact` run, else "".

    `chosen` is what the run's first start used. Keys that are left to the machine never conflict.
    """
    training = config.training
    asked = {"device": training.device, "threads": training.threads, "channels_last": training.channels_last}
    left = {"device": "auto", "threads": 0, "channels_last": "auto"}
    other = {key: value for key, value in asked.items() if value != left[key] and value != chosen.get(key, value)}
    if training.strategy != "exact" or not other:
        return ""
    wanted = " and ".join(f"training.{key} = {json.dumps(value)}" for key, value in other.items())
    began = " and ".join(f"training.{key}: {json.dumps(chosen[key])}" for key in other)
    return f"{wanted} would change the bits that training.strategy: exact keeps; set {began}, as the run began, or another strategy"


def default_cache() -> Path:
    """Return the folder for indexes that cannot lie beside their shards, and for copies of remote shards."""
    if own := os.environ.get("GAN_DIST_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "gan_dist"
    try:
        return Path.home() / ".cache" / "gan_dist"
    except RuntimeError:  # no HOME, and a user id that nobody knows, as in containers; mostly no cache is needed
        return Path(tempfile.gettempdir()) / f"gan_dist-{os.getuid()}"
