"""Read samples by number as uint8 images: positioned reads, decoding, crop and reduction (geometry.py)."""

import dataclasses
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np

from gan_dist.config.data_field import DataField
from gan_dist.data import label_maps, stores
from gan_dist.data.geometry import Geometry
from gan_dist.data.index import Index
from gan_dist.data.reading import Direct, Piece, Reader
from gan_dist.data.stores import Patience
from gan_dist.errors import InputError

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # a quarantined image is told once, by us
cv2.setNumThreads(0)  # every loader process is one thread; more would fight with the training process

_JPEG = b"\xff\xd8"
_OPEN_SHARDS = 64
_SLOW = 5.0  # seconds for one read
_TRIES = 3  # to open or read a shard: network file systems have bad moments
_PAUSE = 0.2  # seconds before the second try, twice as many before the next
_LOST = 60.0  # seconds for which a shard that could not be read is not tried again
SUBSTITUTES = 100
_REDUCED = {
    (1, 1): cv2.IMREAD_GRAYSCALE,
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    (3, 1): cv2.IMREAD_COLOR,
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
    (4, 1): cv2.IMREAD_UNCHANGED,
}


@dataclasses.dataclass(frozen=True)
class Note:
    """What happened to a sample: it was quarantined (another stands in for it), or its shard was slow."""

    kind: str
    sample: int
    shard: str
    key: str
    reason: str


