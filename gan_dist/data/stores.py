"""Read ranges and whole objects from object stores and web servers, and tell one version of an object from another.

s3, gs, az and http(s) go through obstore (Rust's object_store), other schemes through fsspec. Credentials come from the usual
places of each cloud and stay in the libraries; no message holds one, nor the query of an address.
"""

import fnmatch
import functools
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from gan_dist.data import backends
from gan_dist.data.backends import (
    ChangedError,
    Facts,
    RefusedError,
    Span,
    StoppedError,
    StoreError,
    UnreachableError,
)
from gan_dist.data.names import redact

__all__ = [
    "ONCE",
    "STORE",
    "USUAL",
    "ChangedError",
    "Facts",
    "Patience",
    "RefusedError",
    "Span",
    "StoppedError",
    "Store",
    "StoreError",
    "UnreachableError",
    "differences",
    "found",
    "merged",
    "of",
]

_GAP = 16 << 10  # bytes that are fetched for nothing sooner than a request more is made
_LARGEST = 8 << 20  # bytes of one request
_AT_ONCE = 32  # requests of this process
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0  # seconds between two tries
T = TypeVar("T")


def _unheard(url: str, reason: str) -> None:
    """Tell nobody."""


def _never() -> bool:
    return False


class Patience(NamedTuple):
    """For how long a failing request is tried again, and who hears of it."""

    seconds: float = 30.0
    """From the first failure on."""
    refusals: bool = False
    """Whether a refusal is tried again too: during a training a key may be renewed, or a server repaired."""
    failed: Callable[[str, str], None] = _unheard
    """Told of each failure that will be tried again: address without secrets, reason. Called from any thread."""
    stopped: Callable[[], bool] = _never
    """Asked about ten times a second while it waits."""


ONCE, USUAL = Patience(0.0), Patience()


class Store:
    """Objects by address. Safe in threads; a copy in another process makes its own connections."""

    def facts(self, url: str, patience: Patience = USUAL) -> Facts:
        """Return what an object is. It proves that ranges of it can be read.

        Raises RefusedError where it is not there, not allowed, or the server reads no ranges; UnreachableError.
        """
        return _patiently(url, patience, lambda: _object(url).get((0, 1)))[1]

    def read(
        self,
        url: str,
        spans: Sequence[Span],
        expect: Facts | None = None,
        patience: Patience = USUAL,
    ) -> list[bytes]:
        """Return the bytes of each span, in order. Neighbours share a request; requests go out together.

        Raises ChangedError where the object is not the expected one, RefusedError, UnreachableError after `patience`.
        """
        return self.read_many([(url, spans, expect)], patience)[0]

    def read_many(
        self,
        wanted: Sequence[tuple[str, Sequence[Span], Facts | None]],
        patience: Patience = USUAL,
    ) -> list[list[bytes]]:
        """Return what `read` does for several objects: all their requests go out together."""
        plans: list[list[tuple[Span, Future[bytes]]]] = []
        for url, spans, expect in wanted:
            plans.append([(span, _pool().submit(self._part, url, span, expect, patience)) for span in merged(spans)])
        parts = [[(span, future.result()) for span, future in plan] for plan in _settled(plans)]
        return [[_cut(span, part) for span in spans] for (_, spans, _), part in zip(wanted, parts, strict=True)]

    def _part(self, url: str, span: Span, expect: Facts | None, patience: Patience) -> bytes:
        def once() -> bytes:
            data, facts = _object(url).get(span)
            if expect is not None and facts.differs(expect):
                raise ChangedError(f"{redact(url)} changed: {differences(expect, facts)}")
            if len(data) != span[1] - span[0]:
                raise UnreachableError(
                    f"{redact(url)}: an answer ended after {len(data):,} of {span[1] - span[0]:,} bytes"
                )
            return data

        return _patiently(url, patience, once)

    def whole(self, url: str, patience: Patience = USUAL) -> bytes:
        """Return all bytes of a small object."""
        return _patiently(url, patience, lambda: _object(url).get(None))[0]

    def put(self, url: str, content: bytes, patience: Patience = USUAL) -> None:
        """Write a small object of a bucket."""
        _patiently(url, patience, lambda: backends.put(url, content, _own().opened))

    def fetch(
        self,
        url: str,
        path: Path,
        expect: Facts | None = None,
        patience: Patience = USUAL,
        ranges: bool = True,
        progress: Callable[[int], None] = lambda count: None,
    ) -> Facts:
        """Write a whole object to `path`, which is whole or absent. `ranges` False: for servers that do not read any.

        Raises what `read` does, and OSError where `path` cannot be written.
        """
        part = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        try:
            with part.open("wb") as file:
                if ranges:
                    facts = expect or self.facts(url, patience)
                    for start in range(0, facts.size, 4 * _LARGEST):
                        stop = min(start + 4 * _LARGEST, facts.size)
                        spans = [(at, min(at + _LARGEST, stop)) for at in range(start, stop, _LARGEST)]
                        for data in self.read(url, spans, facts, patience):
                            file.write(data)
                            progress(len(data))
                else:

                    def once() -> Facts:
                        file.seek(0)
                        file.truncate()
                        return _object(url, long=True).copy(file, progress)

                    facts = _patiently(url, patience, once)
                    if expect is not None and facts.differs(expect):
                        raise ChangedError(f"{redact(url)} changed: {differences(expect, facts)}")
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return facts


