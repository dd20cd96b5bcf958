"""Micro-batches arrive in the order of the run, whole, whatever reads them."""

import hashlib
import os
import subprocess
import sys
import types
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import checks, loader
from gan_dist.data.decode import Note
from gan_dist.data.quarantine import Quarantine
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch, Field
from tests import making
from tests.launching import REPOSITORY


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def load(shards: Path, **keys: object) -> Config:
    return config_module.load(
        [str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(making.tiny(shards, "unused", **keys))]
    )


def steps(config: Config, count: int, start: int = 0, slots: range | None = None) -> list[list[Batch]]:
    loader.prepare(config, progress=False)
    index = loader.open_index(config)
    batches = loader.micro_batches(index, config, start, slots or range(config.training.batch), torch.device("cpu"))
    found = list(islice(batches, count))
    batches.close()
    return found


def hashes(batches: list[list[Batch]]) -> list[str]:
    return [
        hashlib.sha1(image.numpy().tobytes()).hexdigest()
        for batch in batches
        for micro in batch
        for image in micro["image"]
    ]


def test_images_are_those_of_the_order_with_their_labels_and_positions(shards: Path) -> None:
    config = load(shards, data__labels=True, training__images=1000)
    for step, batch in enumerate(steps(config, 12)):
        samples = loader.order.samples(0, 96, 16, 1, step * 16, np.arange(16))
        images = torch.cat([micro["image"] for micro in batch])
        expected = np.stack([making.picture(sample) for sample in samples.tolist()])
        assert torch.equal(((images[:, 0] + 1) * 127.5).round(), torch.from_numpy(expected).float())
        assert torch.cat([micro.get("class") for micro in batch]).tolist() == (samples % 3).tolist()
        assert torch.cat([micro.positions for micro in batch]).tolist() == list(range(step * 16, step * 16 + 16))
        assert [len(micro["image"]) for micro in batch] == [4, 4, 4, 4]


@pytest.mark.parametrize("dense", [True, False])
def test_images_lie_in_memory_as_the_weights_do(tmp_path: Path, dense: bool) -> None:
    colours = making.data_set(tmp_path, 48, channels=3)
    ((first, *_),) = steps(load(colours, data__channels=3, training__channels_last=dense), 1)
    assert first["image"].is_contiguous(memory_format=torch.channels_last) == dense
    assert first["image"].is_contiguous() != dense


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(shards: Path) -> None:
    found = [hashes(steps(load(shards, data__workers=workers, training__images=10_000), 60)) for workers in (0, 1, 3)]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 96


def test_any_division_of_slots_gives_the_same_samples(shards: Path) -> None:
    config = load(shards, data__streams=4, training__images=1000)
    whole = [hashes([batch]) for batch in steps(config, 5)]
    for world_size in (2, 4):
        share = 16 // world_size
        parts = [steps(config, 5, slots=range(r * share, (r + 1) * share)) for r in range(world_size)]
        assert [[image for part in parts for image in hashes([part[step]])] for step in range(5)] == whole


def test_a_start_in_the_middle_is_the_rest_of_the_run(shards: Path) -> None:
    config = load(shards, training__images=320)
    assert hashes(steps(config, 99, start=160)) == hashes(steps(config, 99))[160:]
    assert len(steps(config, 99)) == 20


def test_the_last_step_is_a_whole_batch(shards: Path) -> None:
    assert len(steps(load(shards, training__images=17), 99)) == 2


def test_mirroring_is_by_position(shards: Path) -> None:
    plain = steps(load(shards, training__images=1600), 100)
    mirrored = steps(load(shards, training__images=1600, data__flip=True), 100)
    turned = 0
    for one, other in zip(plain, mirrored, strict=True):
        for a, b in zip(one, other, strict=True):
            for image, new in zip(a["image"], b["image"], strict=True):
                assert torch.equal(new, image) or torch.equal(new, image.flip(-1))
                turned += not torch.equal(new, image)
    assert 700 < turned < 900
    assert hashes(mirrored[50:]) == hashes(steps(load(shards, training__images=1600, data__flip=True), 50, start=800))


def test_images_are_channels_last(tmp_path: Path) -> None:
    folder = making.data_set(tmp_path / "data", 24, channels=3)
    micro = steps(load(folder, data__channels=3), 1)[0][0]
    assert micro["image"].is_contiguous(memory_format=torch.channels_last)
    assert micro["image"].shape == (4, 3, 16, 16)