class UnusableError(Exception):
    """A sample that cannot be had; the message says why. `passing`: a later try may have it."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class _OpenFile:
    """A file that is open for as long as somebody holds this."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1  # where the file cannot be opened
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Decoder:
    """Reads samples of an index as images of one size. Keeps the shards it reads open."""

    def __init__(
        self,
        index: Index,
        size: tuple[int, int] | Geometry,
        channels: int,
        labels: DataField | None = None,
        patience: Patience = stores.USUAL,
    ) -> None:
        """`labels` says what the numbers of a label map mean; its one channel are then the classes of the pixels.

        `patience` is for remote shards. What then cannot be read raises StoreError from all methods that read.
        """
        self.index = index
        self.geometry = size if isinstance(size, Geometry) else Geometry(size)
        self.height, self.width = self.geometry.size
        self.channels, self.labels = channels, labels
        self.kept: Callable[[int], bytes | None] | None = None
        """Gives the bytes of a sample's image where a cache has them."""
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lost: dict[int, tuple[float, str]] = {}
        self._slow: list[tuple[int, float]] = []
        self.reader: Reader | None = Direct(index.addresses, index.facts, patience) if index.is_remote else None
        """By which it reads remote shards."""
        self.held: dict[int, bytes] = {}
        """Bytes of remote samples that were read already."""

    def close(self) -> None:
        """Close the shards; a decoder that nobody holds any more does so by itself."""
        self._files.clear()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict(), "held": {}}  # descriptors belong to one process

    def is_far(self, sample: int) -> bool:
        """Say whether the image of a sample has to be fetched from a server."""
        return bool(self.index.addresses) and bool(self.index.width[sample]) and bool(self._address(sample))

    def _address(self, sample: int) -> str:
        return self.index.addresses[self.index.shard_of(sample)]

    def piece(self, sample: int) -> Piece:
        """Return where the bytes of a sample's image lie."""
        index = self.index
        return Piece(index.shard_of(sample), int(index.offset[sample]), int(index.size[sample]))

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return sample numbers (N,) as images (N, H, W, C) uint8.

        Raises InputError, naming shard and key, for a sample that cannot be read or decoded.
        """
        batch = np.empty((len(samples), self.height, self.width, self.channels), dtype=np.uint8)
        for row, sample in zip(batch, samples.tolist(), strict=True):
            try:
                self.decode(sample, row)
            except UnusableError as error:
                note = self.note("quarantined", sample, str(error))
                raise InputError(
                    f"{note.shard}: {note.key}: {error}; take it out or pack the data again with `gan-dist pack`"
                ) from None
        return batch

    def note(self, kind: str, sample: int, reason: str) -> Note:
        """Return what happened to a sample, with its shard and key."""
        shard = self.index.shard_of(sample)
        try:
            key = self.index.keys(shard)[sample - int(self.index.first[shard])]
        except InputError:  # the keys lie beside the shard, and are no longer there
            key = f"sample {sample - int(self.index.first[shard])}"
        return Note(kind, sample, self.index.shards[shard], key, reason)

    def slow(self) -> list[Note]:
        """Return the reads that were slow since the last call."""
        notes = [self.note("slow shard", sample, f"a read took {took:.0f} s") for sample, took in self._slow]
        self._slow.clear()
        return notes

    def decode(self, sample: int, out: np.ndarray | None = None, place: np.ndarray | None = None) -> np.ndarray:
        """Return one sample (H, W, C) uint8, in `out` where it is given. Raises UnusableError where it cannot be had.

        `place` is where a part is cut out (`Geometry.cut`).
        """
        index = self.index
        target = np.empty((self.height, self.width, self.channels), np.uint8) if out is None else out
        if not index.width[sample]:
            raise UnusableError("the image cannot be read")  # the index could not read its header
        data = self._bytes(sample)
        try:
            if self.labels is not None:
                target[..., 0] = self.geometry.cut(label_maps.decode(data, self.labels), place, nearest=True)
                return target
            image = self.geometry.cut(self._pixels(sample, data), place)
        except ValueError as error:
            raise UnusableError(f"the image {error}" if self.labels else str(error)) from None
        if self.channels == 1:
            target[..., 0] = image
        else:
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB if self.channels == 3 else cv2.COLOR_BGRA2RGBA, dst=target)
        return target

    def _pixels(self, sample: int, data: bytes) -> np.ndarray:
        """Return an encoded image as (H, W) or (H, W, C) uint8, blue first; perhaps reduced, to `geometry.least` or more."""
        whole = int(self.index.height[sample]), int(self.index.width[sample])
        try:
            flag = how(data, self.channels, whole, self.geometry.least)
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error:  # more pixels than OpenCV decodes
            image = None
        if image is None:
            raise UnusableError("the image cannot be decoded")
        if self.channels == 4 and (image.shape[2:] != (4,) or image.dtype != np.uint8):
            raise UnusableError("the image has no transparency with 8 bits")
        return np.asarray(image)

    def _bytes(self, sample: int) -> bytes:
        if (held := self.held.get(sample)) is not None:
            return held
        if self.kept is not None and (kept := self.kept(sample)) is not None:
            return kept
        if self.reader is not None and self.is_far(sample):
            return self.reader.read_many([self.piece(sample)])[0]
        index = self.index
        shard = index.shard_of(sample)
        size = int(index.size[sample])
        until, reason = self._lost.get(shard, (0.0, ""))
        began = time.monotonic()
        if began < until:
            raise UnusableError(reason, passing=True)
        for attempt in range(_TRIES):
            try:
                descriptor = self._descriptor(shard)
                state = os.fstat(descriptor)
                data = os.pread(descriptor, size, int(index.offset[sample]))
                break
            except OSError as error:
                self._close(shard)
                if attempt == _TRIES - 1:
                    reason = f"the shard cannot be read ({error.strerror})"
                    self._lost[shard] = time.monotonic() + _LOST, reason
                    raise UnusableError(reason, passing=True) from None
                time.sleep(_PAUSE * 2**attempt)
        if (took := time.monotonic() - began) > _SLOW:
            self._slow.append((sample, took))
        if (state.st_size, state.st_mtime_ns) != index.stamps[shard]:
            self._close(shard)  # it may be replaced by the right one
            raise UnusableError("the shard changed since the run began", passing=True)
        if len(data) != size:
            raise UnusableError("the shard ends before the image", passing=True)
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= _OPEN_SHARDS:
                self._files.popitem(last=False)
            self._files[shard] = _OpenFile(self.index.shards[shard])
        return self._files[shard].descriptor

    def _close(self, shard: int) -> None:
        self._files.pop(shard, None)


def how(data: bytes, channels: int, size: tuple[int, int], least: tuple[int, int] | None) -> int:
    """Return OpenCV's flag to decode an image of a (height, width) with, that is to be reduced to `least` or more."""
    scale = 1
    if least and data[:2] == _JPEG and channels < 4:  # libjpeg decodes at 1/2, 1/4, 1/8 for a fraction of the work
        ratio = min(size[1] / least[1], size[0] / least[0])
        scale = max(factor for factor in (1, 2, 4, 8) if ratio >= factor or factor == 1)
    return _REDUCED[channels, scale]


