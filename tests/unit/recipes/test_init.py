"""`gan-dist init` writes a config that fits images and machine, loads, and trains its first steps; bad input is one line."""

import io
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli, config as config_module, games, step, trial
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.engine import Engine
from gan_dist.recipes import choose, counterparts, expect, initialise, look, restoration
from gan_dist.recipes.look import Images, Machine, Picture
from tests import making
from tests.launching import REPOSITORY

CPU = Machine(2, 8 << 30)
GPU = Machine(16, 128 << 30, [("H100", 80 << 30)])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(look, "machine", lambda: CPU)


def photos(folder: str, count: int, size: tuple[int, int] = (40, 40), channels: int = 3, kind: str = "PNG") -> Path:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    first = sum(map(ord, folder))  # other folders, other pictures
    for number in range(count):
        pixels = making.picture(first + number, size, min(channels, 3))
        if channels == 4:
            pixels = np.dstack([pixels, making.picture(first + number, size)])
        (path / f"{number}.{kind.lower()}").write_bytes(making.encode(pixels, kind))
    return path


def seen(count: int, size: tuple[int, int] = (300, 300), channels: int = 3, **kinds: int) -> Images:
    """What a look at a large source says."""
    pictures = [Picture(size, channels, bytes(243))] * 100
    return Images("photos", count, count * 1000, pictures, [], 0, kinds, 0, [], [], size)


def written(images: Images, machine: Machine, resolution: tuple[int, int] | None = None) -> Config:
    path = initialise.place("photos")
    choice = choose.choose(images, machine, resolution)
    content = initialise.text.of_generation(choice, "data/photos", "photos", ["for a test"])
    return initialise.write(path, content)


@pytest.mark.parametrize(
    ("count", "recipe"), [(70_000, "photos_r3gan_256"), (5_000, "photos_small_data"), (300, "few_shot")]
)
def test_on_a_gpu_the_number_of_images_chooses_the_recipe_that_ships(count: int, recipe: str) -> None:
    shipped = config_module.load([str(REPOSITORY / f"configs/{recipe}.yaml")])
    size = shipped.data.size if recipe != "photos_small_data" else None
    mine = written(seen(count), GPU, size).model_dump()
    theirs = shipped.model_dump()
    if recipe == "photos_small_data":  # 128 pixels, and the penalty of 128; these are of 256
        assert mine["data"]["resolution"] == 256
        assert mine["penalties"]["r1"]["weight"] == pytest.approx(4 * theirs["penalties"]["r1"]["weight"], rel=1e-2)
        theirs["penalties"]["r1"]["weight"] = mine["penalties"]["r1"]["weight"]
    for section in ("networks", "game", "loss", "penalties", "augment", "optimizers", "average"):
        assert mine[section] == theirs[section], section
    assert mine["training"]["batch"] == theirs["training"]["batch"]
    assert mine["training"]["images"] == theirs["training"]["images"]


@pytest.mark.parametrize(("side", "weight"), [(64, 2.0), (128, 15.0), (256, 150.0)])
def test_r3gan_s_penalties_are_those_of_its_size(side: int, weight: float) -> None:
    mine = written(seen(70_000), GPU, (side, side))
    assert mine.penalties.r1.weight.start == weight
    theirs = config_module.load([str(REPOSITORY / f"configs/photos_r3gan_{side}.yaml")])
    assert mine.penalties.model_dump() == theirs.penalties.model_dump()


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (seen(5_000, (300, 450)), {"resolution": "384x256"}),
        (seen(5_000, (450, 300)), {"resolution": "256x384"}),
        (seen(5_000, (100, 100), 1), {"resolution": 64, "channels": 1, "flip": True}),
        (seen(5_000, (28, 28), 1), {"resolution": 16, "channels": 1, "flip": False}),
        (seen(5_000, (300, 300), 4), {"channels": 4}),
        (seen(200, cat=100, dog=100), {"labels": True}),
        (seen(200, train=100, test=100), {"labels": False}),
        (seen(101, cat=100, dog=1), {"labels": False}),
    ],
)
def test_size_channels_classes_and_mirroring_follow_the_images(images: Images, expected: dict[str, object]) -> None:
    data = written(images, GPU).data.model_dump()
    assert {key: data[key] for key in expected} == expected


