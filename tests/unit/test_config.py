"""A config is what file and command line say, or an error that names the place and what to change."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from gan_dist.config import Config, default_cache, differences, fields, load, read_run, to_yaml
from gan_dist.config.control import Limits
from gan_dist.config.tree import leaves
from gan_dist.errors import InputError

TEXT = """\
data:
  shards: somewhere
  resolution: 32
  channels: 1
training:
  images: 1000
  batch: 16
  micro_batch: 4
"""

OTHERS: dict[str, Any] = {
    "data.resident": "auto",
    "data.shards": "elsewhere",
    "data.image": "png",
    "data.fields": {"a": {"member": "a.png", "channels": 1}},
    "data.resolution": 64,
    "data.crop": "random",
    "data.load_size": 40,
    "data.channels": 3,
    "data.remote": "copy",
    "data.patience": 100.0,
    "data.labels": True,
    "data.classes": 7,
    "data.streams": 4,
    "data.order": "blocks",
    "data.cache_limit": "20GiB",
    "game.kind": None,  # there is one so far
    "game.latent_distribution": "uniform",
    "game.first": "discriminator",
    "game.fakes": "fresh",
    "game.batches": "separate",
    "networks.generator.kind": "article",
    "networks.generator.normalisation": "layer",
    "networks.discriminator.kind": "article",
    "networks.discriminator.normalisation": "none",
    "loss.kind": "minimax",
    "training.batch": 32,
    "training.micro_batch": 8,
    "penalties.r1.kind": "r2",
    "penalties.wgan_gp.kind": "r2",
    "penalties.r1.full_precision": False,
    "penalties.wgan_gp.full_precision": False,
    "optimizers.generator.kind": "adamw",
    "optimizers.discriminator.kind": "sgd",
    "start.from": "runs/other",
    "phases": {"discriminator": {"begin": 8, "end": 16}},
    "start.networks": ["generator"],
    "start.skip": ["generator.layers.0"],
    "start.freeze": ["discriminator.features.0"],
    "training.micro_batches_per_pass": 2,
    "training.strategy": "exact",
    "training.graphs": "auto",
    "training.precision": "fp64",
    "training.device": "cpu",
    "track.wandb": "disabled",
    "control.collapse": "stop",
    "evaluate.best": "pixels",
    "control.limits.gap": 3.0,
    "control.limits.level": 3.0,
    "evaluate.scores.pixels.kind": None,  # others have keys of their own
    "networks.generator.conditioning": "concatenation",
    "networks.discriminator.conditioning": None,  # it is the generator's
}
"""Another value of each key for which that is not obvious."""

NEEDED: dict[str, dict[str, Any]] = {
    **{f"start.{key}": {"start.from": "runs/a"} for key in ("networks", "averaged", "optimizers", "strict", "skip")},
    "data.classes": {"data.labels": True},
    "data.load_size": {"data.crop": "random"},
    "networks.generator.conditioning": {"data.labels": True},
    "data.block": {"data.order": "blocks"},
    "data.window": {"data.order": "blocks"},
    "networks.generator.kind": {"networks.discriminator.kind": "article", "data.resolution": 28},
    "networks.discriminator.kind": {"networks.generator.kind": "article", "data.resolution": 28},
    "penalties.r1.full_precision": {"training.precision": "bf16"},
    "penalties.wgan_gp.full_precision": {"training.precision": "bf16"},
    "optimizers.generator.lookahead_rate": {"optimizers.generator.lookahead_every": 5},
    "optimizers.discriminator.lookahead_rate": {"optimizers.discriminator.lookahead_every": 5},
    "evaluate.reals": {"evaluate.scores.kid.kind": "kid"},
}
"""What another value needs so that it contradicts nothing; the same in both configs that are compared."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def full(path: Path) -> Path:
    """The same with parts that are not there by default."""
    full = path.with_name("full.yaml")
    full.write_text(
        TEXT
        + "penalties:\n  r1: {weight: 1.0}\n  wgan_gp: {weight: 2.0, every: 2}\nevaluate: {every: 9, scores: pixels}\n"
    )
    return full


def every_key(path: Path, full: Path) -> Iterator[tuple[str, Path]]:
    """Each key with a config file that has it, the shorter one if it does."""
    short = dict(fields(type(load([str(path)]))))
    for key, _ in fields(type(load([str(full)]))):
        yield key, path if key in short and not key.startswith("evaluate.") else full


