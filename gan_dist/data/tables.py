"""Keep tables that the ranks and workers of a node map from one file."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np

from gan_dist import files
from gan_dist.errors import InputError


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
    buffer = io.BytesIO()
    np.save(buffer, rows)
    try:
        files.write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise InputError(
            f"the node's index {path} ({rows.nbytes >> 20} MiB) cannot be written ({error.strerror}); make room there or set "
            "TMPDIR to another folder"
        ) from None


def map_rows(path: Path) -> np.ndarray:
    """Return a table that lies in its file."""
    return np.asarray(np.load(path, mmap_mode="r"))
