"""Paired translation by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, and outputs of images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli, config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, lines, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CONFIG = str(REPOSITORY / "configs/edges_digits.yaml")
KEYS: dict[str, object] = {
    "data.resolution": 16,
    "data.workers": 0,
    "data.flip": True,
    "data.crop": "random",
    "data.load_size": 18,
    "networks.generator.base_channels": 4,
    "networks.discriminator.base_channels": 4,
    "networks.discriminator.layers": 1,
    "networks.discriminator.scales": 2,
    "game.feature_matching": 10,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.images": 48,
    "training.strategy": "exact",
    "training.device": "cpu",
    "checkpoint.every": 32,
    "sample.every": 48,
    "sample.count": 4,
    "track.every": 16,
    "track.wandb": "disabled",
    "evaluate.every": 48,
    "evaluate.samples": 32,
}


def keys(shards: Path, run: Path) -> dict[str, object]:
    rate = "{kind: linear, start: 0.001, stop: 0, begin: 16, end: 48}"
    rates = {f"optimizers.{player}.learning_rate": rate for player in ("generator", "discriminator")}
    return {**KEYS, **rates, "data.shards": shards, "data.source": "", "run.directory": run}


def played() -> str:
    """A hash of all that the players hold after three steps on random samples."""
    config = config_module.load([CONFIG, *making.flags(keys(Path("none"), Path("none")))])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    engine.wrap(game)
    for step in range(3):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        play_step(engine, game, trial.on_device(config, engine, micros), 8 * step, 8)
    return reference.digest(engine, game)


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    found = {digest for ranks in (1, 2, 4) for digest in run_ranks(ranks, played, forked=True)}
    assert len(found) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards, and the directory of a whole run at 1 rank."""
    folder = tmp_path_factory.mktemp("paired")
    assert cli.main(["pack", "edges", str(folder / "data"), "--from", "digits", "--resolution", "18"]) == 0
    done = train(keys(folder / "data", folder / "run"), config=CONFIG)
    assert done.returncode == 0, done.stderr
    return folder / "data", folder / "run"


def test_a_run_goes_on_at_2_ranks_within_the_decay_to_the_same_bits(whole: tuple[Path, Path], tmp_path: Path) -> None:
    shards, run = whole
    name = "images-000000048"
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / name)
    done = train(keys(shards, tmp_path / "run"), 2, config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run")[name] == digests(run)[name]
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
