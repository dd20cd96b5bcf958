"""Fetch what is read soon into a machine's cache, and give up what is needed last: both are known from the order.

One thread of one process does it for a run and a set, chosen by a lock that the kernel takes back when the process ends;
another process takes over. Several runs share a cache: each writes when it needs what is there, and none gives up what another
one needs sooner than itself.
"""

import contextlib
import fcntl
import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gan_dist import files
from gan_dist.data.block_cache import Contents, Folder, Kept, Reading, Unit, is_locked, readings
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
_NEEDS = np.dtype([("set", "S16"), ("first", "<i8"), ("end", "<i8"), ("time", "<f8")])


class SourceError(Exception):
    """The shards cannot be read."""


class Fetcher:
    """Fills the cache for one run and set. `step` does some work; who calls it holds the run's lock."""

    def __init__(
        self,
        folder: Folder,
        run: str,
        limit: int,
        schedule: Schedule,
        contents: Contents,
        source: Reader,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`limit` are the bytes of the whole cache, `run` names this reading of a set by a run."""
        self.folder, self.run, self.limit = folder, run, limit
        self.needs = _runs(folder) / f"{run}.needs"
        """Says to other runs when this one needs what is there."""
        self.schedule, self.contents, self.source = schedule, contents, source
        self._clock = clock
        self._kept: dict[Unit, Kept] = {}
        self._wrote: set[Unit] = set()
        self._used = 0
        self._next_scan = self._next_telling = float("-inf")
        self._every = _SCAN
        self._images, self._at = -1, 0.0
        self._rate = 1000.0
        """Images/s of the run, about."""
        self._lasted = 0.0
        """Seconds of the last round."""
        self._slots: list[range] = []
        self._coming: Iterator[tuple[int, Unit, int]] | None = None
        """What is read next, as (position, unit, bytes), from where all that comes before is there."""
        self._next: tuple[int, Unit, int] | None = None
        self._ahead: deque[tuple[int, int]] = deque()
        """Position and bytes of what is there and will be read."""
        self._victims: list[tuple[float, float, Unit]] = []
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
        pieces = [self.contents.pieces(range(unit.first, unit.end)) for unit in units]
        began = time.monotonic()
        try:
            data = self.source.read_many([piece for each in pieces for piece in each])
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from None
        self._lasted = time.monotonic() - began
        done = 0
        for unit, each in zip(units, pieces, strict=True):
            taken = self.folder.write(unit, data[done : done + len(each)])
            done += len(each)
            self._wrote.add(unit)
            self._keep(unit, Kept(taken, self._clock()))
        return True

    def _choose(self, images: int) -> list[Unit]:
        """Return the units to fetch now, after others have been given up for them."""
        if self._coming is None:
            self._coming, self._next = self._comes(images), None
            self._ahead.clear()
        while self._ahead and self._ahead[0][0] <= images:
            self._ahead.popleft()
        room, together, ahead = self.limit - self._used, 0, sum(size for _, size in self._ahead)
        if room < 0:  # the limit is a lower one than before
            room = self._make_room(room, 0, images, -np.inf)
        # a full shuffle reads single samples: those that are read before they arrive are left out
        late = images + int(self._rate * self._lasted * 1.5) if self.schedule.blocks is None else images
        chosen: dict[Unit, int] = {}
        while together < _ROUND:
            self._next = self._next or next(self._coming, None)
            if self._next is None or self._next[0] > images + 2 * self.schedule.total:
                break
            position, unit, size = self._next
            if position > late and unit not in self._kept and unit not in chosen:
                if size > room and ahead + size <= max(self._most_ahead, size):
                    room = self._make_room(room, size, images, self._time_of(position, images))
                if size > room:
                    break
                chosen[unit] = size
                room -= size
                together += size
            self._next = None
            self._ahead.append((position, size))
            ahead += size
        return list(chosen)

    @functools.cached_property
    def _most_ahead(self) -> float:
        """Bytes that are fetched ahead at most where something else has to go for it: a window of blocks begins whole."""
        if (blocks := self.schedule.blocks) is None:
            return self.limit * _AHEAD
        samples = blocks.size * blocks.window * self.schedule.streams
        window = self.contents.stored * min(1.0, samples / max(1, self.schedule.total))
        return max(self.limit * _AHEAD, min(self.limit / 2, 1.1 * window))

    def _comes(self, images: int) -> Iterator[tuple[int, Unit, int]]:
        for position, numbers in self.schedule.upcoming(images, self._slots):
            for number in numbers.tolist():
                samples = self.schedule.samples_of(number)
                sizes = self.contents.sizes(samples)
                size = -(-(int(sizes.sum()) + 8 + 4 * len(sizes)) // 4096) * 4096  # on a disk, about
                yield position, Unit(self.contents.set, samples.start, samples.stop), size

    def _make_room(self, room: int, wanted: int, images: int, before: float) -> int:
        """Give up what is needed last, and after the time `before`, until there is room. Returns the room."""
        now = self._clock()
        if now - self._sorted_at > max(_SORT, _SCAN_SHARE * self._sorting) or not self._victims:
            began = time.monotonic()
            self._victims = self._by_next_use(images)
            self._sorted_at, self._sorting = now, time.monotonic() - began
        while room < wanted and self._victims and self._victims[-1][0] > before:
            room += self._give_up(self._victims.pop()[2])
        return room

    def _by_next_use(self, images: int) -> list[tuple[float, float, Unit]]:
        """Return what may be given up as (time of the next use, newness, unit), what is needed last at the end."""
        now = self._clock()
        times = self._own_times(images)
        for needs in self._needs_of_others():
            for set_name, first, end, at in needs.tolist():
                unit = Unit(set_name.decode(), first, end)
                if unit in self._kept:
                    times[unit] = min(times.get(unit, np.inf), max(at, now))
        found = []
        for unit, kept in self._kept.items():
            fresh = unit not in self._wrote and now - kept.written < _FRESH  # its run has not said yet when it needs it
            found.append((now if fresh else times.get(unit, np.inf), -kept.written, unit))
        return sorted(found)

    def _own_times(self, images: int) -> dict[Unit, float]:
        own = [unit for unit in self._kept if unit.set == self.contents.set]
        numbers = self.schedule.units_of(np.array([unit.first for unit in own], np.int64))
        # a run that cuts its blocks elsewhere keeps the same set in other units: those are not this run's
        fits = [
            self.schedule.samples_of(number) == range(unit.first, unit.end)
            for number, unit in zip(numbers.tolist(), own, strict=True)
        ]
        numbers, own = numbers[np.array(fits, bool)], list(itertools.compress(own, fits))
        uses = self.schedule.next_use(numbers, images, self._slots)
        return {unit: self._time_of(use, images) for unit, use in zip(own, uses.tolist(), strict=True)}

    def _time_of(self, use: int, images: int) -> float:
        return float(np.inf) if use >= NEVER else self._clock() + (use - images) / self._rate

    def _give_up(self, unit: Unit) -> int:
        if (kept := self._kept.pop(unit, None)) is None:
            return 0
        self.folder.remove(unit)
        self._wrote.discard(unit)
        self._used -= kept.bytes
        return kept.bytes

    def _keep(self, unit: Unit, kept: Kept) -> None:
        if before := self._kept.get(unit):
            self._used -= before.bytes
        self._kept[unit] = kept
        self._used += kept.bytes

    def _scan(self, now: float) -> None:
        began, before = time.monotonic(), self._kept
        self._kept = self.folder.scan()
        if any(unit not in self._kept for unit in before):  # another run gave it up, or a reader found it damaged
            self._coming = None
        self._used = sum(each.bytes for each in self._kept.values())
        shared = any(_has_fetcher(self.folder, run) for run in self._others())
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
        began = time.monotonic()
        times = {unit: at for unit, at in self._own_times(images).items() if np.isfinite(at)}
        rows = np.array([(*unit, at) for unit, at in times.items()], _NEEDS)
        part = files.temporary(self.needs)
        self.needs.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(rows.tobytes())
        part.replace(self.needs)
        self._next_telling = now + max(self._every, _SCAN_SHARE * (time.monotonic() - began))

    def _needs_of_others(self) -> Iterator[np.ndarray]:
        for run in self._others():
            path = _runs(self.folder) / f"{run}.needs"
            if _has_fetcher(self.folder, run):
                with contextlib.suppress(OSError, ValueError):
                    yield np.frombuffer(path.read_bytes(), _NEEDS)
            else:
                path.unlink(missing_ok=True)

    def _others(self) -> list[str]:
        """Return the runs beside this one that have said what they need."""
        return [path.stem for path in _runs(self.folder).glob("*.needs") if path.stem != self.run]


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
                with _locked(_runs(self._fetcher.folder) / f"{self._fetcher.run}.lock") as leads:
                    while leads and not self._ending.is_set():
                        self._work()
                    if leads:
                        self._fetcher.needs.unlink(missing_ok=True)
            except OSError as error:
                self._failed(error)
            self._ending.wait(_TAKE_OVER)

    def _work(self) -> None:
        readers, end = readings(self._fetcher.folder, self._fetcher.run), time.monotonic() + _LOOK
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
            f"the cache {self._fetcher.folder.path} cannot be written ({error.strerror}); shards are read without it"
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
