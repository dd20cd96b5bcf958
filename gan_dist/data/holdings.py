"""Know which units a cache holds, in 25 bytes each: of a full shuffle they are single samples, and there are millions."""

from array import array
from collections.abc import Iterable

import numpy as np

from gan_dist.data.block_cache import Kept, Unit

_COUNT, _FIRST = 24, 39  # bits of a key that say how many samples a unit has, and which is the first
_NEW = 1 << 16  # units that are not sorted in yet, at most
_AT_ONCE = 1 << 20  # units that are looked up together


def keys_of(firsts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return a number for each unit of a set (N,) int64; they are in order of the first samples."""
    found: np.ndarray = firsts.astype(np.int64) << _COUNT | (ends - firsts)
    return found


def spans_of(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first sample of each unit and the one after its last: two (N,) int64."""
    firsts = keys >> _COUNT
    return firsts, firsts + (keys & ((1 << _COUNT) - 1))


def unit_of(name: str, key: int) -> Unit:
    """Return the unit of a set with a key."""
    first = key >> _COUNT
    return Unit(name, first, first + (key & ((1 << _COUNT) - 1)))


def _has_key(unit: Unit) -> bool:
    return 0 <= unit.first < 1 << _FIRST and 0 < unit.end - unit.first < 1 << _COUNT


def _key(unit: Unit) -> int:
    assert _has_key(unit), unit
    return unit.first << _COUNT | unit.end - unit.first


class Held:
    """The units of one set. `keys`, `bytes`, `written` and `mine` are whole after `settle`."""

    def __init__(self) -> None:
        self.keys = np.empty(0, np.int64)
        """Ascending."""
        self.bytes = np.empty(0, np.int64)
        """That each takes on the disk; 0 where it was given up."""
        self.written = np.empty(0)
        """Seconds since 1970."""
        self.mine = np.empty(0, bool)
        """Whether this process wrote it."""
        self._new: dict[int, tuple[int, float]] = {}

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key among the settled ones, -1 where it is not there: (N,) int64."""
        found = np.full(len(keys), -1)
        for start in range(0, len(keys) if len(self.keys) else 0, _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            places = np.searchsorted(self.keys, part)
            places[places == len(self.keys)] = 0
            there = (self.keys[places] == part) & (self.bytes[places] > 0)
            found[start : start + _AT_ONCE][there] = places[there]
        return found

    def bytes_of(self, keys: np.ndarray) -> np.ndarray:
        """Return the bytes of each unit, 0 where it is not there: (N,) int64."""
        places = self.find(keys)
        found = np.zeros(len(keys), np.int64)
        found[places >= 0] = self.bytes[places[places >= 0]]
        if self._new:
            for place in np.flatnonzero(places < 0).tolist():
                found[place] = self._new.get(int(keys[place]), (0,))[0]
        return found

    def put(self, key: int, taken: int, written: float) -> None:
        """Add a unit that this process wrote."""
        self._new[key] = taken, written
        if len(self._new) >= _NEW:
            self.settle()

    def pop(self, key: int) -> int:
        """Remove a unit. Returns its bytes, 0 where it was not there."""
        if key in self._new:
            return self._new.pop(key)[0]
        if (place := int(self.find(np.array([key]))[0])) < 0:
            return 0
        taken, self.bytes[place] = int(self.bytes[place]), 0
        return taken

    def settle(self) -> None:
        """Sort in what is new, and leave out what was given up."""
        if (there := self.bytes > 0).all() and not self._new:
            return
        added = np.array(sorted(self._new), np.int64)
        new = [self._new[key] for key in added.tolist()]
        self._new.clear()
        places = np.searchsorted(self.keys[there], added)
        self.bytes = np.insert(self.bytes[there], places, [taken for taken, _ in new])
        self.written = np.insert(self.written[there], places, [written for _, written in new])
        self.mine = np.insert(self.mine[there], places, True)
        self.keys = np.insert(self.keys[there], places, added)


_NONE = Held()


class Holdings:
    """The units of all sets."""

    def __init__(self, entries: Iterable[tuple[Unit, Kept]] = (), before: "Holdings | None" = None) -> None:
        """`entries` are what is there, `before`, which is settled, is what was there, of which some is this process's own."""
        columns: dict[str, tuple[array[int], array[int], array[float]]] = {}
        for unit, kept in entries:
            if not _has_key(unit):  # a name that no cache has given
                continue
            if unit.set not in columns:
                columns[unit.set] = array("q"), array("q"), array("d")
            keys, taken, written = columns[unit.set]
            keys.append(_key(unit))
            taken.append(kept.bytes)
            written.append(kept.written)
        self.sets: dict[str, Held] = {}
        while columns:
            name, parts = columns.popitem()
            order = np.argsort(np.asarray(parts[0]))
            held = self.sets[name] = Held()
            held.keys, held.bytes, held.written = (np.asarray(part)[order] for part in parts)
            held.mine = np.zeros(len(order), bool)
            if before is not None and name in before.sets:
                places = before.sets[name].find(held.keys)
                held.mine[places >= 0] = before.sets[name].mine[places[places >= 0]]

    def of(self, name: str) -> Held:
        """Return the units of a set, to read."""
        return self.sets.get(name, _NONE)

    @property
    def used(self) -> int:
        """Bytes on the disk, where all is settled."""
        return sum(int(held.bytes.sum()) for held in self.sets.values())

    def settle(self) -> None:
        """Settle all sets."""
        for held in self.sets.values():
            held.settle()

    def has_all_of(self, other: "Holdings") -> bool:
        """Say whether all of another one, which is settled, is here as well."""
        return all(
            (self.of(name).bytes_of(held.keys[start : start + _AT_ONCE]) > 0).all()
            for name, held in other.sets.items()
            for start in range(0, len(held.keys), _AT_ONCE)
        )

    def __contains__(self, unit: Unit) -> bool:
        return bool(self.of(unit.set).bytes_of(np.array([_key(unit)]))[0])

    def put(self, unit: Unit, taken: int, written: float) -> int:
        """Add a unit that this process wrote, in the place of an older one. Returns by how many bytes more there are."""
        before = self.pop(unit)
        self.sets.setdefault(unit.set, Held()).put(_key(unit), taken, written)
        return taken - before

    def pop(self, unit: Unit) -> int:
        """Remove a unit. Returns its bytes, 0 where it was not there."""
        return self.of(unit.set).pop(_key(unit))
