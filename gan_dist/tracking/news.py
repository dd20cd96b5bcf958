"""Find what a dashboard does not have yet of a run's own files, so that it can be brought up to date again and again."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist import files
from gan_dist.errors import InputError
from gan_dist.tracking import media, shown

Picture = tuple[int, str, Path]
"""Position in images, name, and file of RUN/samples or RUN/media."""
Event = tuple[str, int, str, str]
"""Time, position in images, what happened, details."""


@dataclasses.dataclass(frozen=True)
class News:
    """What is new of a run."""

    anew: bool
    """The run went back to an earlier checkpoint, and has other figures now: what was written of it must go."""
    lines: list[dict[str, float]]
    """Figures, each line with `images`."""
    pictures: list[Picture]
    events: list[Event]
    """The newest of all, or none where none is new."""
    state: dict[str, Any]
    """To be given to the next `news`."""

    def __bool__(self) -> bool:
        return bool(self.lines or self.pictures or self.events)

    @property
    def last(self) -> int:
        """The last position in images."""
        return max([0, *(int(line["images"]) for line in self.lines), *(picture[0] for picture in self.pictures)])


def read(directory: Path, state: Mapping[str, Any]) -> News:
    """Return what is new since the call that returned `state`; {}: everything. The run may be training.

    Raises InputError for a run without figures.
    """
    lines = [line for line in files.read_json_lines(directory / "metrics.jsonl") if "images" in line]
    if not lines:
        raise InputError(f"{directory} has no figures yet (metrics.jsonl)")
    known = state if _fits(state, lines) else {}
    count = known.get("lines", 0)
    new = [_figures(line) for line in lines[count:]]
    if count:  # scores come to the last line when they are ready
        named = known["named"]
        added = {name: value for name, value in _figures(lines[count - 1]).items() if name not in named}
        new = [{"images": lines[count - 1]["images"], **added}, *new] if added else new
    written = set(known.get("pictures", ()))
    everything = list(pictures(directory))
    fresh = [picture for picture in everything if _name(directory, picture) not in written]
    events = shown.events(directory / "events.jsonl")
    new_state = {
        "lines": len(lines),
        "named": sorted(lines[-1]),
        "digest": _digest(lines, sorted(lines[-1])),
        "pictures": [_name(directory, picture) for picture in everything],
        "events": _hash(events),
    }
    changed = new_state["events"] != known.get("events")
    return News(bool(state) and not known, new, fresh, events if changed else [], new_state)


def _fits(state: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether what was written is still the beginning of the figures."""
    count, named = state.get("lines"), state.get("named")
    if not isinstance(count, int) or not isinstance(named, list) or not 0 < count <= len(lines):
        return False
    return bool(_digest(lines[:count], named) == state.get("digest"))


def _digest(lines: Sequence[Mapping[str, Any]], named: Sequence[str]) -> str:
    """Return a hash of figures, of the last line the named ones."""
    return _hash([*lines[:-1], {name: lines[-1].get(name) for name in named}])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line; `images` is one of them."""
    numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
    # updates that were never skipped are no news
    return {name: value for name, value in numbers.items() if name != "step" and (value or name[:8] != "skipped/")}


def _name(directory: Path, picture: Picture) -> str:
    return picture[2].relative_to(directory).as_posix()


def pictures(directory: Path) -> Iterator[Picture]:
    """Yield everything to look at, in order; real images come with the first grid."""
    samples = directory / "samples"
    grids = [
        (images, "samples/grid" if name == "." else f"samples/{name}", path)
        for images, name, path in media.listed(samples)
    ]
    reals = samples / "reals.png"
    if grids and reals.exists():
        yield min(images for images, _, _ in grids), "samples/reals", reals
    yield from grids
    yield from media.listed(directory / "media")


def clock(directory: Path) -> Callable[[int], float]:
    """Return what tells when a run was at a position, in seconds since 1970: between its events, evenly."""
    seen: dict[int, float] = {}
    for time, images, _, _ in shown.events(directory / "events.jsonl"):
        try:
            seen[images] = datetime.fromisoformat(time).timestamp()
        except ValueError:  # an edited line
            continue
    if not seen:
        moment = (directory / "metrics.jsonl").stat().st_mtime
        return lambda images: moment
    positions = sorted(seen)
    return lambda images: float(np.interp(images, positions, [seen[each] for each in positions]))


def load_state(path: Path) -> dict[str, Any]:
    """Return what `save_state` wrote; {} where there is nothing of it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