def required(path: Path) -> list[str]:
    return [key for key, field in fields(type(load([str(path)]))) if field.is_required()]


def another(key: str, value: Any) -> Any:
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return (value / 2 or 0.5) if isinstance(value, float) else f"{value}x"


def refusal(path: Path, *words: str, text: str | None = None) -> str:
    """What is said about a config that is not accepted."""
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        load([str(path), *words])
    return str(caught.value)


def no_config() -> str:
    with pytest.raises(InputError) as caught:
        load([])
    return str(caught.value)


def test_what_the_file_says_holds_and_the_rest_is_default(path: Path) -> None:
    config = load([str(path)])
    assert config.data.resolution == 32
    assert config.training.batch == 16
    defaults = {key: field.default for key, field in fields(type(config)) if not field.is_required()}
    shown = config.flat()
    assert {key: shown[key] for key in defaults if key != "run.name"} == {
        key: value for key, value in defaults.items() if key != "run.name"
    }


@pytest.mark.parametrize("written", ["--{}={}", "--{} {}"])
def test_every_key_can_be_overridden_on_the_command_line(path: Path, full: Path, written: str) -> None:
    for key, file in every_key(path, full):
        value = another(key, load([str(file)]).flat()[key])
        if value is None:
            continue
        given = {**NEEDED.get(key, {}), key: value}
        words = [
            word for name, each in given.items() for word in written.format(name, str(each).replace(" ", "")).split(" ")
        ]
        assert load([str(file), *words]).flat()[key] == value


def test_the_command_line_goes_before_the_file_and_the_file_before_defaults(path: Path) -> None:
    path.write_text(TEXT + "game:\n  latent: 7\n")
    assert load([str(path)]).game.latent == 7
    assert load([str(path), "--game.latent", "9"]).game.latent == 9
    assert load([str(path), "--game.latent", "8", "--game.latent", "9"]).game.latent == 9


def test_a_required_key_may_come_from_the_command_line_alone(path: Path) -> None:
    path.write_text(TEXT.replace("  resolution: 32\n", ""))
    assert load([str(path), "--data.resolution", "16"]).data.resolution == 16


@pytest.mark.parametrize("text", ["2e-4", "0.0002", "2.0e-4", ".0002"])
def test_a_small_number_may_be_written_in_any_usual_way(path: Path, text: str) -> None:
    assert load([str(path), "--optimizers.generator.learning_rate", text]).optimizers.generator.learning_rate == 2e-4
    path.write_text(TEXT + f"optimizers: {{generator: {{learning_rate: {text}}}}}\n")
    assert load([str(path)]).optimizers.generator.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        ("train-{0000..0003}.tar", "train-{0000..0003}.tar"),
        ("{00..03}.tar", "{00..03}.tar"),
        ("2024", "2024"),
        ("-", "-"),
        ("pipe:cat a.tar # b: c", "pipe:cat a.tar # b: c"),
        ("[a.tar, b.tar]", ["a.tar", "b.tar"]),
        ("{A: a, B: [b, c]}", {"A": "a", "B": ["b", "c"]}),
        ("{a,b}", "{a,b}"),
    ],
)
def test_shards_on_the_command_line_are_text_a_list_or_sets(path: Path, text: str, shards: Any) -> None:
    assert load([str(path), "--data.shards", text]).data.shards == shards


@pytest.mark.parametrize("name", ["2024", "null", "a: b", "1e3", "no"])
def test_any_word_is_a_name(path: Path, name: str) -> None:
    config = load([str(path), "--run.name", name])
    assert config.run.name == name
    assert config.directory == Path("runs") / name


def test_the_run_is_called_like_its_config_file_by_default(path: Path) -> None:
    assert load([str(path)]).directory == Path("runs/mine")
    assert load([str(path), "--run.name", ""]).directory == Path("runs/mine")
    assert load([str(path), "--run.directory", "there"]).directory == Path("there")
    path.write_text(TEXT + "run:\n")
    assert load([str(path)]).run.name == "mine"