# --- several fields of a sample


def pairs(count: int = 32, colours: int = 3) -> list[tuple[str, bytes]]:
    """Members KEY.a.png (grey), KEY.b.png and KEY.cls; b is a's negative, of the same shape."""
    members = []
    for number in range(count):
        grey = making.picture(number)
        negative = np.repeat(255 - grey[..., None], 3, axis=-1) if colours == 3 else 255 - grey
        members += [(f"{number:03d}.a.png", making.encode(grey)), (f"{number:03d}.b.png", making.encode(negative))]
        members.append((f"{number:03d}.cls", str(number % 3).encode()))
    return members


PAIRED = "{a: {member: a.png}, b: {member: b.png, channels: 3}}"


@pytest.mark.parametrize("workers", [0, 1])
def test_fields_of_a_sample_arrive_together_mirrored_alike_with_its_class(tmp_path: Path, workers: int) -> None:
    making.write_tar(tmp_path / "data/0.tar", pairs())
    config = load(
        tmp_path / "data",
        data__fields=PAIRED,
        data__labels=True,
        data__flip=True,
        data__workers=workers,
        training__images=64,
    )
    turned = 0
    for step, batch in enumerate(steps(config, 4)):
        samples = loader.order.samples(0, 32, 16, 1, step * 16, np.arange(16)).tolist()
        both = {name: torch.cat([micro[name] for micro in batch]) for name in ("a", "b", "class")}
        assert both["a"].shape == (16, 1, 16, 16)
        assert both["b"].shape == (16, 3, 16, 16)
        assert torch.allclose(both["b"], -both["a"], atol=1e-6)
        assert both["class"].tolist() == [sample % 3 for sample in samples]
        for image, sample in zip(both["a"], samples, strict=True):
            plain = (torch.from_numpy(making.picture(sample).copy()).float() / 127.5 - 1)[None]
            turned += not torch.allclose(image, plain, atol=1e-6)
            assert torch.allclose(image, plain, atol=1e-6) or torch.allclose(image, plain.flip(-1), atol=1e-6)
    assert 16 < turned < 48


def test_one_field_is_the_same_images_as_data_image(tmp_path: Path) -> None:
    making.write_tar(tmp_path / "data/0.tar", pairs())
    chosen = load(tmp_path / "data", data__image="a.png")
    named = load(tmp_path / "data", data__fields="{image: {member: a.png}}")
    assert hashes(steps(chosen, 4)) == hashes(steps(named, 4))


def test_a_sample_is_replaced_in_all_fields_where_one_is_bad(tmp_path: Path) -> None:
    members = pairs()
    members[3 * 5 + 1] = ("005.b.png", b"no image")
    broken = members[3 * 9][1]
    members[3 * 9] = ("009.a.png", broken[:60] + b"\0" * 20)  # its header is whole
    making.write_tar(tmp_path / "data/0.tar", members)
    config = load(tmp_path / "data", data__fields=PAIRED, data__max_bad_fraction=0.5, training__images=32)
    loader.prepare(config, progress=False)
    index = loader.open_index(config)
    notes: list[Note] = []
    for batch in loader.micro_batches(index, config, 0, range(16), torch.device("cpu"), notes.append):
        for micro in batch:
            assert torch.allclose(micro["b"], -micro["a"], atol=1e-6)
    assert {(note.key, note.reason) for note in notes} == {
        ("005", "b: the image cannot be read"),
        ("009", "a: the image cannot be decoded"),
    }
    picture = loader.shown(index, config, 8, torch.device("cpu"))
    assert picture.positions.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert Quarantine(index).over_ranks([0], lambda met: [met]) == 1


def test_every_sample_needs_every_field(tmp_path: Path) -> None:
    members = [member for member in pairs() if member[0] not in ("007.b.png", "009.a.png")]
    path = making.write_tar(tmp_path / "data/0.tar", members)
    with pytest.raises(InputError) as caught:
        steps(load(tmp_path / "data", data__fields=PAIRED), 1)
    assert f"sample 007 of {path} has no member .b.png (b)" in str(caught.value)


