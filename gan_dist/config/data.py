"""Define the keys of a data set: where its samples are, and what training sees of them."""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from gan_dist import units
from gan_dist.config.data_field import DataField
from gan_dist.config.section import FREE, Positive, Section

if TYPE_CHECKING:
    from gan_dist.config.common import Config


def _image_size(value: int | str) -> int | str:
    size = units.image_size(value)
    if min(size) < 4:
        raise ValueError(f"{value} is too small; 4 pixels are the least")
    return size[0] if size[0] == size[1] else units.pixels(size)


def _load_size(value: int | str) -> int | str:
    return 0 if str(value) == "0" else _image_size(value)


def _limit(value: int | str) -> int | str:
    if value != "auto":
        units.bytes_of(str(value))
    return value


class Data(Section):
    drawn: ClassVar[bool] = False
    """Whether there is no data set, as the game draws its own samples (no_data.py)."""

    shards: Annotated[str | list[str] | dict[str, str | list[str]], FREE]
    """WebDataset shards: a folder of .tar files, a file, a pattern (train-{00000..00099}.tar or train-*.tar), a URL, or a list
    of these. pipe:COMMAND needs data.allow_pipe. {A: SHARDS, B: SHARDS}: sets without pairs, each with its own order, for games
    that ask for images by these names."""
    allow_pipe: Annotated[bool, FREE] = False
    """Run the shell commands in data.shards (pipe:COMMAND). For the command line alone: a config of another person must not
    run commands unasked."""
    remote: Annotated[Literal["ranges", "copy"], FREE] = "ranges"
    """How shards on servers are read. ranges: what a batch needs, when it needs it. copy: each shard is copied whole into
    data.cache before the training, as servers that read no ranges need."""
    patience: Annotated[float, Field(ge=0), FREE] = 0.0
    """Seconds for which a training waits for a server that does not answer; then it saves and stops with exit code 75. 0: half of
    control.hang_seconds."""
    source: Annotated[str, FREE] = ""
    """What to pack into data.shards when nothing is there yet: a SOURCE of `gan-dist pack`, for example `digits`."""
    image: str = "auto"
    """Which member of a sample is the image, by extension (jpg, or b.jpg where keys share a first dot). auto: the only image there is."""
    fields: dict[str, DataField] = Field({})
    """Several images of each sample, by the names under which the game asks for them: {a: {member: a.png}, b: {member:
    b.png, channels: 1}} where shards hold KEY.a.png and KEY.b.png. Default: one field, `image`, which data.image chooses."""
    resolution: Annotated[int | str, AfterValidator(_image_size)]
    """Size of the training images in pixels: 64 for a square, 96x64 for width x height. Larger stored images are cropped at
    the centre and reduced by area."""
    crop: Literal["centre", "random"] = "centre"
    """random: training sees a part of each image, at a place that is drawn again in every epoch and is the same for all fields
    of a sample. Grids and scores see the middle; with data.load_size the whole, cropped to the shape and reduced."""
    load_size: Annotated[int | str, AfterValidator(_load_size)] = 0
    """Size in pixels, as data.resolution, that images are cropped at the centre and resized to before a part of them is cut
    out at random (pix2pix: 286 for 256). 0: parts are cut out of the images as they are stored."""
    channels: Literal[1, 3, 4]
    """1 for grey, 3 for RGB, 4 for RGB with transparency (RGBA); stored images must have as many."""
    labels: bool = False
    """Train on class labels: the integer in each sample's .cls member, or `label` in its .json member."""
    classes: Annotated[int, Field(ge=0)] = 0
    """Number of classes, with data.labels. 0: the largest label found plus one."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2, drawn again in every epoch."""
    workers: Annotated[int, Field(ge=0), FREE] = 2
    """Processes that read and decode, for each training process. 0: the training process does it. Changes no result."""
    resident: Annotated[Literal["no", "host", "device", "auto"], FREE] = "no"
    """Keep decoded samples (uint8) in memory, so that each is decoded once in a start: host in memory that the processes of a
    machine share, device on the GPU once all are there. auto: device where they take at most half of its memory, else host,
    else no. Changes no result."""
    streams: Positive = 1
    """Parts that the samples are cut into; slot j of a batch always reads part j * streams // batch. 1: a full shuffle."""
    order: Literal["full", "blocks"] = "full"
    """full: any sample may follow any other. blocks: runs of neighbouring samples are shuffled, and within a window of such
    blocks their samples, so that shards are read in large pieces: for object stores and network disks."""
    block: Positive = 64
    """Neighbouring samples of a block, with data.order: blocks. Some MiB of images are a good size."""
    window: Positive = 256
    """Blocks whose samples are mixed, with data.order: blocks. Two samples of a batch are of one block in 1 case of so many."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1), FREE] = 0.001
    """Part of the samples that may turn out unreadable, each replaced by another; beyond it the run stops. 0: none."""
    cache: Annotated[str, FREE] = ""
    """Folder for copies of remote shards, and for indexes of shards whose own folder cannot be written. Default:
    $GAN_DIST_CACHE (the Slurm templates set it to a folder of the node), $XDG_CACHE_HOME/gan_dist or ~/.cache/gan_dist."""
    cache_limit: Annotated[int | str, AfterValidator(_limit), FREE] = "auto"
    """Bytes of blocks of remote shards that this machine keeps in data.cache, for all runs together: 20GiB, for example. They
    are fetched before they are needed, and what is needed last goes first. 0: none. auto: 20 GiB, or half of what is free there."""
    cache_local: Annotated[bool, FREE] = False
    """Keep blocks of local shards as well: for shards on a network disk (Lustre, NFS), with data.cache on one of the machine."""

    @field_validator("resident", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # what YAML makes of it

    @property
    def cache_bytes(self) -> int | None:
        """Bytes that the cache of blocks may have; None: what is free decides."""
        return None if self.cache_limit == "auto" else units.bytes_of(str(self.cache_limit))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the training images."""
        return units.image_size(self.resolution)

    @property
    def sets(self) -> dict[str, str | list[str]]:
        """Shards of each set by name; "" is the name of the only one whose samples have all fields."""
        return self.shards if isinstance(self.shards, dict) else {"": self.shards}

    def members(self, name: str = "") -> dict[str, str]:
        """Return the image fields of a set, each with the member of a sample that holds it."""
        if name:
            return {name: self.fields[name].member if name in self.fields else "auto"}
        alone = "target" if self.degradations else "image"
        return {name: field.member for name, field in self.fields.items()} or {alone: self.image}

    @property
    def images(self) -> tuple[str, ...]:
        """Names of all image fields."""
        made = ("input",) if self.degradations else ()
        return (*(field for name in self.sets for field in self.members(name)), *made)

    @property
    def degradations(self) -> tuple[Any, ...]:
        """Steps that make the field `input` of the image, of a game with a place for them (degrade/); none elsewhere."""
        found: tuple[Any, ...] = getattr(self, "degrade", ())
        return found

    def scale_of(self, name: str) -> int:
        """Return how many times smaller the sides of a field are than `size`."""
        if name == "input" and self.degradations:
            return math.prod(step.shrinks for step in self.degradations)
        field = self.fields.get(name)
        return field.scale if field else 1

    def size_of(self, name: str) -> tuple[int, int]:
        """Return height and width of the training images of a field."""
        scale = self.scale_of(name)
        return self.size[0] // scale, self.size[1] // scale

    @property
    def loaded(self) -> tuple[int, int] | None:
        """Height and width that images are resized to before they are cropped at random; None: as they are."""
        return units.image_size(self.load_size) if self.load_size else None

    def seen(self, name: str) -> int:
        """Return how many channels of a field a network sees: of a label map one for each class."""
        if name == "input" and self.degradations:
            return functools.reduce(lambda channels, step: step.channels_of(channels), self.degradations, self.channels)
        field = self.fields.get(name)
        return self.channels if field is None else field.classes or field.channels or self.channels

    def check(self, config: "Config") -> None:
        if self.fields and self.image != "auto":
            raise ValueError(f"data.image = {self.image} has no effect with data.fields; remove one of them")
        if "class" in self.fields:
            raise ValueError("data.fields names a field class, which data.labels makes; choose another name")
        if isinstance(self.shards, dict):
            self._check_sets(self.shards)
        elif auto := [name for name, field in self.fields.items() if field.member == "auto"]:
            raise ValueError(
                f"data.fields.{auto[0]} names no member; set data.fields.{auto[0]}.member: b.png, for example"
            )
        for name, field in self.fields.items():
            if problem := field.label_problem():
                raise ValueError(f"data.fields.{name}: {problem}")
        if self.load_size and self.crop != "random":
            raise ValueError(
                f"data.load_size = {self.load_size} has no effect without data.crop: random; set it, or remove data.load_size"
            )
        if self.loaded and (self.loaded[0] < self.size[0] or self.loaded[1] < self.size[1]):
            raise ValueError(
                f"data.resolution = {self.resolution} is a crop larger than the images that data.load_size = {self.load_size} makes; make "
                "one of them the other's size"
            )
        if self.resident != "no" and self.crop == "random":
            raise ValueError(
                f"data.resident = {self.resident} keeps one image of each sample, and data.crop = random cuts another part "
                "each time; set data.resident: no"
            )
        if self.classes and not self.labels:
            raise ValueError(
                f"data.classes = {self.classes} has no effect without data.labels: true; set it or remove data.classes"
            )
        if self.patience >= config.control.hang_seconds:
            raise ValueError(
                f"data.patience = {self.patience:g} is not less than control.hang_seconds = {config.control.hang_seconds:g}, after "
                "which the other processes take one that waits for data for dead; make data.patience smaller"
            )
        if self.order == "full":
            for key in ("block", "window"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"data.{key} = {getattr(self, key)} has no effect with data.order: full; set data.order: blocks, or "
                        f"remove data.{key}"
                    )
        if config.training.batch % self.streams:
            raise ValueError(f"data.streams = {self.streams} does not divide training.batch = {config.training.batch}")
        self._check_scales()

    def _check_scales(self) -> None:
        """Raise ValueError where fields of different sizes, or steps that degrade, do not fit the other keys."""
        for name in self.images:
            if any(side % self.scale_of(name) for side in self.size):
                height, width = (max(1, side // self.scale_of(name)) * self.scale_of(name) for side in self.size)
                raise ValueError(
                    f"data.resolution = {self.resolution} is no multiple of {self.scale_of(name)}, by which {name} is smaller; set "
                    f"data.resolution: {units.pixels((height, width))}"
                )
        if any(field.scale > 1 for field in self.fields.values()) and (self.crop != "random" or self.load_size):
            raise ValueError(
                "data.fields with a scale are cut out as they are stored; set data.crop: random, and data.load_size: 0"
            )
        if not self.degradations:
            return
        self.seen("input")
        if self.fields or isinstance(self.shards, dict):
            raise ValueError(
                "data.degrade makes the input of one image, and data.fields names more; remove one of them, and choose the "
                "image by data.image"
            )
        if self.resident != "no":
            raise ValueError(
                f"data.resident = {self.resident} keeps decoded samples, and data.degrade makes others of them each time; set "
                "data.resident: no"
            )

    def _check_sets(self, sets: Mapping[str, object]) -> None:
        """Raise ValueError for keys that have no effect on, or no meaning for, sets without pairs."""
        if not sets or "" in sets or "class" in sets:
            raise ValueError("data.shards names sets: give each a name of its own, data.shards: {A: SHARDS, B: SHARDS}")
        if unknown := [name for name in self.fields if name not in sets]:
            raise ValueError(f"data.fields names {unknown[0]}, and data.shards the sets {', '.join(sets)}; remove it")
        if self.image != "auto":
            raise ValueError(f"data.image = {self.image} has no effect on sets; set data.fields.NAME.member")
        if self.source:
            raise ValueError(
                "data.source packs one set; pack each by `gan-dist pack SOURCE FOLDER`, and remove data.source"
            )
        if self.labels:
            raise ValueError(
                "data.labels are of samples of one set, and data.shards names several; set data.labels: false"
            )
        if self.resident != "no":
            raise ValueError(f"data.resident = {self.resident} keeps samples of one set; set data.resident: no")
