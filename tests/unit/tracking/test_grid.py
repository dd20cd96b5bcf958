"""Pictures show what the tensors say."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gan_dist.tracking import grid


def test_values_are_rounded_and_clipped() -> None:
    image = torch.tensor([-torch.inf, -2.0, -1.0, 0.0, 1.0, 3.0, torch.inf]).view(1, 1, 7)
    assert grid.to_uint8(image)[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_samples_of_a_diverged_generator_are_black() -> None:
    assert grid.to_uint8(torch.full((3, 2, 2), torch.nan)).max() == 0


def test_every_byte_comes_back(tmp_path: Path) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    grid.save_png(values.float() / 127.5 - 1, tmp_path / "x.png")
    assert (np.asarray(Image.open(tmp_path / "x.png")) == values[0].numpy()).all()


def test_the_grid_goes_row_by_row_and_small_images_are_enlarged(tmp_path: Path) -> None:
    images = torch.stack([torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0)])
    grid.save_grid(images, tmp_path / "grid.png", columns=2)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (2 * 50 + 2, 2 * 50 + 2, 3)
    assert [sheet[25, 25, 0], sheet[25, 75, 0], sheet[75, 25, 0]] == [0, 128, 255]
    assert sheet[0, 0, 0] == 255


def test_a_grid_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for _ in range(2):
        grid.save_grid(torch.zeros(5, 1, 64, 64), tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert Image.open(tmp_path / "grid.png").size == (3 * 66 + 2, 2 * 66 + 2)  # large enough already


def test_single_samples_are_cut_from_a_grid_that_says_where_they_are(tmp_path: Path) -> None:
    values = torch.linspace(-1, 1, 6)
    images = values.view(6, 1, 1, 1).expand(6, 1, 8, 8)
    grid.save_grid(images, tmp_path / "grid.png", columns=4, caption="six")
    cut = grid.cut(tmp_path / "grid.png", 5)
    assert [sample.size for sample in cut] == [(48, 48)] * 5
    assert [np.unique(np.asarray(sample)).tolist() for sample in cut] == [
        [int(grid.to_uint8(image)[0, 0, 0])] for image in images[:5]
    ]
    assert grid.join(cut).size == (3 * 48 + 2 * 6, 2 * 48 + 6)
    # what belongs together stays together
    grid.save_columns({"input": images[:4], "output": -images[:4]}, tmp_path / "pairs.png")
    pairs = grid.cut(tmp_path / "pairs.png", 9)
    assert [sample.size for sample in pairs] == [(98, 48)] * 4
    assert (np.asarray(pairs[3])[0, 0], np.asarray(pairs[3])[0, 97]) == (153, 102)
    grid.save_png(images[0], tmp_path / "old.png")
    assert grid.cut(tmp_path / "old.png", 9) == []


def test_classes_have_columns_of_their_own_with_their_names_below(tmp_path: Path) -> None:
    images = torch.stack([torch.full((1, 48, 48), (number % 3) - 1.0) for number in range(12)])
    grid.save_columns({"samples": images}, tmp_path / "grid.png", ["dark", "grey", "light"])
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    assert shown.shape[1] == 3 * 50 + 2
    assert [shown[200 - 2, 25 + 50 * column] for column in range(3)] == [0, 128, 255]  # the last of four rows
    strip = shown[4 * 50 + 2 :]
    assert all((strip[:, 2 + 50 * column : 40 + 50 * column] < 100).any() for column in range(3))
    assert [np.asarray(each).mean() for each in grid.cut(tmp_path / "grid.png", 3)] == [0, 128, 255]
    assert Image.open(tmp_path / "grid.png").info["Description"] == "columns by class: dark, grey, light"