def test_recipes_of_the_repository_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = sorted((repository / "configs").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        assert load([f"configs/{recipe.name}"]).run.name == recipe.stem


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--data.resolutoin", "--data.resolution"),
        ("--batch", "--training.batch"),
        ("--data.batch", "--training.batch"),
        ("--training.microbatch", "--training.micro_batch"),
        ("--optimizers.discriminator.beta3", "--optimizers.discriminator.beta"),
    ],
)
def test_an_unknown_key_on_the_command_line_is_named_with_the_nearest(path: Path, word: str, nearest: str) -> None:
    for words in ([word, "32"], [f"{word}=32"]):
        said = refusal(path, *words)
        assert said.startswith(f"unknown argument {word}")
        assert f"did you mean {nearest}" in said


@pytest.mark.parametrize(
    ("text", "key", "line", "nearest"),
    [
        ("data:\n  chanels: 1\n", "data.chanels", 2, "data.channels"),
        ("trainig:\n  batch: 1\n", "trainig", 1, "training"),
        ("run:\n  seed: 1\ngame:\n  batch: 3\n", "game.batch", 4, "training.batch"),
        ("optimizers:\n  generator:\n    lerning_rate: 1\n", "optimizers.generator.lerning_rate", 3, "learning_rate"),
    ],
)
def test_an_unknown_key_in_the_file_is_named_with_its_line_and_the_nearest(
    path: Path, text: str, key: str, line: int, nearest: str
) -> None:
    said = refusal(path, text=text)
    found = next(each for each in said.splitlines() if "unknown key" in each)
    assert found.startswith(f"{path}, line {line}: unknown key {key}; did you mean ")
    assert nearest in found


def test_an_unknown_key_like_no_other_points_to_help(path: Path) -> None:
    assert "--help` lists all keys" in refusal(path, "--zzzzzz", "1")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("training.batch", "many", "valid integer"),
        ("training.batch", "0", "greater than 0"),
        ("training.batch", "-16", "greater than 0"),
        ("training.batch", "1.5", "valid integer"),
        ("training.images", "true", "must not be true or false"),
        ("data.channels", "2", "1, 3 or 4"),
        ("data.channels", "yes", "must not be true or false"),
        ("data.labels", "maybe", "valid boolean"),
        ("data.resolution", "3", "too small; 4 pixels"),
        ("checkpoint.keep", "1", "greater than or equal to 2"),
        ("optimizers.generator.learning_rate", ".nan", "finite"),
        ("optimizers.generator.learning_rate", ".inf", "finite"),
        ("optimizers.generator.beta1", "1", "less than 1"),
        ("training.precision", "fp8", "'fp32'"),
        ("track.wandb", "off", "must not be true or false"),
        ("data.shards", "[a, 3]", "valid string"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(path: Path, key: str, value: str, reason: str) -> None:
    said = refusal(path, f"--{key}", value)
    assert said.startswith(f"--{key}: ")
    assert key.rsplit(".", 1)[-1] in said
    assert reason in said

    tree = yaml.safe_load(TEXT)
    *sections, name = key.split(".")
    section = tree
    for each in sections:
        section = section.setdefault(each, {})
    section[name] = yaml.safe_load(value)
    text = yaml.safe_dump(tree, sort_keys=False)
    said = refusal(path, text=text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if each.strip().startswith(f"{name}:"))
    assert said.startswith(f"{path}, line {line}: ")
    assert reason in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"training.batch": 10}, "training.micro_batch = 4 does not divide training.batch = 10; for example 2 does"),
        (
            {"data.patience": 600},
            "data.patience = 600 is not less than control.hang_seconds = 600, after which the other processes take one that",
        ),
        (
            {"data.block": 8},
            "data.block = 8 has no effect with data.order: full; set data.order: blocks, or remove data.block",
        ),
        ({"data.cache_limit": "much"}, "much is no size; write 20GiB, 500MB or 0, for example"),
        ({"data.streams": 3}, "data.streams = 3 does not divide training.batch = 16"),
        (
            {"data.resolution": 48},
            "networks.*.kind = dcgan needs a power of two from 8 as data.resolution, not 48; for example 32",
        ),
        ({"data.resolution": 4}, "for example 8"),
        (
            {"networks.generator.kind": "article", "networks.discriminator.kind": "article"},
            "set data.resolution: 28 and data.channels: 1",
        ),
        ({"data.classes": 3}, "data.classes = 3 has no effect without data.labels: true"),
        (
            {"penalties.r1.weight": 1.0, "penalties.r1.full_precision": False},
            "penalties.r1.full_precision: false has no effect with training.precision: fp32; remove it, or set",
        ),
        (
            {"penalties.mine.kind": "r1", "penalties.mine.weight": 1.0, "penalties.mine.full_precision": False},
            "penalties.mine.full_precision: false has no effect",
        ),
        (
            {
                "networks.generator.kind": "article",
                "networks.discriminator.kind": "article",
                "data.resolution": 28,
                "training.micro_batch": 1,
            },
            "set training.micro_batch: 2 or more",
        ),
        ({"training.tf32": True, "training.device": "cpu"}, "training.tf32 has no effect with training.device: cpu"),
        (
            {"training.tf32": True, "training.precision": "fp64"},
            "training.tf32 has no effect with training.precision: fp64",
        ),
    ],
)
def test_values_that_contradict_each_other_are_named_with_what_would_do(
    path: Path, words: dict[str, Any], said: str
) -> None:
    assert said in refusal(path, *(f"--{key}={value}" for key, value in words.items()))