def test_the_digest_of_fields_knows_each_and_its_name(tmp_path: Path) -> None:
    making.write_tar(tmp_path / "data/0.tar", pairs(colours=1))
    found = []
    for fields in ("{a: {member: a.png}, b: {member: b.png}}", "{b: {member: a.png}, a: {member: b.png}}"):
        config = load(tmp_path / "data", data__fields=fields)
        loader.prepare(config, progress=False)
        found.append(loader.open_index(config).digest)
    assert len(set(found)) == 2


GREY = Field(channels=1, size=(16, 16))


@pytest.mark.parametrize(
    ("keys", "wanted", "said"),
    [
        ({}, {"image": GREY}, ""),
        ({}, {"image": Field()}, ""),
        ({"data__labels": True}, {"image": GREY, "class": Field(kind="class", classes=3)}, ""),
        ({}, {"a": GREY, "b": GREY}, "wants the images a, b, and data.fields has no a"),
        ({"data__fields": "{image: {member: png}, x: {member: y.png}}"}, {"image": GREY}, "names x, which the game"),
        ({}, {"image": Field(channels=3)}, "wants image with 3 channels, the data has 1"),
        ({}, {"image": Field(size=(32, 32))}, "wants image at 32 pixels, data.resolution = 16"),
        ({}, {"image": GREY, "class": Field(kind="class")}, "set data.labels: true"),
        ({"data__labels": True}, {"image": GREY}, "takes no classes; set data.labels: false"),
    ],
)
def test_what_game_and_data_differ_in_is_one_line(
    shards: Path, keys: dict[str, object], wanted: dict[str, Field], said: str
) -> None:
    config = load(shards, **keys)
    loader.prepare(config, progress=False)
    if not said:
        loader.open_index(config, wanted)
        return
    with pytest.raises(InputError) as caught:
        loader.open_index(config, wanted)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_grid_shows_the_first_samples_as_they_are(shards: Path) -> None:
    config = load(shards, data__flip=True, data__labels=True)
    loader.prepare(config, progress=False)
    batch = loader.shown(loader.open_index(config), config, 5, torch.device("cpu"))
    expected = np.stack([making.picture(sample) for sample in range(5)])
    assert torch.equal(((batch["image"][:, 0] + 1) * 127.5).round(), torch.from_numpy(expected).float())
    assert (batch["class"].tolist(), batch.positions.tolist()) == ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4])
    assert len(loader.shown(loader.open_index(config), config, 500, torch.device("cpu"))) == 96


# --- the machine


def ring_of(shards: Path, resolution: int, **keys: object) -> int:
    config = load(shards, data__resolution=resolution, data__channels=3, **keys)
    return loader._ring_bytes(config)


def test_the_ring_has_about_8_mib_a_group(shards: Path) -> None:
    mib = 1 << 20
    assert ring_of(shards, 16, data__workers=2) == 5 * 256 * 16 * 16 * 3
    assert ring_of(shards, 256, data__workers=2, training__batch=16) <= 5 * 8 * mib
    assert ring_of(shards, 1024, data__workers=2, training__micro_batch=16) == 5 * 16 * 3 * mib  # one micro-batch
    assert ring_of(shards, 1024, data__workers=0, training__micro_batch=2) <= 8 * mib


def test_too_little_shared_memory_is_one_line_before_anything_is_allocated(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(shards, data__workers=2)
    loader.prepare(config, progress=False)
    needed = loader._ring_bytes(config)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2 * needed))
    for ranks in ("1", "2"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        loader.open_index(config)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        InputError, match=r"/dev/shm has 0 MiB free, the data loader needs 1 MiB \(3 rank.*data.workers"
    ):
        loader.open_index(config)
    loader.open_index(load(shards, data__workers=0))  # needs none


def test_without_workers_no_shared_memory_is_used(shards: Path) -> None:
    config = load(shards)
    loader.prepare(config, progress=False)
    groups = loader._Groups(loader.open_index(config), config, 0, range(16))
    assert not any(ring.is_shared() for ring in groups.rings.values())


@pytest.mark.slow
def test_workers_start_where_the_temporary_folder_has_a_long_name(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    code = f"""
import torch
from tests.unit.data.test_loader import load, loader
from pathlib import Path
config = load(Path({str(shards)!r}), data__workers=1)
loader.prepare(config, progress=False)
index = loader.open_index(config)
print(sum(1 for _ in loader.micro_batches(index, config, 0, range(16), torch.device("cpu"))))
"""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("4", 0), done.stderr