def together(decoders: Mapping[str, Decoder], samples: Iterable[int]) -> dict[str, dict[int, bytes]]:
    """Read samples of all fields of a set at once: field -> sample -> bytes of the image. Raises StoreError."""
    found: dict[str, dict[int, bytes]] = {field: {} for field in decoders}
    wanted = []
    for sample in dict.fromkeys(int(sample) for sample in samples):
        for field, decoder in decoders.items():
            if not decoder.is_far(sample):
                continue
            if decoder.kept is not None and (kept := decoder.kept(sample)) is not None:
                found[field][sample] = kept
            else:
                wanted.append((field, sample))
    if wanted:
        reader = next(iter(decoders.values())).reader  # fields of a set lie in the same shards
        assert reader is not None
        data = reader.read_many([decoders[field].piece(sample) for field, sample in wanted])
        for (field, sample), each in zip(wanted, data, strict=True):
            found[field][sample] = each
    return found


def read_or_substitute(
    decoders: Mapping[str, Decoder],
    samples: np.ndarray,
    out: Mapping[str, np.ndarray],
    substitute: Callable[[int, int], int],
    places: np.ndarray | None = None,
    only: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, list[Note]]:
    """Read samples (N,) into `out`, (N, H, W, C) uint8 for each image field, parts of them at `places` (N, 2).

    `substitute(sample, attempt)` stands in, in all fields, for a sample of which some field cannot be had. It must be a
    function of its arguments alone: every number of ranks and every resume then sees the same batches. Returns the numbers
    of the samples that were read, whether a later try may read others (both (N,)), and what happened. With
    `only`, those of some rows alone are read.
    """
    notes: list[Note] = []
    used, passing = samples.copy(), np.zeros(len(samples), bool)
    before = {name: decoder.held for name, decoder in decoders.items()}
    if any(decoder.reader is not None for decoder in decoders.values()):
        chosen = (samples if only is None else samples[only]).tolist()
        missing = [sample for sample in chosen if any(sample not in held for held in before.values())]
        for name, found in together(decoders, missing).items():
            decoders[name].held = {**before[name], **found}
    for place in range(len(samples)) if only is None else only.tolist():
        candidate = sample = int(samples[place])
        where = None if places is None else places[place]
        for attempt in range(SUBSTITUTES):
            try:
                for name, decoder in decoders.items():
                    decoder.decode(candidate, out[name][place], where)
                break
            except UnusableError as error:
                reason = str(error) if len(decoders) == 1 else f"{name}: {error}"
                passing[place] |= error.passing
                notes.append(decoder.note("quarantined", candidate, reason))
            candidate = substitute(sample, attempt)
        else:
            first = notes[-SUBSTITUTES]
            raise InputError(
                f"data.shards: {SUBSTITUTES} samples in a row cannot be read, first {first.key} of {first.shard}: "
                f"{first.reason}"
            )
        used[place] = candidate
    for name, decoder in decoders.items():
        decoder.held = before[name]
        notes += decoder.slow()
    return used, passing, notes
