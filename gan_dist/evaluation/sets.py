"""Sets of features: their moments, and their rows in a file that all ranks of a machine map."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_dist import files
from gan_dist.errors import InputError
from gan_dist.evaluation import pairs
from gan_dist.evaluation.features import Features
from gan_dist.evaluation.moments import Moments, Sums
from gan_dist.evaluation.pairs import Between, Wants, Within
from gan_dist.evaluation.ranks import Ranks

MOST_ROWS = 50_000
"""Features of a set that are kept for pairs, its first ones: moments are of all."""
_ROWS, _MOMENTS = "features.npy", "moments.safetensors"
_LOCK = ".lock"
_OLD = 86_400.0  # seconds after which a folder without a lock is nobody's


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images."""

    rows: np.ndarray
    """(N, D) float32 of the first images, read-only in a file."""
    moments: Moments
    """Of all images."""
    folder: Path


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Generated images and real ones, as one extractor sees them: what a metric of sets is given."""

    features: Features
    fake: FeatureSet
    real: FeatureSet
    fake_pairs: Within
    real_pairs: Within
    pairs: Between
    """Empty where no metric wants pairs."""
    beat: Callable[[], object] = lambda: None
    """Call it between two pieces of long work: the watchdog takes silence for a hang."""


class Collector:
    """Takes in the features of a set on all ranks: every rank is given all rows, in order."""

    def __init__(self, folder: Path, count: int, ranks: Ranks) -> None:
        self._folder, self._kept, self._ranks = folder, min(count, MOST_ROWS), ranks
        self._file: BinaryIO | None = None
        self._sums: Sums | None = None
        self._taken = 0

    def add(self, rows: np.ndarray) -> None:
        """Take in the next features (N, D)."""
        if self._sums is None:
            width = rows.shape[1]
            self._sums = Sums(width, self._ranks.device, self._ranks.rank, self._ranks.count)
            if self._ranks.writes:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = (self._folder / _ROWS).open(
                    "wb"
                )  # a map of it would end the process where the disk is full
                header = {"descr": "<f4", "fortran_order": False, "shape": (self._kept, width)}
                np.lib.format.write_array_header_1_0(self._file, header)
        self._sums.add(torch.from_numpy(rows))
        if self._file is not None and self._taken < self._kept:
            self._file.write(np.ascontiguousarray(rows[: self._kept - self._taken], "<f4").data)
        self._taken += len(rows)

    def done(self) -> FeatureSet:
        """Return the set. Every rank calls it. Raises InputError on all where it fails on one: the disk may be full."""
        everyone = self._ranks.gather(self._ranks.together(self._end))
        return self._ranks.together(lambda: self._set(everyone))

    def _end(self) -> dict[int, Tensor]:
        assert self._sums is not None, "no features were taken in"
        if self._file is not None:
            self._file.close()
        return self._sums.columns()

    def _set(self, everyone: list[dict[int, Tensor]]) -> FeatureSet:
        assert self._sums is not None
        rows = np.load(self._folder / _ROWS, mmap_mode="r")
        return FeatureSet(rows, self._sums.moments(everyone), self._folder)

    def close(self) -> None:
        """Close the file of a set that nobody wants any more."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def reference(
    about: Mapping[str, Any],
    cache: Path,
    collect: Callable[[Collector], object],
    count: int,
    ranks: Ranks,
) -> FeatureSet:
    """Return the features of the real images: from the cache, or extracted now. Every rank calls it.

    `about` is all that decides about them: digest of the data, extractor with its hash, resize, number. `collect` gives
    every rank all rows. What the first rank calls them holds on all.
    """
    key = hashlib.sha256(json.dumps(ranks.gather(dict(about))[0], sort_keys=True, default=str).encode()).hexdigest()
    folder = cache / "evaluation" / f"reference-{key[:24]}"
    found = _read(folder)
    if all(ranks.gather(found is not None)) and found is not None:
        return found

    def publish() -> None:
        if ranks.writes:
            moments = {"mean": made.moments.mean, "covariance": made.moments.covariance}
            facts = {"count": str(made.moments.count), "about": json.dumps(dict(about), default=str)}
            files.write_atomic(part / _MOMENTS, save(moments, metadata=facts))
            _publish(part, folder)

    def read() -> FeatureSet:
        if (whole := _read(folder)) is None:
            raise InputError(f"{folder} was just written and cannot be read; look at the disk of data.cache")
        return whole

    with (
        _temporary(folder.parent, folder.name, ranks) as part,
        contextlib.closing(Collector(part, count, ranks)) as collector,
    ):
        collect(collector)
        made = collector.done()
        ranks.together(publish)
    return ranks.together(read)


