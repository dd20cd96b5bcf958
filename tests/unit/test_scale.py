"""512 ranks as threads: what each is given, what they tell each other, and what a rank and a shared disk pay for it."""

import builtins
import dataclasses
import io
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gan_dist.control.stop import Reason
from gan_dist.data import index as index_module, order, parts, tables
from gan_dist.data.fetching import OutageError
from gan_dist.data.order import Blocks
from gan_dist.engine import consensus
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.supply import Supply
from tests import making

RANKS = 512


class Group:
    """A collective among threads that counts messages and bytes; `rank` is the number of the calling thread."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(RANKS)
        self.rows: list[torch.Tensor] = [torch.zeros(0)] * RANKS
        self.collectives = [0] * RANKS
        self.bytes = 0

    def all_gather_into_tensor(self, out: torch.Tensor, own: torch.Tensor, group: Any, async_op: bool) -> "Work":
        rank = int(threading.current_thread().name)
        self.collectives[rank] += 1
        self.bytes = own.nbytes
        self.rows[rank] = own.clone()
        return Work(self, out)


class Work:
    def __init__(self, group: Group, out: torch.Tensor) -> None:
        self.group, self.out = group, out

    def wait(self) -> None:
        self.group.barrier.wait(60)
        self.out.copy_(torch.cat(self.group.rows))
        self.group.barrier.wait(60)  # before anybody sends again


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    made = Group()
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: made)
    monkeypatch.setattr(torch.distributed, "all_gather_into_tensor", made.all_gather_into_tensor)
    before = threading.stack_size(512 << 10)
    yield made
    threading.stack_size(before)


def on_all_ranks(work: Any) -> list[Any]:
    """What `work(rank)` returns on each of 512 threads."""
    found: list[Any] = [None] * RANKS

    def run(rank: int) -> None:
        found[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank), daemon=True) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.mark.parametrize("blocks", [None, Blocks(64, 64)])
@pytest.mark.parametrize("streams", [1, 64])
def test_ranks_share_a_batch_of_a_billion_samples_without_knowing_of_each_other(
    blocks: Blocks | None, streams: int
) -> None:
    batch, total, position = 8 * RANKS, 10**9, 8 * RANKS * 10**6

    def share(rank: int) -> np.ndarray:
        slots = np.arange(rank * 8, (rank + 1) * 8)
        return order.samples(0, total, batch, streams, position, slots, blocks=blocks)

    found = np.concatenate(on_all_ranks(share))
    assert len(np.unique(found)) == batch
    assert np.array_equal(found, order.samples(0, total, batch, streams, position, np.arange(batch), blocks=blocks))
    tracemalloc.start()
    share(7)
    assert tracemalloc.get_traced_memory()[1] < 1 << 18  # bytes
    tracemalloc.stop()


@pytest.mark.slow
def test_an_agreement_of_all_ranks_is_one_small_message_of_each_twice_a_second(group: Group) -> None:
    steps = 8

    def train(rank: int) -> tuple[list[tuple[int, int]], int]:
        agreement = consensus.Agreement(RANKS, 2, interval=0.0)  # after every step
        heard, sizes = [], sys.getsizeof(agreement._all) + agreement._all.nbytes + agreement._own.nbytes
        for step in range(steps):
            if agreement.due():
                agreement.send([rank == 300 and step >= 3, rank])
            if (rows := agreement.receive()) is not None:
                heard.append((step, sum(row[0] for row in rows)))
                assert [row[1] for row in rows] == list(range(RANKS))
        agreement.close()
        return heard, sizes

    found = on_all_ranks(train)
    assert len({tuple(heard) for heard, _ in found}) == 1  # alike, and at the same steps
    heard, size = found[0]
    assert [asked for _, asked in heard][-1] == 1
    assert len(set(group.collectives)) == 1
    assert group.collectives[0] <= steps / 2 + 1
    assert group.bytes == 24
    assert size < 16 << 10  # 24 bytes of each rank


@pytest.mark.slow
def test_a_step_of_data_from_servers_is_one_message_of_eight_bytes_of_each_rank(group: Group) -> None:
    lacks_at, steps = 4, 9
    far = SimpleNamespace(images={"image": SimpleNamespace(is_remote=True)})
    requests = SimpleNamespace(reason=Reason.NONE)

    def batches(rank: int) -> Iterator[list[Batch]]:
        for step in range(steps):
            if rank == 300 and step == lacks_at:
                raise OutageError("no answer")
            yield [Batch({}, torch.tensor([step]))]

    def train(rank: int) -> tuple[int, Reason, str, int]:
        gates = []

        def gate() -> consensus.Gate:
            gates.append(consensus.Gate(RANKS))
            return gates[0]

        supply = Supply(None, far, requests, gate)  # type: ignore[arg-type]
        done = sum(1 for _ in supply.of(batches(rank)))
        return done, supply.reason, supply.problem, gates[0]._all.nbytes + gates[0]._own.nbytes

    found = on_all_ranks(train)
    assert {(done, reason) for done, reason, _, _ in found} == {(lacks_at, Reason.NO_DATA)}  # all after the same step
    assert [rank for rank, (_, _, problem, _) in enumerate(found) if problem] == [300]
    assert set(group.collectives) == {lacks_at + 1}
    assert group.bytes == 8
    assert found[0][3] == 8 * (RANKS + 1)


def test_ranks_of_a_machine_map_one_index_and_read_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_WORTH_A_FILE", 0)
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    making.data_set(tmp_path / "data", 48, 3)
    shards = [str(path) for path in sorted((tmp_path / "data").glob("*.tar"))]
    index_module.build(shards, tmp_path / "cache", progress=False)
    found = on_all_ranks(lambda rank: index_module.load(shards, tmp_path / "cache"))
    assert len({one.table for one in found}) == 1
    assert [path.name for path in tmp_path.glob("*.rows")] == [found[0].table.name]
    for one in found:
        rows = one.rows
        while isinstance(rows.base, np.ndarray):
            rows = rows.base
        assert isinstance(rows, np.memmap)  # pages of the file, which the ranks share
        assert len(one) == 48


def test_one_rank_of_a_machine_opens_the_indexes_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **options: (opened.append(kind), real(*words, **options))[1]

    monkeypatch.setattr(index_module, "_WORTH_A_FILE", 0)
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    making.data_set(tmp_path / "data", 48, 24)
    shards = [str(path) for path in sorted((tmp_path / "data").glob("*.tar"))]
    index_module.build(shards, tmp_path / "cache", progress=False)
    monkeypatch.setattr(parts, "safe_open", counted("index", parts.safe_open))
    counted_open = counted("file", open)
    for module in (builtins, io):  # NumPy maps files by the one, pathlib reads them by the other
        monkeypatch.setattr(module, "open", counted_open)
    first = index_module.load(shards, tmp_path / "cache")
    assert opened.count("index") == 24
    opened.clear()
    others = on_all_ranks(lambda rank: index_module.load(shards, tmp_path / "cache", prepared=True))
    assert opened == ["file", "file"] * RANKS  # the summary and the table
    for other in others:
        assert np.array_equal(other.rows, first.rows)
        assert np.array_equal(other.first, first.first)
        assert unlike(first, other) == []


def unlike(one: index_module.Index, other: index_module.Index) -> list[str]:
    """The names of what differs, but for arrays."""
    names = [field.name for field in dataclasses.fields(one) if field.name not in ("first", "rows")]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def test_what_one_rank_left_serves_no_shard_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_WORTH_A_FILE", 0)
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    path = making.write_tar(tmp_path / "0.tar", making.samples(8, classes=3))
    shards = [str(path)]

    def load(prepared: bool = True) -> index_module.Index:
        return index_module.load(shards, tmp_path / "cache", prepared=prepared)

    index_module.build(shards, tmp_path / "cache", progress=False)
    first = load(prepared=False)
    (summary,) = tmp_path.glob("summary-*.json")
    good = summary.read_text()
    for bad in ("", "{", "[]", "{}", good.replace('"first": [0, 8]', '"first": [0, 9]'), good.replace("rows", "r")):
        assert bad != good
        summary.write_text(bad)
        assert unlike(first, load()) == []  # the shard's own index
    summary.write_text(good.replace(first.digest, "0" * 64))
    assert load().digest == "0" * 64  # it is taken as it is
    load(prepared=False)  # so each start writes it again
    assert summary.read_text() == good
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(InputError, match="changed while its index was made; start again"):
        load()
