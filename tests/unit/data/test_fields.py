"""Several images of a sample: label maps, parts that are cut out alike, and what does not fit together."""

import hashlib
import io
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli, config as config_module, games
from gan_dist.config import Config
from gan_dist.config.data_field import DataField
from gan_dist.data import label_maps, loader
from gan_dist.data.decode import Note
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from tests import making
from tests.launching import REPOSITORY

CLASSES = 5
GOOD = "{input: {member: map.png, classes: 5}, target: {member: photo.png}}"
Members = list[tuple[str, bytes]]


def numbers(seed: int, size: int = 24) -> np.ndarray:
    """A label map of blocks of 4x4 pixels."""
    coarse = np.random.default_rng(seed).integers(0, CLASSES, (size // 4, size // 4), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))


def sample(key: int, size: int = 24) -> Members:
    """A label map, and a photo that shows it: classes times 50."""
    found = numbers(key, size)
    return [
        (f"{key:04d}.map.png", making.encode(found)),
        (f"{key:04d}.photo.png", making.encode(np.stack([50 * found] * 3, -1))),
    ]


def write(folder: Path, change: Callable[[Members], Members] = lambda members: members) -> Path:
    members = [member for key in range(32) for member in sample(key)]
    making.write_tar(folder / "0.tar", change(members))
    return folder


def load(shards: Path, **keys: object) -> Config:
    chosen: dict[str, object] = {
        "data.shards": shards,
        "data.fields": GOOD,
        "data.resolution": 16,
        "data.channels": 3,
        "data.workers": 0,
        "networks.generator.base_channels": 4,
        "networks.discriminator.base_channels": 4,
        "networks.discriminator.layers": 2,
        "training.images": 64,
        "training.batch": 8,
        "training.micro_batch": 4,
        "training.device": "cpu",
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    path = shards / "run.yaml"
    path.write_text("game: {kind: paired}\n")
    return config_module.load([str(path), *making.flags(chosen)])


def batches(config: Config, count: int = 4) -> list[Batch]:
    loader.prepare(config, progress=False)
    index = loader.open_index(config, games.build(config).fields)
    steps = loader.micro_batches(index, config, 0, range(8), torch.device("cpu"))
    return [micro for step in islice(steps, count) for micro in step]


def agree(batch: Batch) -> bool:
    """Whether each photo shows its label map."""
    photo = ((batch["target"] + 1) * 127.5 / 50).round()
    return torch.equal(batch["input"].argmax(1), photo[:, 0].long())


@pytest.mark.parametrize("size", [0, 24])
def test_all_fields_are_cropped_and_mirrored_alike_by_position(tmp_path: Path, size: int) -> None:
    keys = {"data__crop": "random", "data__load_size": size, "data__flip": True}
    found = batches(load(write(tmp_path), **keys))
    assert all(micro["input"].shape == (4, CLASSES, 16, 16) for micro in found)
    assert all(agree(micro) for micro in found)
    # places differ: not all are in the middle
    whole = batches(load(tmp_path))
    assert not all(torch.equal(a["input"], b["input"]) for a, b in zip(found, whole, strict=True))
    again = batches(load(tmp_path, **keys, training__micro_batch=2))
    assert torch.equal(torch.cat([a["target"] for a in found]), torch.cat([b["target"] for b in again]))


def test_a_label_map_is_one_hot_and_resized_to_the_nearest_pixel(tmp_path: Path) -> None:
    (first, *_) = batches(load(write(tmp_path), data__resolution=12))
    assert first["input"].shape == (4, CLASSES, 12, 12)
    assert torch.equal(first["input"].sum(1), torch.ones(4, 12, 12))
    assert first["input"].unique().tolist() == [0, 1]
    assert first["input"].is_contiguous(memory_format=torch.channels_last)


def test_random_crops_of_larger_images_see_other_parts_in_every_epoch(tmp_path: Path) -> None:
    config = load(write(tmp_path), data__crop="random")
    seen = {
        hashlib.sha1(image.numpy().tobytes()).hexdigest()
        for micro in batches(config, 8)
        for image in micro["target"].contiguous()
    }
    assert len(seen) > 48  # of 64 samples, two epochs of 32


def test_a_grid_sees_whole_images(tmp_path: Path) -> None:
    config = load(write(tmp_path), data__crop="random", data__load_size=20)
    loader.prepare(config, progress=False)
    index = loader.open_index(config)
    assert torch.equal(
        loader.shown(index, config, 4, torch.device("cpu"))["target"],
        loader.shown(index, load(tmp_path), 4, torch.device("cpu"))["target"],
    )


def test_colours_and_palettes_and_unknown_pixels_are_read(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]

    def coloured(members: Members) -> Members:
        found = []
        for name, content in members:
            if name.endswith("map.png"):
                content = making.encode(np.array(colours, np.uint8)[np.asarray(Image.open(io.BytesIO(content)))])
            found.append((name, content))
        return found

    plain = batches(load(write(tmp_path / "numbers")))
    palette = ", ".join('"#{:02x}{:02x}{:02x}"'.format(*each) for each in colours)
    fields = f"{{input: {{member: map.png, classes: 5, palette: [{palette}]}}, target: {{member: photo.png}}}}"
    found = batches(load(write(tmp_path / "colours", coloured), data__fields=fields))
    assert all(torch.equal(a["input"], b["input"]) for a, b in zip(plain, found, strict=True))
    fewer = GOOD.replace("classes: 5", "classes: 4, unknown: 4")
    without = batches(load(tmp_path / "numbers", data__fields=fewer))
    assert all(torch.equal(a["input"][:, :4], b["input"]) for a, b in zip(plain, without, strict=True))


def test_unknown_pixels_of_a_png_with_a_palette_have_a_colour_of_no_class() -> None:
    numbers = np.array([[0, 1], [2, 3]], np.uint8)
    image = Image.fromarray(numbers, "P")
    image.putpalette([1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    field = DataField(member="", classes=3, unknown=3, palette=["#030303", "#020202", "#010101"])
    assert label_maps.decode(buffer.getvalue(), field).tolist() == [[2, 1], [0, 3]]
    with pytest.raises(ValueError, match="has the colour #000000"):
        label_maps.decode(buffer.getvalue(), field.model_copy(update={"unknown": 9}))


def test_a_negative_label_is_out_of_range() -> None:
    content = making.encode(np.array([[0, -1], [1, 2]], np.int32), "TIFF")
    with pytest.raises(ValueError, match="has the label -1, and classes = 3"):
        label_maps.decode(content, DataField(member="", classes=3))


def test_a_label_map_that_cannot_be_decoded_is_one_bad_sample(tmp_path: Path) -> None:
    config = load(write(tmp_path, _damaged), data__max_bad_fraction=0.5, data__crop="random")
    loader.prepare(config, progress=False)
    notes: list[Note] = []
    steps = loader.micro_batches(loader.open_index(config), config, 0, range(8), torch.device("cpu"), note=notes.append)
    assert all(agree(micro) for step in steps for micro in step)
    assert {(note.kind, note.key) for note in notes} == {("quarantined", "0007")}


def test_camvid_is_packed_as_its_config_says(tmp_path: Path) -> None:
    path = REPOSITORY / "configs/camvid.yaml"
    (command,) = re.findall(r"#   gan-dist (pack .*)", path.read_text())
    for key in range(4):
        for folder, pixels in (("labels", numbers(key, 288)), ("photos", making.picture(key, 288, 3))):
            (tmp_path / "camvid" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "camvid" / folder / f"{key}.png")
    words = [str(tmp_path / word) if word.rstrip("/").endswith("camvid") else word for word in command.split()]
    assert cli.main(words) in (0, None)
    config = config_module.load([str(path), "--data.shards", str(tmp_path / "data/camvid")])
    loader.prepare(config, progress=False)
    assert len(loader.open_index(config, games.build(config).fields)) == 4


def _damaged(members: Members) -> Members:
    return [(name, content[:60] + b"\0" * 20 if name == "0007.map.png" else content) for name, content in members]


def _without(members: Members) -> Members:
    return [member for member in members if member[0] != "0007.photo.png"]


def _unequal(members: Members) -> Members:
    return [*members[:14], sample(7)[0], sample(7, 20)[1], *members[16:]]


def _beyond(members: Members) -> Members:
    return [(name, making.encode(numbers(7) + 3) if name == "0007.map.png" else content) for name, content in members]


def _mask(members: Members) -> Members:
    mask = 255 * (numbers(7) > 2).astype(np.uint8)
    return [(name, making.encode(mask) if name == "0007.map.png" else content) for name, content in members]


def _jpeg(members: Members) -> Members:
    return [(n, making.encode(numbers(7), "JPEG") if n == "0007.map.png" else content) for n, content in members]


def _grey(members: Members) -> Members:
    return [(name, making.encode(numbers(7)) if name == "0007.photo.png" else content) for name, content in members]


@pytest.mark.parametrize(
    ("spoil", "keys", "said"),
    [
        (_without, {}, ["sample 0007 of", "has no member .photo.png (target)"]),
        (_unequal, {}, ["0007 is a pair of different sizes: input is 24x24, target is 20x20"]),
        (_beyond, {}, ["data.fields.input", "0007 has the label 7, and classes = 5 means 0..4"]),
        (_mask, {}, ["0007 has the label 255", "a mask of 0 and 255 is an image"]),
        (_jpeg, {}, ["0007 is a JPEG"]),
        (_grey, {}, ["0007 is grey, but data.fields.target.channels = 3"]),
        (None, {"data__resolution": 32}, ["is 24x24, smaller than data.resolution = 32"]),
        (None, {"data__resolution": 32, "data__crop": "random"}, ["is 24x24, smaller than data.resolution = 32"]),
        (None, {"data__load_size": 20}, ["data.load_size = 20 has no effect without data.crop: random"]),
        (
            None,
            {"data__load_size": 12, "data__crop": "random"},
            ["a crop larger than the images that data.load_size = 12 makes"],
        ),
        (
            None,
            {"data__fields": GOOD.replace("input", "a")},
            ["wants data.fields input and target, and finds a, target"],
        ),
        (None, {"data__fields": GOOD.replace("photo.png", "photo.png, classes: 5")}, ["target is a label map"]),
        (None, {"data__fields": GOOD.replace("5", "5, unknown: 2")}, ["unknown = 2 is a class as well"]),
        (None, {"data__fields": GOOD.replace("5", '5, palette: ["#000000"]')}, ["1 colours for 5 classes"]),
        (None, {"data__fields": GOOD.replace("classes: 5", "unknown: 2")}, ["set classes to the number of classes"]),
        (None, {"data__resolution": 15}, ["multiples of 2"]),
        (None, {"game__feature_matching": 1, "networks__discriminator": "{kind: dcgan}"}, ["gives no features"]),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_sample_or_key(
    tmp_path: Path, spoil: Callable[[Members], Members] | None, keys: dict[str, object], said: list[str]
) -> None:
    shards = write(tmp_path, spoil) if spoil else write(tmp_path)
    if "networks__discriminator" in keys:
        keys = {**keys, "networks__discriminator.base_channels": 4}
    with pytest.raises(InputError) as refused:
        batches(load(shards, **keys))
    assert all(each in str(refused.value) for each in said), refused.value
    assert len(str(refused.value).splitlines()) == 1


def test_label_maps_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(write(tmp_path))
    loader.prepare(config, progress=False)
    monkeypatch.setattr("gan_dist.data.label_maps.decode", None)  # would fail
    loader.prepare(config, progress=False)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".tar", ".index", ".yaml")]


def test_fields_of_older_runs_keep_their_fingerprint(tmp_path: Path) -> None:
    fields = "{input: {member: a.png}, target: {member: b.png, channels: 1}}"
    config = load(write(tmp_path), data__fields=fields)
    assert config.flat()["data.fields"] == {
        "input": {"member": "a.png", "channels": 0},
        "target": {"member": "b.png", "channels": 1},
    }
