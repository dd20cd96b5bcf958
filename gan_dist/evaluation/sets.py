"""Sets of features: their moments, and their rows in a file that all ranks of a machine map."""

import contextlib
import dataclasses
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_dist import files
from gan_dist.evaluation import pairs
from gan_dist.evaluation.features import Features
from gan_dist.evaluation.moments import Moments, Sums
from gan_dist.evaluation.pairs import Between, Wants, Within
from gan_dist.evaluation.ranks import Ranks

MOST_ROWS = 50_000
"""Features of a set that are kept for pairs, its first ones: moments are of all."""
_ROWS, _MOMENTS = "features.npy", "moments.safetensors"


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
        """Return the set. Every rank calls it."""
        assert self._sums is not None, "no features were taken in"
        if self._file is not None:
            self._file.close()
        moments = self._sums.moments(self._ranks.gather(self._sums.columns()))
        return FeatureSet(np.load(self._folder / _ROWS, mmap_mode="r"), moments, self._folder)


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
    part = folder.with_name(f".{folder.name}.{ranks.machine}.part")

    def prepare() -> None:
        if ranks.writes:
            files.make_directory(folder.parent, "the cache for features of real images (data.cache)")
            shutil.rmtree(part, ignore_errors=True)

    def publish() -> None:
        if ranks.writes:
            moments = {"mean": made.moments.mean, "covariance": made.moments.covariance}
            facts = {"count": str(made.moments.count), "about": json.dumps(dict(about), default=str)}
            files.write_atomic(part / _MOMENTS, save(moments, metadata=facts))
            _publish(part, folder)

    ranks.together(prepare)
    collector = Collector(part, count, ranks)
    collect(collector)
    made = collector.done()
    ranks.together(publish)
    found = _read(folder)
    assert found is not None, f"{folder} was just written"
    return found


def _publish(part: Path, folder: Path) -> None:
    """Give a reference its name; where another machine or an unreadable one is in the place, that one gives way."""
    try:
        part.rename(folder)
    except OSError:
        if _read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        shutil.rmtree(part, ignore_errors=True)


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
    token = ranks.gather(secrets.token_hex(8))[0]
    folder = cache / "evaluation" / f".generated-{token}.{ranks.machine}"
    try:
        yield folder
    finally:
        if ranks.writes:
            shutil.rmtree(folder, ignore_errors=True)
