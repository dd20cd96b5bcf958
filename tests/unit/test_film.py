"""Films of a run's grids: in order, with a caption, without those that are broken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist import cli, film
from gan_dist.errors import InputError
from tests.unit.report.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = make_run(tmp_path / "run", lines=1, grids=5)  # at 0, 100, ... 400
    (directory / "samples/images-000000100.png").write_bytes(b"\x89PNG\r\n")
    whole = (directory / "samples/images-000000200.png").read_bytes()
    (directory / "samples/images-000000200.png").write_bytes(whole[: len(whole) // 2])
    return directory


def test_broken_grids_are_left_out_and_the_last_one_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frames"
    assert cli.main(["film", str(run), str(out), "--fps", "2", "--last-frame", "1.5"]) == 0
    told = capsys.readouterr()
    assert [line.partition(" is left out")[0][-7:] for line in told.err.splitlines()] == ["100.png", "200.png"]
    assert "3 grids, up to 400 images" in told.out
    frames = [np.asarray(Image.open(path)) for path in sorted(out.iterdir())]
    assert len(frames) == 5
    assert (frames[3] == frames[4]).all()
    assert not (frames[1] == frames[2]).all()
    with Image.open(run / "samples/images-000000300.png") as grid:
        size = frames[1].shape[1]
        pixels = np.asarray(grid.convert("RGB").resize((size, size), Image.Resampling.NEAREST))
    assert (frames[1][:size] == pixels).all()
    captions = [frame[size:] for frame in frames]
    assert all(caption.min() < 100 for caption in captions)
    assert not (captions[0] == captions[1]).all()


def test_a_long_last_frame_is_a_gif_and_a_longer_one_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["film", str(run), str(tmp_path / "film.gif"), "--fps", "0.1", "--last-frame"]
    assert cli.main([*words, "601"]) == 2
    assert capsys.readouterr().err == "error: --last-frame 601: give a number of seconds up to 600\n"
    assert cli.main([*words, "600"]) == 0  # frames that are the same are one to Pillow, and its duration has 16 bits


def test_the_last_grid_is_always_shown_and_nothing_is_one_line(run: Path) -> None:
    assert [images for images, _ in film.grids(run, every=150)] == [0, 200, 400]
    with pytest.raises(InputError, match="has no grids named live; it has no others"):
        film.grids(run, "live")
    shown = film.grids(run)[1:3]
    with pytest.raises(InputError, match="no grid could be read"):
        list(film.frames(shown))