def test_a_contradiction_names_the_option_that_made_it_and_else_the_line(path: Path) -> None:
    sentence = "training.micro_batch = 4 does not divide training.batch = 10; for example 2 does"
    assert refusal(path, "--training.batch", "10") == f"--training.batch: {sentence}"
    said = refusal(path, text=TEXT.replace("batch: 16", "batch: 10", 1))
    assert said == f"{path}, line 8: {sentence}"
    path.write_text(TEXT)
    assert refusal(path, "--loss", "hing").startswith("--loss: loss.kind = hing: there is no such kind")
    assert refusal(path, "--data.shards", "$NOWHERE/x").startswith(
        "--data.shards: data.shards = $NOWHERE/x: the variable"
    )


def test_an_option_changes_the_key_that_it_names_and_no_alias_of_it(path: Path) -> None:
    path.write_text(TEXT + "optimizers:\n  generator: &adam {beta1: 0.1}\n  discriminator: *adam\n")
    config = load([str(path), "--optimizers.generator.beta1", "0.2"])
    assert (config.optimizers.generator.beta1, config.optimizers.discriminator.beta1) == (0.2, 0.1)
    said = refusal(path, "--optimizers.generator.beta1", "abc")
    assert said.startswith("--optimizers.generator.beta1: ")
    assert len(said.splitlines()) == 1


def test_a_run_s_own_config_goes_on_with_that_run(path: Path, tmp_path: Path) -> None:
    config = load([str(path), "--run.directory", "runs/elsewhere", "--game.latent", "7"])
    run = tmp_path / "moved"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config, {"version": "0.2.0", "fingerprint": config.fingerprint()}))
    for given in (run, run / "config.yaml"):
        again = load([str(given), "--training.images", "2000"])
        assert again.directory == run
        assert again.run.name == "mine"
        assert again.fingerprint() == config.fingerprint()
    assert load([str(run), "--run.name", "other"]).directory == Path("runs/other")
    assert load([str(run), "--run.directory", "there"]).directory == Path("there")
    copied = tmp_path / "copy.yaml"
    copied.write_text((run / "config.yaml").read_text())
    assert load([str(copied)]).directory == Path("runs/elsewhere")  # what it says


def test_several_mistakes_are_said_at_once(path: Path) -> None:
    said = refusal(path, "--training.batch", "x", "--data.channels", "7", text=TEXT + "sampel: {}\n")
    assert len(said.splitlines()) == 3


def test_missing_keys_are_named_each_with_its_option(path: Path) -> None:
    needed = required(path)
    assert "data.shards" in needed
    for text in ("", "run:\n  seed: 1\n", "data:\ntraining:\n"):
        said = refusal(path, text=text)
        for key in needed:
            assert f"{path}: {key} is missing; write it there or give --{key} VALUE" in said
    said = refusal(path, text=TEXT.replace("  batch: 16\n", ""))
    assert said == f"{path}: training.batch is missing; write it there or give --training.batch VALUE"


@pytest.mark.parametrize("text", ["data: 3\n", "training: [1]\n"])
def test_a_section_that_is_a_value_is_named(path: Path, text: str) -> None:
    assert f"{path}, line 1: {text.split(':')[0]} = " in refusal(path, text=text)
    assert "must be a section" in refusal(path, "--data.channels", "1", "--training.batch", "2")


