"""Two configs are compared as they are effective, and it is said which differences change the mathematics."""

import json
from pathlib import Path

import pytest

from gan_dist import cli, config
from gan_dist.config import diff

BASE = "data: {shards: x, resolution: 16, channels: 1}\ntraining: {images: 100, batch: 8, micro_batch: 4}\n"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def changes(one: str, other: str) -> dict[str, tuple[object, object, bool]]:
    found = diff.compare(diff.read(Path(one)), diff.read(Path(other)))
    return {each.key: (each.old, each.new, each.mathematics) for each in found if not each.same}


def test_only_effective_differences_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.yaml", BASE)
    other = write(tmp_path / "other.yaml", BASE + "loss: nonsaturating\nrun: {seed: 0}\ncheckpoint: {keep: 2}\n")
    assert changes(one, other) == {}
    assert cli.main(["config", "diff", one, other]) == 0
    assert "the same in all" in capsys.readouterr().out


def test_mathematics_and_free_keys_stand_apart_and_the_exit_code_is_that_of_diff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one.yaml", BASE)
    rate = "optimizers: {generator: {learning_rate: {kind: linear, start: 0.1, stop: 0, end: 9}}}\n"
    other = write(
        tmp_path / "other.yaml", BASE.replace("images: 100", "images: 200") + rate + "penalties: {r1: {weight: 2}}\n"
    )
    found = changes(one, other)
    assert found["training.images"] == (100, 200, False)
    assert found["penalties.r1.weight"] == (None, 2.0, True)
    assert found["optimizers.generator.learning_rate"][0] == 0.0002
    assert not [
        key for key in found if not key.startswith(("training.images", "penalties.r1.", "optimizers.generator."))
    ]
    assert cli.main(["config", "diff", one, other]) == 1
    said = capsys.readouterr().out
    mathematics, free = said.split("free: may change when a run goes on\n")
    assert "penalties.r1.weight" in mathematics
    assert "  training.images  100 -> 200\n" in free
    assert cli.main(["config", "diff", one, other, "--json", "--all"]) == 1
    keys = json.loads(capsys.readouterr().out)["keys"]
    assert {"key": "training.batch", "a": 8, "b": 8, "mathematics": True, "same": True} in keys


def test_a_run_is_compared_with_its_recipe_and_a_recipe_may_leave_its_data_open(tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", BASE.replace("shards: x, ", ""))
    whole = write(tmp_path / "whole.yaml", BASE)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(config.load([whole, "--run.name", "of-a-run"]), {"version": "0"}))
    assert changes(whole, str(run)) == {}
    assert changes(whole, str(run / "config.yaml")) == {}
    assert changes(recipe, str(run)) == {"data.shards": (diff.MISSING, "x", False)}
    assert diff.read(Path(recipe)).fingerprint == ""


def test_an_edited_part_of_a_user_s_file_changes_the_mathematics(tmp_path: Path) -> None:
    part = Path("tests/growth/my_loss.py").read_text()
    sides = []
    for name, text in (("a", part), ("b", part + "# edited\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_loss.py").write_text(text)
        sides.append(write(tmp_path / name / "c.yaml", BASE + "loss: {kind: my_loss.py}\n"))
    ((key, (old, new, mathematics)),) = changes(*sides).items()
    assert (key, mathematics) == ("loss.kind", True)
    assert old != new


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.yaml", "configs/digits.yaml"], "the config nowhere.yaml cannot be read"),
        (["tests", "configs/digits.yaml"], "tests is no run directory"),
        (["README.md", "configs/digits.yaml"], "README.md"),
    ],
)
def test_what_is_no_config_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "diff", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_addresses_give_no_secrets_away(tmp_path: Path) -> None:
    secret = BASE.replace("shards: x", "shards: 'https://me:hunter2@host/a.tar'")
    assert "hunter2" not in str(changes(write(tmp_path / "a.yaml", BASE), write(tmp_path / "b.yaml", secret)))


def test_the_number_of_classes_that_a_run_found_is_no_difference_to_its_config(tmp_path: Path) -> None:
    labelled = BASE.replace("channels: 1", "channels: 1, labels: true")
    one = write(tmp_path / "one.yaml", labelled)
    other = write(tmp_path / "other.yaml", labelled.replace("labels: true", "labels: true, classes: 5"))
    assert changes(one, other) == {}
    assert diff.read(Path(one)).fingerprint == ""
