"""Two sets without pairs: each has its own order, crops and mirrors, all functions of the position in the run."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_dist import config as config_module, games
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.data.quarantine import Quarantine
from gan_dist.errors import InputError
from tests import making

COUNT = {"A": 16, "B": 24}


def write(folder: Path, count: int, first: int = 0, size: int = 16) -> Path:
    """Images that are flat but for their left half: the grey of the left tells the number, the right is black."""
    members = []
    for number in range(count):
        pixels = np.zeros((size, size), np.uint8)
        pixels[:, : size // 2] = 100 + first + number
        members.append((f"{number:04d}.png", making.encode(pixels)))
    making.write_tar(folder / "0.tar", members)
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    return {name: write(tmp_path / name, count) for name, count in COUNT.items()}


def load(sets: dict[str, Path], **keys: object) -> Config:
    chosen: dict[str, object] = {
        "data.shards": "{" + ", ".join(f"{name}: {path}" for name, path in sets.items()) + "}",
        "data.resolution": 16,
        "data.channels": 1,
        "data.workers": 0,
        "networks.generator.base_channels": 2,
        "networks.generator.blocks": 1,
        "networks.discriminator.base_channels": 2,
        "networks.discriminator.layers": 1,
        "training.images": 480,
        "training.batch": 8,
        "training.micro_batch": 4,
        "training.device": "cpu",
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    path = next(iter(sets.values())).parent / "run.yaml"
    path.write_text("game: {kind: unpaired}\n")
    return config_module.load([str(path), *making.flags(chosen)])


def read(config: Config, start: int = 0, slots: range = range(8), steps: int = 6) -> dict[str, Tensor]:
    """The images of some steps of each set, (N, H, W) of 0..255."""
    loader.prepare(config, progress=False)
    index = loader.open_index(config, games.build(config).fields)
    found = islice(loader.micro_batches(index, config, start, slots, torch.device("cpu")), steps)
    micros = [micro for step in found for micro in step]
    return {name: torch.cat([((micro[name] + 1) * 127.5).round()[:, 0] for micro in micros]) for name in COUNT}


def numbers(images: Tensor) -> list[int]:
    return [int(each.max()) - 100 for each in images]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_set_has_an_order_and_epochs_of_its_own(sets: dict[str, Path], workers: int) -> None:
    found = {name: numbers(images) for name, images in read(load(sets, data__workers=workers)).items()}
    for name, count in COUNT.items():
        for epoch in range(48 // count):
            assert sorted(found[name][epoch * count : (epoch + 1) * count]) == list(range(count))
    assert found["A"][:16] != [number for number in found["B"] if number < 16][:16]


def test_sets_of_one_size_are_not_paired_by_their_order(tmp_path: Path) -> None:
    alike = {name: write(tmp_path / name, 16) for name in COUNT}
    found = {name: numbers(images) for name, images in read(load(alike), steps=4).items()}
    assert found["A"] != found["B"]


def test_samples_crops_and_mirrors_depend_on_the_position_alone(sets: dict[str, Path]) -> None:
    config = load(sets, data__flip=True, data__crop="random", data__resolution=8)
    whole = read(config)
    for start, slots in ((0, range(4)), (16, range(4, 8))):
        part = read(config, start, slots, steps=2)
        for name in COUNT:
            places = [start + step * 8 + slot for step in range(2) for slot in slots]
            assert torch.equal(part[name], whole[name][places])


def test_each_set_is_cropped_and_mirrored_for_itself(sets: dict[str, Path]) -> None:
    flipped = read(load(sets, data__flip=True))
    left = {name: [bool(each[0, 0]) for each in images] for name, images in flipped.items()}
    assert left["A"] != left["B"]
    assert all(0 < sum(each) < len(each) for each in left.values())
    cut = read(load(sets, data__crop="random", data__resolution=8))
    bright = {name: [int((each[0] > 0).sum()) for each in images] for name, images in cut.items()}
    assert bright["A"] != bright["B"]


def test_bad_sets_are_one_line(sets: dict[str, Path], tmp_path: Path) -> None:
    def refused(**keys: object) -> str:
        shards = keys.pop("shards", sets)
        assert isinstance(shards, dict)
        with pytest.raises(InputError) as error:
            read(load(shards, **keys))
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    assert "no .tar file in the folder" in refused(shards={**sets, "B": tmp_path / "empty"})
    making.write_tar(tmp_path / "nothing/0.tar", [("notes.txt", b"none")])
    assert "data.shards.B: no sample of 1 shard has an image" in refused(shards={**sets, "B": tmp_path / "nothing"})
    small = write(tmp_path / "small", 4)
    assert "training.batch = 8 is more than the 4 samples of data.shards.B" in refused(shards={**sets, "B": small})
    assert "is 16x16, smaller than data.resolution = 24" in refused(data__resolution=24)
    assert "wants a set for each domain, and data.shards names X, Y" in refused(shards={"X": sets["A"], "Y": sets["B"]})
    assert "data.source packs one set" in refused(data__source="digits")
    assert "data.resident = host keeps samples of one set" in refused(data__resident="host")
    assert "data.fields names C" in refused(data__fields="{C: {member: png}}")
    assert "is a label map" in refused(data__fields="{A: {classes: 3}}")
    assert "game.identity = 5.0 compares" in refused(data__fields="{A: {channels: 3}}")
    assert "data.shards names A;" in refused(shards={"A": sets["A"]})


def test_unusable_samples_of_either_set_are_counted(sets: dict[str, Path], tmp_path: Path) -> None:
    contents = [b"none" if key == 20 else making.encode(making.picture(key)) for key in range(24)]
    making.write_tar(tmp_path / "bad/0.tar", [(f"{key}.png", content) for key, content in enumerate(contents)])
    config = load({**sets, "B": tmp_path / "bad"}, data__max_bad_fraction=0.5)
    loader.prepare(config, progress=False)
    found = Quarantine(loader.open_index(config))
    assert found.over_ranks([0], lambda met: [met]) == 1
    assert found.worst()[:2] == (1, str(tmp_path / "bad/0.tar"))
    assert len(read(config)["B"]) == 48  # another stands in
