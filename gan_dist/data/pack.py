"""`gan-dist pack`: a source of images to WebDataset shards, many processes at a time, whole or absent."""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import webdataset
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gan_dist import files
from gan_dist.data.convert import convert, is_grey
from gan_dist.data.sources import Item, Source, open_source, read
from gan_dist.errors import InputError

SHARD_SIZE = 2000
_REPORT = "pack.json"
_CLASSES = "classes.json"
_SCRATCH = ".source"
_WORTH_A_POOL = 2000  # images: fewer are packed sooner than processes start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a source."""

    images: int = 0
    shards: int = 0
    bytes: int = 0
    kept: int = 0
    """Images whose bytes were kept as they were."""
    enlarged: int = 0
    classes: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """(name, reason)"""

    def lines(self) -> list[str]:
        """For a person."""
        size = f"{self.bytes / 2**20:,.1f} MiB"
        lines = [f"{self.images:,} images in {self.shards} shards, {size}; {self.kept:,} kept their bytes"]
        if self.classes:
            lines.append(f"{len(self.classes)} classes: {', '.join(list(self.classes)[:10])}")
        if self.enlarged:
            lines.append(f"{self.enlarged:,} images were smaller than asked for, and enlarged")
        if self.skipped:
            lines.append(f"{len(self.skipped):,} files skipped ({_REPORT} has all):")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:10]]
        return lines


def is_packed(destination: Path) -> bool:
    """Whether a whole pack is there, or anything that `pack` did not make."""
    plan = _read_plan(destination)
    if plan is None:
        return destination.is_dir() and any(destination.iterdir())
    return bool(plan["state"] == "done")


def pack(
    source: str,
    destination: Path,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    processes: int | None = None,
    quality: int = 95,
    shard_size: int = SHARD_SIZE,
    progress: bool = True,
) -> Report:
    """Write `source` as shards into `destination`; the same call goes on after a stop and repeats nothing.

    The images are shuffled over the shards (by a fixed key), as sources come sorted by class. `channels` None: grey
    where all images are, else RGB. The shards' bytes do not depend on the number of processes. Raises InputError for
    a source without images, and for a destination that holds anything else.
    """
    found, plan = _plan(source, destination, resolution, channels, quality, shard_size)
    before = _read_plan(destination)
    if before is not None and before["state"] == "done":
        shutil.rmtree(destination / _SCRATCH, ignore_errors=True)
        return _report(before["report"])
    order = list(range(len(found.items)))
    random.Random(0).shuffle(order)
    work = functools.partial(
        _pack_shard, destination=destination, resolution=resolution, channels=plan["channels"], quality=quality
    )
    jobs = [
        (f"shard-{number:06d}", [(place, found.items[place]) for place in order[first : first + shard_size]])
        for number, first in enumerate(range(0, len(order), shard_size))
    ]
    missing = [job for job in jobs if not (destination / f"{job[0]}.tar").exists()]
    with _Bar(
        len(found.items), sum(len(job[1]) for job in jobs) - sum(len(job[1]) for job in missing), progress
    ) as bar:
        for done in _run(work, missing, processes or os.cpu_count() or 1):
            bar.advance(done)
    report = _gather(destination, [name for name, _ in jobs], found)
    if not report.images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped[:3])
        raise InputError(f"{source}: none of {len(found.items)} files could be read as an image ({reasons})")
    if found.classes:
        files.write_json(destination / _CLASSES, found.classes)
    files.write_json(destination / _REPORT, {"state": "done", "plan": plan, "report": dataclasses.asdict(report)})
    for leftover in destination.glob(".shard-*"):
        leftover.unlink()
    shutil.rmtree(destination / _SCRATCH, ignore_errors=True)
    return report


def _plan(
    source: str, destination: Path, resolution: int | None, channels: int | None, quality: int, shard_size: int
) -> tuple[Source, dict[str, Any]]:
    """List the source, and make sure that the destination is for this source and these settings."""
    before = _read_plan(destination)
    if before is None and destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} holds files that `gan-dist pack` did not make; give a new or empty folder")
    fresh = before is None
    scratch = destination / _SCRATCH
    if fresh:
        files.make_directory(destination, "the folder for the shards")
    try:
        found = open_source(source, scratch)
    except InputError:
        if fresh:
            shutil.rmtree(scratch, ignore_errors=True)
            destination.rmdir()
        raise
    listing = hashlib.sha256("\n".join(f"{item.name}\t{item.label}" for item in found.items).encode()).hexdigest()
    plan = {
        "source": source if source == "digits" else Path(source).name,
        "listing": listing,
        "resolution": resolution,
        "channels": channels or _guess_channels(found.items),
        "quality": quality,
        "shard_size": shard_size,
    }
    if before is not None and before["plan"] != plan:
        changed = [key for key in plan if before["plan"].get(key) != plan[key]]
        raise InputError(
            f"{destination} holds shards of another source or other settings ({', '.join(changed)} differ); "
            "give a new or empty folder"
        )
    if fresh:
        files.write_json(destination / _REPORT, {"state": "running", "plan": plan})
    return found, plan