def found(pattern: str) -> list[str]:
    """Return the addresses that a folder of a bucket (s3://bucket/photos/) or a pattern (s3://bucket/train-*.tar) stands for.

    A folder stands for its .tar files, at any depth; `*` for no slash. Raises StoreError.
    """
    folder = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0] + "/"
    names = sorted(backends.listed(folder, _own().opened))
    if pattern == folder:
        return [name for name in names if name.endswith(".tar")]
    depth = pattern.count("/")
    return [name for name in names if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]


STORE = Store()
"""One for all addresses: connections are kept by bucket and server."""


def of(url: str) -> Store:
    """Return the store that has this address."""
    del url
    return STORE


def merged(spans: Sequence[Span], gap: int = _GAP, largest: int = _LARGEST) -> list[Span]:
    """Return the requests that cover some spans: close ones become one, none is larger than `largest`."""
    found: list[Span] = []
    for start, stop in sorted(span for span in spans if span[1] > span[0]):
        if found and start - found[-1][1] <= gap and max(stop, found[-1][1]) - found[-1][0] <= largest:
            found[-1] = found[-1][0], max(stop, found[-1][1])
            continue
        if found:
            start = max(start, found[-1][1])  # what an earlier request has is not fetched twice
        while stop - start > largest:
            found.append((start, start + largest))
            start += largest
        if stop > start:
            found.append((start, stop))
    return found


def _cut(span: Span, parts: Sequence[tuple[Span, bytes]]) -> bytes:
    """Return the bytes of a span from the answers that cover it."""
    pieces = [
        data[max(span[0], start) - start : min(span[1], stop) - start]
        for (start, stop), data in parts
        if start < span[1] and stop > span[0]
    ]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _settled(plans: list[list[tuple[Span, "Future[bytes]"]]]) -> list[list[tuple[Span, "Future[bytes]"]]]:
    """Wait for all requests, so that none goes on after an error of another one."""
    for plan in plans:
        for _, future in plan:
            future.exception()
    return plans


def differences(before: Facts, now: Facts) -> str:
    """Say by what two versions of an object differ."""
    if before.size != now.size:
        return f"it had {before.size:,} bytes, now {now.size:,}"
    if before.etag and now.etag:
        return "its ETag is another one"
    return f"its date was {before.modified}, now {now.modified}"


def _patiently(url: str, patience: Patience, work: Callable[[], T]) -> T:
    """Do something until it works, a failure is final, or `patience` ends; pauses double, with some chance in them."""
    pause, end = _FIRST_PAUSE, None
    while True:
        try:
            return work()
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, RefusedError) and not patience.refusals:
                raise
            now = time.monotonic()
            end = now + patience.seconds if end is None else end
            if now >= end:
                raise
            patience.failed(redact(url), str(error))
            until = min(end, now + pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
            while (left := until - time.monotonic()) > 0:
                if patience.stopped():
                    raise StoppedError(f"{redact(url)}: stopped while it was tried again: {error}") from None
                time.sleep(min(0.1, left))


class _Process:
    """What belongs to one process: threads and connections."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pool = ThreadPoolExecutor(_AT_ONCE, "gan_dist-store")
        self.opened = functools.lru_cache(maxsize=256)(backends.connect)


_process: _Process | None = None
_making = threading.Lock()


def _own() -> _Process:
    global _process
    if _process is None:
        with _making:
            _process = _process or _Process()
    assert _process.pid == os.getpid(), "a fork has none of the threads of obstore; use forkserver or spawn"
    return _process


def _pool() -> ThreadPoolExecutor:
    return _own().pool


def _object(url: str, long: bool = False) -> backends.Object:
    return backends.object_at(url, _own().opened, long)
