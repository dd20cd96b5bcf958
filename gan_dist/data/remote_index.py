"""Index remote shards without copying them, into one file for the whole set in the cache.

Each shard's part is kept when it is done, so that a stopped indexing goes on. A part is taken from an index file beside the
shard (KEY.tar.index) where there is one of the same size.
"""

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_tensors

from gan_dist import files
from gan_dist.data import backends, parts, stores, workers
from gan_dist.data.names import redact
from gan_dist.data.scan import scan
from gan_dist.data.stores import ChangedError, Facts, Patience, RefusedError, StoreError
from gan_dist.errors import InputError

_COLUMNS = ("offset", "size", "label", "width", "height")
_ALL = (*_COLUMNS, "keys")
_TYPES = {
    **dict.fromkeys(("first", "first_key", "offset"), ("I64", "<i8")),
    **{
        "size": ("U32", "<u4"),
        "label": ("I32", "<i4"),
        "width": ("U16", "<u2"),
        "height": ("U16", "<u2"),
        "keys": ("U8", "u1"),
    },
}
"""Of each vector in the set's file, as safetensors and numpy call it."""
_ASKED = 2000  # shards that a training's start asks for changes at most; the others are asked as they are read
_AT_ONCE = 32
_SHARDS_AT_ONCE = 8
_WORTH_A_POOL = 256 << 20  # bytes
_LINES_EVERY = 30.0  # seconds
_BEGIN = Patience(20.0)
"""For how long a start waits for a server that has problems."""
T = TypeVar("T")


