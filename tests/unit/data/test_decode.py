"""Stored images become arrays as Pillow would make them; larger ones by area."""

import os
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist.data import decode, index
from gan_dist.data.decode import Decoder
from gan_dist.errors import InputError
from tests import making


def decoder(
    tmp_path: Path, images: list[bytes], size: int | tuple[int, int], channels: int, shards: int = 1
) -> Decoder:
    names = []
    for number in range(shards):
        part = images[number::shards]
        path = making.write_tar(
            tmp_path / f"{number}.tar", [(f"{place:03d}.img.png", data) for place, data in enumerate(part)]
        )
        names.append(str(path))
    index.build(names, tmp_path, "img.png", progress=False)
    return Decoder(index.load(names, tmp_path, "img.png"), size if isinstance(size, tuple) else (size, size), channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_images_come_back_to_the_bit(tmp_path: Path, channels: int) -> None:
    pictures = [making.picture(seed, channels=channels) for seed in range(4)]
    read = decoder(tmp_path, [making.encode(picture) for picture in pictures], 16, channels).read(np.array([2, 0, 3]))
    for row, picture in zip(read, (pictures[2], pictures[0], pictures[3]), strict=True):
        assert (row.reshape(picture.shape) == picture).all()


def test_larger_images_are_cropped_and_reduced_by_area(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    read = decoder(tmp_path, [making.encode(picture)], 8, 3).read(np.array([0]))[0]
    means = picture[:, 8:40].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(read - means).max() <= 1


def test_a_wide_size_is_cut_from_the_middle(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    read = decoder(tmp_path, [making.encode(picture)], (8, 16), 3).read(np.array([0]))[0]
    means = picture[4:36].reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(read - means).max() <= 1


def test_larger_jpegs_are_decoded_at_a_reduced_scale_to_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = making.picture(3, (130, 150), 3)
    data = making.encode(picture, "JPEG", quality=95)
    asked = []
    original = decode.cv2.imdecode
    monkeypatch.setattr(decode.cv2, "imdecode", lambda data, flag: asked.append(flag) or original(data, flag))
    read = decoder(tmp_path, [data], 32, 3).read(np.array([0]))[0]
    assert asked == [decode.cv2.IMREAD_REDUCED_COLOR_4]
    whole = Image.fromarray(picture[:, 10:140]).resize((32, 32), Image.Resampling.BOX)
    assert np.abs(read.astype(int) - np.asarray(whole)).mean() < 5


def test_exif_rotation_is_carried_out(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    read = decoder(tmp_path, [making.encode(pixels, "JPEG", exif=exif)], 16, 1).read(np.array([0]))[0]
    assert read[:6].mean() > 250
    assert read[10:].mean() < 5


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    good = making.encode(making.picture(0))
    reader = decoder(tmp_path, [good, good[:60] + b"\0" * 20], 16, 1)
    with pytest.raises(InputError, match=r"0\.tar: 001: the image cannot be decoded"):
        reader.read(np.array([1]))


def test_more_shards_than_open_files_and_a_copy_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_OPEN_SHARDS", 2)
    pictures = [making.picture(seed) for seed in range(6)]
    reader = decoder(tmp_path, [making.encode(picture) for picture in pictures], 16, 1, shards=6)
    for _ in range(2):
        assert all((reader.read(np.arange(6))[place, ..., 0] == pictures[place]).all() for place in range(6))
    assert len(reader._files) == 2
    copy = ForkingPickler.loads(ForkingPickler.dumps(reader))
    assert copy._files == {}
    assert (copy.read(np.array([5]))[0, ..., 0] == pictures[5]).all()


def test_a_decoder_that_nobody_holds_leaves_no_shard_open(tmp_path: Path) -> None:
    """An evaluation makes hundreds, over all shards."""
    made = decoder(tmp_path, [making.encode(making.picture(seed)) for seed in range(6)], 16, 1, shards=3)

    def held() -> int:
        return sum(
            os.readlink(f"/proc/self/fd/{name}").endswith(".tar")
            for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")
        )

    before = held()
    made.read(np.arange(6))
    assert held() == before + 3
    del made
    assert held() == before
