"""Read ranges and whole objects from object stores and web servers, and tell one version of an object from another.

s3, gs, az and http(s) go through obstore (Rust's object_store), other schemes through fsspec. Credentials come from the usual
places of each cloud and stay in the libraries; no message holds one, nor the query of an address.
"""

import base64
import contextlib
import functools
import os
import random
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from gan_dist.data import credentials
from gan_dist.data.names import redact

Span = tuple[int, int]
"""First byte, and the byte after the last one."""

_GAP = 64 << 10  # bytes that are fetched for nothing sooner than a request more is made
_LARGEST = 8 << 20  # bytes of one request
_AT_ONCE = 32  # requests of this process
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0  # seconds between two tries
_CONNECT, _STALL, _WHOLE = 5, 10, 120  # seconds: for a connection, without a byte, for a request
_STATUS = re.compile(r"status: (\d{3})|status code: (\d{3})")
T = TypeVar("T")


class Facts(NamedTuple):
    """What tells one version of an object from another; what a server does not say is ""."""

    size: int
    etag: str
    modified: str
    """ISO 8601."""

    def differs(self, other: "Facts") -> bool:
        """Say whether these are of two versions: by size and ETag, or by size and time where one has no ETag."""
        if self.size != other.size:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.modified and other.modified and self.modified != other.modified)


class StoreError(Exception):
    """An object cannot be had; the message names it without secrets and says why."""


class ChangedError(StoreError):
    """The object is another one than was expected."""


class RefusedError(StoreError):
    """The server says no: not found, not allowed, no ranges. Another try at once would say the same."""

    def __init__(self, message: str, why: str) -> None:
        """`why`: missing, denied, ranges or other."""
        super().__init__(message)
        self.why = why


class UnreachableError(StoreError):
    """The server does not answer, or answers that it has a problem. A later try may do."""


class StoppedError(StoreError):
    """The one who waits was asked to stop."""


class Patience(NamedTuple):
    """For how long a failing request is tried again, and who hears of it."""

    seconds: float = 30.0
    """From the first failure on."""
    refusals: bool = False
    """Whether a refusal is tried again too: during a training a key may be renewed, or a server mended."""
    failed: Callable[[str, str], None] = lambda url, reason: None
    """Told of each failure that will be tried again: address without secrets, reason. Called from any thread."""
    stopped: Callable[[], bool] = lambda: False
    """Asked about ten times a second while it waits."""


ONCE, USUAL = Patience(0.0), Patience()


class Backend(Protocol):
    """What reads from one bucket or server."""

    def get(self, span: Span | None) -> tuple[bytes, Facts]:
        """Return the bytes of a span, or all, with what the object is. Raises StoreError."""


class Store:
    """Objects by address. Safe in threads; a copy in another process makes its own connections."""

    def facts(self, url: str, patience: Patience = USUAL) -> Facts:
        """Return what an object is. It proves that ranges of it can be read.

        Raises RefusedError where it is not there, not allowed, or the server reads no ranges; UnreachableError.
        """
        return _patiently(url, patience, lambda: _backend(url).get((0, 1)))[1]

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
            data, facts = _backend(url).get(span)
            if expect is not None and facts.differs(expect):
                raise ChangedError(f"{redact(url)} changed: {_differences(expect, facts)}")
            if len(data) != span[1] - span[0]:
                raise UnreachableError(
                    f"{redact(url)}: an answer ended after {len(data):,} of {span[1] - span[0]:,} bytes"
                )
            return data

        return _patiently(url, patience, once)

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
                    data, facts = _patiently(url, patience, lambda: _backend(url).get(None))
                    if expect is not None and facts.differs(expect):
                        raise ChangedError(f"{redact(url)} changed: {_differences(expect, facts)}")
                    file.write(data)
                    progress(len(data))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return facts


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


def _differences(before: Facts, now: Facts) -> str:
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
        self.lock = threading.Lock()
        self.opened = functools.lru_cache(maxsize=256)(_open)


_process: _Process | None = None


def _own() -> _Process:
    global _process
    if _process is None or _process.pid != os.getpid():
        _process = _Process()
    return _process


def _pool() -> ThreadPoolExecutor:
    return _own().pool


def _backend(url: str) -> Backend:
    base, path = _split(url)
    return _Object(url, _own().opened(base), path) if _is_native(base) else _Filed(url)


_NATIVE = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "http", "https")


def _is_native(url: str) -> bool:
    return url.partition("://")[0] in _NATIVE


