"""Files that are whole or absent: written beside their place, synced, then renamed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gan_dist.errors import InputError


def sync_directory(directory: Path) -> None:
    """Make the directory's entries (a rename, a new file) survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`; a reader sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(path: Path, what: str) -> Path:
    """Create `path` where it is missing and prove that it can be written.

    Raises InputError, naming `what` the directory is for, where that fails.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be written ({error.strerror}); choose another one or mend its permissions"
        ) from None
    return path
