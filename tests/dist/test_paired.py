"""Paired translation by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, and outputs of images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli
from tests import making
from tests.launching import lines
from tests.toys import Toy, check_bits, check_goes_on

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RATE = "{kind: linear, start: 0.001, stop: 0, begin: 16, end: 48}"
TOY = Toy(
    "edges_digits",
    {
        "data.source": "",
        "data.resolution": 16,
        "data.flip": True,
        "data.crop": "random",
        "data.load_size": 18,
        "networks.generator.base_channels": 4,
        "networks.discriminator.base_channels": 4,
        "networks.discriminator.layers": 1,
        "networks.discriminator.scales": 2,
        "game.feature_matching": 10,
        "optimizers.generator.learning_rate": RATE,
        "optimizers.discriminator.learning_rate": RATE,
        "evaluate.every": 48,
        "evaluate.samples": 32,
    },
)


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    check_bits(TOY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards, and the directory of a whole run at 1 rank."""
    folder = tmp_path_factory.mktemp("paired")
    assert cli.main(["pack", "edges", str(folder / "data"), "--from", "digits", "--resolution", "18"]) == 0
    return folder / "data", TOY.of(folder / "data").train(folder / "run")


def test_a_run_goes_on_at_2_ranks_within_the_decay_to_the_same_bits(whole: tuple[Path, Path], tmp_path: Path) -> None:
    shards, run = whole
    name = check_goes_on(TOY.of(shards), run, tmp_path / "run", stop=32)
    last = lines(run / "metrics.jsonl")[-1]
    assert last["score/psnr"] == lines(tmp_path / "run/metrics.jsonl")[-1]["score/psnr"]
    assert {"distance/l1", "distance/features", "score/ssim"} <= last.keys()
    assert (run / f"samples/{name}.png").exists()


def test_apply_translates_images_of_any_size_and_keeps_names_and_sizes(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source, out = whole[1], tmp_path / "in", tmp_path / "out"
    (source / "more").mkdir(parents=True)
    (source / "a.png").write_bytes(making.encode(making.picture(0, (21, 37))))
    (source / "more/b.jpg").write_bytes(making.encode(making.picture(1, 16, channels=3), "JPEG"))
    clear = np.dstack([making.picture(2, 16, channels=3), making.picture(3)])
    (source / "c.png").write_bytes(making.encode(clear))
    deep = making.picture(4).astype(np.uint16) * 257
    Image.fromarray(deep).save(source / "d.png")
    (source / "notes.txt").write_text("no image")
    words = ["apply", str(run), str(source), "--out", str(out)]
    assert cli.main(words) == 0
    made = {str(path.relative_to(out)): Image.open(path) for path in out.rglob("*.png")}
    assert {name: (image.size, image.mode) for name, image in made.items()} == {
        "a.png": ((37, 21), "L"),
        "c.png": ((16, 16), "RGBA"),
        "d.png": ((16, 16), "I;16"),
        "more/b.png": ((16, 16), "L"),
    }
    assert np.array_equal(np.asarray(made["c.png"])[..., 3], clear[..., 3])
    assert len(np.unique(np.asarray(made["d.png"]) % 257)) > 1  # more than 8 bits
    before = (out / "a.png").read_bytes()
    assert cli.main(words) == 2
    assert "is there already; add --replace" in capsys.readouterr().err
    assert cli.main([*words, "--replace"]) == 0
    assert (out / "a.png").read_bytes() == before


def test_apply_and_generate_refuse_what_they_cannot_do(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(whole[1])
    for path in ("x.png", "empty/notes.txt", "bad/y.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(making.encode(making.picture(0)) if path == "x.png" else b"none")
    out = tmp_path / "out"

    def refused(*words: object) -> str:
        assert cli.main([str(word) for word in words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "use `gan-dist apply" in refused("generate", run, "--out", out)
    assert "no such folder" in refused("apply", run, tmp_path / "nothing", "--out", out)
    assert "holds no images" in refused("apply", run, tmp_path / "empty", "--out", out)
    assert "goes one way" in refused("apply", run, tmp_path / "x.png", "--out", out, "--way", "BA")
    assert "lies within" in refused("apply", run, tmp_path, "--out", tmp_path / "out")
    assert not out.exists()
    assert "y.png cannot be decoded" in refused("apply", run, tmp_path / "bad", "--out", out)


def test_outputs_are_scored_against_other_shards(whole: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shards, run = whole
    words = ["evaluate", str(run), "--scores", "psnr,ssim", "--n", "32", "--against", str(shards), "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert 0 < found["psnr"]["value"] < 60
    assert torch.isfinite(torch.tensor(found["ssim"]["value"]))
