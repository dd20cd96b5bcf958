"""A config is composed of parts: built-in kinds, and classes in users' files, each with its own keys."""

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from gan_dist.config import Config, differences, fields, load, read_run, to_yaml
from gan_dist.errors import InputError
from gan_dist.losses import Hinge, Minimax
from gan_dist.networks.article import Article
from gan_dist.optimizers import AdamW, Sgd
from gan_dist.run_directory import open_run
from gan_dist.schedules import Cosine, Linear, WarmUp

TEXT = """\
data:
  shards: somewhere
  resolution: 28
  channels: 1
training:
  images: 1000
  batch: 16
  micro_batch: 4
"""

LOSS = """\
from torch import Tensor

from gan_dist.losses import Loss


class Shifted(Loss):
    \"\"\"A mean, shifted.\"\"\"

    shift: float = 1.0
    \"\"\"What is added.\"\"\"

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return self.shift - fake.mean()

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return fake.mean() - real.mean() + self.shift
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def own(path: Path) -> Path:
    """A user's file beside the config."""
    own = path.with_name("my_loss.py")
    own.write_text(LOSS)
    return own


def with_text(path: Path, text: str, *words: str) -> Config:
    path.write_text(TEXT + text)
    return load([str(path), *words])


def refusal(path: Path, text: str, *words: str) -> str:
    path.write_text(TEXT + text)
    with pytest.raises(InputError) as caught:
        load([str(path), *words])
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "loss: hinge\nnetworks: {generator: article, discriminator: article}\noptimizers: {generator: sgd}\n",
        "loss: {kind: hinge}\nnetworks:\n  generator: {kind: article}\n  discriminator: {kind: article}\n"
        "optimizers:\n  generator:\n    kind: sgd\n",
    ],
)
def test_a_kind_is_a_bare_word_or_stands_in_its_section(path: Path, text: str) -> None:
    config = with_text(path, text)
    assert isinstance(config.loss, Hinge)
    assert isinstance(config.networks.generator, Article)
    assert isinstance(config.optimizers.generator, Sgd)
    assert config.optimizers.generator.momentum == 0.9
    assert config.flat()["loss.kind"] == "hinge"


@pytest.mark.parametrize("text", ["", "loss: minimax\n", "loss:\n", "loss: {kind: minimax}\n"])
def test_the_command_line_names_kinds_in_both_ways_whatever_the_file_has(path: Path, text: str) -> None:
    for words in (["--loss", "hinge"], ["--loss.kind", "hinge"], ["--loss=hinge"]):
        assert isinstance(with_text(path, NETWORKS + text, *words).loss, Hinge)
    plain = with_text(path, NETWORKS + text)
    assert isinstance(plain.loss, Minimax) == ("minimax" in text)


def test_a_bare_word_in_the_file_and_a_key_on_the_command_line_go_together(path: Path) -> None:
    words = ["--optimizers.generator.weight_decay", "0.1", "--networks.generator.kind", "article"]
    config = with_text(
        path, "optimizers: {generator: adamw}\nnetworks: {generator: dcgan, discriminator: article}\n", *words
    )
    assert isinstance(config.optimizers.generator, AdamW)
    assert config.optimizers.generator.weight_decay == 0.1
    assert isinstance(config.networks.generator, Article)


def test_parts_by_name_are_a_section_a_list_or_words(path: Path) -> None:
    needed = "networks: {generator: article, discriminator: article}\npenalties: "
    config = with_text(path, needed + "{r1: {weight: 2}, mine: {kind: r1, weight: 3, every: 4}}\n")
    assert [config.penalties.r1.weight, config.penalties.mine.weight, config.penalties.mine.every] == [2, 3, 4]
    for text in ("[r1, r2]", "r1, r2"):
        for config in (
            with_text(path, f"{needed}{text}\n", *WEIGHTS),
            with_text(path, NETWORKS, "--penalties", text, *WEIGHTS),
        ):
            assert list(type(config.penalties).model_fields) == ["r1", "r2"]
            assert [config.penalties.r1.kind, config.penalties.r2.weight] == ["r1", 1]
    assert not list(type(with_text(path, needed + "\n").penalties).model_fields)