def _publish(part: Path, folder: Path) -> None:
    """Give a reference its name; where another machine or an unreadable one is in the place, that one gives way."""
    (part / _LOCK).unlink(missing_ok=True)
    try:
        part.rename(folder)
    except OSError:
        if _read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)


def _read(folder: Path) -> FeatureSet | None:
    """Return a reference that is there and whole."""
    try:
        with safe_open(folder / _MOMENTS, framework="pt") as file:
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
            moments = Moments(int(file.metadata()["count"]), mean, covariance)
        return FeatureSet(np.load(folder / _ROWS, mmap_mode="r"), moments, folder)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def compare(
    features: Features, fake: FeatureSet, real: FeatureSet, wants: Wants, ranks: Ranks, beat: Callable[[], object]
) -> Comparison:
    """Return what metrics are given of two sets. The pairs of real images lie beside them, for the next time.

    Every rank calls it.
    """
    of_real = _of_real(real, wants, ranks, beat)
    of_fake = pairs.within(fake.rows, wants, ranks, beat, real.rows) if wants != Wants() else _NOTHING
    both = pairs.between(fake.rows, real.rows, of_fake, of_real, wants, ranks, beat) if wants != Wants() else _NO_PAIRS
    return Comparison(features, fake, real, of_fake, of_real, both)


_NOTHING = Within(torch.zeros(0, 0), {})
_NO_PAIRS = Between({}, {}, torch.zeros(0), torch.zeros(0), torch.zeros(0), {})


def _of_real(real: FeatureSet, wants: Wants, ranks: Ranks, beat: Callable[[], object]) -> Within:
    """Return the pairs of the real images with themselves, each part from its file or computed now."""
    known: dict[str, Tensor] = {}
    needed = wants.kept
    for name in needed:
        with (
            contextlib.suppress(OSError, SafetensorError),
            safe_open(real.folder / f"{name}.safetensors", "pt") as file,
        ):
            known[name] = file.get_tensor(name)
    have = set.intersection(*[set(names) for names in ranks.gather(list(known))])
    if missing := [name for name in needed if name not in have]:
        wanted = Wants("neighbours" in missing, frozenset(), frozenset(missing) - {"neighbours"})
        made = pairs.within(real.rows, wanted, ranks, beat)
        known |= {**made.sums, **({"neighbours": made.distances} if wanted.neighbours else {})}

        def keep() -> None:
            for name in missing if ranks.writes else ():
                files.write_atomic(real.folder / f"{name}.safetensors", save({name: known[name].contiguous()}))

        ranks.together(keep)
    distances = known.get("neighbours", torch.zeros(len(real.rows), 0))
    return Within(distances, {name: known[name] for name in wants.kernels})


@contextlib.contextmanager
def scratch(cache: Path, ranks: Ranks) -> Iterator[Path]:
    """Yield a folder for the features of generated images, the same on the ranks of a machine; it is deleted afterwards."""
    with _temporary(cache / "evaluation", "generated", ranks) as folder:
        yield folder


@contextlib.contextmanager
def _temporary(parent: Path, name: str, ranks: Ranks) -> Iterator[Path]:
    """Yield a folder that this evaluation alone has on its machine, and delete it afterwards. Every rank calls it.

    Evaluations share a cache: those of a Slurm array, or one beside a training. What a killed one left is deleted here.
    """
    token = ranks.gather(secrets.token_hex(8))[0]
    folder = parent / f".{name}-{token}.{ranks.machine}.part"
    locks: list[int] = []

    def make() -> None:
        if ranks.writes:
            files.make_directory(parent, "the cache for features of images (data.cache)")
            _sweep(parent)
            locks.append(_hold(folder))

    try:
        ranks.together(make)
        yield folder
    finally:
        for lock in locks:
            os.close(lock)
        if ranks.writes:
            shutil.rmtree(folder, ignore_errors=True)


def _hold(folder: Path) -> int:
    """Make a folder, and lock it until the file descriptor that is returned is closed: a kill closes it too."""
    while True:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a sweep was quicker, and deletes it
            time.sleep(0.01)
        except OSError:  # a disk without locks: its age decides
            return lock
        if (folder / _LOCK).exists():
            return lock
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Delete folders that killed evaluations left: nobody holds their lock. One without a lock must be a day old."""
    for folder in (*parent.glob(".generated-*"), *parent.glob(".reference-*.part")):
        try:
            with (folder / _LOCK).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        except OSError:
            if time.time() - _changed(folder) > _OLD:
                shutil.rmtree(folder, ignore_errors=True)


def _changed(folder: Path) -> float:
    """Return when a folder or a file in it was last changed, in seconds since 1970; now, where it is gone."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()
