"""Samples that are kept in memory are the samples of the run: the cache changes nothing but who decodes."""

import os
import pickle
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import loader, resident
from gan_dist.data.decode import Decoder, UnusableError
from gan_dist.data.index import Index
from gan_dist.data.resident import Cache
from gan_dist.errors import InputError
from tests import making
from tests.launching import REPOSITORY

TOTAL = 40
CPU = torch.device("cpu")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """40 samples of 3 classes; 5 has a bad header, 23 cannot be decoded."""
    members = making.samples(TOTAL, classes=3)
    members[2 * 5] = (members[2 * 5][0], b"no image")
    members[2 * 23] = (members[2 * 23][0], members[2 * 23][1][:60] + b"\0" * 20)
    making.write_tar(tmp_path / "data/0.tar", members)
    return tmp_path / "data"


def load(shards: Path, **keys: object) -> Config:
    wanted = {"data__labels": True, "data__flip": True, "data__max_bad_fraction": 0.5, "training__images": 480}
    tiny = making.tiny(shards, "unused", **{**wanted, **keys})
    config = config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(tiny)])
    loader.prepare(config, progress=False)
    return config


def cache_of(config: Config, index: Index, slots: range = range(16)) -> Cache:
    made = resident.plan(config, index, [slots], slots, CPU)
    assert made is not None
    return Cache(made)


Seen = list[tuple[bytes, int, int]]


