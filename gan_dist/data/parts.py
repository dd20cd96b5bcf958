"""Keep what a shard's headers say in a file, with what tells the shard from what it was before."""

import dataclasses
import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gan_dist.data.names import SIGNED
from gan_dist.data.stores import Facts

VERSION = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """The index of one shard."""

    count: int
    summary: dict[str, Any]
    stamp: tuple[int, int]
    """As `Index.stamps`."""
    facts: Facts
    column: Callable[[str], np.ndarray]
    """Return a column by its name."""


def identity(url: str) -> str:
    """Return an address without what signs it: it stays the same when it is signed again."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    query = [(name, value) for name, value in urllib.parse.parse_qsl(parts.query) if not SIGNED.fullmatch(name)]
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, urllib.parse.urlencode(query), ""))


def split(keys: np.ndarray) -> list[str]:
    """Return the keys that an index holds as bytes."""
    return bytes(keys).decode(errors="surrogateescape").split("\0")[:-1]


def content(stamp: Mapping[str, str], arrays: dict[str, np.ndarray], summary: Mapping[str, Any]) -> bytes:
    """Return the content of a shard's index file."""
    found: bytes = save(arrays, metadata={**stamp, "summary": json.dumps(summary)})
    return found


def read(
    place: Path, stamp: Mapping[str, str], columns: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return the columns and the summary of an index file; None where it is absent, torn, or of another stamp."""
    try:
        with safe_open(place, framework="numpy") as file:
            recorded = file.metadata()
            if {name: recorded.get(name) for name in stamp} == stamp:
                return {name: file.get_tensor(name) for name in columns}, json.loads(recorded["summary"])
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
        pass  # it is made again
    return None
