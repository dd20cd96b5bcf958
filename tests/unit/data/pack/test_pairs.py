"""Samples of several images are packed from each convention that people keep them in, and what does not fit together is named."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist import cli
from tests import making


def write(path: Path, pixels: np.ndarray, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(making.encode(pixels, kind))


def members(folder: Path) -> dict[str, bytes]:
    """Members of all shards by name, in the order of the keys."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                assert file is not None
                found[entry.name] = file.read()
    return dict(sorted(found.items()))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def pack(*words: object) -> int:
    return cli.main(["pack", *map(str, words), "--processes", "1"])


def test_folders_pair_by_name_and_keep_bytes(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write(tmp_path / f"s/trainA/{number}.jpg", making.picture(number, channels=3), "JPEG")
        write(tmp_path / f"s/trainB/{number}.png", making.picture(number + 10))
    assert pack(tmp_path / "s", tmp_path / "d", "--fields", "a=trainA,b=trainB") == 0
    found = members(tmp_path / "d")
    assert list(found) == [f"{place:08d}.{end}" for place in range(3) for end in ("a.jpg", "b.png")]
    assert found["00000000.a.jpg"] == (tmp_path / "s/trainA/1.jpg").read_bytes()
    assert found["00000002.b.png"] == (tmp_path / "s/trainB/3.png").read_bytes()


def test_a_template_finds_the_counterpart_of_another_name_and_of_a_quarter_of_the_size(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"s/HR/{number:04d}.png", making.picture(number, 32))
        write(tmp_path / f"s/LR/X4/{number:04d}x4.png", making.picture(number, 8))
    words = (tmp_path / "s", tmp_path / "d", "--fields", "hr=HR,lr=LR/X4:{}x4")
    assert pack(*words) == 0
    assert [pixels(each).shape[0] for each in members(tmp_path / "d").values()] == [32, 8, 32, 8]


def test_halves_of_an_image_are_two_images(tmp_path: Path) -> None:
    whole = making.picture(0, (16, 32), channels=3)
    write(tmp_path / "s/1.png", whole)
    assert pack(tmp_path / "s", tmp_path / "d", "--halves", "photo,map") == 0
    found = members(tmp_path / "d")
    assert np.array_equal(np.hstack([pixels(found[f"00000000.{side}.png"]) for side in ("photo", "map")]), whole)


def test_halves_of_16_bits_keep_their_grey_levels_and_what_is_transparent_is_white(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    grey = np.arange(8 * 16, dtype=np.uint16).reshape(8, 16) * 257
    Image.fromarray(grey).save(tmp_path / "s/1.png")
    assert pack(tmp_path / "s", tmp_path / "d", "--halves", "a,b") == 0
    found = members(tmp_path / "d")
    assert np.array_equal(np.hstack([pixels(found[f"00000000.{side}.png"]) for side in "ab"]), grey // 257)
    clear = np.zeros((8, 16, 4), np.uint8)
    clear[:, :4, 3] = 255
    write(tmp_path / "t/1.png", clear)
    assert pack(tmp_path / "t", tmp_path / "e", "--halves", "a,b") == 0
    left = pixels(members(tmp_path / "e")["00000000.a.png"])
    assert (left[:, :4] == 0).all()
    assert (left[:, 4:] == 255).all()


def test_a_list_names_the_files_of_each_sample(tmp_path: Path) -> None:
    for name, seed in (("x", 0), ("y", 1)):
        write(tmp_path / f"s/{name}.png", making.picture(seed))
    (tmp_path / "s/pairs.txt").write_text("# clean, noisy\nx.png, y.png\ny.png, x.png\n")
    assert pack(tmp_path / "s/pairs.txt", tmp_path / "d", "--list", "clean,noisy") == 0
    found = [pixels(each) for each in members(tmp_path / "d").values()]
    assert np.array_equal(found[0], found[3])
    assert np.array_equal(found[1], found[2])


def test_label_maps_keep_their_numbers_when_they_are_resized(tmp_path: Path) -> None:
    numbers = np.kron(np.array([[0, 3], [7, 11]], np.uint8), np.ones((16, 16), np.uint8))
    write(tmp_path / "s/map/1.png", numbers)
    write(tmp_path / "s/photo/1.png", making.picture(0, 32, channels=3))
    words = ("--fields", "map=map,photo=photo", "--labels", "map", "--resolution", 12)
    assert pack(tmp_path / "s", tmp_path / "d", *words) == 0
    packed = pixels(members(tmp_path / "d")["00000000.map.png"])
    assert packed.shape == (12, 12)
    assert np.array_equal(packed, np.kron(np.array([[0, 3], [7, 11]], np.uint8), np.ones((6, 6), np.uint8)))


def test_a_label_map_with_a_palette_keeps_its_bytes(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 5).convert("P")
    (tmp_path / "s/map").mkdir(parents=True)
    image.save(tmp_path / "s/map/1.png")
    write(tmp_path / "s/photo/1.png", making.picture(0))
    assert pack(tmp_path / "s", tmp_path / "d", "--fields", "map=map,photo=photo", "--labels", "map") == 0
    assert members(tmp_path / "d")["00000000.map.png"] == (tmp_path / "s/map/1.png").read_bytes()


def test_edges_lie_beside_the_image_with_its_label(tmp_path: Path) -> None:
    square = np.zeros((32, 32), np.uint8)
    square[8:24, 8:24] = 255
    for label in (0, 1):
        write(tmp_path / f"s/{label}/1.png", square)
    assert pack("edges", tmp_path / "d", "--from", tmp_path / "s") == 0
    found = members(tmp_path / "d")
    assert list(found) == [f"{place:08d}.{end}" for place in range(2) for end in ("cls", "edges.png", "image.png")]
    drawn = pixels(found["00000000.edges.png"])
    assert set(np.unique(drawn)) == {0, 255}
    assert not drawn[12:20, 12:20].any()
    assert drawn[7:9, 12:20].any()
    assert json.loads((tmp_path / "d/pack.json").read_text())["plan"]["source"] == "edges:s"


def _missing(folder: Path) -> None:
    (folder / "B/2.png").unlink()


def _unequal(folder: Path) -> None:
    write(folder / "B/2.png", making.picture(5, 12))


def _another_factor(folder: Path) -> None:
    write(folder / "B/2.png", making.picture(5, 8))


def _twice(folder: Path) -> None:
    write(folder / "A/2.jpg", making.picture(5), "JPEG")


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (_missing, ["--fields", "a=A,b=B"], ["2.png has no counterpart in B (b)"]),
        (_unequal, ["--fields", "a=A,b=B"], ["different sizes: a is 16x16, b is 12x12"]),
        (_another_factor, ["--fields", "a=A,b=B"], ["different sizes: a is 16x16, b is 8x8"]),
        (_twice, ["--fields", "a=A,b=B"], ["2.jpg", "2.png", "called the same"]),
        (None, ["--fields", "a=A,b=B:{}x4"], ["0.png is not named as {}x4"]),
        (None, ["--fields", "a=A,b=C"], ["no such source"]),
        (None, ["--fields", "a=A"], ["names 1 images"]),
        (None, ["--halves", "a,b,c"], ["names 3 images"]),
        (None, ["--fields", "a=A,b=B", "--labels", "c"], ["c is none of the images"]),
        (None, ["--labels", "a"], ["no effect without"]),
        (None, ["--fields", "a=A,b=B", "--classes", "none"], ["no effect on samples of several images"]),
    ],
)
def test_what_does_not_fit_together_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, words: list[str], said: list[str]
) -> None:
    source = tmp_path / "s"
    for number in range(3):
        for side in "AB":
            write(source / f"{side}/{number}.png", making.picture(number))
    if callable(spoil):
        spoil(source)
    assert pack(source, tmp_path / "d", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(each in line for each in said), line
    assert not (tmp_path / "d").exists()


def test_an_odd_width_has_no_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "s/1.png", making.picture(0, (16, 31)))
    assert pack(tmp_path / "s", tmp_path / "d", "--halves", "a,b") == 2
    assert "1.png is 31 pixels wide, which has no half" in capsys.readouterr().err


def test_a_list_says_which_line_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "s/x.png", making.picture(0))
    (tmp_path / "s/pairs.txt").write_text("x.png, x.png\nx.png, y.png\n")
    assert pack(tmp_path / "s/pairs.txt", tmp_path / "d", "--list", "a,b") == 2
    assert "line 2: there is no file" in capsys.readouterr().err


def test_a_smaller_counterpart_is_not_enlarged_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "s/HR/1.png", making.picture(0, 32))
    write(tmp_path / "s/LR/1.png", making.picture(0, 8))
    assert pack(tmp_path / "s", tmp_path / "d", "--fields", "hr=HR,lr=LR", "--resolution", 16) == 2
    assert "--resolution would make them one size" in capsys.readouterr().err