def _read_plan(destination: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((destination / _REPORT).read_text())
        return plan if {"state", "plan"} <= plan.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _guess_channels(items: Sequence[Item]) -> int:
    """1 where a hundred images over the whole source are all grey."""
    for item in items[:: max(1, len(items) // 100)]:
        try:
            if not is_grey(read(item.place)):
                return 3
        except (OSError, ValueError, SyntaxError):
            continue  # packing will say what is wrong with it
    return 1


def _run(work: Any, jobs: Sequence[tuple[str, list[tuple[int, Item]]]], processes: int) -> Iterator[int]:
    """Do the jobs; yields how many images each has dealt with."""
    if processes == 1 or len(jobs) == 1 or sum(len(items) for _, items in jobs) < _WORTH_A_POOL:
        for job in jobs:
            yield work(job)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pack_shard(
    job: tuple[str, list[tuple[int, Item]]], destination: Path, resolution: int | None, channels: int, quality: int
) -> int:
    """Write one shard and, beside it, what happened to its images; the shard's name appears when it is whole."""
    name, items = job
    part = destination / f".{name}.tar.part"
    facts: dict[str, Any] = {"images": 0, "kept": 0, "enlarged": 0, "skipped": []}
    with part.open("wb") as file:
        # nothing of this machine or hour in it, so that the same source gives the same bytes
        with webdataset.TarWriter(
            file, user="0", group="0", mode=0o644, mtime=0, encoder=False, format=tarfile.USTAR_FORMAT
        ) as shard:
            for place, item in items:
                try:
                    converted = convert(read(item.place), resolution, channels, quality)
                except (OSError, ValueError, SyntaxError, EOFError, Warning) as error:
                    facts["skipped"].append((item.name, _reason(error)))
                    continue
                sample = {"__key__": f"{place:08d}", converted.extension: converted.content}
                if item.label is not None:
                    sample["cls"] = str(item.label).encode()
                shard.write(sample)
                facts["images"] += 1
                facts["kept"] += converted.kept
                facts["enlarged"] += converted.enlarged
        file.flush()
        os.fsync(file.fileno())
    files.write_json(destination / f".{name}.json", facts)
    part.replace(destination / f"{name}.tar")
    files.sync_directory(destination)
    return len(items)


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text


def _gather(destination: Path, names: Sequence[str], found: Source) -> Report:
    facts = [json.loads((destination / f".{name}.json").read_text()) for name in names]
    return Report(
        images=sum(fact["images"] for fact in facts),
        shards=len(names),
        bytes=sum((destination / f"{name}.tar").stat().st_size for name in names),
        kept=sum(fact["kept"] for fact in facts),
        enlarged=sum(fact["enlarged"] for fact in facts),
        classes=found.classes,
        skipped=[*found.skipped, *sorted(tuple(entry) for fact in facts for entry in fact["skipped"])],
    )


def _report(fields: dict[str, Any]) -> Report:
    return Report(**{**fields, "skipped": [tuple(entry) for entry in fields["skipped"]]})


class _Bar:
    """Progress on a terminal, or a line now and then where there is none."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        columns = TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, disable=not (shown and sys.stdout.isatty()), transient=True)
        self._lines = shown and not sys.stdout.isatty()
        self._total, self._done, self._begin = total, done, time.perf_counter()
        self._start, self._said = done, time.perf_counter()

    def __enter__(self) -> "_Bar":
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=self._done)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        self._done += count
        self._bar.advance(self._task, count)
        now = time.perf_counter()
        if self._lines and now - self._said > 5:
            rate = (self._done - self._start) / (now - self._begin)
            left = (self._total - self._done) / rate
            print(f"packing {self._done:,}/{self._total:,}  {rate:,.0f} images/s  {left:.0f} s left", flush=True)
            self._said = now
