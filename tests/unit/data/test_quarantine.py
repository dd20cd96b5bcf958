"""Samples that cannot be had are replaced by others, and nothing else in the order changes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import decode, index as index_module, loader, order
from gan_dist.data.decode import Decoder, Note
from gan_dist.data.quarantine import Quarantine
from gan_dist.errors import InputError
from tests import making
from tests.launching import REPOSITORY

TOTAL = 96


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return making.data_set(tmp_path / "data", TOTAL, classes=3)


def config_for(shards: Path, **keys: object) -> Config:
    wanted = making.tiny(shards, "unused", data__labels=True, training__images=96, data__max_bad_fraction=0.5, **keys)
    return config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(wanted)])


def read(
    config: Config, slots: range = range(16), spoil: Callable[[], object] = lambda: None
) -> tuple[dict, list[Note]]:
    """Position -> (label, pixels) of the first 96 images; `spoil` is called when the index is open."""
    loader.prepare(config, progress=False)
    index = loader.open_index(config)
    spoil()
    notes: list[Note] = []
    found = {}
    for step in loader.micro_batches(index, config, 0, slots, torch.device("cpu"), notes.append):
        for micro in step:
            assert micro.get("class") is not None
            for place, position in enumerate(micro.positions.tolist()):
                found[position] = int(micro.get("class")[place]), micro["image"][place].numpy().tobytes()
    return found, notes


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """A change that the file's size and times do not tell."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def spoil_sample(shards: Path, sample: int) -> None:
    index = index_module.load([str(path) for path in sorted(shards.glob("*.tar"))], Path("/nowhere"))
    shard = index.shard_of(sample)
    overwrite(Path(index.shards[shard]), int(index.offset[sample]) + 30, b"\0" * (int(index.size[sample]) - 30))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_bad_sample_is_replaced_and_all_others_stay(shards: Path, workers: int) -> None:
    config = config_for(shards, data__workers=workers)
    before, none = read(config)
    assert none == []
    spoil_sample(shards, 40)
    after, notes = read(config)
    assert {(note.kind, note.sample, note.key) for note in notes} == {("quarantined", 40, "000040")}
    assert notes[0].shard == str(shards / "1.tar")
    assert notes[0].reason == "the image cannot be decoded"
    changed = [position for position in before if after[position] != before[position]]
    places = [images * 16 + slot for images in range(6) for slot in range(16)]
    numbers = np.concatenate([order.samples(0, TOTAL, 16, 1, step * 16, np.arange(16)) for step in range(6)])
    assert changed == [places[place] for place in np.flatnonzero(numbers == 40)]
    substitute = order.substitute(0, TOTAL, 40, 0)
    assert substitute != 40
    pixels = np.frombuffer(after[changed[0]][1], np.float32).reshape(16, 16)
    assert ((pixels + 1) * 127.5).round().astype(int).tolist() == making.picture(substitute).astype(int).tolist()
    assert after[changed[0]][0] == substitute % 3  # the label goes with the image


def test_every_division_over_processes_reads_the_same_substitutes(shards: Path) -> None:
    config = config_for(shards)
    loader.prepare(config, progress=False)
    for sample in (3, 40, 41, 90, order.substitute(0, TOTAL, 40, 0)):  # a substitute may be bad as well
        spoil_sample(shards, sample)
    whole, _ = read(config)
    halves = read(config, range(0, 8))[0] | read(config, range(8, 16))[0]
    assert halves == whole


