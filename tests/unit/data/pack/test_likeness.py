"""Near-duplicates are found, listed and left out; others are not; preview.png shows what is packed."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist import cli
from gan_dist.data.pack import likeness
from gan_dist.data.pack.packing import pack
from gan_dist.errors import InputError
from tests import making


def photo(seed: int, size: int = 64) -> Image.Image:
    """A smooth picture with some grain."""
    grain = np.random.default_rng(seed).integers(-20, 20, (size, size, 3))
    return Image.fromarray((making.picture(seed, size, 3) + grain).clip(0, 255).astype(np.uint8))


def found(images: list[Image.Image]) -> list[tuple[int, int]]:
    near = likeness.near(likeness.signatures([likeness.thumbnail(image) for image in images]))
    return [(each.image, each.like) for each in near]


def source(folder: Path, count: int = 12) -> Path:
    """Some pictures, of which 0 is there in another quality and size, and 5 twice."""
    folder.mkdir()
    for seed in range(count):
        photo(seed).save(folder / f"{seed:02d}.png")
    photo(0).resize((40, 40), Image.Resampling.LANCZOS).save(folder / "small.jpg", quality=60)
    photo(5).save(folder / "z again.png")
    return folder


def test_the_same_picture_in_another_quality_or_size_is_found_and_names_the_first(tmp_path: Path) -> None:
    images = [photo(seed) for seed in range(300)]
    for number, seed in enumerate((7, 7, 200)):
        photo(seed).resize((96 - 20 * number,) * 2).save(tmp_path / f"{number}.jpg", quality=50 + 10 * number)
        images.append(Image.open(tmp_path / f"{number}.jpg"))
    assert found(images) == [(300, 7), (301, 7), (302, 200)]


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels[:, ::-1],  # a mirror image
        lambda pixels: 255 - pixels,
        lambda pixels: pixels[:, :, [2, 1, 0]],  # other colours
        lambda pixels: np.roll(pixels, 10, 0),
    ],
)
def test_what_differs_to_the_eye_is_no_duplicate(change: object) -> None:
    image = photo(3)
    assert found([image, Image.fromarray(np.ascontiguousarray(change(np.asarray(image))))]) == []  # type: ignore[operator]


def test_the_same_lines_in_other_colours_are_no_duplicate() -> None:
    pixels = np.asarray(photo(3)).astype(int) // 3 + 80
    other = pixels + np.array([60, -35, 22])  # as bright
    assert found([Image.fromarray(each.astype(np.uint8)) for each in (pixels, other)]) == []
    assert found([Image.fromarray(each.astype(np.uint8)) for each in (pixels, pixels + 3)]) == [(1, 0)]


def test_many_alike_are_all_of_the_first_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "_WINDOW", 2)
    black = [Image.fromarray(np.full((20, 20, 3), level % 3, np.uint8)) for level in range(50)]
    assert found([photo(1), *black]) == [(number, 1) for number in range(2, 51)]


def test_pack_lists_them_and_leaves_them_out_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source(tmp_path / "in")
    assert cli.main(["pack", str(folder), str(tmp_path / "all")]) == 0
    assert "2 near-duplicates among them; --drop-duplicates leaves them out" in capsys.readouterr().out
    with (tmp_path / "all/near_duplicates.csv").open() as file:
        rows = [(row["image"], row["like"]) for row in csv.DictReader(file)]
    assert rows == [("small.jpg", "00.png"), ("z again.png", "05.png")]
    words = ["pack", str(folder), str(tmp_path / "once"), "--drop-duplicates"]
    assert cli.main(words) == 0
    assert "12 images" in (said := capsys.readouterr().out)
    assert "2 near-duplicates left out" in said
    clean = pack(str(source_without(folder, tmp_path / "clean")), tmp_path / "clean shards", progress=False)
    assert clean.near_duplicates == 0
    assert not (tmp_path / "clean shards/near_duplicates.csv").exists()
    once, same = tmp_path / "once/shard-000000.tar", tmp_path / "clean shards/shard-000000.tar"
    assert once.read_bytes() == same.read_bytes()
    assert cli.main(words) == 0  # the same again does nothing
    assert "1 shard of these from an earlier call" in capsys.readouterr().out
    once.write_bytes(once.read_bytes()[:1000])  # a lost shard is made again
    assert cli.main(words) == 0
    assert once.read_bytes() == same.read_bytes()
    assert not [*(tmp_path / "once").glob(".*")]
    with pytest.raises(InputError, match="packed in another way: drop_duplicates True there, default now"):
        pack(str(folder), tmp_path / "once", progress=False)


def source_without(folder: Path, copy: Path) -> Path:
    copy.mkdir()
    for path in folder.glob("[0-9]*.png"):
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_pack_that_goes_on_still_knows_the_images_of_its_first_shards(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    whole = pack(str(folder), tmp_path / "whole", shard_size=3, progress=False)
    assert whole.near_duplicates == 2
    report = (tmp_path / "whole/pack.json").read_text()
    (tmp_path / "whole/shard-000001.tar").unlink()
    again = pack(str(folder), tmp_path / "whole", shard_size=3, progress=False)
    assert again.near_duplicates == 2  # as the list says, which is there
    assert (tmp_path / "whole/pack.json").read_text().replace('"resumed": 4', '"resumed": 0') == report


def test_a_preview_shows_each_class_beside_its_name_and_packing_the_shards_again_leaves_it_out(tmp_path: Path) -> None:
    for name, level in (("dark", 20), ("light", 230)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((16, 24, 3), level + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{number}.png")
    pack(str(tmp_path / "in"), tmp_path / "out", progress=False)
    shown = np.asarray(Image.open(tmp_path / "out/preview.png").convert("L"))
    rows = shown.shape[0] // 2
    assert 15 < np.median(shown[rows // 2, 95:240]) < 25
    assert 225 < np.median(shown[rows + rows // 2, 95:240]) < 235
    assert (shown[:rows, :80] < 100).any()  # its name
    assert pack(str(tmp_path / "out"), tmp_path / "again", progress=False).images == 6
