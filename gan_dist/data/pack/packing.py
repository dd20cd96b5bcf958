"""Pack a source of images into WebDataset shards (`gan-dist pack`) by many processes; a shard is whole or absent."""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import random
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from gan_dist import files, units
from gan_dist.data.pack import duplicates, pairs, preview, write
from gan_dist.data.pack.convert import QUALITY, about_dim, is_grey
from gan_dist.data.pack.items import Item, Source
from gan_dist.data.pack.progress import Bar
from gan_dist.data.pack.report import REPORT, PackReport
from gan_dist.data.pack.sources import made_of, open_source
from gan_dist.errors import InputError

SHARD_SIZE = 2000
_SHARD_BYTES = 256 << 20  # of the source: shards of large photos are cut sooner
_RESIZED_SHARD_BYTES = 1 << 30
_CLASSES = "classes.json"
_SCRATCH = ".source"
_LOCK = ".lock"


def is_packed(destination: Path) -> bool:
    """Say whether a whole pack is there, or anything that `pack` did not make."""
    plan = _read_plan(destination)
    if plan is None:
        return bool(_visible(destination))
    return bool(plan["state"] == "done" and _whole(destination).keys() >= plan.get("shards", {}).keys())


def pack(
    source: str,
    destination: Path,
    *,
    resolution: int | str | None = None,
    channels: int | None = None,
    processes: int | None = None,
    classes: str | None = None,
    split: str | None = None,
    count: int | None = None,
    quality: int = QUALITY,
    shard_size: int = SHARD_SIZE,
    progress: bool = True,
    layout: pairs.Layout | None = None,
    drop_duplicates: bool = False,
    compare: bool = True,
) -> PackReport:
    """Write `source` as shards into `destination`; the same call goes on after a stop and repeats nothing.

    The images are shuffled over the shards (by a fixed key), as sources come sorted by class. `channels` None: grey
    where all images are, else RGB. `processes` None: one a core. `classes`, `split`, `count`: see `open_source`. `layout`: the
    source holds several images of each sample. `compare`: find images that show nearly what an earlier one shows, where samples
    have one image; `drop_duplicates` leaves them out, for which all images are decoded twice.
    A shard has at most `shard_size` images, and fewer where they are large. The shards' bytes do not depend on the
    number of processes. `resolution`: 64 for squares, 96x64 for width x height. A second call at the same time waits for the first. Raises InputError for a source without images, and for a destination that holds other files.
    """
    assert channels in (None, 1, 3, 4)
    origin = made_of(source) or source
    if os.path.isdir(origin) and destination.resolve().is_relative_to(Path(origin).resolve()):
        raise InputError(f"{destination} lies within the source {source}; give a folder outside of it")
    absent = not os.path.exists(destination)
    try:
        with _alone(destination):
            try:
                return _pack(
                    source,
                    destination,
                    resolution,
                    channels,
                    processes,
                    classes,
                    split,
                    count,
                    quality,
                    shard_size,
                    progress,
                    layout,
                    drop_duplicates,
                    compare,
                )
            finally:
                shutil.rmtree(destination / _SCRATCH, ignore_errors=True)
    finally:
        if absent:
            with contextlib.suppress(OSError):  # it holds shards, as it should
                destination.rmdir()


