"""What `gan-dist apply` reads, what it never replaces, and images that are too large."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import apply, generate
from gan_dist.cli import apply as command
from gan_dist.config.data_field import DataField
from gan_dist.errors import InputError
from tests import making

IMAGE = DataField(member="")


def test_a_tiff_of_16_bits_keeps_them_and_one_of_32_is_refused() -> None:
    values = (np.arange(8 * 8 * 3).reshape(8, 8, 3) * 300).astype(np.uint16)
    found = apply.read(cv2.imencode(".tif", values)[1].tobytes(), 3, IMAGE)
    assert found.deep
    assert np.allclose(found.pixels, values[..., ::-1] / 65535)
    assert not apply.read(making.encode(making.picture(0, channels=3), "TIFF"), 3, IMAGE).deep
    with pytest.raises(ValueError, match="has int32 pixels"):
        apply.read(making.encode(values[..., 0].astype(np.int32), "TIFF"), 1, IMAGE)


@pytest.mark.parametrize("turned", range(1, 9))
def test_an_image_of_16_bits_is_turned_as_one_of_8(turned: int) -> None:
    grey, exif = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, Image.Exif()
    exif[0x0112] = turned
    deep, plain = (
        apply.read(making.encode(pixels, exif=exif), 1, IMAGE) for pixels in (grey.astype(np.uint16) * 257, grey)
    )
    assert deep.deep
    assert np.array_equal(deep.pixels, plain.pixels)


def test_no_image_that_is_read_is_replaced(tmp_path: Path) -> None:
    for folder in ("in", "in/in"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"x")
    for source, out in ((tmp_path / "in/a.png", tmp_path / "in/../in"), (tmp_path / "in", tmp_path)):
        with pytest.raises(InputError, match=r"in/a\.png is an image to read, and would be replaced"):
            apply.images_in(source, out)


@pytest.mark.parametrize("taken", [torch.empty, np.empty])
def test_too_large_for_the_memory_is_one_line_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: object
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"x")

    def made(game: object, config: object, content: bytes, name: str, *rest: object) -> bytes:
        if name == "a.png":
            taken(10**16)  # type: ignore[operator]
        return content

    monkeypatch.setattr(
        generate, "load", lambda *_: (argparse.Namespace(shows_data=True, takes=lambda way: "input"), None, "name")
    )
    monkeypatch.setattr(apply, "apply", made)
    options = argparse.Namespace(
        run=tmp_path,
        images=tmp_path / "in",
        out=tmp_path / "out",
        replace=False,
        checkpoint="",
        way="",
        tile=0,
        overlap=None,
    )
    with pytest.raises(
        InputError, match=r"a\.png is too large for the free memory \(add --tile 512\); the other images are written"
    ):
        command.run(options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
