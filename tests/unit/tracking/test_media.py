"""What a panel shows lies in files, from which it can be read again."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from gan_dist.errors import InputError
from gan_dist.tracking import media
from gan_dist.tracking.media import Histogram, Image, Table


def test_an_image_is_a_png_with_its_caption(tmp_path: Path) -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 2, 4)
    path = media.write(tmp_path, 120, "pairs/day to night", Image(pixels, "Zürich, 10:00"))
    assert path == tmp_path / "pairs/day to night/images-000000120.png"
    assert media.caption(path) == "Zürich, 10:00"
    assert np.asarray(Picture.open(path)).shape == (2, 4, 3)
    assert np.asarray(Picture.open(path))[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (torch.zeros(1, 8, 6), (6, 8)),
        (torch.zeros(5, 3, 64, 64), (2 * 66 + 2, 3 * 66 + 2)),
        (np.zeros((8, 6), np.uint8), (6, 8)),
        (np.zeros((8, 6, 3), np.uint8), (6, 8)),
        (np.zeros((5, 64, 64, 1), np.uint8), (2 * 66 + 2, 3 * 66 + 2)),
    ],
)
def test_one_image_keeps_its_size_and_several_become_a_grid(
    tmp_path: Path, pixels: torch.Tensor | np.ndarray, size: tuple[int, int]
) -> None:
    path = media.write(tmp_path, 0, "x", Image(pixels, columns=2))
    assert Picture.open(path).size == size
    assert media.caption(path) == ""


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(4, 4),
        torch.zeros(2, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        np.zeros((8, 8)),
        np.zeros((8, 8, 5), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, pixels: torch.Tensor | np.ndarray) -> None:
    with pytest.raises(InputError, match="an image"):
        media.write(tmp_path, 0, "x", Image(pixels))
    assert list(tmp_path.rglob("images-*")) == []


def test_a_histogram_counts_every_finite_value_once() -> None:
    found = Histogram.of(torch.tensor([[0.0, 0.1, 0.5], [0.5, 1.0, math.nan]]), bins=4)
    assert found.counts == [2, 0, 2, 1]
    assert found.edges == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sum(Histogram.of(torch.randn(1000, generator=torch.Generator().manual_seed(0))).counts) == 1000


@pytest.mark.parametrize(("values", "count"), [([3.0, 3.0], 2), ([], 0), ([math.inf], 0)])
def test_a_histogram_of_one_value_or_none_has_bins_of_some_width(values: list[float], count: int) -> None:
    found = Histogram.of(values, bins=3)
    assert sum(found.counts) == count
    assert all(low < high for low, high in zip(found.edges, found.edges[1:], strict=False))


def test_histograms_and_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    histogram = Histogram(torch.tensor([1, 2]), np.array([0.0, 0.5, 1.0]))
    assert media.read(media.write(tmp_path, 5, "h", histogram)) == Histogram([1, 2], [0.0, 0.5, 1.0])
    table = Table(["class", "score"], [["cat", 0.5], [np.int64(3), math.nan], [None, True]])
    path = media.write(tmp_path, 5, "t", table)
    assert media.read(path) == Table(["class", "score"], [["cat", 0.5], [3, None], [None, True]])
    assert json.loads(path.read_text())["images"] == 5


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match="2 counts needs one edge more, not 2"):
        Histogram([1, 2], [0.0, 1.0])
    with pytest.raises(InputError, match="row 1 of a table of 2 columns has 1 values"):
        Table(["a", "b"], [[1, 2], [1]])
    with pytest.raises(InputError, match="at most 512 counts"):
        Histogram.of([0.0, 1.0], bins=513)


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", ".", ".hidden", "a\\b", "a\0", "images", "step", "images-1", "a\nb", "x" * 101])  # fmt: skip
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        media.write(tmp_path / "media", 0, name, Table([], []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a/b c/d.0", "score/pixels", "G_1+2-3", "größe"])
def test_names_may_have_parts(name: str) -> None:
    assert media.check_name(name) == name


def test_going_back_removes_what_is_later_and_what_a_kill_left(tmp_path: Path) -> None:
    for images in (10, 20, 30):
        media.write(tmp_path, images, "a/b", Table(["x"], [[images]]))
        media.write(tmp_path, images, "a", Image(torch.zeros(1, 8, 8)))
    (tmp_path / "a/.images-000000020.png.123.part").write_bytes(b"x")
    (tmp_path / "a/notes.txt").write_text("a person's own")
    media.remove_later(tmp_path, 20)
    assert [(images, name) for images, name, _ in media.listed(tmp_path)] == [
        (10, "a/b"), (20, "a/b"), (10, "a"), (20, "a"),
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "b", "images-000000010.png", "images-000000020.png", "notes.txt",
    ]  # fmt: skip
    media.remove_later(tmp_path / "missing", 0)