def _pack(
    source: str,
    destination: Path,
    resolution: int | str | None,
    channels: int | None,
    processes: int | None,
    classes: str | None,
    split: str | None,
    count: int | None,
    quality: int,
    shard_size: int,
    progress: bool,
    layout: pairs.Layout | None,
    drop_duplicates: bool,
    compare: bool,
) -> PackReport:
    before = _read_plan(destination)
    if before is None and (foreign := _visible(destination)):
        raise InputError(
            f"{destination} holds files that `gan-dist pack` did not make ({foreign[0]}); give a new or empty folder"
        )
    size = None if resolution is None else units.image_size(resolution)
    if layout is None:
        found = open_source(source, destination / _SCRATCH, classes, split=split, size=size, count=count)
    else:
        found = pairs.listed(source, destination / _SCRATCH, layout, size is not None)
    if found.items[0].members:
        found = pairs.with_channels(found, channels, _guess_channels)
        channels = channels or max(member.channels for member in found.items[0].members)
    channels = channels or _guess_channels(found.items)
    plan = {
        "source": _name(source),
        "listing": _digest(found.items),
        "resolution": resolution,
        "channels": channels,
        "quality": quality,
        "shard_size": shard_size,
        # plans of earlier versions have no such keys
        **{name: value for name, value in (("classes", classes), ("split", split), ("count", count)) if value},
        **({"images": layout.text} if layout else {}),
        **({"drop_duplicates": True} if drop_duplicates else {}),
    }
    compared = (compare or drop_duplicates) and not found.items[0].members
    if drop_duplicates and not compared:
        raise InputError("--drop-duplicates has no effect on samples of several images; remove it")
    shard_bytes = _SHARD_BYTES if resolution is None else _RESIZED_SHARD_BYTES
    jobs = _cut(found.items, shard_size, shard_bytes)
    if before is None:
        files.write_json(destination / REPORT, {"state": "running", "plan": plan})
    else:
        _refuse_another(destination, before["plan"], plan, {f"{name}.tar" for name in jobs})
    whole = _whole(destination)
    if before is not None and before["state"] == "done" and whole.keys() >= before["shards"].keys():
        return dataclasses.replace(_report(before["report"]), resumed=len(before["shards"]))
    for torn in destination.glob(".*.part"):
        torn.unlink()
    processes = processes or len(os.sched_getaffinity(0))
    twice = None
    if drop_duplicates:
        scratch = destination / _SCRATCH / "signatures"
        twice = duplicates.before_packing(jobs, scratch, size, channels, processes, progress)
        left_out = {each.image for each in twice}
        items = [item for place, item in enumerate(found.items) if place not in left_out]
        jobs = _cut(items, shard_size, shard_bytes)
    missing = {name: shard for name, shard in jobs.items() if name not in whole}
    work = functools.partial(
        write.pack_shard,
        destination=destination,
        size=size,
        channels=channels,
        quality=quality,
        compared=compared and not drop_duplicates,
    )
    total, left = (sum(map(len, shards.values())) for shards in (jobs, missing))
    with Bar(total, total - left, progress) as bar:
        for done in write.run(work, list(missing.items()), processes):
            bar.advance(done)
    facts = _whole(destination)
    shards = {name: facts[name] for name in jobs}
    report = _gather(shards, found, resumed=len(jobs) - len(missing))
    if not report.images:
        for path in (*destination.glob("shard-*.tar"), *destination.glob(".shard-*"), destination / REPORT):
            path.unlink()
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped[:3])
        raise InputError(f"{source}: none of {len(found.items)} files could be read as an image ({reasons})")
    if compared and not drop_duplicates:
        twice = duplicates.of_shards(destination, jobs, report.images)
    if twice is None:  # a lost shard was made again
        report = dataclasses.replace(report, near_duplicates=(before or {}).get("report", {}).get("near_duplicates", 0))
    elif twice:
        report = dataclasses.replace(report, near_duplicates=len(twice), dropped=drop_duplicates)
        duplicates.write_list(destination, twice, found.items)
    if found.classes:
        files.write_json(destination / _CLASSES, found.classes)
    with contextlib.suppress(OSError):  # a picture ends no packing
        preview.write(destination, list(jobs), found.classes)
    done_plan = {"state": "done", "plan": plan, "report": dataclasses.asdict(report), "shards": shards}
    files.write_json(destination / REPORT, done_plan)
    for leftover in destination.glob(".shard-*"):
        leftover.unlink()
    return report


def _name(source: str) -> str:
    """Return what a source is called in its plan, wherever it lies."""
    if origin := made_of(source):
        return f"{source.partition(':')[0]}:{_name(origin)}"
    return source if source == "digits" else Path(source).resolve().name


