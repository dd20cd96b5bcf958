"""Every key is typed, documented and overridable, and what decides the mathematics is known."""

from pathlib import Path

import pytest

from gan_dist import config as config_module
from gan_dist.config import FREE_KEYS, Config, fields
from gan_dist.errors import InputError
from tests.launching import REPOSITORY

BASE = "data: {shards: x, resolution: 16, channels: 1}\ntraining: {images: 100, batch: 32, micro_batch: 8}\n"


def load(tmp_path: Path, *arguments: str, text: str = BASE) -> Config:
    path = tmp_path / "my-run.yaml"
    path.write_text(text)
    return config_module.load([str(path), *arguments])


def test_defaults_and_the_name_of_the_file(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.run.name == "my-run"
    assert config.directory == Path("runs/my-run")
    assert config.training.whole_images == 128


def test_any_key_is_overridden_in_either_spelling(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "--training.batch",
        "64",
        "--game.generator.learning_rate=2e-4",
        "--data.labels",
        "true",
        "--run.name",
        "7a",
    )
    assert (config.training.batch, config.game.generator.learning_rate, config.data.labels) == (64, 2e-4, True)
    assert config.run.name == "7a"


def test_a_list_of_shards(tmp_path: Path) -> None:
    assert load(tmp_path, "--data.shards", "[a.tar, b.tar]").data.shards == ["a.tar", "b.tar"]


def test_a_required_key_may_come_from_the_command_line_alone(tmp_path: Path) -> None:
    text = BASE.replace("shards: x, ", "")
    with pytest.raises(InputError, match=r"data\.shards is missing.*--data\.shards"):
        load(tmp_path, text=text)
    assert load(tmp_path, "--data.shards", "y", text=text).data.shards == "y"


def test_the_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    for name in ("digits", "mnist", "dcgan"):
        config = config_module.load([str(REPOSITORY / f"configs/{name}.yaml"), "--data.shards", "[a, 'b c']"])
        (tmp_path / "config.yaml").write_text(config_module.to_yaml(config, {"wandb_id": "abc"}))
        assert config_module.read_run(tmp_path) == (config, {"wandb_id": "abc"})


def test_the_fingerprint_knows_the_mathematics_and_nothing_else(tmp_path: Path) -> None:
    base = load(tmp_path)
    other = {
        "run.seed": 1, "data.image": "png", "data.resolution": 32, "data.channels": 3, "data.labels": True, "data.classes": 3,
        "data.flip": True, "data.streams": 2, "game.networks": "article", "game.latent": 7, "game.base_channels": 8,
        "game.loss": "minimax", "game.discriminator_steps": 2, "game.average.half_life": 5, "training.batch": 64,
        "training.micro_batch": 16, "training.precision": "fp64", "run.name": "x", "run.directory": "x", "data.shards": "y",
        "data.source": "digits", "data.workers": 5, "data.cache": "x", "training.images": 7, "training.strategy": "exact",
        "training.device": "cpu", "checkpoint.every": 3, "checkpoint.keep": 3, "track.every": 3, "track.wandb": "disabled",
        "track.project": "x", "sample.every": 3, "sample.count": 3,
    }  # fmt: skip
    for player in ("generator", "discriminator"):
        for name, value in {"learning_rate": 1e-3, "beta1": 0.1, "beta2": 0.9, "epsilon": 1e-6}.items():
            other[f"game.{player}.{name}"] = value
    keys = [key for key, _ in fields() if key != "game.kind"]
    assert sorted(other) == sorted(keys)  # a new key must say here which kind it is
    for key, value in other.items():
        more = {
            "game.networks": ["--data.resolution", "28"],
            "data.classes": ["--data.labels", "true"],
        }.get(key, [])
        changed = load(tmp_path, f"--{key}", str(value), *more)
        same = changed.fingerprint() == load(tmp_path, *more).fingerprint() if key != "game.networks" else False
        assert same == key.startswith(FREE_KEYS), key
        assert bool(config_module.differences(base, changed)) != key.startswith(FREE_KEYS), key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--training.batch", "33"], "micro_batch = 8 does not divide training.batch = 33; for example 3 does"),
        (["--batch", "3"], "did you mean --training.batch"),
        (["--data.streams", "5"], "data.streams = 5 does not divide"),
        (["--training.images", "0"], "--training.images.*greater than 0"),
        (["--game.generator.beta1", "1"], "beta1.*less than 1"),
        (["--training.precision", "fp8"], "fp32.*fp64"),
        (["--data.labels", "maybe"], "data.labels.*boolean"),
        (["extra"], "unknown argument extra"),
        (["--data.shards", "[a"], "quote it"),
        (["--game.networks", "article", "--data.resolution", "28", "--game.base_channels", "8"], "no effect"),
    ],
)
def test_wrong_values_are_refused_with_what_to_write(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(tmp_path, *arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "checkpont: {every: 3}\n", "line 3: unknown key checkpont; did you mean checkpoint"),
        (
            BASE + "game:\n  generator:\n    learning_rat: 3\n",
            "line 5: unknown key .*learning_rat; did you mean game.generator.learning_rate",
        ),
        (BASE + "game: dcgan\n", "line 3"),
        ("", "data is missing"),
        ("a: [", "line 1: not valid YAML|line 2: not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(tmp_path, text=text)


def test_every_key_says_what_it_means() -> None:
    assert all(field.description and len(field.description) > 10 for _, field in fields())


def test_recipes_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_module.load(["configs/digits.yaml"]).run.name == "digits"
