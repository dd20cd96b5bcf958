"""Fetch what is read soon into a machine's cache, and give up what is needed last: both are known from the order.

One thread of one process does it for a run and a set, chosen by a lock that the kernel takes back when the process ends;
another process takes over. Several runs share a cache: each writes when it needs what is there, and none gives up what another
one needs sooner than itself.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gan_dist import files
from gan_dist.data.block_cache import Contents, Folder, Reading, Unit, is_locked, readings
from gan_dist.data.holdings import Holdings, keys_of, spans_of, unit_of
from gan_dist.data.reading import Reader
from gan_dist.data.stores import StoreError
from gan_dist.data.upcoming import NEVER, Schedule

_AHEAD = 0.25  # of the limit is fetched ahead at most where something else has to go for it
_ROUND = 32 << 20  # bytes that are fetched together
_LOOK = 1.0  # seconds between two looks at who reads
_TAKE_OVER = 5.0  # seconds between two tries to do it instead of another process
_IDLE = 0.2  # seconds to wait where nothing is to be fetched
_SCAN, _SCAN_SHARE = 10.0, 20  # seconds between two scans, and that many times what a scan takes
_SCAN_SHARED = 1.0  # the same where another run writes
_SORT = 1.0  # seconds for which the order in which units are given up is used
_FRESH = 60.0  # seconds for which what another run has written is not given up
_BROKEN = 30.0  # seconds before the disk is tried again
_AT_ONCE = 1 << 20  # units of which something is computed together
_VICTIMS = 1 << 20  # units that are put in order to be given up, at most
_NEEDS = np.dtype([("set", "S16"), ("first", "<i8"), ("end", "<i8"), ("time", "<f8")])
_VICTIM = np.dtype([("time", "f8"), ("newness", "f8"), ("set", "i8"), ("key", "i8")])


class SourceError(Exception):
    """The shards cannot be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run keeps of a set in a cache. It is pickled to workers."""

    folder: Folder
    run: str
    """A name for this reading of a set by a run."""
    limit: int
    """Bytes of the whole cache."""
    schedule: Schedule
    contents: Contents
    source: Reader


class Fetcher:
    """Fills the cache for one run and set. `step` does some work; who calls it holds the run's lock."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.time) -> None:
        self.plan = plan
        self.needs = _runs(plan.folder) / f"{plan.run}.needs"
        """Says to other runs when this one needs what is there."""
        self._schedule, self._contents = plan.schedule, plan.contents
        self._clock = clock
        self._kept = Holdings()
        self._used = 0
        self._next_scan = self._next_telling = float("-inf")
        self._every = _SCAN
        self._images, self._at = -1, 0.0
        self._rate = 1000.0
        """Images/s of the run, about."""
        self._lasted = 0.0
        """Seconds of the last round."""
        self._slots: list[range] = []
        self._coming: Iterator[tuple[int, Unit | None, int]] | None = None
        """What is read next, as (position, unit, bytes), from where all that comes before is there. No unit: some that are."""
        self._next: tuple[int, Unit | None, int] | None = None
        self._ahead: deque[list[int]] = deque()
        """Position and bytes of what is there and will be read."""
        self._ahead_bytes = 0
        self._victims = np.empty(0, _VICTIM)
        self._sorted_at, self._sorting = float("-inf"), 0.0

    def step(self, readers: Sequence[Reading]) -> bool:
        """Fetch some units that these readers need soon. Returns False where there is nothing to do.

        Raises OSError where the cache cannot be written, SourceError where the shards cannot be read.
        """
        now = self._clock()
        images, slots = min(each.images for each in readers), sorted({each.slots for each in readers}, key=_start)
        if now >= self._next_scan:
            self._scan(now)
        if slots != self._slots or images < self._images:
            self._slots, self._coming = slots, None
        self._measure(images, now)
        self._tell(images, now)
        try:
            units = self._choose(images)
            return bool(units) and self._fetch(units)
        except BaseException:
            self._coming = None  # what was chosen is not there
            raise

    def _fetch(self, units: list[Unit]) -> bool:
        pieces = [self._contents.pieces(range(unit.first, unit.end)) for unit in units]
        began = self._clock()
        try:
            data = self.plan.source.read_many([piece for each in pieces for piece in each])
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from None
        self._lasted = max(0.0, self._clock() - began)
        done = 0
        for unit, each in zip(units, pieces, strict=True):
            taken = self.plan.folder.write(unit, data[done : done + len(each)])
            done += len(each)
            self._used += self._kept.put(unit, taken, self._clock())
        return True

    def _choose(self, images: int) -> list[Unit]:
        """Return the units to fetch now, after others have been given up for them."""
        if self._coming is None:
            self._coming, self._next = self._comes(images), None
            self._ahead.clear()
            self._ahead_bytes = 0
        while self._ahead and self._ahead[0][0] <= images:
            self._ahead_bytes -= self._ahead.popleft()[1]
        room, together = self.plan.limit - self._used, 0
        if room < 0:  # the limit is a lower one than before
            room = self._make_room(room, 0, images, -np.inf)
        # a full shuffle reads single samples: those that are read before they arrive are left out
        late = images + int(self._rate * self._lasted * 1.5) if self._schedule.blocks is None else images
        chosen: dict[Unit, int] = {}
        while together < _ROUND:
            self._next = self._next or next(self._coming, None)
            if self._next is None or self._next[0] > images + 2 * self._schedule.total:
                break
            position, unit, size = self._next
            if unit is not None and position > late and unit not in chosen and unit not in self._kept:
                if size > room and self._ahead_bytes + size <= max(self._most_ahead, size):
                    room = self._make_room(room, size, images, self._time_of(position, images))
                if size > room:
                    break
                chosen[unit] = size
                room -= size
                together += size
            self._next = None
            if self._ahead and self._ahead[-1][0] == position:
                self._ahead[-1][1] += size
            else:
                self._ahead.append([position, size])
            self._ahead_bytes += size
        return list(chosen)

    @functools.cached_property
    def _most_ahead(self) -> float:
        """Bytes that are fetched ahead at most where something else has to go for it: a window of blocks begins whole."""
        limit = self.plan.limit
        if (blocks := self._schedule.blocks) is None:
            return limit * _AHEAD
        samples = blocks.size * blocks.window * self._schedule.streams
        window = self._contents.stored * min(1.0, samples / max(1, self._schedule.total))
        return max(limit * _AHEAD, min(limit / 2, 1.1 * window))

    def _comes(self, images: int) -> Iterator[tuple[int, Unit | None, int]]:
        for position, numbers in self._schedule.upcoming(images, self._slots):
            firsts, ends = self._schedule.spans_of(numbers)
            taken = self._kept.of(self._contents.set).bytes_of(keys_of(firsts, ends))
            if there := int(taken.sum()):
                yield position, None, there
            for first, end in zip(firsts[taken == 0].tolist(), ends[taken == 0].tolist(), strict=True):
                sizes = self._contents.sizes(range(first, end))
                size = -(-(int(sizes.sum()) + 8 + 4 * len(sizes)) // 4096) * 4096  # on a disk, about
                yield position, Unit(self._contents.set, first, end), size

    def _make_room(self, room: int, wanted: int, images: int, before: float) -> int:
        """Give up what is needed last, and after the time `before`, until there is room. Returns the room."""
        now = self._clock()
        if now - self._sorted_at > max(_SORT, _SCAN_SHARE * self._sorting) or not len(self._victims):
            began = time.monotonic()
            self._victims = self._by_next_use(images)
            self._sorted_at, self._sorting = now, time.monotonic() - began
        names = list(self._kept.sets)
        while room < wanted and len(self._victims) and self._victims["time"][-1] > before:
            victim, self._victims = self._victims[-1], self._victims[:-1]
            room += self._give_up(unit_of(names[int(victim["set"])], int(victim["key"])))
        return room

    def _by_next_use(self, images: int) -> np.ndarray:
        """Return what may be given up, ordered by the time of the next use and newness: what is needed last is at the end."""
        now = self._clock()
        self._kept.settle()
        times = {name: np.full(len(held.keys), np.inf) for name, held in self._kept.sets.items()}
        for part, needed in self._own_times(images):
            times[self._contents.set][part] = needed
        for needs in self._needs_of_others():
            for name in np.unique(needs["set"]).tolist():
                if (held := self._kept.sets.get(name.decode())) is not None:
                    rows = needs[needs["set"] == name]
                    places = held.find(keys_of(rows["first"], rows["end"]))
                    there, known = places >= 0, times[name.decode()]
                    soonest = np.maximum(rows["time"][there], now)
                    known[places[there]] = np.minimum(known[places[there]], soonest)
        found = [np.empty(0, _VICTIM)]
        for number, (name, held) in enumerate(self._kept.sets.items()):
            fresh = ~held.mine & (now - held.written < _FRESH)  # its run has not said yet when it needs it
            times[name][fresh] = now
            last = np.lexsort((-held.written, times[name]))[-_VICTIMS:]
            columns = times.pop(name)[last], -held.written[last], np.full(len(last), number), held.keys[last]
            found.append(np.empty(len(last), _VICTIM))
            for column, values in zip(_VICTIM.names or (), columns, strict=True):
                found[-1][column] = values
        joined = np.concatenate(found)
        return joined if len(found) < 3 else joined[np.lexsort((joined["newness"], joined["time"]))]

    def _own_times(self, images: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield when this run needs each unit of its set that is there, in parts: which units, and seconds since 1970 or inf."""
        keys, now = self._kept.of(self._contents.set).keys, self._clock()
        for start in range(0, len(keys), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(keys)))
            firsts, ends = spans_of(keys[part])
            numbers = self._schedule.units_of(np.minimum(firsts, self._schedule.total - 1))
            begin, stop = self._schedule.spans_of(numbers)
            # a run that cuts its blocks elsewhere keeps the same set in other units: those are not this run's
            fits = (begin == firsts) & (stop == ends)
            uses = self._schedule.next_use(numbers[fits], images, self._slots)
            times = np.full(len(firsts), np.inf)
            times[fits] = np.where(uses >= NEVER, np.inf, now + (uses - images) / self._rate)
            yield part, times

    def _time_of(self, position: int, images: int) -> float:
        return self._clock() + (position - images) / self._rate

    def _give_up(self, unit: Unit) -> int:
        if taken := self._kept.pop(unit):
            self.plan.folder.remove(unit)
            self._used -= taken
        return taken

    def _scan(self, now: float) -> None:
        began, before = time.monotonic(), self._kept
        before.settle()
        self._kept = Holdings(self.plan.folder.entries(), before)
        if not self._kept.has_all_of(before):  # another run gave it up, or a reader found it damaged
            self._coming = None
        self._used = self._kept.used
        self._victims = self._victims[:0]  # they name sets by their place
        shared = any(_has_fetcher(self.plan.folder, run) for run in self._others())
        self._every = _SCAN_SHARED if shared else _SCAN
        self._next_scan = now + max(self._every, _SCAN_SHARE * (time.monotonic() - began))

    def _measure(self, images: int, now: float) -> None:
        """Follow how fast the run is."""
        if self._images < 0 or images < self._images:
            self._images, self._at = images, now
        elif now - self._at >= _LOOK and images > self._images:
            self._rate = 0.5 * self._rate + 0.5 * (images - self._images) / (now - self._at)
            self._images, self._at = images, now

    def _tell(self, images: int, now: float) -> None:
        """Write when this run needs what is there, for the others that share the cache."""
        if now < self._next_telling:
            return
        began, name = time.monotonic(), self._contents.set
        self._kept.settle()
        part = files.temporary(self.needs)
        self.needs.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for units, times in self._own_times(images):
                firsts, ends = spans_of(self._kept.of(name).keys[units])
                needed = np.isfinite(times)
                rows = np.empty(int(needed.sum()), _NEEDS)
                rows["set"], rows["time"] = name.encode(), times[needed]
                rows["first"], rows["end"] = firsts[needed], ends[needed]
                rows.tofile(file)
        part.replace(self.needs)
        self._next_telling = now + max(self._every, _SCAN_SHARE * (time.monotonic() - began))

    def _needs_of_others(self) -> Iterator[np.ndarray]:
        """Yield what other runs have said of their needs, in parts."""
        for run in self._others():
            path = _runs(self.plan.folder) / f"{run}.needs"
            if _has_fetcher(self.plan.folder, run):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    while content := file.read(_AT_ONCE * _NEEDS.itemsize):
                        yield np.frombuffer(content[: len(content) // _NEEDS.itemsize * _NEEDS.itemsize], _NEEDS)
            else:
                path.unlink(missing_ok=True)

    def _others(self) -> list[str]:
        """Return the runs beside this one that have said what they need."""
        return [path.stem for path in _runs(self.plan.folder).glob("*.needs") if path.stem != self.plan.run]


def _start(slots: range) -> int:
    return slots.start


def _runs(folder: Folder) -> Path:
    return folder.path / "runs"


def _has_fetcher(folder: Folder, run: str) -> bool:
    try:
        descriptor = os.open(_runs(folder) / f"{run}.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)


class Thread:
    """Makes a fetcher work in this process whenever no other process of the machine does."""

    def __init__(self, fetcher: Fetcher, problem: Callable[[str], None]) -> None:
        """`problem` is told, from the thread, that the cache cannot be written."""
        self._fetcher, self._problem = fetcher, problem
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; a request that is under way is not waited for."""
        self._ending.set()
        self._thread.join(_LOOK)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with _locked(_runs(self._fetcher.plan.folder) / f"{self._fetcher.plan.run}.lock") as leads:
                    while leads and not self._ending.is_set():
                        self._work()
                    if leads:
                        self._fetcher.needs.unlink(missing_ok=True)
            except OSError as error:
                self._failed(error)
            self._ending.wait(_TAKE_OVER)

    def _work(self) -> None:
        readers, end = readings(self._fetcher.plan.folder, self._fetcher.plan.run), time.monotonic() + _LOOK
        while not self._ending.is_set() and time.monotonic() < end:
            try:
                if not (readers and self._fetcher.step(readers)):
                    self._ending.wait(_IDLE)
            except OSError as error:
                self._failed(error)
            except (SourceError, StoreError):
                self._ending.wait(_LOOK)  # the worker that needs these bytes fails in the same way, and reports it

    def _failed(self, error: OSError) -> None:
        self._problem(
            f"the cache {self._fetcher.plan.folder.path} cannot be written ({error.strerror}); shards are read without it"
        )
        self._ending.wait(_BROKEN)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock meanwhile, if no other process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leads = True
        except BlockingIOError:
            leads = False
        yield leads
    finally:
        os.close(descriptor)