def test_a_shard_that_vanishes_is_tried_again_then_quarantined(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_PAUSE", 0.001)
    _, notes = read(config_for(shards), spoil=(shards / "1.tar").unlink)
    assert {note.shard for note in notes} == {str(shards / "1.tar")}
    assert {note.reason for note in notes} == {"the shard cannot be read (No such file or directory)"}
    assert len({note.sample for note in notes}) == 32


def test_a_moment_of_trouble_is_no_quarantine(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_PAUSE", 0.001)
    pread, failures = os.pread, iter([True, True])

    def moody(*arguments: int) -> bytes:
        if next(failures, False):
            raise OSError(5, "Input/output error")
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", moody)
    _, notes = read(config_for(shards))
    assert notes == []


@pytest.mark.parametrize("how", ["rewritten in place", "replaced", "cut"])
def test_a_shard_rewritten_under_a_running_run_is_noticed(shards: Path, how: str) -> None:
    def spoil() -> None:
        path = shards / "2.tar"
        if how == "replaced":
            shutil.copy(shards / "0.tar", shards / "new")
            (shards / "new").rename(path)
        elif how == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.write_bytes((shards / "0.tar").read_bytes())

    _, notes = read(config_for(shards), spoil=spoil)
    assert {note.shard for note in notes} == {str(shards / "2.tar")}
    assert {note.reason for note in notes} == {"the shard changed since the run began"}


def test_a_slow_shard_is_named_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_SLOW", 0.0)
    config = config_for(shards)
    _, notes = read(config)
    quarantine = Quarantine(loader.open_index(config))
    news = [note for note in notes if quarantine.add(note)]
    assert sorted(note.shard for note in news) == [str(shards / f"{number}.tar") for number in range(3)]
    assert {note.kind for note in news} == {"slow shard"}
    assert quarantine.count == 0


def quarantines(shards: Path, *shares: list[Note]) -> list[Quarantine]:
    """One of each rank, which met these."""
    index = loader.open_index(config_for(shards))
    ranks = [Quarantine(index) for _ in shares]
    for rank, notes in zip(ranks, shares, strict=True):
        for note in notes:
            rank.add(note)
    return ranks


def together(ranks: list[Quarantine], gathers: list[int] | None = None) -> list[int]:
    """What each rank counts after they exchanged; `gathers` takes a line for each gather."""

    def gather(_: dict[int, str]) -> list[dict[int, str]]:
        if gathers is not None:
            gathers.append(1)
        return [rank._met for rank in ranks]

    return [rank.over_ranks([rank.count for rank in ranks], gather) for rank in ranks]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_same_bad_samples_are_as_many_at_any_number_of_ranks(shards: Path, world_size: int) -> None:
    config = config_for(shards)
    loader.prepare(config, progress=False)
    for sample in (3, 40, 41):
        spoil_sample(shards, sample)
    _, notes = read(config)
    assert {note.sample for note in notes} == {3, 40, 41}
    ranks = quarantines(shards, *[notes * 2] * world_size)  # after some epochs every rank has met every sample
    assert together(ranks) == [3] * world_size
    assert {rank.worst()[:2] for rank in ranks} == {(2, str(shards / "1.tar"))}
    assert all("the image cannot be decoded" in rank.worst()[2] for rank in ranks)


def test_ranks_that_met_different_samples_count_all_and_gather_only_news(shards: Path) -> None:
    config = config_for(shards)
    loader.prepare(config, progress=False)
    notes = [
        Note("quarantined", sample, str(shards / f"{shard}.tar"), f"{sample:06d}", "gone")
        for sample, shard in ((3, 0), (40, 1), (41, 1))
    ]
    ranks, gathers = quarantines(shards, notes[:2], notes[1:]), list[int]()
    assert together(ranks, gathers) == [3, 3]
    assert {rank.worst() for rank in ranks} == {(2, str(shards / "1.tar"), "000040: gone")}
    assert together(ranks, gathers) == [3, 3]
    assert len(gathers) == 2  # once a rank: nothing changed since
    ranks[0].add(Note("quarantined", 5, "", "000005", "gone"))
    assert together(ranks, gathers) == [4, 4]


def test_what_the_index_lists_as_bad_counts_from_the_start(tmp_path: Path) -> None:
    members = making.samples(TOTAL, classes=3)
    members[2 * 40] = ("000040.png", b"no image")
    making.write_tar(tmp_path / "data/0.tar", members)
    config = config_for(tmp_path / "data")
    _, notes = read(config)
    assert together(quarantines(tmp_path / "data", [])) == [1]
    assert together(quarantines(tmp_path / "data", notes)) == [1]  # it was met since: still one


def test_images_that_the_index_knows_as_bad_are_replaced_too(tmp_path: Path) -> None:
    members = making.samples(TOTAL, classes=3)
    members[2 * 40] = ("000040.png", b"no image")
    making.write_tar(tmp_path / "data/0.tar", members)
    with pytest.raises(InputError, match="1 of 96 images cannot be read"):
        read(config_for(tmp_path / "data").with_({"data.max_bad_fraction": 0.01}))
    _, notes = read(config_for(tmp_path / "data"))
    assert {note.key for note in notes} == {"000040"}


def test_when_nothing_is_left_it_is_one_line(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(shards)
    loader.prepare(config, progress=False)
    readers = {"image": Decoder(loader.open_index(config), (16, 16), 1)}
    out = {"image": np.empty((1, 16, 16, 1), np.uint8)}
    monkeypatch.setattr(decode.cv2, "imdecode", lambda *_: None)
    with pytest.raises(InputError, match="100 samples in a row cannot be read, first 000007 of") as caught:
        decode.read_or_substitute(readers, np.array([7]), out, lambda sample, attempt: 8)
    assert len(str(caught.value).splitlines()) == 1