@contextlib.contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Make the folder, and wait until no other process packs into it: another machine of the same training, say."""
    path = destination / _LOCK
    while True:
        files.make_directory(destination, "the folder for the shards")
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("a"))
            except FileNotFoundError:  # the process before us has just removed its empty folder
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process packs into {destination}: waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
                warnings.warn(f"{destination}: no file locks here; start only one pack into it", stacklevel=2)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # locked what its owner has since removed
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _digest(items: Sequence[Item]) -> str:
    """Return the SHA-256 over all that tells one listing from another, but not where the source lies."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps((item.name, item.label, item.size, item.stamp)).encode())
    return digest.hexdigest()


def _cut(items: Sequence[Item], most: int, most_bytes: int) -> dict[str, list[tuple[int, Item]]]:
    """Name of a shard -> its shuffled items, each with its place in the source. Knows nothing of bad images."""
    order = list(range(len(items)))
    random.Random(0).shuffle(order)
    shards: list[list[tuple[int, Item]]] = []
    room = 0
    for place in order:
        if not shards or len(shards[-1]) == most or items[place].size > room:
            shards.append([])
            room = most_bytes
        shards[-1].append((place, items[place]))
        room -= items[place].size
    return {f"shard-{number:06d}": shard for number, shard in enumerate(shards)}


def _visible(destination: Path) -> list[str]:
    """Return the files that are not hidden: hidden ones are ours, from before the plan was written, or the system's."""
    if not os.path.isdir(destination):
        return []
    return sorted(path.name for path in destination.iterdir() if not path.name.startswith("."))


def _refuse_another(destination: Path, before: dict[str, Any], plan: dict[str, Any], ours: set[str]) -> None:
    changed = [
        "other images" if key == "listing" else f"{key} {_short(before.get(key))} there, {_short(plan.get(key))} now"
        for key in {**plan, **before}
        if before.get(key) != plan.get(key)
    ]
    if changed:
        raise InputError(
            f"{destination} holds shards packed in another way: {', '.join(changed)}; give a new or empty folder"
        )
    if foreign := [name for name in _visible(destination) if name.endswith(".tar") and name not in ours]:
        raise InputError(f"{destination} holds {foreign[0]}, which `gan-dist pack` did not make; move it elsewhere")


def _short(value: Any) -> str:
    text = "default" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_plan(destination: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((destination / REPORT).read_text())
        return plan if {"state", "plan"} <= plan.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _whole(destination: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of each shard that is there with all its bytes."""
    facts = dict((_read_plan(destination) or {}).get("shards", {}))
    for path in destination.glob(".shard-*.json"):
        facts[path.stem[1:]] = json.loads(path.read_text())
    sizes = {path.stem: path.stat().st_size for path in destination.glob("shard-*.tar")}
    return {name: fact for name, fact in facts.items() if sizes.get(name) == fact["bytes"]}


def _guess_channels(items: Sequence[Item]) -> int:
    """Return 1 where all images are grey, otherwise 3. A hundred over the whole source come first: colour is found soon, if there is any."""
    first = items[:: max(1, len(items) // 100)]
    with write.pixel_limit():
        for item in (*first, *items):
            try:
                if not write.use(item, is_grey):
                    return 3
            except write.Unusable:
                continue  # packing will say what is wrong with it
    return 1


def _gather(shards: dict[str, dict[str, Any]], source: Source, resumed: int) -> PackReport:
    facts = shards.values()
    return PackReport(
        images=sum(fact["images"] for fact in facts),
        shards=len(facts),
        bytes=sum(fact["bytes"] for fact in facts),
        kept=sum(fact["kept"] for fact in facts),
        enlarged=sum(fact["enlarged"] for fact in facts),
        resumed=resumed,
        classes=source.classes,
        skipped=[*source.skipped, *sorted(tuple(entry) for fact in facts for entry in fact["skipped"])],
        notes=[*source.notes, *_dim(facts)],
    )


def _dim(facts: Collection[dict[str, Any]]) -> list[str]:
    """Find images of more than 8 bits whose brightest pixel is dark: their values fill a part of the range only."""
    return about_dim([tuple(entry) for fact in facts for entry in fact.get("dim", ())])


def _report(fields: dict[str, Any]) -> PackReport:
    return PackReport(**{**fields, "skipped": [tuple(entry) for entry in fields["skipped"]]})
