"""Read the headers of a shard: where its samples lie, how large their images are, and what they begin with."""

import hashlib
import io
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from webdataset.tariterators import base_plus_ext

from gan_dist.data import labels, tar
from gan_dist.data.names import redact
from gan_dist.data.remote_file import RemoteFile
from gan_dist.data.stores import Facts, StoreError
from gan_dist.errors import InputError

IMAGE_ENDINGS = ("jpg", "jpeg", "jfif", "jpe", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")
_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "YCbCr": 3, "P": 3}
_HEADER = 1 << 15  # enough of an image to know its size, but for long metadata

Image.MAX_IMAGE_PIXELS = None  # only headers are read here


def _choose_image(path: str, key: str, members: Mapping[str, Any], wanted: str) -> str | None:
    if wanted != "auto":
        return wanted if wanted in members else None
    images = [ending for ending in members if ending.rsplit(".", 1)[-1] in IMAGE_ENDINGS]
    if len(images) > 1:
        raise InputError(
            f"data.shards: {path}: sample {key} has {len(images)} images ({', '.join(images)}), as its key ends at the first "
            "dot of the name; choose one with data.image or name several in data.fields, or, if each is a sample of its own, "
            f"make shards with `gan-dist pack {path} FOLDER`"
        )
    return images[0] if images else None


class _Begun(NamedTuple):
    """What an image's beginning tells."""

    width: int
    height: int
    channels: str
    """4: transparency or CMYK; "" where it cannot be read."""
    problem: str
    checksum: int


class _Heads:
    """Beginnings of images, and labels. What is far away is read as its header is passed: nothing is fetched twice."""

    def __init__(self, file: tar.File, wanted: str) -> None:
        self._file, self._wanted = file, wanted
        self._images: dict[int, _Begun] = {}
        self._labels: dict[int, int | None] = {}

    def see(self, member: tar.Member) -> None:
        """Read what may be needed of a member."""
        key, ending = base_plus_ext(member.name)
        ending = (ending or "").lower()
        if key is None or tar.is_hidden(member.name):
            return
        if ending in labels.ENDINGS:
            self._labels[member.offset] = labels.parse(self._bytes(member), ending)
        elif ending == self._wanted or (self._wanted == "auto" and ending.rsplit(".", 1)[-1] in IMAGE_ENDINGS):
            self._images[member.offset] = self._begun(member)

    def image(self, member: tar.Member) -> _Begun:
        """Return what the beginning of an image tells."""
        known = self._images.get(member.offset)
        return self._begun(member) if known is None else known

    def label(self, members: Mapping[str, tar.Member]) -> int:
        """Return the label of a sample; -1 where it has none."""
        ending = next((ending for ending in labels.ENDINGS if ending in members), None)
        if ending is None:
            return -1
        member = members[ending]
        known = (
            self._labels[member.offset] if member.offset in self._labels else labels.parse(self._bytes(member), ending)
        )
        return -1 if known is None else known

    def _begun(self, member: tar.Member) -> _Begun:
        beginning = self._bytes(member, _HEADER)
        checksum, problem = zlib.crc32(beginning), "empty"
        for most in (_HEADER, None) if member.size else ():
            try:
                with Image.open(io.BytesIO(beginning if most else self._bytes(member))) as image:
                    kind = 4 if "transparency" in image.info else _CHANNELS.get(image.mode, 4)
                    size = min(image.width, 65535), min(image.height, 65535)
                    return _Begun(*size, str(kind), "", checksum)
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
                problem = f"not an image ({type(error).__name__})"
        return _Begun(0, 0, "", problem, checksum)

    def _bytes(self, member: tar.Member, most: int | None = None) -> bytes:
        self._file.seek(member.offset)
        return self._file.read(member.size if most is None else min(most, member.size))


def scan(shard: str, image: str = "auto", facts: Facts | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a shard's headers: (arrays, summary). The image of a sample is its member `image`.

    Samples without that member are left out and counted. `facts` are those of a remote shard. Raises InputError where the tar
    file is damaged or ambiguous, and StoreError.
    """
    if facts is not None:
        return _scan(redact(shard), RemoteFile(shard, facts), image, ahead=True)
    try:
        with Path(shard).open("rb") as file:
            return _scan(shard, file, image)
    except OSError as error:
        raise InputError(f"data.shards: {shard} cannot be read ({error.strerror})") from None


def _scan(name: str, file: tar.File, image: str, ahead: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    heads = _Heads(file, image)
    try:
        found, left_out = tar.members(name, file, heads.see if ahead else lambda member: None)
        samples = tar.samples(name, found)
    except tar.DamagedError as error:
        raise InputError(f"data.shards: {name} {error}; copy or pack it again") from None
    except StoreError:
        raise
    except InputError as error:
        raise InputError(f"data.shards: {error}") from None
    rows: list[tuple[int, int, int, int, int]] = []
    channels: dict[str, str] = {}
    bad: list[str] = []
    content, old_content, key_content = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    names: list[str] = []
    unused = Counter(why for _, why in left_out)
    unused.update("no ending" for member in found if base_plus_ext(member.name)[0] is None)
    for key, members in samples.items():
        ending = _choose_image(name, key, members, image)
        if ending is None:
            unused.update(members.keys())
            continue
        member, begun = members[ending], heads.image(members[ending])
        if begun.problem:
            bad.append(f"{name}: {key}.{ending}: {begun.problem}")
        else:
            channels.setdefault(begun.channels, key)
        label = heads.label(members)
        rows.append((member.offset, member.size, label, begun.width, begun.height))
        names.append(key)
        fact = f"{key}\0{member.size}\0{label}"
        content.update(f"{fact}\0{begun.checksum:08x}\n".encode(errors="surrogateescape"))
        old_content.update(f"{fact}\n".encode(errors="surrogateescape"))
        key_content.update(f"{key}\0".encode(errors="surrogateescape"))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5)
    arrays: dict[str, np.ndarray] = {
        "offset": columns[:, 0].copy(),
        "size": columns[:, 1].astype(np.uint32),
        "label": columns[:, 2].astype(np.int32),
        "width": columns[:, 3].astype(np.uint16),
        "height": columns[:, 4].astype(np.uint16),
        "keys": np.frombuffer(
            "".join(f"{name}\0" for name in names).encode(errors="surrogateescape"), dtype=np.uint8
        ),  # names in a tar file may be in any encoding
    }
    return arrays, {
        "channels": channels,
        "bad": bad,
        "digest": content.hexdigest(),
        "old_digest": old_content.hexdigest(),
        "keys": key_content.hexdigest(),
        "left_out": dict(unused),
    }
