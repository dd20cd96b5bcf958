"""Checkpoints come back to the bit, damage is found, and enough whole ones stay."""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gan_dist import files
from gan_dist.checkpoint import Writer, format, store, tensors
from gan_dist.checkpoint.store import Store
from gan_dist.networks import dcgan
from gan_dist.optimizers import Adam
from gan_dist.player import Player


def players() -> list[Player]:
    torch.manual_seed(0)
    adam = Adam(learning_rate=1e-3, beta1=0.5, beta2=0.9)
    pair = [
        Player("G", dcgan.Generator(8, 3, 4, 4), adam.build, average_half_life=10),
        Player("D", dcgan.Discriminator(8, 3, 4), adam.build),
    ]
    for player in pair:
        player.place(torch.device("cpu"), torch.float32)
    return pair


def train(pair: list[Player], steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    generator, discriminator = pair
    assert generator.average is not None
    for step in range(steps):
        fake = generator(torch.randn(4, 4))
        losses = fake.square().mean(), discriminator(fake.detach()).square().mean()
        for player, loss in zip(pair, losses, strict=True):
            player.optimizer.zero_grad()
            loss.backward()
            player.optimizer.step()
        generator.average.update(1000 + step, 4)


def save(folder: Path, pair: list[Player], images: int, world_size: int = 1) -> str:
    """As one process, or the parts of several one after the other."""
    state = tensors.collect(pair)
    outcomes = []
    meeting = Meeting(world_size)
    for rank in range(world_size):
        writer = Writer(Store(folder, 2), rank, world_size, meeting.gather_as(rank))
        writer.save(images, state, {})
        outcomes.append(writer)
    found = [writer.wait() for writer in outcomes]
    assert all(len(outcome) == 1 and not outcome[0].problem for outcome in found), found
    return found[0][0].name


class Meeting:
    """Gathers the values of writers that are threads of this process."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=20)
        self.values: list[Any] = [None] * world_size

    def gather_as(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait()
            found = list(self.values)
            self.barrier.wait()
            return found

        return gather


def load(folder: Path, name: str, pair: list[Player]) -> None:
    manifest = format.read_manifest(folder / name)
    format.verify(folder / name, manifest)
    with format.Reader(folder / name, manifest) as read:
        tensors.restore(pair, read, manifest["steps"])


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("world_size", [1, 4])
def test_a_checkpoint_comes_back_to_the_bit_and_training_goes_on_alike(
    tmp_path: Path, steps: int, world_size: int
) -> None:
    straight = players()
    train(straight, steps)
    name = save(tmp_path, straight, 64, world_size)
    resumed = players()
    train(resumed, 1, seed=5)  # something else
    load(tmp_path, name, resumed)
    for pair in (straight, resumed):
        train(pair, 2, seed=9)
    one, other = tensors.collect(straight), tensors.collect(resumed)
    assert one.steps == other.steps == {"G": steps + 2, "D": steps + 2}
    assert one.whole.keys() == other.whole.keys() == one.shapes.keys()
    assert all(torch.equal(one.whole[key], other.whole[key]) for key in one.whole)
    weight = resumed[0].network.layers[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_parts_are_balanced_and_the_digest_does_not_know_them(tmp_path: Path) -> None:
    pair = players()
    train(pair, 1)
    names = [save(tmp_path / str(count), pair, 64, count) for count in (1, 3)]
    found = [store.describe(tmp_path / str(count) / name) for count, name in zip((1, 3), names, strict=True)]
    assert found[0]["digest"] == found[1]["digest"]
    # one tensor has nearly everything, and one has an awkward size
    awkward = {
        "a": torch.zeros(3, dtype=torch.int64),
        "b": torch.zeros(7),
        "c": torch.zeros(100_001),
        "d": torch.zeros(0),
    }
    for world_size in (1, 2, 3, 4, 7):
        dealt = format.deal(awkward, world_size)
        loads = [sum(piece.length * awkward[piece.name].element_size() for piece in part) for part in dealt]
        assert max(loads) < 1.1 * min(loads)
        covered = {name: [piece for part in dealt for piece in part if piece.name == name] for name in awkward}
        for name, pieces in covered.items():
            assert pieces[0].offset == 0
            ends = [piece.offset + piece.length for piece in pieces]
            assert [piece.offset for piece in pieces[1:]] == ends[:-1]
            assert ends[-1] == awkward[name].numel()


def test_one_bit_changes_the_digest(tmp_path: Path) -> None:
    pair = players()
    one = save(tmp_path, pair, 64)
    with torch.no_grad():
        pair[0].network.layers[0].weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    other = save(tmp_path, pair, 128)
    digests = [store.describe(tmp_path / name)["digest"] for name in (one, other)]
    assert digests[0] != digests[1]


def damage(path: Path, kind: str) -> None:
    part = path / "part-00000-of-00001.safetensors"
    if kind == "flipped bit":
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    elif kind == "truncated":
        part.write_bytes(part.read_bytes()[:-1])
    elif kind == "no part":
        part.unlink()
    elif kind == "no manifest":
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_text('{"format": 1, "images":')


@pytest.mark.parametrize("kind", ["flipped bit", "truncated", "no part", "no manifest", "torn manifest"])
def test_damage_is_found_and_the_older_checkpoint_taken(tmp_path: Path, kind: str) -> None:
    pair = players()
    older, newer = save(tmp_path, pair, 64), save(tmp_path, pair, 128)
    assert Store(tmp_path, 2).newest()[0] == newer
    damage(tmp_path / newer, kind)
    name, manifest, problems = Store(tmp_path, 2).newest()
    assert (name, manifest["images"], len(problems)) == (older, 64, 1)
    assert newer in problems[0]


def test_the_newest_whole_ones_are_kept_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    pair = players()
    for images in (10, 20, 30):
        save(tmp_path, pair, images)
    damage(tmp_path / "images-000000030", "truncated")
    save(tmp_path, pair, 40)
    assert Store(tmp_path, 2).names() == ["images-000000020", "images-000000030", "images-000000040"]


def test_what_a_kill_leaves_is_no_checkpoint(tmp_path: Path) -> None:
    pair = players()
    save(tmp_path, pair, 64)
    (tmp_path / ".images-000000128.part").mkdir()
    (tmp_path / ".images-000000128.part/part-00000-of-00001.safetensors").write_bytes(b"torn")
    assert Store(tmp_path, 2).names() == ["images-000000064"]
    assert save(tmp_path, pair, 128) == "images-000000128"
    assert store.describe(tmp_path / "images-000000128", hashes=True)["whole"]


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_only_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    pair = players()
    for images in (16, 24):
        save(tmp_path, pair, images)
    shutil.copytree(tmp_path / "images-000000016", tmp_path / "images-000000008")

    def killed(path: Path) -> None:
        for file in sorted(path.iterdir())[:deleted]:
            file.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, 2).retire()
    monkeypatch.undo()
    rows = [store.describe(tmp_path / name, hashes=True) for name in store.names(tmp_path)]
    assert [row["images"] for row in rows if row["whole"]] == [16, 24]
    assert all(row["whole"] for row in rows)
    Store(tmp_path, 2).sweep()
    assert len(list(tmp_path.iterdir())) == 2


def test_another_format_is_refused_by_number(tmp_path: Path) -> None:
    name = save(tmp_path, players(), 64)
    manifest = tmp_path / name / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {format.VERSION}', '"format": 7'))
    with pytest.raises(format.DamagedError, match="format 7"):
        format.read_manifest(tmp_path / name)


def test_any_safetensors_reader_opens_a_part(tmp_path: Path) -> None:
    pair = players()
    train(pair, 1)
    name = save(tmp_path, pair, 64)
    named = tensors.collect(pair).whole
    found = load_file(tmp_path / name / "part-00000-of-00001.safetensors")
    assert found.keys() == {f"{key}@0" for key in named}
    assert all(torch.equal(found[f"{key}@0"], tensor.flatten()) for key, tensor in named.items())


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("operation", ["rename", "rmtree"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_while_a_checkpoint_is_replaced_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool, operation: str, number: int
) -> None:
    pair = players()
    for images in (8, 16):
        save(tmp_path, pair, images)
    place, calls = (os if operation == "rename" else shutil), []
    original = getattr(place, operation)

    def killed(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    part = tmp_path / ".images-000000016.part"
    shutil.copytree(tmp_path / "images-000000016", part)
    if not can_exchange:  # as on NFS
        monkeypatch.setattr(files, "exchange", lambda one, other: False, raising=False)
    monkeypatch.setattr(place, operation, killed)
    with contextlib.suppress(KeyboardInterrupt):
        Store(tmp_path, 2).publish(part, 16)
    monkeypatch.undo()
    if not can_exchange:
        Store(tmp_path, 2).sweep()
    rows = [store.describe(tmp_path / name, hashes=True) for name in store.names(tmp_path)]
    assert [row["images"] for row in rows if row["whole"]] == [8, 16]
    Store(tmp_path, 2).sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-000000008", "images-000000016"]


def test_what_a_save_reads_back_comes_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    advise, digest = os.posix_fadvise, hashlib.file_digest

    def spy(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        asked.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        advise(descriptor, offset, length, advice)

    def reading(file: Any, kind: str) -> Any:
        assert file.name in asked, "read before the kernel was told to forget it"
        return digest(file, kind)

    monkeypatch.setattr(os, "posix_fadvise", spy)
    monkeypatch.setattr(hashlib, "file_digest", reading)
    name = save(tmp_path, players(), 64)
    assert asked == [str(tmp_path / name / "part-00000-of-00001.safetensors")]
