"""The cache changes no result, outlives kills and damage, and gives up what is needed last."""

import contextlib
import errno
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import block_cache, cached, decode, loader, order, prefetch
from gan_dist.data.block_cache import Announced, Folder, Reading, Unit, readings
from gan_dist.data.decode import Note
from gan_dist.data.order import Blocks
from gan_dist.data.prefetch import Fetcher, Plan
from gan_dist.data.reading import Piece
from gan_dist.data.upcoming import Schedule
from gan_dist.errors import InputError
from tests import making
from tests.launching import REPOSITORY

SAMPLE, TOTAL, BATCH = 4000, 1024, 16
UNIT = Unit("0123456789abcdef", 64, 68)
PARTS = [bytes([number]) * (100 + number) for number in range(4)]
SIZES = np.array([len(part) for part in PARTS])


@contextlib.contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does some work, and does not outlive the block."""
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_until(ready: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)


class Contents:
    """TOTAL samples of SAMPLE bytes in one shard."""

    set, stored = UNIT.set, TOTAL * SAMPLE

    def sizes(self, samples: range) -> np.ndarray:
        return np.full(len(samples), SAMPLE)

    def pieces(self, samples: range) -> list[Piece]:
        return [Piece(0, sample * SAMPLE, SAMPLE) for sample in samples]


class Source:
    def __init__(self) -> None:
        self.read = 0

    def read_many(self, pieces: Sequence[Piece]) -> list[bytes]:
        self.read += len(pieces)
        return [piece.offset.to_bytes(4, "little") * (piece.size // 4) for piece in pieces]


def scheduled(blocks: Blocks | None = None, seed: int = 0) -> Schedule:
    return Schedule(seed=seed, name="", total=TOTAL, batch=BATCH, streams=1, end=10 * TOTAL, blocks=blocks)


def fetcher(
    folder: Folder,
    run: str = "run",
    limit: int = TOTAL // 4 * 4096,
    schedule: Schedule | None = None,
    clock: Callable[[], float] = time.time,
) -> Fetcher:
    made = schedule or scheduled()
    plan = Plan(folder=folder, run=run, limit=limit, schedule=made, contents=Contents(), source=Source())  # type: ignore[arg-type]
    return Fetcher(plan, clock)


def read(folder: Folder, made: Schedule, images: int) -> int:
    """Read a step. Returns how many of its samples are in the cache, each with its own bytes."""
    found = 0
    for sample in order.samples(made.seed, TOTAL, BATCH, 1, images, np.arange(BATCH), blocks=made.blocks).tolist():
        samples = made.samples_of(int(made.units_of(np.array([sample]))[0]))
        data = folder.read(
            Unit(UNIT.set, samples.start, samples.stop), Contents().sizes(samples), sample - samples.start
        )
        assert data is None or data[:4] == (sample * SAMPLE).to_bytes(4, "little")
        found += data is not None
    return found


def test_a_unit_is_read_as_it_was_written_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.read(UNIT, SIZES, 0) is None
    for damage in (None, "flipped", "cut", "checksum"):
        folder.write(UNIT, PARTS)
        assert [folder.read(UNIT, SIZES, place) for place in range(4)] == PARTS
        (kept,) = folder.scan().items()
        assert kept[0] == UNIT
        content = bytearray(folder.file(UNIT).read_bytes())
        if damage == "flipped":
            content[-1] ^= 1
        elif damage == "cut":
            del content[-1:]
        elif damage == "checksum":
            content[8 + 12] ^= 1
        folder.file(UNIT).write_bytes(content)
        assert (folder.read(UNIT, SIZES, 3) == PARTS[3]) is (damage is None)
        assert folder.file(UNIT).exists() is (damage is None)  # it is fetched again


def test_a_kill_while_blocks_are_written_leaves_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sizes = Folder(tmp_path), np.full(4, 200_000)

    def write() -> None:
        for number in range(10**6):
            first = 4 * (number % 50)
            folder.write(Unit(UNIT.set, first, first + 4), [bytes([first]) * 200_000] * 4)

    for seconds in (0.05, 0.2):
        with child(write) as pid:
            while not folder.scan():
                time.sleep(0.01)
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        there = folder.scan()
        assert there
        for unit in there:
            assert [folder.read(unit, sizes, place) for place in range(4)] == [bytes([unit.first]) * 200_000] * 4
    monkeypatch.setattr(block_cache, "_LEFT", -1)
    folder.scan()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("blocks", [None, Blocks(8, 4)])
def test_a_quarter_of_the_set_saves_a_quarter_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: Blocks | None
) -> None:
    """No cache of a quarter saves more: of a full order, each sample is needed again after the others of the epoch."""
    monkeypatch.setattr(prefetch, "_ROUND", 16 * SAMPLE)
    monkeypatch.setattr(prefetch, "_SORT", 0)
    monkeypatch.setattr(prefetch, "_SCAN_SHARE", 0)
    now = [0.0]
    made, folder = scheduled(blocks), Folder(tmp_path)
    one = fetcher(folder, schedule=made, clock=lambda: now[0], limit=TOTAL // 4 * (4096 + 512 * (blocks is not None)))
    fetched, missed = [], 0
    for epoch in range(3):
        before = one.plan.source.read + missed  # type: ignore[attr-defined]
        for images in range(epoch * TOTAL, (epoch + 1) * TOTAL, BATCH):
            for _ in range(4):
                one.step([Reading(images, range(BATCH))])
            missed += BATCH - read(folder, made, images)
            now[0] += 0.1
        fetched.append((one.plan.source.read + missed - before) / TOTAL)  # type: ignore[attr-defined]
        assert sum(kept.bytes for kept in folder.scan().values()) <= one.plan.limit
    assert fetched[0] < 1.05
    least = 1 - one.plan.limit / (TOTAL * 4096)
    assert least - 0.01 < fetched[2] < least + 0.06
    assert missed < 0.05 * 3 * TOTAL


def test_a_damaged_or_lost_unit_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    one, folder = fetcher(Folder(tmp_path), limit=2 * TOTAL * 4096, clock=lambda: now[0]), Folder(tmp_path)
    while one.step([Reading(0, range(BATCH))]):
        pass
    assert len(folder.scan()) == TOTAL
    (sample,) = order.samples(0, TOTAL, BATCH, 1, 32, np.arange(1))
    file = folder.file(Unit(UNIT.set, int(sample), int(sample) + 1))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert read(folder, one.plan.schedule, 32) == BATCH - 1
    now[0] += 100
    assert one.step([Reading(0, range(BATCH))])
    assert read(folder, one.plan.schedule, 32) == BATCH


@pytest.mark.slow
def test_two_runs_of_a_cache_spare_what_the_other_needs_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_ROUND", 16 * SAMPLE)
    now, folder = [time.time()], Folder(tmp_path)
    limit = TOTAL // 2 * 4096
    made, found = [scheduled(seed=0), scheduled(seed=1)], 0
    runs = [fetcher(folder, f"{seed}", limit, schedule=one, clock=lambda: now[0]) for seed, one in enumerate(made)]
    locks = [prefetch._locked(tmp_path / "runs" / f"{seed}.lock") for seed in range(2)]
    for lock in locks:
        assert lock.__enter__()
    for images in range(0, 2 * TOTAL, BATCH):
        now[0] += 2  # an epoch lasts two minutes
        for one in runs:
            while one.step([Reading(images, range(BATCH))]):
                pass
            assert sum(kept.bytes for kept in folder.scan().values()) <= limit * 1.1
        found += sum(read(folder, one, images) for one in made)
    assert found > 0.85 * 4 * TOTAL
    # without what the other says of its needs they fetch the set six and a half times
    assert sum(one.plan.source.read for one in runs) < 3.2 * TOTAL  # type: ignore[attr-defined]
    # one that ended is not waited for: what it said of its needs is gone
    locks[1].__exit__(None, None, None)
    list(runs[0]._needs_of_others())
    assert [path.name for path in (tmp_path / "runs").glob("*.needs")] == ["0.needs"]
    locks[0].__exit__(None, None, None)


def test_readers_that_are_gone_do_not_hold_up_what_is_given_up(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def other() -> None:
        Announced(folder, "run", range(4, 8)).at(48)
        time.sleep(60)

    own = Announced(folder, "run", range(4))
    assert readings(folder, "run") == []  # it has not begun
    own.at(64)
    with child(other) as pid:
        wait_until(lambda: len(readings(folder, "run")) == 2)
        assert sorted(readings(folder, "run")) == [(48, range(4, 8)), (64, range(4))]
        assert readings(folder, "other") == []
        os.kill(pid, signal.SIGKILL)
    assert readings(folder, "run") == [(64, range(4))]
    assert len(os.listdir(tmp_path / "readers")) == 1
    own.close()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """96 samples; number 5 cannot be decoded."""
    members = making.samples(96, classes=3)
    members[2 * 5] = (members[2 * 5][0], members[2 * 5][1][:60] + b"\0" * 20)
    for number in range(3):
        making.write_tar(tmp_path / f"data/{number}.tar", members[64 * number : 64 * (number + 1)])
    return tmp_path / "data"


def load(shards: Path | str, **keys: object) -> Config:
    chosen = {
        "data__max_bad_fraction": 0.5,
        "data__cache": Path(shards).parent / "cache",
        "data__labels": True,
        "training__images": 960,
        "run__directory": Path(shards).parent / "run",
        **keys,
    }
    tiny = making.tiny(shards, chosen.pop("run__directory"), **chosen)
    config = config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(tiny)])
    loader.prepare(config, progress=False)
    return config


def play(config: Config, between: Callable[[int], None] = lambda step: None) -> tuple[list[bytes], list[Note]]:
    index, notes = loader.open_index(config), []
    steps = loader.micro_batches(index, config, 0, range(16), torch.device("cpu"), notes.append)
    found = []
    for number, step in enumerate(steps):
        found += [micro[name].numpy().tobytes() for micro in step for name in ("image", "class")]
        between(number)
    return found, notes


def cache_files(config: Config) -> list[Path]:
    return [path for path in (config.cache / "blocks").rglob("*-*") if path.is_file() and "sets" in path.parts]


def filled(config: Config) -> Callable[[int], None]:
    """Wait, after the first step, until all is there."""
    most = 96 if config.data.order == "full" else 24

    def wait(step: int) -> None:
        wait_until(lambda: step > 0 or len(cache_files(config)) >= most)

    return wait


BY_BLOCKS = {"data__order": "blocks", "data__block": 4, "data__window": 2}


@pytest.mark.parametrize(("blocks", "workers"), [({}, 0), (BY_BLOCKS, 0), (BY_BLOCKS, 2)])
def test_batches_are_those_without_a_cache(shards: Path, blocks: dict[str, object], workers: int) -> None:
    plain, bad = play(load(shards, **blocks))
    config = load(shards, **blocks, data__cache_local=True, data__workers=workers)
    found, notes = play(config, filled(config))
    assert found == plain
    assert {note.kind for note in notes} == {note.kind for note in bad} == {"quarantined"}
    assert len(cache_files(config)) == (24 if blocks else 96)
    again, _ = play(config)  # from the cache alone, and damaged in between
    assert again == plain
    for file in cache_files(config)[::2]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)
    assert play(config)[0] == plain


def test_a_loop_with_a_warm_cache_reads_no_shard(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(shards, data__cache_local=True, **BY_BLOCKS)
    plain, _ = play(config, filled(config))
    opened = []
    monkeypatch.setattr(cached.Shards, "read_many", lambda self, pieces: opened.append(pieces))
    monkeypatch.setattr(decode.Decoder, "_descriptor", lambda self, shard: opened.append(shard))
    assert play(config)[0] == plain
    assert not opened


def test_a_disk_that_is_full_meanwhile_is_told_once_and_the_training_goes_on(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = play(load(shards))
    config = load(shards, data__cache_local=True)

    tried = threading.Event()

    def full(descriptor: int, buffers: list[memoryview]) -> None:
        tried.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wait(step: int) -> None:
        assert tried.wait(60)
        time.sleep(0.3 if step < 2 else 0)

    monkeypatch.setattr(block_cache, "_write_all", full)
    monkeypatch.setattr(prefetch, "_BROKEN", 0.01)
    found, notes = play(config, wait)
    assert found == plain
    (said,) = [note.reason for note in notes if note.kind == "cache"]
    assert said.endswith("cannot be written (No space left on device); shards are read without it")
    assert not list(config.cache.rglob("*.part"))


def test_another_process_takes_over_from_one_that_was_killed(shards: Path) -> None:
    config = load(shards, data__cache_local=True)
    made = cached.of_sets(loader.open_index(config), config, range(16))[""]
    run, folder = made.plan.run, made.plan.folder.path
    lock = folder / f"runs/{run}.lock"

    def lead() -> None:
        with prefetch._locked(lock):
            time.sleep(60)

    with child(lead) as pid:
        wait_until(lambda: prefetch._has_fetcher(made.plan.folder, run))
        made = pickle.loads(pickle.dumps(made))  # as a worker has it
        made.at(0)
        assert made._thread is None  # what is read first waits for nothing that is fetched ahead
        made.at(0)
        time.sleep(1.2)
        assert not cache_files(config)
        os.kill(pid, signal.SIGKILL)
    filled(config)(0)
    assert len(cache_files(config)) == 96
    made.close()
    assert os.listdir(folder / "readers") == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data.cache_limit": "1GiB", "data.cache_local": False}, "has no effect, as all shards are local"),
        ({"data.cache_limit": 0}, "data.cache_local has no effect with data.cache_limit: 0"),
        ({"data.cache_limit": "9000TiB"}, None),
        ({"data.cache_limit": "1KiB"}, "is less than the images of a batch"),
        (
            {"data.cache_limit": "1KiB", "data.order": "blocks", "data.block": 4, "data.window": 2},
            "is less than two windows of 2 blocks of 4 samples",
        ),
        ({"data.cache": "/proc/nowhere"}, "the cache of blocks (data.cache) /proc/nowhere/blocks/"),
    ],
)
def test_a_cache_that_cannot_be_had_is_one_line(shards: Path, keys: dict[str, object], said: str | None) -> None:
    config = load(shards, data__cache_local=True).with_(keys)
    if said is None:  # more than there is room for, but the set fits
        loader.open_index(config)
        return
    with pytest.raises(InputError) as error:
        loader.open_index(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_disk_without_room_is_refused_at_the_start(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached.files, "room", lambda path: 10_000)
    with pytest.raises(
        InputError, match=r"data.cache_limit = 1GiB: .* has room for 10 KiB; set data.cache_limit lower"
    ):
        loader.open_index(load(shards, data__cache_local=True, data__cache_limit="1GiB"))
