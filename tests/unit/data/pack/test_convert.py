"""Every kind of image becomes grey or RGB with 8 bits, and nothing is changed that need not be."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from gan_dist.data.pack.convert import Converted, convert, is_grey


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(converted: Converted) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(converted.content)))


def noise(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_jpeg_and_png_bytes_are_kept_where_nothing_changes() -> None:
    for kind, extension in (("JPEG", "jpg"), ("PNG", "png")):
        for channels in (1, 3):
            content = encoded(Image.fromarray(noise(channels=channels)), kind)
            assert convert(content, None, channels, 95) == Converted(extension, content, kept=True, enlarged=False)


def test_jpeg_of_the_asked_size_keeps_its_bytes() -> None:
    content = encoded(Image.fromarray(noise(16, 16)), "JPEG")
    assert convert(content, (16, 16), 3, 95).content == content


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(noise() if mode in ("P", "RGBA", "CMYK") else noise(channels=1)).convert(mode)
    content = encoded(image, "JPEG" if mode == "CMYK" else "PNG", **({"quality": 95} if mode == "CMYK" else {}))
    result = convert(content, None, 3, 95)
    assert decoded(result).shape == (20, 30, 3)
    assert not result.kept


def test_transparent_pixels_become_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    result = decoded(convert(encoded(Image.fromarray(pixels, "RGBA")), None, 3, 95))
    assert result[0, 0].tolist() == [10, 20, 30]
    assert result[3, 3].tolist() == [255, 255, 255]
    assert abs(int(result[1, 1, 0]) - 127) <= 1


def test_palette_with_a_transparent_colour_becomes_white_there() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    result = decoded(convert(encoded(image, "PNG", transparency=1), None, 3, 95))
    assert result[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    result = decoded(convert(encoded(Image.fromarray(values)), None, 1, 95))
    assert result.tolist() == [[0, 1, 128, 255]]


def test_exif_rotation_is_carried_out() -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    result = decoded(convert(encoded(Image.fromarray(pixels), "JPEG", exif=exif), None, 3, 95))
    assert result.shape == (32, 16, 3)
    assert result[:12].mean() > 250
    assert result[20:].mean() < 5


def test_reduction_is_the_mean_over_the_area() -> None:
    pixels = noise(32, 32, 1)
    result = decoded(convert(pixels, (8, 8), 1, 95))
    means = pixels.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(result - means).max() <= 1


def test_a_checkerboard_becomes_grey() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(decoded(convert(board, (16, 16), 1, 95)).astype(int) - 127).max() <= 1


def test_the_centre_is_cropped() -> None:
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 200
    assert (decoded(convert(pixels, (10, 10), 1, 95)) == 200).all()


def test_enlarging_is_said() -> None:
    assert convert(noise(8, 8, 1), (16, 16), 1, 95).enlarged
    assert not convert(noise(16, 16, 1), (16, 16), 1, 95).enlarged


def test_resized_jpegs_stay_jpegs_and_lossless_images_stay_lossless() -> None:
    assert convert(encoded(Image.fromarray(noise()), "JPEG"), (8, 8), 3, 95).extension == "jpg"
    assert convert(encoded(Image.fromarray(noise())), (8, 8), 3, 95).extension == "png"


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_what_is_not_whole_is_refused(cut: int) -> None:
    with pytest.raises((ValueError, OSError, SyntaxError)):
        convert(encoded(Image.fromarray(noise(64, 64)), "JPEG")[:cut], None, 3, 95)


def test_grey_is_known_by_the_kind_of_image() -> None:
    assert is_grey(encoded(Image.fromarray(noise(channels=1))))
    assert not is_grey(encoded(Image.fromarray(noise())))
    assert is_grey(noise(channels=1))
    assert not is_grey(noise())


def test_a_png_with_16_bits_a_channel_becomes_one_with_8() -> None:
    ok, content = cv2.imencode(".png", noise().astype(np.uint16) * 257)
    assert ok
    result = convert(content.tobytes(), None, 3, 95)
    assert not result.kept
    assert decoded(result).dtype == np.uint8
    assert result.content[24] == 8


def test_a_phones_jpeg_of_several_pictures_stays_a_jpeg() -> None:
    content = encoded(Image.fromarray(noise()), "MPO", save_all=True, append_images=[Image.fromarray(noise())])
    assert convert(content, None, 3, 95) == Converted("jpg", content, kept=True, enlarged=False)
    assert convert(content, (16, 16), 3, 95).extension == "jpg"


def test_a_wide_size_takes_the_widest_part_in_the_middle() -> None:
    pixels = noise(40, 100, 3)
    result = decoded(convert(pixels, (20, 40), 3, 95))
    assert result.shape == (20, 40, 3)
    assert np.abs(result - pixels[:, 10:90].reshape(20, 2, 40, 2, 3).mean((1, 3))).max() <= 1


def test_four_channels_keep_what_is_transparent() -> None:
    pixels = noise(8, 8, 3)
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[:4] = 0
    both = np.concatenate([pixels, alpha], 2)
    assert (decoded(convert(encoded(Image.fromarray(both, "RGBA")), None, 4, 95)) == both).all()
    opaque = convert(encoded(Image.fromarray(pixels), "JPEG"), None, 4, 95)
    assert opaque.extension == "png"
    assert (decoded(opaque)[..., 3] == 255).all()
