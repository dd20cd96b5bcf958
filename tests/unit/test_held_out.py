"""Scores while training are of evaluate.against: those of `gan-dist evaluate --against`, and one line where it will not do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, trial
from gan_dist.config import Config
from gan_dist.data import checks, loader
from gan_dist.data.geometry import geometry
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation import evaluate
from gan_dist.reporting import Reporter
from gan_dist.scoring import command, compared_with, held_out, of_index
from tests import making
from tests.launching import REPOSITORY

CPU = torch.device("cpu")
TINY: dict[str, object] = {
    "data.workers": 0,
    "data.source": "",
    "data.resolution": 16,
    "networks.generator.base_channels": 2,
    "training.batch": 16,
    "training.micro_batch": 4,
    "training.device": "cpu",
    "evaluate.every": 32,
    "evaluate.samples": 40,
}
PATCHES: dict[str, object] = {"networks.discriminator.base_channels": 2, "networks.discriminator.layers": 1}
GAMES: dict[str, tuple[str, str, dict[str, object]]] = {
    "generation": (
        "tests/data/digits.yaml",
        "pixels,kid_random",
        {"networks.discriminator.base_channels": 2, "game.latent": 4},
    ),
    "paired": ("configs/edges_digits.yaml", "psnr", PATCHES),
    "unpaired": (
        "configs/horse2zebra.yaml",
        "pixels,kid_random",
        {**PATCHES, "networks.generator.blocks": 1, "data.load_size": 18, "data.channels": 1},
    ),
    "restoration": ("configs/digits_denoise.yaml", "psnr", {"networks.generator.blocks": 1}),
}


def data(folder: Path, game: str, count: int, first: int = 0) -> str:
    """Write shards as the game wants them; what names them."""
    if game == "unpaired":
        for number, name in enumerate("AB"):
            making.write_tar(folder / name / "0.tar", making.samples(count + number, 18, first=first + 500 * number))
        return f"{{A: {folder}/A, B: {folder}/B}}"
    members = making.samples(count, 16, first=first)
    if game == "paired":
        inputs = making.samples(count, 16, first=first + 300)
        pairs = zip(members, inputs, strict=True)
        members = [each for (key, image), (_, edges) in pairs for each in two(key[:6], edges, image)]
    making.write_tar(folder / "0.tar", members)
    return str(folder)


def two(key: str, edges: bytes, image: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.edges.png", edges), (f"{key}.image.png", image)]


def load(folder: Path, game: str, **keys: object) -> Config:
    path, scores, own = GAMES[game]
    given = {"data.shards": folder, "data.cache": folder / "cache", "evaluate.scores": scores, **TINY, **own}
    if "kid_random" in scores:
        given |= {"evaluate.scores.kid_random.kind": "kid", "evaluate.scores.kid_random.features": "random"}
    given |= {name.replace("__", "."): value for name, value in keys.items()}
    return config_module.load([str(REPOSITORY / path), *making.flags(given)])


def opened(config: Config, engine: Engine) -> Any:
    loader.prepare(config, progress=False)
    return loader.open_index(config)


@pytest.mark.parametrize("kind", GAMES)
def test_scores_while_training_are_those_of_the_command_against_the_same_set(tmp_path: Path, kind: str) -> None:
    shards, other = data(tmp_path / "train", kind, 24), data(tmp_path / "test", kind, 12, 100)  # less than a batch
    config = load(tmp_path, kind, data__shards=shards, evaluate__against=other)
    engine = Engine(config)
    index = opened(config, engine)
    against = compared_with(config, engine, index)
    game = trial.build(config, engine)
    engine.wrap(game)
    told: list[dict[str, Any]] = []
    tracker: Any = SimpleNamespace(
        log=lambda *_: None, scores=told.extend, event=lambda *_, **about: pytest.fail(str(about))
    )
    run: Any = SimpleNamespace()
    Reporter(config, engine, game, index, run, tracker, None, against).scores(32, lambda: None)
    found = {line["metric"]: line for line in told}
    metrics = {name: each.for_game(game) for name, each in config.evaluate.scores if name != "kid_random"}

    def by_command(wanted: Any, number: int) -> float:
        seen, key = held_out.chosen(config, wanted, game.judged)
        assert key == "--against"
        index = opened(seen, engine)
        real = of_index(index, geometry(seen), checks.channels(seen, game.judged), game.judged)
        fake, paired, shown = command.drawn(game, seen, config.run.seed, index, real.shuffled(), CPU)
        scores = evaluate(metrics, fake, paired, number, real.count, shown=shown).scores
        return scores["score/psnr" if "psnr" in metrics else "score/pixels"]

    first = found["psnr" if "psnr" in found else "pixels"]
    assert first["n_generated"] == (40 if kind == "generation" else 12)
    with engine.averages():
        if kind != "unpaired":  # of sets that differ in size the command takes other real images
            assert first["value"] == by_command(config.evaluate.against, first["n_generated"])
            assert first["value"] != by_command(config.data.shards, 24)
    assert first["against"] == {
        "where": held_out.text_of(config.evaluate.against),
        "data": against.digest,
        "samples": 12,
    }
    if "kid_random" in found:
        reference = found["kid_random"]["reference"]
        assert (reference["data"], reference["of"]) == (against.digest, 13 if kind == "unpaired" else 12)
        assert reference["where"] == first["against"]["where"]


@pytest.mark.parametrize(
    ("kind", "against", "says"),
    [
        ("generation", "{A: x}", "evaluate.against names A, and data.shards none; write evaluate.against: SHARDS"),
        ("unpaired", "x", "names no sets, and data.shards A, B; write evaluate.against: {A: SHARDS, B: SHARDS}"),
        ("unpaired", "{A: x}", "names A, and data.shards A, B; write"),
        ("generation", "nowhere", "evaluate.against is data.shards, which is the default; remove it"),
    ],
)
def test_a_held_out_set_that_is_none_is_one_line(tmp_path: Path, kind: str, against: str, says: str) -> None:
    shards = "{A: nowhere/A, B: nowhere/B}" if kind == "unpaired" else "nowhere"
    with pytest.raises(InputError) as caught:
        load(tmp_path, kind, data__shards=shards, evaluate__against=against)
    (line,) = str(caught.value).splitlines()
    assert says in line


def test_a_held_out_set_without_effect_is_refused() -> None:
    words = ["--evaluate.against", "x", "--data.shards", "y"]
    with pytest.raises(InputError, match=r"evaluate\.against has no effect without evaluate\.scores"):
        config_module.load([str(REPOSITORY / "configs/horse2zebra.yaml"), *words[:1], "{A: x, B: y}"])
    with pytest.raises(InputError, match="draws its own samples; remove it"):
        config_module.load([str(REPOSITORY / "configs/gaussians.yaml"), *words[:2]])


def test_held_out_shards_that_cannot_serve_name_the_key(tmp_path: Path) -> None:
    shards = data(tmp_path / "train", "paired", 24)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(making.encode(making.picture(0)))
    making.data_set(tmp_path / "plain", 12)
    making.write_tar(
        tmp_path / "small/0.tar",
        [each for key in "ab" for each in two(key, *[making.encode(making.picture(0, 8))] * 2)],
    )
    for against, says in (
        (tmp_path / "gone", "evaluate.against: no shard"),
        (tmp_path / "photos", "evaluate.against: the folder"),
        (tmp_path / "plain", "evaluate.against: no sample of 3 shards has a member .edges.png"),
        (tmp_path / "small", "is 8x8, smaller than data.resolution = 16"),
    ):
        config = load(tmp_path, "paired", data__shards=shards, evaluate__against=against)
        with pytest.raises(InputError) as caught:
            held_out.open_index(config, Engine(config))
        (line,) = str(caught.value).splitlines()
        assert line.startswith("evaluate.against: ")
        assert says in line
