"""Files that are whole or absent: written under a temporary name, synced, then renamed."""

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gan_dist.errors import InputError

_MOST = 1 << 28  # bytes of one write
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h


def sync_directory(directory: Path) -> None:
    """Make the directory's entries (a rename, a new file) survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary(path: Path, ending: str = "part") -> Path:
    """Return a name beside `path` that no other writer has: not a thread of this process, not one on another machine.

    It begins with a dot, holds the process id, and ends with `.part` (being written) or another `ending`.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the content of `path`. A reader sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    part = temporary(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_new(path: Path, buffers: Iterable[memoryview]) -> None:
    """Write a file that must not exist yet, buffer by buffer, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for buffer in buffers:
            while buffer:  # a write may be short: the disk is full, or it is more than 2 GiB
                buffer = buffer[os.write(descriptor, buffer[:_MOST]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one step; False, with nothing changed, where the file system cannot (NFS, for one)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(error, os.strerror(error), str(one))


def folder_size(folder: Path) -> int:
    """Return the bytes of the files in a folder. Files that another process deletes meanwhile count nothing."""
    total = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists: where it would be made."""
    while not path.exists():
        path = path.parent
    return path


def room(path: Path) -> int:
    """Return how many bytes can be written at a path, which need not exist yet."""
    state = os.statvfs(existing(path))
    return state.f_bavail * state.f_frsize


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def sha256_file(path: Path, from_disk: bool = False) -> str:
    """Return the SHA-256 of a file.

    `from_disk`: of what the disk holds, not of what this machine remembers of it. The file must have been synced.
    """
    with path.open("rb") as file:
        if from_disk:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return all whole JSON objects of a file of lines; those torn by a kill or a full disk, and an absent file, count nothing.

    NaN and Infinity, which JSON does not know and a person or another program may have written, are None.
    """
    found = []
    with contextlib.suppress(OSError):
        for text in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(text, parse_constant=lambda _: None)
                if isinstance(value, dict):
                    found.append(value)
    return found


def plain(value: Any) -> Any:
    """Return the same with None for every number that is not finite, as JSON has no word for it."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_directory(path: Path, what: str) -> Path:
    """Create `path` if it is missing, and prove that it can be written.

    Raises InputError, naming `what` the directory is for, where that fails.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = temporary(path / "write-test")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be written ({error.strerror}); choose another one or fix its permissions"
        ) from None
    return path
