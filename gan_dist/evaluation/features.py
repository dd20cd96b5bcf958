"""Define what an extractor of features is: a network that a score looks at images with. A new one is one class."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import frozen, rng
from gan_dist.config.section import Part
from gan_dist.errors import InputError
from gan_dist.evaluation.ranks import Ranks, full_precision

if TYPE_CHECKING:
    from gan_dist.config import Config

Resize = Literal["pil-bicubic", "tf1-bilinear", "area", "none"]


@dataclasses.dataclass(frozen=True)
class Features:
    """An extractor that is ready."""

    of: Callable[[Tensor], Tensor]
    """Images (N, C, H, W) uint8 to features (N, D) float32."""
    facts: Mapping[str, Any]
    """What decides about the features, for the record: kind, layer, SHA-256 of the weights, resize."""
    logits: Callable[[Tensor], Tensor] | None = None
    """Features to (N, classes), where the network names classes."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return the facts by which these features are told from all others: wherever a user's file lies."""
        facts = dict(self.facts)
        if "code" in facts:  # the class is known by its content, and `kind` is the path of its file
            facts["kind"] = str(facts.get("kind", "")).rpartition(":")[2]
        return facts


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled images of the data set, for an extractor that is trained on them."""

    images: Callable[[range], Tensor]
    """Real images by number, as for an evaluation: (N, C, H, W) in [-1, 1]."""
    labels: Tensor
    """(N,) int64: the class of each number, as many as there are images."""
    digest: str
    """Of the data set."""
    cache: Path
    """Folder for what is trained."""
    beat: Callable[[], object] = lambda: None
    """Call it often: the watchdog takes silence for a hang."""
    ranks: Ranks = Ranks()  # noqa: RUF009  # it is frozen


class Extractor(Part):
    """A network that looks at images: its keys are those of `evaluate.features.NAME`."""

    resize: Resize = "pil-bicubic"
    """How images come to the network's size. pil-bicubic: as Pillow does with antialiasing, without rounding (clean-fid).
    tf1-bilinear: as TensorFlow 1 did, which most published FIDs are made with."""
    weights: str = ""
    """File of the weights: .safetensors, or what torch.save wrote. Default: the file of the usual name in
    $GAN_DIST_WEIGHTS or in torch's hub cache. Nothing is downloaded."""

    trend: ClassVar[bool] = False
    """Whether its scores show a trend only: their names must say its kind."""
    file: ClassVar[str] = ""
    """Usual name of the weights file; empty where there is none."""
    digest: ClassVar[str] = ""
    """First digits of the SHA-256 of the published weights file."""
    fetch: ClassVar[str] = ""
    """A command that fetches the file, on a machine with a network."""
    side: ClassVar[int] = 0
    """Height and width of what the network sees; 0: the images' own."""
    colours: ClassVar[bool] = True
    """Whether the network needs 3 channels."""
    takes_weights: ClassVar[bool] = True
    """Whether the key `weights` means anything to it."""
    code_sha256: ClassVar[str] = ""
    """SHA-256 of the files of a user's class and of those that it inherits, as they were loaded."""

    @classmethod
    def __pydantic_init_subclass__(cls, **keys: Any) -> None:
        super().__pydantic_init_subclass__(**keys)
        cls.code_sha256 = _source(cls)  # now: a file that is edited later is not what runs

    @property
    def width(self) -> int | None:
        """Return D, where it is known before the network is there."""
        return None

    @property
    def may_name_classes(self) -> bool:
        """Say whether its network may have `logits`, which the inception score needs."""
        return bool(self.code_sha256)  # nobody knows what a user's has

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what turns pixels (N, C, side, side) float32 of 0..255 into features (N, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no network(device)")

    def check(self, config: "Config | None") -> None:
        if self.weights and not self.takes_weights:
            raise ValueError(
                f"weights = {self.weights} has no effect on {self.kind} features, which need none; remove it"
            )

    def facts(self) -> dict[str, Any]:
        """Return the keys that decide about the features, for the record.

        What is kept of features is found by them. A class that reads other files than `weights` must add their hashes.
        """
        facts = {**self.model_dump(mode="json", exclude={"weights"}), "kind": self.kind}
        if self.file or self.weights:
            facts["sha256"] = self.sha256()
        return {**facts, "code": self.code_sha256} if self.code_sha256 else facts

    def prepare(self) -> None:
        """Look for what it needs, before a training begins. Raises InputError where a file or a package will not do."""
        if self.file or self.weights:
            self.path()
        if self.file:
            self.network(torch.device("cpu"))  # names and shapes of the weights

    def build(self, device: torch.device, data: Labelled | None = None) -> Features:
        """Return the extractor, ready on a device. Raises InputError where its weights will not do."""
        network = self.network(device)
        return Features(self._whole(network), self.facts(), getattr(network, "logits", None))

    def _whole(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def features(images: Tensor) -> Tensor:
            with full_precision():
                pixels = resized(images, self.side or images.shape[-1], self.resize)
                found = network(pixels.expand(-1, 3, -1, -1) if self.colours else pixels)
            return found.float().flatten(1)

        return features

    def path(self) -> Path:
        """Return the weights file. Raises InputError where it is not there, saying how to get it."""
        usual, command = self.usual()
        name = self.kind if self.kind.isidentifier() else "NAME"
        known = f" (SHA-256 {self.digest}...)" if self.digest else ""
        known += f"; a machine with a network fetches it by `{command}`" if command else ""
        hint = f"{known}; `--features random` needs none and shows a trend"
        return frozen.locate(self.weights, usual, f"evaluate.features.{name}.weights", hint)

    def usual(self) -> tuple[str, str]:
        """Return the usual name of the weights file, and the command that fetches it."""
        return self.file, self.fetch

    def sha256(self) -> str:
        """Return the SHA-256 of the weights file."""
        return frozen.sha256(self.path())

    def load_into(self, module: nn.Module, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Load the weights file, or `state`, into a module: frozen, in evaluation mode. Raises InputError for another network's."""
        state = read_weights(self.path()) if state is None else state
        own = module.state_dict()
        wrong = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
        wrong += [name for name in state if name not in own]
        wrong += [name for name in own if name in state and state[name].shape != own[name].shape]
        if wrong:
            raise InputError(
                f"evaluate.features: {self.path()} holds the weights of another network than {self.kind}: {wrong[0]} "
                f"{'does not fit' if wrong[0] in own and wrong[0] in state else 'is missing or too much'} "
                f"({len(wrong)} tensors in all); give the file {self.usual()[0] or 'that belongs to it'}"
            )
        module.load_state_dict(dict(state), strict=False, assign=True)
        return module.float().requires_grad_(False).eval()


def _source(kind: type) -> str:
    """Return the SHA-256 of the files that define a class, outside of this package; empty for one of this package."""
    digest, found = hashlib.sha256(), False
    for each in kind.__mro__:
        name = each.__module__
        if not issubclass(each, Extractor) or name.partition(".")[0] == "gan_dist":
            continue
        path = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        found = True
        digest.update(path.read_bytes() if path.is_file() else name.encode())
    return digest.hexdigest() if found else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; no code in it is run. Raises InputError for a damaged file or another kind of file."""
    return frozen.read_weights(path, "evaluate.features")


def quantised(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as they are saved: uint8. Raises ValueError where a value is not finite."""
    if not bool(images.isfinite().all()):
        raise ValueError("a generated image has values that are not finite")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()


def resized(images: Tensor, side: int, how: Resize) -> Tensor:
    """Return images (N, C, H, W) uint8 as (N, C, side, side) float32 of 0..255, without rounding."""
    pixels = images.float()
    if pixels.shape[-2:] == (side, side) or how == "none":
        return pixels
    if how == "area":
        return F.interpolate(pixels, (side, side), mode="area")
    if how == "tf1-bilinear":
        return _like_tensorflow_1(pixels, side)
    # within 0.004 of Pillow's grey levels, on whatever device; without antialias it would be 20 off
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 255)


def _like_tensorflow_1(pixels: Tensor, side: int) -> Tensor:
    """Resize as TensorFlow 1: output i lies at i * size / side, not at pixel centres, between its two neighbours."""
    for axis in (-1, -2):
        size = pixels.shape[axis]
        place = torch.arange(side, device=pixels.device, dtype=torch.float32) * (size / side)
        low = place.floor().long()
        high = (low + 1).clamp(max=size - 1)
        part = (place - low).view(-1, 1) if axis == -2 else place - low
        below, above = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = below + (above - below) * part
    return pixels


class RandomNetwork(Extractor):
    """Three convolutions with seeded random weights: no measure of quality, but a trend within a run for nothing.

    KID by it falls as small images come to look like the data. It says little of diversity. A score by it must have
    `random` in its name.
    """

    resize: Resize = "area"
    """How images come to 32x32 pixels."""
    seed: int = 0
    """Of the weights."""

    trend: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = False
    side: ClassVar[int] = 32

    @property
    def width(self) -> int:
        return 256

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(((3, 32), (32, 64), (64, 64))):
            layer = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            positions = torch.arange(after)
            drawn = rng.normal(rng.key(self.seed, "random features", number), positions, before * 9)
            layer.weight.data = drawn.view(after, before, 3, 3) * (2 / (before * 9)) ** 0.5
            layers += [layer, nn.LeakyReLU(0.2)]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).to(device)
        return lambda pixels: network(pixels / 127.5 - 1)


class Pixels16(Extractor):
    """The pixels themselves, reduced to 16x16 by area: by them a person finds the nearest images."""

    resize: Resize = "area"
    """How images come to 16x16 pixels."""

    takes_weights: ClassVar[bool] = False
    side: ClassVar[int] = 16
    colours: ClassVar[bool] = False

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        return lambda pixels: pixels.flatten(1) / 255