def build(urls: Sequence[str], cache: Path, image: str, progress: bool, renew: bool) -> None:
    """Make the set's index file where there is none that holds. Raises InputError, one line, for what cannot be had."""
    place = _place(urls, cache, image)
    known = _facts(place)
    asked = urls if renew or known is None or len(urls) <= _ASKED else urls[:: -(-len(urls) // _ASKED)]
    said = progress and (known is None or renew)
    try:
        now = dict(_side_by_side(asked, _asked, "asking for shards", said, ThreadPoolExecutor(_AT_ONCE)))
    except StoreError as error:
        raise InputError(explained(error)) from None
    if known is not None:
        before = dict(zip(urls, known, strict=True))
        changed = [url for url in asked if now[url].differs(before[url])]
        if not changed:
            return
        if not renew:
            more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"data.shards: {redact(changed[0])}{more} changed since it was indexed "
                f"({stores.differences(before[changed[0]], now[changed[0]])}); put it back, or index again by `gan-dist index`"
            )
    files.make_directory(place.parent, "the index cache (data.cache)")
    stale = [url for url in urls if parts.read(_part_place(url, cache, image), _stamp(now[url]), ()) is None]
    size = sum(now[url].size for url in stale)
    pool: Executor
    if size < _WORTH_A_POOL:
        pool = ThreadPoolExecutor(_SHARDS_AT_ONCE)
    else:
        count = min(len(stale), max(_SHARDS_AT_ONCE, len(os.sched_getaffinity(0))))
        pool = ProcessPoolExecutor(count, workers.context("forkserver"), initializer=workers.end_with_parent)
    work = functools.partial(_index_one, cache=cache, image=image)
    try:
        for _ in _side_by_side([(url, now[url]) for url in stale], work, "indexing shards", progress, pool):
            pass
    except StoreError as error:
        raise InputError(explained(error)) from None
    _join(urls, now, cache, image, place)


def upload(urls: Sequence[str], cache: Path, image: str, progress: bool) -> None:
    """Put the index of each shard of a bucket beside it, so that other machines need not look into the shards.

    Raises InputError, one line, where that cannot be done.
    """
    if outside := [url for url in urls if not backends.is_in_bucket(url)]:
        raise InputError(f"{redact(outside[0])} is in no bucket, where an index could be put (s3, gs, az)")
    work = functools.partial(_upload_one, cache=cache, image=image)
    try:
        for _ in _side_by_side(urls, work, "uploading indexes", progress, ThreadPoolExecutor(_AT_ONCE)):
            pass
    except StoreError as error:
        raise InputError(f"the index cannot be put beside its shards: {error}") from None


def _upload_one(url: str, cache: Path, image: str) -> None:
    stores.STORE.put(_beside_place(url, image), _part_place(url, cache, image).read_bytes(), _BEGIN)


def explained(error: StoreError) -> str:
    """Return the line for a store's error at a start, with what to do."""
    if isinstance(error, RefusedError) and error.why == "ranges":
        return f"data.shards: {error}; set data.remote: copy (`gan-dist index`: --copy) to copy its shards whole"
    if isinstance(error, ChangedError):
        return f"data.shards: {error}; start again when nobody writes it"
    return f"data.shards: {error}"


def _asked(url: str) -> tuple[str, Facts]:
    return url, stores.STORE.facts(url, _BEGIN)


def _side_by_side(
    items: Sequence[Any], work: Callable[[Any], T], what: str, progress: bool, pool: Executor
) -> Iterator[T]:
    """Yield the results of `work` as they come, and show how far it is. The first error ends it."""
    begun = said = time.monotonic()
    tty = sys.stderr.isatty()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not (progress and tty)) as bar:
        task = bar.add_task(what, total=len(items))
        try:
            for done, future in enumerate(as_completed([pool.submit(work, item) for item in items]), 1):
                yield future.result()
                bar.advance(task)
                now = time.monotonic()
                if progress and not tty and now - said >= _LINES_EVERY:
                    said, left = now, (now - begun) / done * (len(items) - done)
                    words = f"{what}: {done:,} of {len(items):,}, about {left / 60:.0f} minutes left"
                    print(words, file=sys.stderr, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _index_one(item: tuple[str, Facts], cache: Path, image: str) -> None:
    url, facts = item
    found = _beside(url, facts, image) or scan(url, image, facts)
    _write(_part_place(url, cache, image), parts.content(_stamp(facts), *found))


def _write(place: Path, content: bytes) -> None:
    try:
        files.write_atomic(place, content)
    except OSError as error:
        raise InputError(f"the index cache (data.cache) {place.parent} cannot be written ({error.strerror})") from None


def _beside(url: str, facts: Facts, image: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return the index that lies beside a shard where it is of this shard: by its size, and by two of its samples."""
    try:
        content = stores.STORE.whole(_beside_place(url, image), stores.ONCE)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        if header["version"] != str(parts.VERSION) or header["bytes"] != str(facts.size):
            return None
        if header.get("etag") and facts.etag and header["etag"] != facts.etag:  # of one that was here before
            return None
        arrays = load_tensors(content)
        summary = json.loads(header["summary"])
        keys, offsets = parts.split(arrays["keys"]), arrays["offset"].tolist()
        if not {*_ALL} <= arrays.keys() or len(keys) != len(offsets):
            return None
        ends = sorted({0, len(keys) - 1}) if keys else []
        blocks = stores.STORE.read(url, [(offsets[end] - 512, offsets[end]) for end in ends], facts, _BEGIN)
        if any(block[257:262] != b"ustar" for block in blocks):
            return None
        name = redact(url)
        summary["bad"] = [f"{name}: {bad.split(': ', 1)[-1]}" for bad in summary["bad"]]
        return {column: arrays[column] for column in _ALL}, summary
    except (StoreError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
        return None


def _beside_place(url: str, image: str) -> str:
    base, mark, query = url.partition("?")
    return base + (".index" if image == "auto" else f".{image}.index") + mark + query


def _join(urls: Sequence[str], facts: dict[str, Facts], cache: Path, image: str, place: Path) -> None:
    """Write the set's file from the parts of its shards, of which one at a time is in memory."""

    def part(url: str, columns: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        found = parts.read(_part_place(url, cache, image), _stamp(facts[url]), columns)
        if found is None:
            raise InputError(f"the index of {redact(url)} in {place.parent} is gone already; start again")
        return found

    first, first_key, summaries = [0], [0], []
    for url in urls:
        arrays, summary = part(url, ("offset", "keys"))
        first.append(first[-1] + len(arrays["offset"]))
        first_key.append(first_key[-1] + len(arrays["keys"]))
        summaries.append(summary)
    about = {
        "version": str(parts.VERSION),
        "facts": json.dumps([facts[url] for url in urls]),
        "summaries": json.dumps(summaries),
    }
    heads = {"first": np.array(first), "first_key": np.array(first_key)}
    lengths = {
        "first": len(first),
        "first_key": len(first),
        **dict.fromkeys(_COLUMNS, first[-1]),
        "keys": first_key[-1],
    }
    header, begins = _header(lengths, about)
    temporary = files.temporary(place)
    try:
        with temporary.open("wb") as file:
            file.write(header)
            for name, values in heads.items():
                file.write(values.astype(_TYPES[name][1]).tobytes())
            for number, url in enumerate(urls):
                arrays, _ = part(url, _ALL)
                for name, starts in (*((column, first) for column in _COLUMNS), ("keys", first_key)):
                    start, end = starts[number : number + 2]
                    if len(arrays[name]) != end - start:
                        raise InputError(f"the index of {redact(url)} in {place.parent} changed meanwhile; start again")
                    kind = np.dtype(_TYPES[name][1])
                    file.seek(begins[name] + start * kind.itemsize)
                    file.write(arrays[name].astype(kind, copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
        files.sync_directory(place.parent)
    except OSError as error:
        raise InputError(f"the index cache (data.cache) {place.parent} cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _header(lengths: dict[str, int], about: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the beginning of a safetensors file, and the byte at which each of its vectors begins."""
    described: dict[str, Any] = {"__metadata__": about}
    end, offsets = 0, {}
    for name, length in lengths.items():  # the widest first, so that all are aligned
        kind, numpy_kind = _TYPES[name]
        offsets[name], end = end, end + length * np.dtype(numpy_kind).itemsize
        described[name] = {"dtype": kind, "shape": [length], "data_offsets": [offsets[name], end]}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}


def load(urls: Sequence[str], cache: Path, image: str) -> list[parts.Part]:
    """Return the index that `build` has made."""
    place = _place(urls, cache, image)
    try:
        with safe_open(place, framework="numpy") as file:
            about = file.metadata()
            facts = [Facts(*each) for each in json.loads(about["facts"])]
            summaries, first = json.loads(about["summaries"]), file.get_tensor("first").tolist()
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"data.shards: there is no index of {redact(urls[0])} in {place.parent} ({type(error).__name__}); "
            "make it by `gan-dist index`, and let all machines share data.cache or run it on each"
        ) from None

    whole = safe_open(place, framework="numpy")  # maps the file; closed when nobody holds a part any more

    def column(name: str, begin: int, end: int) -> np.ndarray:
        found: np.ndarray = whole.get_slice(name)[begin:end]  # type: ignore[no-untyped-call]
        return found

    def part(shard: int) -> parts.Part:
        begin, end, about = first[shard], first[shard + 1], facts[shard]
        mark = hashlib.sha256(f"{about.etag or about.modified}".encode()).digest()
        stamp = about.size, int.from_bytes(mark[:6], "little")
        return parts.Part(end - begin, summaries[shard], stamp, about, lambda name: column(name, begin, end))

    return [part(shard) for shard in range(len(urls))]


def keys(addresses: Sequence[str], shard: int, cache: Path, image: str) -> list[str]:
    """Return the keys of one of the shards at these addresses; "" stands for one that is a file."""
    urls = tuple(address for address in addresses if address)
    return _keys(_place(urls, cache, image), sum(1 for address in addresses[:shard] if address))


@functools.lru_cache(maxsize=8)
def _keys(place: Path, shard: int) -> list[str]:
    try:
        with safe_open(place, framework="numpy") as file:
            begin, end = file.get_slice("first_key")[shard : shard + 2].tolist()
            return parts.split(file.get_slice("keys")[begin:end])
    except (OSError, SafetensorError, KeyError, ValueError):
        raise InputError(f"data.shards: the index {place} is gone; make it again by `gan-dist index`") from None


def _facts(place: Path) -> list[Facts] | None:
    try:
        with safe_open(place, framework="numpy") as file:
            about = file.metadata()
        return [Facts(*each) for each in json.loads(about["facts"])] if about["version"] == str(parts.VERSION) else None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _stamp(facts: Facts) -> dict[str, str]:
    return {"version": str(parts.VERSION), "bytes": str(facts.size), "etag": facts.etag, "modified": facts.modified}


def _place(urls: Sequence[str], cache: Path, image: str) -> Path:
    text = json.dumps([parts.VERSION, image, [parts.identity(url) for url in urls]])
    return cache / "index" / f"set-{hashlib.sha256(text.encode()).hexdigest()[:24]}.index"


def _part_place(url: str, cache: Path, image: str) -> Path:
    name = "" if image == "auto" else f".{image}"
    text = parts.identity(url)
    return cache / "index" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}{name}.index"