WEIGHTS = ["--penalties.r1.weight", "1", "--penalties.r2.weight", "1"]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (
            "loss: hing\n",
            "line 9",
            "loss.kind = hing: there is no such kind; did you mean hinge? known are nonsaturating,",
        ),
        ("loss: {kind: hing}\n", "line 9", "did you mean hinge?"),
        (
            "networks:\n  generator: dcgn\n",
            "line 10",
            "networks.generator.kind = dcgn: there is no such kind; did you mean dcgan",
        ),
        ("optimizers:\n  discriminator:\n    kind: adm\n", "line 11", "did you mean adam"),
        ("penalties:\n  r3: {weight: 1}\n", "line 10", "penalties.r3.kind = r3: there is no such kind; did you mean "),
        ("game: generatoin\n", "line 9", "game.kind = generatoin: there is no such kind; did you mean generation"),
        (
            "augment: {flip: {}}\n",
            "line 9",
            "augment.flip.kind = flip: there is no such kind; known are ada, diffaugment",
        ),
        ("loss: 3\n", "line 9", "loss must be a section of keys, not the value 3"),
        (
            "networks:\n  generator: [a]\n",
            "line 10",
            "networks.generator must be a section of keys, not the value ['a']",
        ),
    ],
)
def test_an_unknown_kind_is_named_with_its_line_and_the_nearest(path: Path, text: str, place: str, said: str) -> None:
    found = refusal(path, text)
    assert found.startswith(f"{path}, {place}: "), found
    assert said in found


def test_an_unknown_kind_on_the_command_line_names_its_key(path: Path) -> None:
    assert refusal(path, "loss: hinge\n", "--loss.kind", "hing").startswith(
        "--loss.kind: loss.kind = hing: there is no such kind; did"
    )
    assert "did you mean sgd?" in refusal(path, "", "--optimizers.generator", "sg")


def test_a_key_of_another_kind_is_unknown(path: Path) -> None:
    found = refusal(path, "optimizers:\n  generator: {kind: sgd, beta1: 0.5}\n")
    assert found.startswith(f"{path}, line 10: unknown key optimizers.generator.beta1; did you mean ")
    both = "networks: {generator: article, discriminator: article}\n"
    assert "unknown argument --networks.generator.base_channels" in refusal(
        path, both, "--networks.generator.base_channels", "8"
    )


def test_a_penalty_without_its_weight_names_the_key(path: Path) -> None:
    both = "networks: {generator: article, discriminator: article}\n"
    assert "penalties.r1.weight is missing; write it there or give --penalties.r1.weight VALUE" in refusal(
        path, both + "penalties: {r1: {every: 4}}\n"
    )


NETWORKS = "networks: {generator: article, discriminator: article}\n"


def test_a_users_file_lies_beside_the_config_or_anywhere(
    own: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for kind in ("my_loss.py:Shifted", "my_loss.py", f"{own}:Shifted", str(own), "../my_loss.py:Shifted"):
        config = with_text(path, f"{NETWORKS}loss: {{kind: {kind}, shift: 2}}\n")
        assert config.loss.shift == 2.0
        assert config.loss.kind == f"{own}:Shifted"
        assert type(config.loss).__name__ == "Shifted"
    config = with_text(path, NETWORKS, "--loss", "my_loss.py", "--loss.shift", "3")
    assert config.loss.shift == 3.0


def test_a_users_part_by_name_is_called_by_its_class(own: Path, path: Path) -> None:
    text = LOSS.replace("from gan_dist.losses import Loss", "from gan_dist.penalties import Penalty as Loss")
    own.write_text(text)
    config = with_text(path, f"{NETWORKS}penalties: {{mine: {{kind: my_loss.py:Shifted, weight: 2}}}}\n")
    assert config.penalties.mine.weight == 2


def test_a_part_of_an_installed_package_is_named_by_dots(path: Path) -> None:
    config = with_text(path, f"{NETWORKS}loss: gan_dist.losses:Hinge\n")
    assert isinstance(config.loss, Hinge)
    assert "nowhere.losses cannot be imported: ModuleNotFoundError" in refusal(path, "loss: nowhere.losses:Mine\n")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (("class Shifted", "class Shifted(("), "my_loss.py", "line 6 cannot be loaded: SyntaxError"),
        (
            ("from torch", "import nowhere_at_all\nfrom torch"),
            "my_loss.py",
            "line 1 cannot be loaded: ModuleNotFoundError",
        ),
        (("", ""), "my_loss.py:Shiftet", "my_loss.py has no class Shiftet; did you mean Shifted?"),
        (("", ""), "my_los.py", "there is no file my_los.py in "),
        (("(Loss)", ""), "my_loss.py:Shifted", "Shifted has no config class: let it inherit gan_dist.losses.Loss"),
        (
            ("(Loss)", ""),
            "my_loss.py",
            "name one class, my_loss.py:CLASS; no class in it inherits gan_dist.losses.Loss",
        ),
        (
            ("class Shifted", "class Other(Loss): ...\nclass Shifted"),
            "my_loss.py",
            "name one class, my_loss.py:CLASS; it has Other, Shifted",
        ),
    ],
)
def test_a_users_file_that_will_not_do_is_named_with_what_to_change(
    own: Path, path: Path, change: tuple[str, str], kind: str, said: str
) -> None:
    own.write_text(LOSS.replace(*change) if change[0] else LOSS)
    found = refusal(path, f"{NETWORKS}loss: {kind}\n")
    assert found.startswith(f"{path}, line 10: loss.kind: "), found
    assert said in found
    assert len(found.splitlines()) == 1