def test_a_missing_config_a_folder_and_a_stray_word_are_named(path: Path) -> None:
    assert "cannot be read: No such file" in refusal(path.with_name("nowhere.yaml"))
    assert "cannot be read: Is a directory" in refusal(path.parent)
    assert refusal(path, "more") == f"one CONFIG is needed, not 2: {path}, more; keys are written --key.path VALUE"
    assert "give a CONFIG: a YAML file" in no_config()


def test_only_the_command_line_allows_pipes_and_no_record_keeps_it(path: Path, tmp_path: Path) -> None:
    said = refusal(path, text=TEXT.replace("data:\n", "data:\n  allow_pipe: true\n"))
    assert f"{path}, line" in said
    assert "give --data.allow_pipe true on the command line" in said
    path.write_text(TEXT)
    config = load([str(path), "--data.allow_pipe", "true"])
    assert config.data.allow_pipe
    (tmp_path / "config.yaml").write_text(to_yaml(config, {}))
    assert not read_run(tmp_path)[0].data.allow_pipe


def test_fields_are_named_with_their_members(path: Path) -> None:
    config = load([str(path), "--data.fields", "{a: {member: a.png}, b: {member: b.png, channels: 3}}"])
    assert {name: (field.member, field.channels) for name, field in config.data.fields.items()} == {
        "a": ("a.png", 0),
        "b": ("b.png", 3),
    }
    fields = "{a: {member: a.png}}"
    assert "data.image = png has no effect" in refusal(path, "--data.fields", fields, "--data.image", "png")
    assert "choose another name" in refusal(path, "--data.fields", "{class: {member: a.png}}")
    assert "data.fields.a.size" in refusal(path, "--data.fields", "{a: {member: a.png, size: 3}}")


@pytest.mark.usefixtures("no_home")
def test_without_a_home_the_cache_is_a_temporary_folder() -> None:
    assert default_cache().parent == Path(tempfile.gettempdir())


def test_a_config_is_read_back_equal_from_the_run_directory(path: Path, tmp_path: Path) -> None:
    names = ["--run.name", "2024", "--optimizers.generator.learning_rate", "1.1e-5", "--data.shards", "[a, 'b: c']"]
    config = load([str(path), *names, "--data.labels", "true", "--track.project", "null"])
    recorded = {"version": "0.1.0", "fingerprint": config.fingerprint(), "wandb_id": "12345678"}
    (tmp_path / "config.yaml").write_text(to_yaml(config, recorded))
    again, found = read_run(tmp_path)
    assert (again.flat(), found) == (config.flat(), recorded)
    assert again.fingerprint() == config.fingerprint()


def changed(path: Path, full: Path) -> Iterator[tuple[str, Config, Config]]:
    """Every key, with two configs that differ in it alone."""
    for key, file in every_key(path, full):
        base = load([str(file)])
        value = another(key, base.flat()[key])
        if value is None:
            continue
        needed = [f"--{name}={each}" for name, each in NEEDED.get(key, {}).items()]
        before = base if key.endswith(".kind") else load([str(file), *needed])
        after = load([str(file), *needed, f"--{key}={value}"])
        yield key, before, after


def free_keys(config: Config) -> set[str]:
    return {key for key, is_free in leaves(config) if is_free}


def test_the_fingerprint_changes_with_every_mathematical_key_and_no_other(path: Path, full: Path) -> None:
    for key, before, after in changed(path, full):
        is_free = key in free_keys(before)
        assert (before.fingerprint() == after.fingerprint()) == is_free, key
        found = [each.split(":")[0] for each in differences(before, after)]
        assert (key in found) != is_free


def test_a_key_at_its_default_is_not_in_the_fingerprint(path: Path) -> None:
    """So that a run goes on under a version that has more keys."""
    base = load([str(path)])
    said = load([str(path), "--loss.kind", "nonsaturating", "--training.tf32", "false", "--game.latent", "100"])
    assert said.fingerprint() == base.fingerprint()