def test_the_discriminator_of_classes_has_the_mapping_of_stylegan2_ada() -> None:
    networks = written(seen(5_000, cat=2_500, dog=2_500), GPU).networks
    assert (networks.generator.mapping_layers, networks.discriminator.mapping_layers) == (2, 8)


def two_steps(config: Config) -> None:
    """Pack what the config names, and train on it as it is, for two steps."""
    config = config.with_({"data.workers": 0})
    loader.prepare(config, progress=False)
    engine = Engine(config)
    config = config.with_classes(lambda: 3) if config.data.labels else config
    loader.open_index(config, games.build(config).fields)
    game = trial.build(config, engine)
    engine.wrap(game)
    size = config.training.batch
    for number in range(2):
        batch = trial.on_device(config, engine, trial.random_batches(config, game.fields, number, engine.slots))
        step.play_step(engine, game, batch, number * size, size)
    assert not any(found.total for found in engine.skipped(wait=True).values())
    assert all(torch.isfinite(weight).all() for player in game.players for weight in player.weights)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: photos("photos", 20), {"resolution": 32, "channels": 3, "labels": False}),
        (lambda: photos("photos", 20, (40, 64)), {"resolution": "48x32"}),
        (lambda: photos("photos", 9, (20, 20), 1), {"resolution": 16, "channels": 1}),
        (lambda: photos("photos", 12, (36, 36), 4), {"resolution": 32, "channels": 4}),
        (
            lambda: [photos(f"photos/{name}", 12, (34, 34), 3, "JPEG") for name in ("a cat", "dog", "hen")],
            {"labels": True},
        ),
    ],
    ids=["square", "wide", "grey", "transparent", "classes"],
)
def test_a_folder_on_a_cpu_is_packed_and_trains_its_first_steps(make: object, expected: dict[str, object]) -> None:
    make()  # type: ignore[operator]
    assert cli.main(["init", "toy", "--data", "photos"]) == 0
    config = config_module.load(["configs/toy.yaml"])
    data = config.data.model_dump()
    assert {key: data[key] for key in expected} == expected
    two_steps(config)