def test_a_users_keys_are_checked_and_listed_like_any(
    own: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean loss.shift?" in refusal(path, f"{NETWORKS}loss: {{kind: my_loss.py, shfit: 2}}\n")
    assert f"{path}, line 10: loss.shift = 'much': " in refusal(
        path, f"{NETWORKS}loss: {{kind: my_loss.py, shift: much}}\n"
    )
    path.write_text(TEXT + f"{NETWORKS}loss: my_loss.py\n")
    with pytest.raises(SystemExit):
        load([str(path), "--help"])
    shown = capsys.readouterr().out
    assert "loss: A mean, shifted." in shown
    assert "--loss.shift float\n      What is added. [default: 1.0]" in shown


def test_a_changed_file_is_another_run_and_the_same_file_elsewhere_is_not(
    own: Path, path: Path, tmp_path: Path
) -> None:
    text = f"{NETWORKS}loss: my_loss.py\n"
    first = with_text(path, text)
    (tmp_path / "there").mkdir()
    other = tmp_path / "there/my_loss.py"
    other.write_text(LOSS)
    moved = with_text(path, f"{NETWORKS}loss: there/my_loss.py\n")
    assert moved.loss.kind != first.loss.kind
    assert moved.fingerprint() == first.fingerprint()
    assert differences(first, moved) == []

    directory = ["--run.directory", str(tmp_path / "run")]
    open_run(with_text(path, text, *directory), "digest")
    own.write_text(LOSS.replace("self.shift - fake", "2 * self.shift - fake"))
    changed = with_text(path, text, *directory)
    assert changed.fingerprint() != first.fingerprint()
    (said,) = differences(first, changed)
    assert said.startswith("loss.kind: the run has 'Shifted of a file with SHA-256 ")
    assert "asked for is 'Shifted of a file with SHA-256 " in said
    before, after = (next(iter(config.sources.values())) for config in (first, changed))
    assert before[:16] in said
    assert after[:16] in said
    with pytest.raises(InputError, match="holds a run of another config") as caught:
        open_run(changed, "digest")
    assert before[:16] in str(caught.value)
    assert after[:16] in str(caught.value)
    own.write_text(LOSS)
    open_run(with_text(path, text, *directory), "digest")


def test_a_run_remembers_the_users_file_it_was_recorded_with(own: Path, path: Path, tmp_path: Path) -> None:
    config = with_text(path, f"{NETWORKS}loss: my_loss.py\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(to_yaml(config, {"version": "x"}))
    again, recorded = read_run(tmp_path / "run")
    assert (again.flat(), again.sources, again.fingerprint()) == (config.flat(), config.sources, config.fingerprint())
    assert recorded["version"] == "x"
    own.write_text(LOSS + "# a word more\n")
    again, _ = read_run(tmp_path / "run")
    assert again.fingerprint() == config.fingerprint()


def facts(config: Config) -> dict[str, Any]:
    return {
        "flat": config.flat(),
        "fingerprint": config.fingerprint(),
        "sources": config.sources,
        "loss": type(config.loss).__name__,
        "rate": config.optimizers.generator.learning_rate.at(500),
        "process": os.getpid(),
    }


@pytest.mark.slow
def test_a_composed_config_goes_to_another_process(own: Path, path: Path) -> None:
    rate = "optimizers: {generator: {learning_rate: {kind: linear, start: 1e-3, stop: 0, end: 1000}}}\n"
    config = with_text(path, f"{NETWORKS}{rate}loss: {{kind: my_loss.py, shift: 3}}\n").with_({"training.batch": 8})
    here = facts(config)
    assert here["rate"] == pytest.approx(5e-4)
    assert facts(pickle.loads(pickle.dumps(config))) == here
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(facts, (config,))
    assert there.pop("process") != here.pop("process")
    assert there == here


def test_with_changes_a_copy_at_any_depth(path: Path) -> None:
    config = with_text(path, NETWORKS)
    changed = config.with_(
        {"training.batch": 32, "optimizers.generator.learning_rate": 1.0, "game.latent": 3, "loss": Hinge(kind="hinge")}
    )
    assert (changed.training.batch, changed.optimizers.generator.learning_rate, changed.game.latent) == (32, 1.0, 3)
    assert isinstance(changed.loss, Hinge)
    assert (config.training.batch, config.optimizers.generator.learning_rate, config.game.latent) == (16, 2e-4, 100)
    assert changed.training.micro_batch == config.training.micro_batch
    for key in ("training.bacth", "nothing.batch", "optimizers.nobody.beta1"):
        with pytest.raises(KeyError, match="has no key"):
            config.with_({key: 1})


def test_a_number_may_be_a_schedule(path: Path) -> None:
    config = with_text(
        path,
        f"{NETWORKS}optimizers:\n  generator:\n    learning_rate: {{kind: cosine, start: 2e-4, stop: 5e-5, end: 1_000}}\n"
        "    beta1: {kind: warm_up, stop: 0.5, end: 100}\n"
        "penalties: {r1: {weight: {kind: linear, start: 10, stop: 1, end: 500}}}\n"
        "average: {half_life: {kind: linear, start: 10, stop: 100, end: 500}}\n",
    )
    rate = config.optimizers.generator.learning_rate
    assert isinstance(rate, Cosine)
    assert (rate.at(0), rate.at(500), rate.at(10**6)) == pytest.approx((2e-4, 1.25e-4, 5e-5))
    assert isinstance(config.optimizers.generator.beta1, WarmUp)
    assert isinstance(config.penalties.r1.weight, Linear)
    assert config.average.half_life.at(250) == 55
    assert config.optimizers.discriminator.learning_rate == 2e-4


@pytest.mark.parametrize(
    "text", ["", "optimizers: {generator: {learning_rate: 3e-4}}\n", "optimizers: {generator: adam}\n"]
)
def test_a_schedule_may_be_given_on_the_command_line(path: Path, text: str) -> None:
    key = "--optimizers.generator.learning_rate"
    words = [f"{key}.kind", "cosine", f"{key}.start", "2e-4", f"{key}.stop", "5e-5", f"{key}.end", "1000"]
    rate = with_text(path, NETWORKS + text, *words).optimizers.generator.learning_rate
    assert isinstance(rate, Cosine)
    assert (rate.start, rate.stop, rate.begin, rate.end) == (2e-4, 5e-5, 0, 1000)
    whole = with_text(path, NETWORKS, f"{key}={{kind: linear, start: 1, stop: 0.5, end: 9}}")
    assert isinstance(whole.optimizers.generator.learning_rate, Linear)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{kind: cosin, start: 1, stop: 0, end: 9}", "cosin: there is no such kind; did you mean cosine?"),
        ("{kind: cosine, start: 1, stop: 0, end: 9, finish: 3}", "finish"),
        ("{kind: cosine, start: 1, stop: 0}", "end"),
        (
            "{kind: cosine, start: 1, stop: 0, begin: 9, end: 9}",
            "a schedule must end after it begins: begin = 9, end = 9",
        ),
        ("-1", "greater than 0"),
        ("fast", "valid number"),
    ],
)
def test_a_schedule_that_will_not_do_is_named_with_its_place(path: Path, value: str, said: str) -> None:
    found = refusal(path, f"{NETWORKS}optimizers:\n  generator:\n    learning_rate: {value}\n")
    assert said in found
    assert all(line.startswith(f"{path}, line 12: ") for line in found.splitlines()), found


