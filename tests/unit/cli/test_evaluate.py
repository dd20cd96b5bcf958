"""`gan-dist evaluate` scores runs and anybody's images, and says in one line what will not do."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist.checkpoint import store
from gan_dist.cli import main
from gan_dist.cli.evaluate import Progress
from gan_dist.data import index
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS
from gan_dist.scoring import choice
from gan_dist.scoring.images import of_index, of_source
from tests import making
from tests.launching import lines

COUNT = 64


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("GAN_DIST_WEIGHTS", str(tmp_path_factory.mktemp("weights")))
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data") / "shards", COUNT, shards=2, classes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are those of the shards, in a folder."""
    found = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        Image.fromarray(making.picture(number)).save(found / f"{number:06d}.png")
    return found


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was scored while it trained."""
    from gan_dist.train import main as train

    directory = tmp_path_factory.mktemp("runs") / "run"
    scores = {"evaluate__every": 32, "evaluate__samples": 40, "evaluate__best": "kid_random", "checkpoint__every": 1000}
    scores |= {"evaluate__scores__kid_random__kind": "kid", "evaluate__scores__kid_random__features": "random"}
    scores |= {"evaluate__scores__copies__kind": "neighbours", "training__images": 96}
    assert train(["tests/data/digits.yaml", *making.flags(making.tiny(shards, directory, **scores))]) == 0
    return directory


def scored(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # NaN is no JSON
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, words)]) == 2
    said = capsys.readouterr().err.strip().removeprefix("error: ")
    assert len(said.splitlines()) == 1
    return said


def test_a_training_records_scores_and_keeps_the_best_checkpoint(run: Path) -> None:
    found = lines(run / "scores.jsonl")
    assert [(line["metric"], line["images"]) for line in found] == [
        (name, images) for images in (32, 64, 96) for name in ("kid_random", "copies")
    ]
    first = found[0]
    assert (first["n_generated"], first["n_real"], first["by"]) == (40, COUNT, "training")
    assert first["error"] > 0
    assert first["extractor"]["kind"] == "random"
    assert (first["reference"]["mirrored"], first["reference"]["size"]) == (False, [16, 16])
    values = {line["images"]: line["value"] for line in found if line["metric"] == "kid_random"}
    events = [line for line in lines(run / "events.jsonl") if line["event"] == "best"]
    best = min(values, key=lambda images: values[images])
    assert (events[-1]["images"], events[-1]["value"]) == (best, values[best])
    assert events[-1]["score"] == "kid_random"
    assert events[-1]["checkpoint"] == f"images-{best:09d}"
    assert store.read_kept(run / "checkpoints")["best"]["checkpoint"] == events[-1]["checkpoint"]
    assert list((run / "media/score/copies/nearest").glob("images-*.png"))
    assert next(line for line in lines(run / "metrics.jsonl") if line["images"] == 32)["score/kid_random"] > 0


def test_a_kept_checkpoint_outlives_the_newest_ones_until_another_takes_its_place(run: Path, tmp_path: Path) -> None:
    newest = store.names(run / "checkpoints")[-1]
    for number in (1, 2, 3, 4):
        shutil.copytree(run / "checkpoints" / newest, tmp_path / store.name_of(number))
    kept = store.Store(tmp_path, keep=2)
    kept.keep_as("best", store.name_of(1), value=3.0)
    kept.retire()
    assert kept.names() == [store.name_of(number) for number in (1, 3, 4)]
    kept.keep_as("best", store.name_of(4), value=2.0)
    kept.retire()
    assert kept.names() == [store.name_of(number) for number in (3, 4)]


def test_a_run_is_scored_against_its_own_data_and_every_number_of_calls_says_the_same(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = run, "--features", "random", "--scores", "kid,prdc,pixels", "--n", 40, "--device", "cpu"
    references = set(Path(os.environ["GAN_DIST_CACHE"]).glob("evaluation/reference-*"))
    found, again = (scored(capsys, *words) for _ in range(2))
    assert references == set(Path(os.environ["GAN_DIST_CACHE"]).glob("evaluation/reference-*"))  # those of the training
    assert found["scores"].keys() == {
        "kid_random",
        "pixels",
        *(f"prdc_random/{n}" for n in ("precision", "recall", "density", "coverage")),
    }
    assert found["scores"] == again["scores"]
    assert any("no measure" in note for note in found["notes"])
    line = lines(run / "scores.jsonl")[-1]
    assert (line["checkpoint"], line["images"], line["by"]) == ("images-000000096", 96, "gan-dist evaluate")
    assert line["digest"] == store.describe(run / "checkpoints/images-000000096")["digest"]
    alone = scored(capsys, run, "--scores", "pixels", "--n", 40, "--device", "cpu")
    assert alone["scores"]["pixels"] == found["scores"]["pixels"]  # by the same real images
    names = store.names(run / "checkpoints")
    everything = scored(capsys, run, "--features", "random", "--scores", "kid", "--n", 30, "--checkpoint", "all")
    assert [each["what"].split()[1] for each in everything] == names
    assert everything[0]["scores"]["kid_random"]["error"] is None  # of too few images for one


def test_scores_that_cannot_be_written_down_are_printed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/scores.jsonl").unlink()
    (tmp_path / "run/scores.jsonl").mkdir()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--scores", "pixels", "--n", "32", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert "pixels" in said.out
    assert len(said.err.splitlines()) == 1
    assert "scores.jsonl cannot be written" in said.err


def test_images_in_a_folder_and_a_zip_are_scored_against_shards_and_images(
    folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    words = "--features", "random", "--scores", "kid,prdc,authenticity", "--device", "cpu"
    for what, against in ((folder, shards), (tmp_path / "samples.zip", folder)):
        found = scored(capsys, what, "--against", against, *words)["scores"]
        assert found["prdc_random/precision"]["value"] == 1  # they are the same images
        assert found["authenticity_random"]["value"] == 0
        assert found["kid_random"]["value"] < 1e-3


def test_images_of_a_folder_are_those_that_pack_would_write(tmp_path: Path) -> None:
    clear = np.dstack([making.picture(1, 16, 3), np.zeros((16, 16), np.uint8)])
    (tmp_path / "clear").mkdir()
    Image.fromarray(clear).save(tmp_path / "clear/0.png")
    assert (of_source(str(tmp_path / "clear"), tmp_path).read(0) == 255).all()  # what is transparent is white
    (tmp_path / "large").mkdir()
    for number in range(3):
        Image.fromarray(making.picture(number, 70, 3)).save(tmp_path / f"large/{number}.jpg")
    assert main(["pack", str(tmp_path / "large"), str(tmp_path / "shards"), "--processes", "1"]) == 0
    shards = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    index.build(shards, tmp_path / "cache", progress=False)
    packed = of_index(index.load(shards, tmp_path / "cache"), (16, 16), 3)
    opened = of_source(str(tmp_path / "large"), tmp_path, ((16, 16), 3))
    # shards hold them shuffled
    assert {opened.read(number).tobytes() for number in range(3)} == {
        packed.read(number).tobytes() for number in range(3)
    }
    (tmp_path / "deep").mkdir()
    Image.fromarray(making.picture(1).astype(np.uint16) * 16).save(tmp_path / "deep/0.png")
    deep = of_source(str(tmp_path / "deep"), tmp_path)
    assert int(deep.read(0).max()) < 20
    assert "1 images of more than 8 bits are nearly black" in deep.notes()[0]


def test_a_score_of_digits_takes_the_classifier_of_the_run_or_of_the_command_line() -> None:
    own = METRICS["modes"](kind="modes", classifier="of_the_run.pt")
    assert choice.parts("modes", None, None, None, None, [own])[0] == {"modes": own}
    given = choice.parts("modes", None, None, None, Path("mine.pt"), [own])[0]["modes"]
    assert given.classifier == "mine.pt"
    with pytest.raises(InputError, match="add --classifier FILE"):
        choice.parts("modes", None, None, None)
    with pytest.raises(InputError, match=r"--classifier mine\.pt has no effect on kid"):
        choice.parts("kid", None, None, None, Path("mine.pt"))


@pytest.mark.parametrize(
    "given", [("random", None, None), (None, Path("file.pth"), None), (None, None, "area")], ids=["f", "w", "r"]
)
def test_what_looks_at_images_has_no_effect_on_scores_that_do_so_themselves(given: tuple[Any, Any, Any]) -> None:
    with pytest.raises(InputError, match=r"--(features|weights|resize) has no effect on pixels"):
        choice.parts("pixels", *given)


def test_progress_counts_pairs_into_what_is_left_and_is_quiet_where_nobody_watches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    progress = Progress(True, lambda: now)
    progress.begin("images", blocks=300, seconds=1.0)
    for second in range(1, 401):
        now = float(second)
        progress(min(second, 100), 100)  # a second for an image, and for a block
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "images: 10 of 100, 6.5 minutes left",
        "images: 30 of 100, 6.2 minutes left",
        "images: 70 of 100, 5.5 minutes left",
        "images: all pairs compared, 50 of 300 blocks, 4.2 minutes left",
        "images: all pairs compared, 210 of 300 blocks, 1.5 minutes left",
    ]


def test_wrong_input_is_one_line(
    run: Path, folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = "--features", "random", "--device", "cpu"
    assert "needs 257 generated images or more" in refused(capsys, run, *random, "--scores", "fid", "--n", 40)
    assert "no weights weights-inception-2015-12-05-6726825d.pth" in refused(capsys, run)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    assert "another network than inception" in refused(
        capsys, run, "--scores", "kid", "--weights", tmp_path / "other.pth"
    )
    unlabelled = folder, "--against", folder, "--features", "classifier", "--scores", "kid"
    assert "learns from the labels of the real images" in refused(capsys, *unlabelled)
    assert "add --against" in refused(capsys, folder, *random)
    assert "there is no such kind" in refused(capsys, run, "--scores", "fud")
    assert "has no checkpoint nothing" in refused(capsys, run, *random, "--checkpoint", "nothing")

    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    Image.fromarray(making.picture(1, 20)).save(mixed / "000003.png")
    assert "images of mixed sizes" in refused(capsys, mixed, "--against", shards, *random, "--scores", "kid")
    Image.fromarray(making.picture(1, 8)).save(mixed / "000003.png")
    assert "fewer than the images" in refused(capsys, folder, "--against", mixed, *random, "--scores", "kid")
    (mixed / "000003.png").write_bytes(b"no image")
    assert "cannot be decoded" in refused(capsys, mixed, "--against", shards, *random, "--scores", "kid")

    for path in mixed.iterdir():
        Image.fromarray(making.picture(1, 16, 3 if path.name > "000005" else 1)).save(path)
    assert "images of mixed kinds" in refused(capsys, mixed, "--against", shards, *random, "--scores", "kid")
    (mixed / "000000.png").write_bytes(b"")
    (mixed / "manifest.json").write_text("{}")  # of another program: this is no run
    (mixed / "config.yaml").write_text("{}")
    assert "000000.png cannot be decoded" in refused(capsys, mixed, "--against", shards, *random, "--scores", "kid")
    with zipfile.ZipFile(tmp_path / "torn.zip", "w") as archive:
        archive.write(folder / "000000.png", "000000.png")
    torn = bytearray((tmp_path / "torn.zip").read_bytes())
    torn[60:90] = bytes(30)
    (tmp_path / "torn.zip").write_bytes(torn)
    assert "000000.png cannot be read" in refused(capsys, tmp_path / "torn.zip", "--against", folder, *random)
    assert "has no effect on random features" in refused(capsys, run, *random, "--weights", tmp_path / "other.pth")
    assert "--reals 9 has no effect on pixels" in refused(capsys, run, "--scores", "pixels", "--reals", 9)

    bare = tmp_path / "bare"
    (bare / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "config.yaml", bare)
    assert "has no whole checkpoint yet" in refused(capsys, bare, *random)
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    for path in (broken / "checkpoints").glob("*/part-*"):
        path.write_bytes(path.read_bytes()[:-9])
    assert "has no whole checkpoint" in refused(capsys, broken, *random)