def play(config: Config, cache: Cache | None, start: int = 0, slots: range = range(16), said: list[str] | None = None):
    """Yield what each image of a step is: pixels, class and position."""
    index = loader.open_index(config)
    say = (said if said is not None else []).append
    for step in loader.micro_batches(index, config, start, slots, CPU, cache=cache, say=say):
        assert [len(micro) for micro in step] == [4] * (len(slots) // 4)
        yield [
            (image.numpy().tobytes(), int(label), int(position))
            for micro in step
            for image, label, position in zip(micro["image"], micro["class"], micro.positions, strict=True)
        ]


def whole(config: Config, cache: Cache | None, **more: object) -> Seen:
    return [each for step in play(config, cache, **more) for each in step]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the samples that this process decoded."""
    numbers: list[int] = []
    plain = Decoder.decode

    def decode(
        self: Decoder, sample: int, out: np.ndarray | None = None, place: np.ndarray | None = None
    ) -> np.ndarray:
        numbers.append(sample)
        return plain(self, sample, out, place)

    monkeypatch.setattr(Decoder, "decode", decode)
    return numbers


@pytest.mark.parametrize("streams", [1, 4])
def test_each_sample_is_decoded_once_and_no_batch_changes(shards: Path, decoded: list[int], streams: int) -> None:
    config = load(shards, data__resident="host", data__streams=streams)
    expected = whole(config.with_({"data.resident": "no"}), None)
    decoded.clear()
    cache, said = cache_of(config, loader.open_index(config)), list[str]()
    assert whole(config, cache, said=said) == expected
    assert cache.is_full
    assert sorted(set(decoded)) == list(range(TOTAL))
    assert len(decoded) <= TOTAL + 4  # two had others stand in for them
    assert [line.split(":")[0] for line in said] == ["data.resident"] * 2
    assert "40 decoded samples, 10 KiB" in said[0]
    decoded.clear()
    assert whole(config, cache, start=160) == expected[160:]  # as after going back
    assert not decoded


def test_ranks_share_it_and_a_start_in_mid_epoch_begins_with_an_empty_one(shards: Path, decoded: list[int]) -> None:
    config = load(shards, data__resident="host")
    expected = whole(config.with_({"data.resident": "no"}), None, start=16)
    index = loader.open_index(config)
    first = cache_of(config, index)
    second = Cache(first.plan, first.path, first.name)
    decoded.clear()
    ranks = [play(config, cache, 16, range(8 * n, 8 * n + 8)) for n, cache in enumerate((first, second))]
    assert [each for parts in zip(*ranks, strict=True) for part in parts for each in part] == expected
    assert len(decoded) <= TOTAL + 4
    with pytest.raises(OSError, match="No such file"):
        Cache(first.plan, first.path, "/memfd:another (deleted)")


def test_each_rank_keeps_its_streams_alone(shards: Path) -> None:
    config = load(shards, data__resident="device", data__streams=4)
    index, slots = loader.open_index(config), range(8, 16)
    assert cache_of(config, index, slots).plan.samples == (range(20, 40),)
    both = cache_of(config, index)
    expected = whole(config.with_({"data.resident": "no"}), None, slots=slots)
    for part in (range(8), slots):
        assert len(whole(config, both, slots=part)) == 240
    mine = cache_of(config, index, range(16))
    mine._numbers[:], mine._rows["image"][:] = both._numbers, both._rows["image"]
    assert whole(config, mine, slots=slots) == expected
    assert len(mine._selected["image"]) == 20


def test_ranks_that_are_no_neighbours_fill_what_they_read(shards: Path) -> None:
    config = load(shards, data__resident="host", data__streams=4)
    index, slots = loader.open_index(config), [range(8, 12), range(4)]
    made = resident.plan(config, index, slots, slots[1], CPU)
    assert made is not None
    assert made.samples == (range(10), range(20, 30))
    cache, plain = Cache(made), config.with_({"data.resident": "no"})
    ranks = [
        play(config, each, slots=part)
        for each, part in zip((cache, Cache(made, cache.path, cache.name)), slots, strict=True)
    ]
    seen = list(zip(*ranks, strict=True))
    assert cache.is_full
    for number, part in enumerate(slots):
        assert [each for step in seen for each in step[number]] == whole(plain, None, slots=part)


def test_a_worker_that_cannot_share_it_decodes(shards: Path) -> None:
    config = load(shards, data__resident="host")
    cache = cache_of(config, loader.open_index(config))
    cache.name = "/memfd:another (deleted)"
    cache.read = pickle.loads(pickle.dumps(cache)).read
    assert whole(config, cache) == whole(config.with_({"data.resident": "no"}), None)
    assert not cache.is_full


def test_what_could_not_be_read_for_a_while_is_read_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(shards, data__resident="host")
    expected = whole(config.with_({"data.resident": "no"}), None)
    plain, down = Decoder._bytes, [True]

    def moody(self: Decoder, sample: int) -> bytes:
        if down[0] and sample in (7, 8):
            raise UnusableError("the shard cannot be read", passing=True)
        return plain(self, sample)

    monkeypatch.setattr(Decoder, "_bytes", moody)
    cache, seen = cache_of(config, loader.open_index(config)), []
    for number, step in enumerate(play(config, cache)):
        assert not (down[0] and cache.is_full)
        down[0] = number < 4
        seen.append(step)
    assert [each for step in seen[16:] for each in step] == expected[256:]  # 256 images are read at a time
    assert [each for step in seen[:16] for each in step] != expected[:256]
    assert cache.is_full


@pytest.mark.slow
def test_workers_fill_it_and_end(shards: Path) -> None:
    config = load(shards, data__resident="host", data__workers=2, training__images=4800)
    expected = whole(config.with_({"data.resident": "no", "data.workers": 0}), None)
    cache = cache_of(config, loader.open_index(config))
    seen = []
    for step in play(config, cache):
        seen += step
        if len(seen) == 3200:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            assert not [pid for pid in children if "pt_data_worker" in Path(f"/proc/{pid}/comm").read_text()]
    assert seen == expected
    assert cache._selected


def room(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(resident.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available))


@pytest.mark.parametrize(
    ("wanted", "available", "where"),
    [("auto", 1 << 20, "host"), ("auto", 18_000, ""), ("host", 18_000, "host"), ("device", 18_000, "device")],
)
def test_what_fits_is_kept(
    shards: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, available: int, where: str
) -> None:
    config = load(shards, data__resident=wanted)
    room(monkeypatch, available)
    made = resident.plan(config, loader.open_index(config), [range(16)], range(16), CPU)
    assert (made.where if made else "") == where
    assert made is None or made.bytes == TOTAL * (8 + 16 * 16)
    said: list[str] = []
    next(play(config, Cache(made) if made else None, said=said))
    assert said[0].startswith(
        f"data.resident: {where or 'auto'}: 40 decoded" if made else "data.resident: auto: nothing is"
    )


def test_too_much_for_the_memory_is_one_line(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(shards, data__resident="host")
    room(monkeypatch, 8 << 10)
    for left in (float("inf"), 4 << 10):
        with pytest.raises(InputError) as caught:
            resident.plan(config, loader.open_index(config), [range(16)], range(16), CPU, left)
        assert str(caught.value) == (
            f"data.resident = host: 40 decoded samples are 10 KiB, and at most {min(left, 8 << 10) * 0.9 / 1024:.0f} KiB of "
            "this machine's memory may be taken; set data.resident: auto, or pack smaller images"
        )


def test_ranks_of_a_machine_get_one_memory(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(shards, data__resident="auto")
    index = loader.open_index(config)

    machine, told = resident._machine(), list[object]()

    def gather(value: object) -> list[object]:
        """Two ranks here, one elsewhere: slots first, then what each made."""
        if isinstance(value, tuple) and len(value) == 2:
            return [(machine, (0, 8)), (machine, (8, 16)), ("far", (16, 24))]
        told.extend([value] if value is not None else [])
        return [*told, ("far", None, "/proc/1/fd/1", "x")]

    def rank(number: int) -> types.SimpleNamespace:
        def on_main(work: Callable[[], object], where: str) -> object:
            return work() if where == "machine" and number == 0 else None

        slots = range(8 * number, 8 * number + 8)
        return types.SimpleNamespace(slots=slots, device=CPU, gather=gather, on_main=on_main)

    first = resident.shared(config, index, rank(0), float("inf"))
    second = resident.shared(config, index, rank(1), float("inf"))
    assert first is not None
    assert second is not None
    assert (first.name, first.plan.samples) == (second.name, (range(40),))
    none = config.with_({"data.resident": "no"})
    assert resident.shared(none, index, rank(0), float("inf")) is None


@pytest.mark.parametrize("written", ["no", "No", "off", "false"])
def test_no_may_be_written_as_yaml_has_it(shards: Path, tmp_path: Path, written: str) -> None:
    assert load(shards, data__resident=written).data.resident == "no"
