"""What a cache holds is known as by a dictionary, in a few bytes a unit."""

import random

import numpy as np
import pytest

from gan_dist.data import holdings
from gan_dist.data.block_cache import Kept, Unit
from gan_dist.data.holdings import Holdings, keys_of, spans_of, unit_of


def drawn(chance: random.Random) -> Unit:
    first = chance.randrange(60)
    return Unit(chance.choice("ab"), first, first + chance.choice((1, 4)))


def test_units_come_and_go_as_in_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "_NEW", 7)
    chance = random.Random(0)
    wanted = {drawn(chance): Kept(chance.randrange(1, 99), float(number)) for number in range(40)}
    found = Holdings([*wanted.items(), (Unit("a", 1 << 50, 2 << 50), Kept(1, 0.0))])  # a name that no cache gives
    mine = set()
    for number in range(2000):
        unit, kept = drawn(chance), Kept(chance.randrange(1, 99), float(number))
        before = wanted.get(unit, Kept(0, 0.0)).bytes
        assert (unit in found) == (unit in wanted)
        if chance.random() < 0.5:
            assert found.put(unit, *kept) == kept.bytes - before
            wanted[unit] = kept
            mine.add(unit)
        else:
            assert found.pop(unit) == before
            wanted.pop(unit, None)
            mine.discard(unit)
        if number % 50 == 0:
            found.settle()
            again = Holdings(wanted.items(), found)
            assert again.has_all_of(found)
            for one in (found, again):
                assert one.used == sum(kept.bytes for kept in wanted.values())
                assert contents(one) == {unit: (*kept, unit in mine) for unit, kept in wanted.items()}
            if wanted:
                again.pop(next(iter(wanted)))
                assert not again.has_all_of(found)


def contents(one: Holdings) -> dict[Unit, tuple[int, float, bool]]:
    found = {}
    for name, held in one.sets.items():
        firsts, ends = spans_of(held.keys)
        assert np.array_equal(keys_of(firsts, ends), np.unique(held.keys))
        columns = (held.keys, held.bytes, held.written, held.mine)
        assert sum(column.nbytes for column in columns) == 25 * len(held.keys)
        for key, *rest in zip(*(column.tolist() for column in columns), strict=True):
            found[unit_of(name, key)] = tuple(rest)
    return found