def _split(url: str) -> tuple[str, str]:
    """Return what connections are kept by, and the path of the object there."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("http", "https"):  # the query stays with the server: a signature goes with each request
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc}/{query}", urllib.parse.unquote(parts.path).lstrip("/")
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _open(base: str) -> Any:
    """Return obstore's store of a bucket or server. It tries nothing again: `_patiently` does, and can be stopped."""
    from obstore import store  # only where something is remote

    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=_CONNECT),
        "read_timeout": timedelta(seconds=_STALL),
        "timeout": timedelta(seconds=_WHOLE),
        "allow_http": True,
    }
    retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=_WHOLE)}
    scheme = base.partition("://")[0]
    if scheme in ("http", "https"):
        parts = urllib.parse.urlsplit(base)
        user, at, host = parts.netloc.rpartition("@")
        if at:
            word = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
            options["default_headers"] = {"Authorization": f"Basic {word}"}
        server = urllib.parse.urlunsplit(parts._replace(netloc=host))
        return store.HTTPStore(server, client_options=options, retry_config=retries)
    return credentials.bucket(base, options, retries)


class _Object:
    """An object in obstore's store."""

    def __init__(self, url: str, store: Any, path: str) -> None:
        self._url, self._store, self._path = url, store, path

    def get(self, span: Span | None) -> tuple[bytes, Facts]:
        import obstore

        try:
            asked = {} if span is None else {"options": {"range": span}}
            found = obstore.get(self._store, self._path, **asked)
            meta = found.meta
            data = found.bytes().to_bytes()
        except Exception as error:  # obstore's errors, and some of Python's own
            raise _named(self._url, error) from None
        date = meta["last_modified"]
        return data, Facts(int(meta["size"]), _strong(meta["e_tag"]), _date(date))


def _strong(etag: str | None) -> str:
    return (etag or "").removeprefix("W/")


def _date(date: datetime | None) -> str:
    return "" if date is None or date.year <= 1970 else date.isoformat()


def _named(url: str, error: Exception) -> StoreError:
    """Return what went wrong, in words without the library's own, which may hold the whole address."""
    name, text = redact(url), str(error)
    code = next((int(one or other) for one, other in _STATUS.findall(text)), 0)
    return explain(name, type(error).__name__, code, text)


def explain(name: str, kind: str, code: int, text: str) -> StoreError:
    """Return the error for what a library raised: its type's name, the HTTP status or 0, and its text."""
    if kind in ("FileNotFoundError", "NotFoundError") or code in (404, 410):
        what = "no such bucket" if "NoSuchBucket" in text else "there is no such object"
        return RefusedError(f"{name}: {what} ({code or 404})", "missing")
    if kind in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError") or code in (401, 403):
        return RefusedError(f"{name}: {credentials.denied(name, code or 403, text)}", "denied")
    if kind == "NotSupportedError" or "Range request not supported" in text:
        return RefusedError(f"{name}: its server does not read ranges of a file", "ranges")
    if kind in ("InvalidPathError", "UnknownConfigurationKeyError", "ValueError") or code in (400, 301):
        return RefusedError(f"{name}: {credentials.refused(kind, code, text)}", "other")
    if code == 416:
        return RefusedError(f"{name}: it is empty", "other")
    if code:
        return UnreachableError(f"{name}: the server answered {code}")
    for words, reason in (
        ("IncompleteBody", "an answer was cut off"),
        ("UnexpectedRange", "an answer was cut off"),
        ("TimedOut", "the server did not answer in time"),
        ("Timeout", "the server did not answer in time"),
        ("Connect", "no connection"),
    ):
        if words in text:
            return UnreachableError(f"{name}: {reason}")
    return UnreachableError(f"{name}: the request failed ({kind})")


class _Filed:
    """An object of a scheme that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, span: Span | None) -> tuple[bytes, Facts]:
        name = redact(self._url)
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(self._url)
            info = system.info(path)
            data = system.cat_file(path) if span is None else system.cat_file(path, *span)
        except (ImportError, ValueError) as error:
            words = (
                str(error).splitlines()[0] if isinstance(error, ImportError) else "no program for this kind of address"
            )
            raise RefusedError(f"{name}: {words}", "other") from None
        except Exception as error:
            raise explain(name, type(error).__name__, 0, str(error)) from None
        size = info.get("size")
        if size is None:
            raise RefusedError(f"{name}: its server does not say how large it is", "ranges")
        etag = next((str(info[key]) for key in ("ETag", "etag", "checksum") if info.get(key)), "")
        date = next((info[key] for key in ("LastModified", "last_modified", "mtime", "updated") if info.get(key)), "")
        return data, Facts(int(size), etag, date.isoformat() if isinstance(date, datetime) else str(date))


@contextlib.contextmanager
def closing() -> Iterator[None]:
    """End this process's threads at the end, for tests."""
    yield
    if _process is not None and _process.pid == os.getpid():
        _process.pool.shutdown()
