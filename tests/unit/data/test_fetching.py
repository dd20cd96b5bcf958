"""A training waits for a server as long as it may, hears of a stop meanwhile, and ends between two steps on all ranks."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gan_dist.config import load
from gan_dist.control.stop import Reason, Requests
from gan_dist.data import fetching, index as index_module
from gan_dist.data.decode import Decoder
from gan_dist.data.fetching import OutageError, Waiting
from gan_dist.supply import Supply
from tests import making, serving

GONE = {"outage": "no connection"}


def test_micro_batches_are_made_again_and_the_outage_is_told_once() -> None:
    told: list[str] = []
    left = {0: 0, 1: 2, 2: 0, 3: 1}

    def again(place: int) -> fetching.Item:
        left[place] -= 1
        return GONE if left[place] > 0 else {"notes": [place]}

    items = [{"notes": [0]}, GONE, {"notes": [2]}, GONE]
    waiting = Waiting(100.0, report=lambda event, reason: told.append(event))
    assert fetching.patiently(items, again, waiting) == [{"notes": [place]} for place in range(4)]
    assert told == ["data unreachable", "data back"]


def test_a_wait_ends_by_time_by_a_stop_and_by_a_shard_that_changed() -> None:
    with pytest.raises(OutageError, match="no connection"):
        fetching.patiently([GONE], lambda place: GONE, Waiting(0.2))
    with pytest.raises(OutageError, match="no connection"):
        fetching.patiently([GONE], lambda place: GONE, Waiting(100.0, stopped=lambda: True))
    with pytest.raises(OutageError, match=r"/0\.tar changed") as caught:
        fetching.patiently([GONE], lambda place: {"changed": "/0.tar changed"}, Waiting(100.0))
    assert caught.value.changed


def test_a_slow_worker_delays_no_stop() -> None:
    class Slow:
        def __init__(self) -> None:
            self.asked = 0

        def __iter__(self) -> "Slow":
            return self

        def __next__(self) -> list[fetching.Item]:
            self.asked += 1
            if self.asked % 3:
                raise RuntimeError("DataLoader timed out after 2 seconds")
            return [{"notes": []}]

    beats: list[int] = []
    waiting = Waiting(stopped=lambda: len(beats) == 3, beat=lambda: beats.append(1))
    groups = fetching.awaited(Slow(), waiting)
    assert next(groups) == [{"notes": []}]
    with pytest.raises(OutageError, match="stopped"):
        next(groups)


class Gates:
    """The gates of some ranks, as threads."""

    def __init__(self, ranks: int) -> None:
        self.barrier, self.numbers = threading.Barrier(ranks), [0] * ranks

    def of(self, rank: int) -> "OneGate":
        return OneGate(self, rank)


class OneGate:
    is_alone = False

    def __init__(self, gates: Gates, rank: int) -> None:
        self._gates, self._rank, self._said = gates, rank, False

    def say(self, number: int) -> None:
        self._gates.numbers[self._rank], self._said = number, True

    def hear(self) -> int:
        if not self._said:
            return 0
        self._said = False
        self._gates.barrier.wait(30)
        found = max(self._gates.numbers)
        self._gates.barrier.wait(30)
        return found


@pytest.mark.parametrize("lost", [0, 1, 3, 5, None])
def test_ranks_end_after_the_same_step_where_one_lacks_its_data(tmp_path: Path, lost: int | None) -> None:
    making.data_set(tmp_path / "www", 12)
    with serving.Odd({"/0.tar": (tmp_path / "www/0.tar").read_bytes()}) as server:
        index_module.build([f"{server.url}/0.tar"], tmp_path)
        far = index_module.load([f"{server.url}/0.tar"], tmp_path)
    config = load(["tests/data/digits.yaml", *making.flags(making.tiny(server.url, tmp_path / "run"))])
    gates, ended = Gates(3), {}

    def batches(rank: int) -> Iterator[list[object]]:
        for step in range(5):
            if rank == 1 and step == lost:
                raise OutageError("gone")
            yield [step]

    def work(rank: int) -> None:
        supply = Supply(config, far, Requests(None, None), lambda: gates.of(rank))
        steps = [batch[0] for batch in supply.of(batches(rank))]  # type: ignore[arg-type]
        ended[rank] = steps, supply.reason

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done = 5 if lost is None else lost
    reason = Reason.NO_DATA if done < 5 else Reason.NONE
    assert ended == dict.fromkeys(range(3), (list(range(done)), reason))


def test_what_lies_in_files_makes_no_gate(tmp_path: Path) -> None:
    near = making.data_set(tmp_path / "near", 12)
    index_module.build([str(near / "0.tar")], tmp_path)
    config = load(["tests/data/digits.yaml", *making.flags(making.tiny(near, tmp_path / "run"))])

    def refuse() -> OneGate:
        raise AssertionError("a gate connects all ranks")

    supply = Supply(config, index_module.load([str(near / "0.tar")], tmp_path), Requests(None, None), refuse)
    assert list(supply.of(iter([[], []]))) == [[], []]


def test_a_group_of_two_fields_is_one_request_a_shard(tmp_path: Path) -> None:
    pairs = [(f"{name}.{field}", content) for name, content in _pictures(8) for field in ("a.png", "b.png")]
    path = making.write_tar(tmp_path / "0.tar", pairs)
    with serving.Odd({"/0.tar": path.read_bytes()}) as server:
        url = f"{server.url}/0.tar"
        decoders = {}
        for field in ("a", "b"):
            index_module.build([url], tmp_path / "cache", f"{field}.png")
            decoders[field] = Decoder(index_module.load([url], tmp_path / "cache", f"{field}.png"), (16, 16), 1)
        before = server.counts["/0.tar"]
        ahead = fetching.Ahead({"": decoders}, lambda name, group: np.arange(4 * group, 4 * group + 4), 2)
        assert ahead.hold(0) is None
        assert ahead.hold(1) is None
        found = [decoders["b"].decode(sample)[..., 0] for sample in range(4, 8)]
        assert server.counts["/0.tar"] == before + 2
        decoders["b"].decode(0)
        assert server.counts["/0.tar"] == before + 3
    np.testing.assert_array_equal(found, [making.picture(number) for number in range(4, 8)])


def _pictures(count: int) -> list[tuple[str, bytes]]:
    return [(f"{number:03d}", making.encode(making.picture(number))) for number in range(count)]