def test_a_schedule_is_mathematics_and_is_read_back(path: Path, tmp_path: Path) -> None:
    text = f"{NETWORKS}optimizers: {{generator: {{learning_rate: {{kind: linear, start: 1, stop: 0.5, end: 9}}}}}}\n"
    config, plain = with_text(path, text), with_text(path, NETWORKS)
    assert config.fingerprint() != plain.fingerprint()
    assert config.fingerprint() != with_text(path, text.replace("end: 9", "end: 10")).fingerprint()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(to_yaml(config, {}))
    again, _ = read_run(tmp_path / "run")
    assert (again.flat(), again.fingerprint()) == (config.flat(), config.fingerprint())
    (said,) = differences(config, with_text(path, text.replace("stop: 0.5", "stop: 0.25")))
    assert said == "optimizers.generator.learning_rate.stop: the run has 0.5, asked for is 0.25"


def test_help_of_a_config_lists_its_composition_and_the_kinds(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(text: str, *words: str) -> str:
        path.write_text(TEXT + text)
        with pytest.raises(SystemExit) as caught:
            load([str(path), *words, "--help"])
        assert caught.value.code == 0
        return capsys.readouterr().out

    plain = shown("")
    assert f"Keys of {path}:" in plain
    assert "--networks.generator.base_channels int" in plain
    assert "weight_decay" not in plain
    assert "kinds of loss: nonsaturating, minimax, hinge," in plain
    assert "kinds of optimizers.generator: adam, adamw, sgd, rmsprop, or FILE.py:CLASS of your own" in plain
    other = shown(f"{NETWORKS}penalties: {{r1: {{weight: 1}}}}\n", "--optimizers.generator", "adamw")
    assert "base_channels" not in other
    assert "--optimizers.generator.weight_decay float" in other
    assert "--optimizers.discriminator.weight_decay" not in other
    assert "--penalties.r1.every int" in other
    assert "--optimizers.generator.learning_rate float|SCHEDULE" in other


def test_words_that_yaml_would_take_for_something_else_are_words(path: Path) -> None:
    text = f"{NETWORKS}run: {{name: 2024, deadline: 3:50:00}}\ntrack: {{project: 010}}\n"
    config = with_text(path, text)
    assert (config.run.name, config.run.deadline, config.track.project) == ("2024", "3:50:00", "010")
    for deadline in ("2026-11-23", "2026-11-23T18:30:00"):
        assert with_text(path, f"{NETWORKS}run: {{deadline: {deadline}}}\n").run.deadline == deadline
        assert with_text(path, NETWORKS, "--run.deadline", deadline).run.deadline == deadline
    assert with_text(path, NETWORKS, "--track.project", "010").track.project == "010"
    assert "must not be true or false" in refusal(path, f"{NETWORKS}track: {{project: no}}\n")


@pytest.mark.parametrize(("text", "images"), [("010", 10), ("2e6", 2_000_000), ("2.0e6", 2_000_000), ("2_000", 2000)])
def test_whole_numbers_are_decimal_and_may_have_an_exponent(path: Path, text: str, images: int) -> None:
    assert with_text(path, NETWORKS, "--training.images", text).training.images == images
    path.write_text((TEXT + NETWORKS).replace("images: 1000", f"images: {text}"))
    assert load([str(path)]).training.images == images


def test_what_base_60_would_be_is_no_number(path: Path) -> None:
    assert "valid integer" in refusal(path, NETWORKS, "--training.images", "1:30")
    assert refusal(path, NETWORKS, "--training.images", "1:30").startswith("--training.images: ")


def test_home_and_variables_in_paths_are_expanded(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    text = f"{NETWORKS}run: {{directory: $SCRATCH/runs/t}}\n"
    words = ["--data.cache", "~/cache", "--data.source", "${SCRATCH}/images"]
    config = with_text(
        path, text, *words, "--data.shards", "[~/a.tar, $SCRATCH/b.tar, 'https://host/$x.tar', 'pipe:cat $y']"
    )
    assert config.run.directory == "/scratch/me/runs/t"
    assert config.directory == Path("/scratch/me/runs/t")
    assert config.cache == tmp_path / "home/cache"
    assert config.data.source == "/scratch/me/images"
    assert config.data.shards == [
        str(tmp_path / "home/a.tar"),
        "/scratch/me/b.tar",
        "https://host/$x.tar",
        "pipe:cat $y",
    ]
    assert with_text(path, NETWORKS, "--data.shards", "~/data").data.shards == str(tmp_path / "home/data")


def test_a_variable_that_is_not_set_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    for key in ("run.directory", "data.cache", "data.source", "data.shards"):
        for text in ("$NOWHERE/x", "${NOWHERE}/x"):
            assert (
                f"{key} = {text}: the variable {text.partition('/')[0]} is not set; set it, or write the path out"
                in refusal(path, NETWORKS, f"--{key}", text)
            )


def test_every_field_of_a_composition_is_listed_once(path: Path) -> None:
    config = with_text(path, f"{NETWORKS}penalties: {{r1: {{weight: 1}}}}\n")
    names = [key for key, _ in fields(type(config))]
    assert len(names) == len(set(names))
    assert set(names) == set(config.flat())


def test_a_file_named_on_the_command_line_is_tied_to_the_run_like_one_in_the_file(own: Path, path: Path) -> None:
    written = with_text(path, f"{NETWORKS}loss: my_loss.py\n")
    for words in (["--loss", "my_loss.py"], ["--loss.kind", "my_loss.py:Shifted"]):
        named = with_text(path, NETWORKS, *words)
        assert named.loss.kind == written.loss.kind
        assert (named.sources, named.fingerprint()) == (written.sources, written.fingerprint())
