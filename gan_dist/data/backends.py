"""Open what holds an object, read spans of it, and say in one line why that failed."""

import base64
import re
import urllib.parse
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, BinaryIO, NamedTuple, Protocol

from gan_dist.data import credentials
from gan_dist.data.names import redact
from gan_dist.errors import InputError

Span = tuple[int, int]
"""First byte, and the byte after the last one."""

_CONNECT, _STALL, _WHOLE = 5, 10, 120  # seconds: for a connection, without a byte, for a request
_STATUS = re.compile(r"status: (\d{3})|status code: (\d{3})")
_CHUNK = 8 << 20


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


class StoreError(InputError):
    """An object cannot be had; the message names it without secrets and says why."""


class ChangedError(StoreError):
    """The object is another one than was expected."""


class RefusedError(StoreError):
    """The server says no: not found, not allowed, no ranges. Another try at once would say the same."""

    def __init__(self, message: str, why: str) -> None:
        """`why`: missing, denied, ranges or other."""
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.why)


class UnreachableError(StoreError):
    """The server does not answer, or answers that it has a problem. A later try may do."""


class StoppedError(StoreError):
    """The one who waits was asked to stop."""


class Object(Protocol):
    """An object at its address."""

    def get(self, span: Span | None) -> tuple[bytes, Facts]:
        """Return the bytes of a span, or all, with what the object is. Raises StoreError."""

    def copy(self, file: BinaryIO, progress: Callable[[int], None]) -> Facts:
        """Write all bytes to a file, in one request. Raises StoreError, and OSError for the file."""


_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
_NATIVE = (*_BUCKETS, "http", "https")


def is_in_bucket(url: str) -> bool:
    """Say whether an address is of a store that lists what it holds."""
    return url.partition("://")[0] in _BUCKETS


def object_at(url: str, opened: Callable[[str, bool], Any], long: bool = False) -> Object:
    """Return the object at an address. `opened` keeps what `connect` makes. `long`: of requests without an end in time."""
    base, path = _split(url)
    if base.partition("://")[0] not in _NATIVE:
        return _Filed(url)
    try:
        return _Stored(url, opened(base, long), path)
    except StoreError:
        raise
    except Exception as error:  # what a cloud's variables may be wrong by
        raise _named(url, error) from None


def _split(url: str) -> tuple[str, str]:
    """Return what connections are kept by, and the path of the object there."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("http", "https"):  # the query stays with the server: a signature goes with each request
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc}/{query}", urllib.parse.unquote(parts.path).lstrip("/")
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def connect(base: str, long: bool) -> Any:
    """Return obstore's store of a bucket or server. It tries nothing again: stores.py does, and can be stopped."""
    try:
        from obstore import store  # only where something is remote
    except ImportError:
        raise RefusedError(f"{redact(base)}: obstore is not installed; `pip install obstore`", "other") from None
    options: Any = {
        "connect_timeout": timedelta(seconds=_CONNECT),
        "read_timeout": timedelta(seconds=_STALL),
        "timeout": timedelta(days=7) if long else timedelta(seconds=_WHOLE),
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


class _Stored:
    """An object in obstore's store."""

    def __init__(self, url: str, store: Any, path: str) -> None:
        self._url, self._store, self._path = url, store, path

    def get(self, span: Span | None) -> tuple[bytes, Facts]:
        import obstore

        try:
            found = obstore.get(self._store, self._path, options=None if span is None else {"range": span})
            return found.bytes().to_bytes(), self._facts(found.meta)
        except Exception as error:  # obstore's errors, and some of Python's own
            problem = _named(self._url, error)
        if isinstance(problem, RefusedError) and problem.why == "ranges" and self._is_empty():
            problem = RefusedError(f"{redact(self._url)}: it is empty", "other")
        raise problem

    def _is_empty(self) -> bool:
        """Say whether there are no bytes to read a range of."""
        import obstore

        try:
            return int(obstore.get(self._store, self._path).meta["size"]) == 0
        except Exception:
            return False

    def copy(self, file: BinaryIO, progress: Callable[[int], None]) -> Facts:
        import obstore

        try:
            found = obstore.get(self._store, self._path)
            facts, chunks, count = self._facts(found.meta), iter(found.stream(min_chunk_size=_CHUNK)), 0
        except Exception as error:
            raise _named(self._url, error) from None
        while True:
            try:
                chunk = next(chunks, None)
            except Exception as error:
                raise _named(self._url, error) from None
            if chunk is None:
                break
            file.write(chunk)
            progress(len(chunk))
            count += len(chunk)
        if count != facts.size:
            raise UnreachableError(f"{redact(self._url)}: an answer ended after {count:,} of {facts.size:,} bytes")
        return facts

    @staticmethod
    def _facts(meta: Any) -> Facts:
        return Facts(int(meta["size"]), _strong(meta["e_tag"]), _date(meta["last_modified"]))


def put(url: str, content: bytes, opened: Callable[[str, bool], Any]) -> None:
    """Write an object of a bucket. Raises StoreError."""
    base, path = _split(url)
    try:
        opened_store = opened(base, False)
        import obstore

        obstore.put(opened_store, path, content)
    except Exception as error:
        raise error if isinstance(error, StoreError) else _named(url, error) from None


def listed(folder: str, opened: Callable[[str, bool], Any]) -> list[str]:
    """Return the addresses of all objects of a bucket whose names begin as the address of a folder does. Raises StoreError."""
    base, path = _split(folder)
    try:
        opened_store = opened(base, False)
        import obstore

        found = [meta["path"] for page in obstore.list(opened_store, prefix=path or None) for meta in page]
    except Exception as error:
        raise error if isinstance(error, StoreError) else _named(folder, error) from None
    return [f"{base}/{each}" for each in found]


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
    if credentials.are_missing(text):
        return RefusedError(f"{name}: {credentials.missing(name)}", "denied")
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

    def copy(self, file: BinaryIO, progress: Callable[[int], None]) -> Facts:
        _, facts = self.get((0, 1))
        for start in range(0, facts.size, _CHUNK):
            data, now = self.get((start, min(start + _CHUNK, facts.size)))
            if now.differs(facts):
                raise ChangedError(f"{redact(self._url)} changed while it was copied")
            file.write(data)
            progress(len(data))
        return facts
