"""Micro-batches arrive in the order of the run, whole, whatever reads them."""

import hashlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.interfaces import Batch
from tests import making
from tests.launching import REPOSITORY


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def load(shards: Path, **keys: object) -> Config:
    return config_module.load(
        [str(REPOSITORY / "configs/digits.yaml"), *making.flags(making.tiny(shards, "unused", **keys))]
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