def test_the_keys_that_a_running_run_may_change_are_these(full: Path) -> None:
    """Paths, tracking, intervals, workers, strategy: a new key is mathematics unless someone decides otherwise."""
    assert free_keys(load([str(full)])) == {
        "evaluate.against",
        "evaluate.best",
        "evaluate.every",
        "evaluate.reals",
        "evaluate.samples",
        "evaluate.scores.pixels.kind",
        "run.name",
        "run.directory",
        "run.deadline",
        "run.fresh",
        "data.shards",
        "data.allow_pipe",
        "data.remote",
        "data.patience",
        "data.source",
        "data.workers",
        "data.resident",
        "data.max_bad_fraction",
        "data.cache",
        "data.cache_limit",
        "data.cache_local",
        "training.images",
        "training.micro_batches_per_pass",
        "training.strategy",
        "training.device",
        "training.processes",
        "training.threads",
        "training.deterministic",
        "training.channels_last",
        "training.graphs",
        "training.compile",
        "checkpoint.every",
        "checkpoint.keep",
        "checkpoint.milestones",
        "checkpoint.max_missed",
        "control.collapse",
        *(f"control.limits.{name}" for name in Limits.model_fields),
        "control.hang_seconds",
        "control.max_bad_steps",
        "control.desync_every",
        "control.margin_seconds",
        "track.every",
        "track.wandb",
        "track.project",
        "sample.every",
        "sample.count",
    }


def test_differences_name_the_key_with_both_values(path: Path) -> None:
    other = load([str(path), "--training.batch", "32", "--checkpoint.every", "5", "--run.seed", "3"])
    assert differences(load([str(path)]), other) == [
        "run.seed: the run has 0, asked for is 3",
        "training.batch: the run has 16, asked for is 32",
    ]


def test_the_fingerprint_depends_on_values_alone(path: Path) -> None:
    written_out = TEXT + "game:\n  latent: 100\n"
    first = load([str(path)])
    path.write_text(written_out)
    assert load([str(path), "--optimizers.generator.learning_rate=2e-4"]).fingerprint() == first.fingerprint()


def test_a_config_cannot_be_changed(path: Path) -> None:
    config = load([str(path)])
    with pytest.raises(ValueError, match="frozen"):
        config.training.batch = 3  # type: ignore[misc]


def test_every_section_and_key_has_a_docstring(full: Path) -> None:
    def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from sections(field.annotation)

    bare = [
        f"{model.__name__}.{name}"
        for model in sections(type(load([str(full)])))
        for name, field in model.model_fields.items()
        if not (field.description or "").strip().endswith((".", ")"))
    ]
    assert bare == []


def test_help_lists_every_key_with_its_default_and_meaning(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load([str(full), "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for key, field in fields(type(load([str(full)]))):
        assert f"--{key} " in shown
        words = " ".join((field.description or "").split())
        default = "required" if field.is_required() else "default: "
        assert words.replace("- ", "-") in shown.replace("- ", "-"), key
        assert f"{words} [{default}".replace("- ", "-") in shown.replace("- ", "-"), key
    assert "[default: 0.0002]" in shown
    assert "{ddp,exact,zero1,zero2,zero3}" in shown


def test_an_option_without_a_value_is_named(path: Path) -> None:
    assert refusal(path, "--run.seed") == "--run.seed needs a value: --run.seed VALUE"
    assert refusal(path, "--run.seed", "--data.channels", "1") == "--run.seed needs a value: --run.seed VALUE"
    assert "unknown argument -s; keys are written --key.path VALUE" in refusal(path, "-s", "1")


def test_the_run_ends_at_whole_batches(path: Path) -> None:
    assert load([str(path), "--training.images", "1"]).training.whole_images == 16
    assert load([str(path), "--training.images", "16"]).training.whole_images == 16
    assert load([str(path), "--training.images", "17"]).training.whole_images == 32


def test_the_cache_is_where_the_user_or_the_system_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load([str(path), "--data.cache", "/c"]).cache == Path("/c")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert load([str(path)]).cache == Path("/x/gan_dist")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert load([str(path)]).cache == Path.home() / ".cache/gan_dist"


def test_the_order_of_augmentations_is_mathematics(tmp_path: Path) -> None:
    def of(augment: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(Path("tests/data/digits.yaml").read_text() + f"augment: {augment}\n")
        return load([str(path)])

    one, other = of("{ada: {}, diffaugment: {}}"), of("{diffaugment: {}, ada: {}}")
    assert one.fingerprint() != other.fingerprint()
    assert differences(one, other) == ["augment: the run has None, asked for is 'diffaugment, ada'"]