@pytest.mark.parametrize("game", ["paired", "unpaired"])
def test_two_folders_are_sets_of_a_game_that_turns_one_into_the_other(
    game: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos("toy/trainA", 16, (36, 36))
    photos("toy/trainB", 16 if game == "paired" else 18, (36, 36), 3, "JPEG")
    assert cli.main(["init", "toy.yaml", "--data", "toy"]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for command in next(line for line in said if line.startswith("gan-dist pack")).split(" && "):
        assert cli.main(command.split()[1:]) == 0
    config = config_module.load(["toy.yaml"])
    assert config.game.kind == game
    two_steps(config)


@pytest.mark.parametrize(
    ("clean", "degraded", "expected"),
    [
        (["0001.png", "0011.png"], ["0001x4.png", "0011x4.png"], ("{}", "{}x4")),
        (["a/1.png", "b/1.png"], ["b/1.jpg", "a/1.jpg"], ("{}", "{}")),
        (["img_1_HR.png", "img_2_HR.png"], ["img_1_LR.png", "img_2_LR.png"], ("{}HR", "{}LR")),
        (["1.png", "11.png"], ["LR_1.png", "LR_11.png"], ("{}", "LR_{}")),
        (["1.png", "2.png"], ["1.png", "3.png"], None),
        (["1.png", "2.png"], ["1.png"], None),
        (["x.png", "x1.png"], ["y.png", "y1.png"], None),  # nothing would be the same in the first
        (["a/1.png", "b/2.png"], ["b/1.png", "a/2.png"], None),
    ],
)
def test_files_belong_together_by_what_is_the_same_in_their_names(
    clean: list[str], degraded: list[str], expected: tuple[str, str] | None
) -> None:
    assert counterparts.templates(clean, degraded) == expected


def enlarged(folder: str, of: str, scale: int, name: str = "{}") -> None:
    """Images of a folder, `scale` times smaller, in another one."""
    Path(folder).mkdir(parents=True)
    for path in Path(of).iterdir():
        with Image.open(path) as image:
            small = image.resize((image.width // scale, image.height // scale))
        small.save(Path(folder) / f"{name.format(path.stem)}{path.suffix}")


@pytest.mark.parametrize("layout", ["DIV2K", "HR and LR", "input and target"])
def test_degraded_images_beside_clean_ones_are_restored(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    if layout == "DIV2K":
        clean, scale = photos("toy/DIV2K_train_HR", 9, (64, 72)), 4
        photos("toy/DIV2K_valid_HR", 3, (64, 72))
        for times in (2, 4):
            enlarged(f"toy/DIV2K_train_LR_bicubic/X{times}", str(clean), times, f"{{}}x{times}")
    elif layout == "HR and LR":
        clean, scale = photos("toy/HR", 9, (40, 40), 1, "JPEG"), 1
        enlarged("toy/LR", str(clean), 1)
    else:  # of one size they are pix2pix's
        clean, scale = photos("toy/target", 9, (64, 64)), 2
        enlarged("toy/input", str(clean), 2)
    assert cli.main(["init", "toy", "--data", "toy"]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert cli.main(shlex.split(next(line for line in said if line.startswith("gan-dist pack")))[1:]) == 0
    config = config_module.load(["configs/toy.yaml"])
    assert config.game.kind == "restoration"
    assert config.data.scale_of("input") == scale
    text = Path("configs/toy.yaml").read_text().replace("\n# ", " ")
    assert "are pairs by their names: restoration" in text
    assert ("DIV2K_train_LR_bicubic/X2 would do too" in text) == (layout == "DIV2K")
    two_steps(config)


@pytest.mark.parametrize(("size", "step"), [((70, 64), "downscale"), ((34, 40), "noise")])
def test_photos_are_restored_where_that_is_asked(size: tuple[int, int], step: str) -> None:
    photos("photos", 9, size)
    assert cli.main(["init", "toy", "--data", "photos", "--game", "restoration"]) == 0
    config = config_module.load(["configs/toy.yaml"])
    assert [each.kind for each in config.data.degradations] == [step]
    two_steps(config)
    index = loader.open_index(config)
    stored = (int(index.height[0]), int(index.width[0]))
    assert stored == (size if step == "downscale" else config.data.size)  # parts are cut out of whole images


def test_on_a_gpu_restoration_is_the_recipe_that_ships() -> None:
    choice = restoration.choose("photos", seen(800), None, True, None)
    mine = initialise.write(Path("x.yaml"), initialise.text.join([""], restoration.lines(choice, "data/x", "")))
    shipped = config_module.load([str(REPOSITORY / "configs/sr_x4_psnr.yaml")])
    ours, theirs = mine.model_dump(), shipped.model_dump()
    for section in ("networks", "game", "optimizers", "average"):
        assert ours[section] == theirs[section], section
    assert all(
        ours["data"][key] == theirs["data"][key] for key in ("resolution", "crop", "channels", "flip", "degrade")
    )
    assert (mine.training.images, mine.training.batch) == (shipped.training.images, shipped.training.batch)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: photos("toy/LR", 3), "HR has 4 images and LR 3, of names that do not belong together"),
        (lambda: enlarged("toy/LR", "toy/HR", 3), "HR/0.png has 64x64 pixels and LR/0.png 21x21"),
        (lambda: enlarged("toy/LR", "toy/HR", 16), "the smallest clean image has 64 pixels on its shorter side"),
    ],
    ids=["counts", "sizes", "too small"],
)
def test_pairs_that_do_not_fit_are_one_line(make: object, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos("toy/HR", 4, (64, 64))
    make()  # type: ignore[operator]
    assert cli.main(["init", "toy", "--data", "toy", "--game", "restoration"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert not list(Path().rglob("*.yaml"))


def test_what_is_broken_there_twice_or_no_image_is_said_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    photos("photos", 12)
    (Path("photos") / "twice\n.png").write_bytes(Path("photos/3.png").read_bytes())
    (Path("photos") / "cut.png").write_bytes(Path("photos/4.png").read_bytes()[:200])
    (Path("photos") / "notes.txt").write_text("hello")
    assert cli.main(["init", "toy", "--data", "photos"]) == 0
    said, text = capsys.readouterr().out, Path("configs/toy.yaml").read_text()
    for words in ("1 broken", "first cut.png", "1 near-duplicate", "1 other file", "14 images", "no GPU"):
        assert words in said
        assert words in text.replace("\n# ", " ")
    assert config_module.load(["configs/toy.yaml"]).data.source == "photos"


def test_odd_paths_are_quoted_and_zips_are_sources() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(8):
            archive.writestr(f"ü {number}.png", making.encode(making.picture(number, 20, 3)))
    Path("my photos: 1.zip").write_bytes(buffer.getvalue())
    assert cli.main(["init", "toy", "--data", "my photos: 1.zip"]) == 0
    config = config_module.load(["configs/toy.yaml"])
    assert config.data.source == "my photos: 1.zip"
    loader.prepare(config, progress=False)


@pytest.mark.parametrize("name", ["no", "Null", "🙂 a, b", "#x", "0x10", "it's: {a}"])
def test_words_and_signs_of_yaml_are_names_too(name: str) -> None:
    photos(name, 8)
    assert cli.main(["init", "toy", "--data", name]) == 0
    assert config_module.load(["configs/toy.yaml"]).data.source == name


def test_names_of_classes_end_no_comment() -> None:
    for name in ("a\nb: [", "#c {\u2028", "d\udcff"):
        photos(f"photos/{name}", 8)
    assert cli.main(["init", "toy", "--data", "photos"]) == 0
    assert config_module.load(["configs/toy.yaml"]).data.source == "photos"


def test_what_gan_dist_packed_is_not_packed_again() -> None:
    photos("photos", 12)
    assert cli.main(["pack", "photos", "shards"]) == 0
    assert cli.main(["init", "toy", "--data", "shards"]) == 0
    config = config_module.load(["configs/toy.yaml"])
    assert (config.data.shards, config.data.source) == ("shards", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["toy", "--data", "empty"], "empty holds no images"),
        (["toy", "--data", "nowhere"], "no such source: nowhere"),
        (["toy", "--data", "junk"], "0 images can be read: a.png: "),
        (["toy", "--data", "photos", "--game", "paired"], "wants two folders"),
        (["toy", "--data", "half", "--game", "unpaired"], "wants images in both folders, and B has none"),
        (["a/b", "--data", "photos"], "no name of a config"),
        (["there.yaml", "--data", "photos"], "there.yaml exists, and nothing is overwritten"),
        (["nowhere/x.yaml", "--data", "photos", "--resolution", "7"], "is no doubling of a size"),
        (["toy", "--data", "$HOME"], "configs cannot hold this name"),
        (["taken", "--data", "photos"], "data/taken, the folder for the shards of taken, is there already"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("empty", "junk", "data/taken"):
        Path(folder).mkdir(parents=True)
    Path("junk/a.png").write_bytes(b"junk")
    Path("data/taken/mine.txt").write_text("mine")
    photos("photos", 8)
    photos("half/A", 8)
    Path("half/B").mkdir()
    Path("there.yaml").write_text("mine")
    assert cli.main(["init", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert [*Path().rglob("*.yaml")] == [Path("there.yaml")]
    assert Path("there.yaml").read_text() == "mine"


def test_images_of_every_kind_are_looked_at() -> None:
    path = Path("photos")
    path.mkdir()
    colour, grey = Image.fromarray(making.picture(1, (30, 50), 3)), Image.fromarray(making.picture(2, (30, 50)))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(path / "turned.jpg", exif=exif)
    colour.convert("CMYK").save(path / "cmyk.jpg")
    colour.quantize(8).save(path / "palette.gif")
    grey.convert("1").save(path / "bits.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path / "deep.png")
    found = look.images("photos")
    assert not found.broken
    assert sorted(picture.size for picture in found.pictures) == [(30, 50)] * 4 + [(50, 30)]
    assert found.channels == 3


def test_what_to_expect_is_predicted_for_gpus_and_measured_on_a_cpu() -> None:
    config = config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(making.tiny("x", "y"))])
    many = Machine(16, 128 << 30, [("NVIDIA H100 80GB HBM3", 80 << 30)] * 3)
    assert expect.line(config, many).startswith("predicted for h100 x 2, not measured: ")  # 4 micro-batches
    assert "images/s by one process" in expect.line(config, CPU)
