"""Keep tables that the ranks and workers of a node map from one file."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gan_dist import files
from gan_dist.errors import InputError

_AT_ONCE = 1 << 20  # rows


def folder() -> Path:
    """Return the user's own folder on this node for tables that its ranks map."""
    place = Path(tempfile.gettempdir()) / f"gan_dist-{os.getuid()}"
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, exist_ok=True)
    files.make_directory(place, "the folder for the node's index ($TMPDIR)")
    if place.lstat().st_uid != os.getuid():
        raise InputError(
            f"{place} belongs to another user, so no index is put there; set TMPDIR to a folder of your own"
        )
    return place


def write(path: Path, rows: np.ndarray) -> None:
    """Write a table. Raises InputError where there is no room."""
    write_parts(
        path, rows.dtype, len(rows), (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
    )


def write_parts(path: Path, dtype: np.dtype, total: int, parts: Iterable[np.ndarray]) -> None:
    """Write a table of `total` rows, which is never in memory as a whole. Raises InputError where there is no room."""
    part = files.temporary(path)
    try:
        with part.open("wb") as file:
            for rows in parts:
                file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"the node's index {path} ({total * dtype.itemsize >> 20} MiB) cannot be written ({error.strerror}); make room there "
            "or set TMPDIR to another folder"
        ) from None
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process of the machine at a time do something about a table, where its file system has locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path.parent, os.O_RDONLY)  # its lock leaves no file behind
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def map_rows(path: Path, dtype: np.dtype) -> np.ndarray:
    """Return a table that lies in its file, one row after the other.

    There is no header, as NumPy parses it by `ast`, which fails at random where several threads do so (CPython 3.11,
    issue 106905).
    """
    return np.asarray(np.memmap(path, dtype, "r"))
