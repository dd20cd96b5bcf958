"""List the members of a tar file with the bytes that hold each, or refuse the file: one reader for index and pack."""

import functools
import os
import posixpath
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol, cast

from webdataset.tariterators import base_plus_ext

from gan_dist.errors import InputError

_BLOCK = 512
_LINKS = 40  # in a row; more are a circle
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in a tar file; a link has the bytes of the file that it leads to."""

    name: str
    offset: int
    size: int
    mtime: int
    header: int
    """Byte at which its own entry begins."""


class File(Protocol):
    """What is read of a file, here or elsewhere."""

    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...
    def read(self, count: int = ..., /) -> bytes: ...


class DamagedError(Exception):
    """A tar file that is not whole; the message says where it stops."""


class _Entry(NamedTuple):
    """What is kept of a TarInfo, which takes a kilobyte."""

    member: Member
    kind: str
    """"file", "hard link", "symbolic link" or "device"."""
    target: str


def members(
    path: Path | str, file: File | None = None, see: Callable[[Member], None] = lambda member: None
) -> tuple[list[Member], list[tuple[str, str]]]:
    """Return the files in a tar file in order, and what is left out: (name, why).

    `file` has its bytes where `path` is only its name. `see` is told of each file, links left out, as the reading comes by
    it. Raises DamagedError for a file that is not a whole tar file, and InputError for one that is compressed, that stores
    members sparsely, or in which a name comes twice.
    """
    if file is None:
        with Path(path).open("rb") as opened:
            return members(path, opened, see)
    entries: list[_Entry] = []
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if kind := compression(file.read(6)):
        raise InputError(compressed(str(path), kind))
    file.seek(0)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, file), mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member it has seen
                if info.issparse():  # its size is that of the unpacked file, and a map lies before its bytes
                    raise InputError(
                        f"{path}: {info.name} is a sparse member, whose bytes in the tar file are no image; make the tar "
                        "file again without --sparse (-S)"
                    )
                if info.isfile() and info.offset_data + info.size > length:
                    raise DamagedError(f"is truncated inside {info.name}")
                if not info.isdir():
                    entries.append(_entry(info))
                    if info.isfile():
                        see(entries[-1].member)
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DamagedError(f"cannot be read as a tar file: {error}") from None
    # tarfile ends at a damaged header as it does at the end: only zeros up to the end of the file prove it
    file.seek(end)
    rest = iter(functools.partial(file.read, 1 << 20), b"")
    if length < max(2 * _BLOCK, end + _BLOCK) or any(block.strip(b"\0") for block in rest):
        raise DamagedError(f"is truncated or damaged after {len(entries)} files (no end-of-archive marker)")
    return _resolve(path, entries)


def _entry(info: tarfile.TarInfo) -> _Entry:
    member = Member(info.name, info.offset_data, info.size, int(info.mtime), info.offset)
    if info.isfile():
        return _Entry(member, "file", "")
    if info.islnk():
        return _Entry(member, "hard link", posixpath.normpath(info.linkname))
    if info.issym():
        return _Entry(
            member,
            "symbolic link",
            posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname)),
        )
    return _Entry(member, "device", "")


def _resolve(path: Path | str, entries: Sequence[_Entry]) -> tuple[list[Member], list[tuple[str, str]]]:
    by_name: dict[str, _Entry] = {}
    for entry in entries:
        before = by_name.setdefault(posixpath.normpath(entry.member.name), entry)
        if before is not entry and not is_hidden(entry.member.name):
            raise InputError(
                f"{path}: {_pair(before.member, entry.member)} have the same name, as in what `tar -A` and `tar -r` make; "
                "keep one of each, or pack the parts one by one"
            )
    found: list[Member] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries:
        member, file = entry.member, _follow(entry, by_name)
        if is_hidden(member.name):
            left_out.append((member.name, "hidden file"))
        elif file is None:
            left_out.append((member.name, "device" if entry.kind == "device" else f"{entry.kind} out of the archive"))
        else:
            found.append(member._replace(offset=file.offset, size=file.size))
    return found, left_out


def _follow(entry: _Entry, by_name: dict[str, _Entry]) -> Member | None:
    """Return the file whose bytes an entry has; None where it leads out of the archive, or is no file."""
    followed: _Entry | None = entry
    for _ in range(_LINKS):
        if followed is None or followed.kind == "device":
            return None
        if followed.kind == "file":
            return followed.member
        followed = by_name.get(followed.target)
    return None


def samples(path: Path | str, found: Sequence[Member]) -> dict[str, dict[str, Member]]:
    """Return WebDataset key -> {ending in lower case: member}, in order of each sample's first member.

    Members of a sample need not be neighbours; names without an ending are left out. Raises InputError where two members
    have the same key and ending.
    """
    grouped: dict[str, dict[str, Member]] = {}
    for member in found:
        key, ending = base_plus_ext(member.name)
        if key is None:
            continue
        before = grouped.setdefault(key, {}).setdefault(ending.lower(), member)
        if before is not member:
            raise InputError(
                f"{path}: {_pair(before, member)} are both the .{ending.lower()} of sample {key}; remove one or rename it"
            )
    return grouped


def _pair(first: Member, second: Member) -> str:
    return f"{first.name} (at byte {first.header}) and {second.name} (at byte {second.header})"


def is_hidden(name: str) -> bool:
    """Say whether a file is one that no person sees, such as a Mac's `._photo.jpg` or what lies in its `__MACOSX`."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def compression(beginning: bytes) -> str:
    """Return the name of the compression that a file's first bytes show; empty where there is none."""
    return next((kind for magic, kind in _COMPRESSIONS.items() if beginning.startswith(magic)), "")


def compressed(shard: str, kind: str = "") -> str:
    """Return what to say of a compressed shard."""
    how = f" ({kind})" if kind else ""
    return (
        f"{shard} is compressed{how}, so no sample can be read from its middle; "
        f"unpack it, or make shards with `gan-dist pack {shard} FOLDER`"
    )
