"""Find the near-duplicates of a source while it is packed, or before, and list them."""

import csv
import functools
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from gan_dist import files
from gan_dist.data.pack import likeness, write
from gan_dist.data.pack.items import Item
from gan_dist.data.pack.likeness import Likeness
from gan_dist.data.pack.progress import Bar
from gan_dist.data.pack.report import NEAR_DUPLICATES
from gan_dist.errors import InputError


def before_packing(
    jobs: Mapping[str, list[tuple[int, Item]]],
    scratch: Path,
    size: tuple[int, int] | None,
    channels: int,
    processes: int,
    progress: bool,
) -> list[Likeness]:
    """Look at all images of the jobs, and return the near-duplicates by their places in the source."""
    files.make_directory(scratch, "the folder for the shards")
    work = functools.partial(write.compare_items, destination=scratch, size=size, channels=channels)
    with Bar(sum(map(len, jobs.values())), 0, progress, "comparing") as bar:
        for done in write.run(work, list(jobs.items()), processes):
            bar.advance(done)
    return _found(scratch, jobs)


def of_shards(destination: Path, names: Collection[str], images: int) -> list[Likeness] | None:
    """Return the near-duplicates of shards that were just packed; None where some were made by an earlier version."""
    if likeness.count(_paths(destination, names)) != images:
        return None
    return _found(destination, names)


def _found(folder: Path, names: Iterable[str]) -> list[Likeness]:
    places, signed = likeness.load(_paths(folder, names))
    near = likeness.near(signed) if len(places) else []
    return [Likeness(int(places[each.image]), int(places[each.like]), each.signs) for each in near]


def _paths(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / f".{name}.npy" for name in names]


def write_list(destination: Path, found: Sequence[Likeness], items: Sequence[Item]) -> None:
    """Write near_duplicates.csv: each image, the first one that shows nearly the same, and how many of 128 signs differ."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "like", "signs"))
    rows.writerows((items[each.image].name, items[each.like].name, each.signs) for each in found)
    try:  # names may be no UTF-8
        files.write_atomic(destination / NEAR_DUPLICATES, text.getvalue().encode(errors="surrogateescape"))
    except OSError as error:
        raise InputError(
            f"{destination} cannot be written ({error.strerror}); make room there and start again, whole shards are kept"
        ) from None
