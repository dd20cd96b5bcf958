"""A YAML file is read with the line of every key; numbers and words are what a person means by them."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from gan_dist.config import yaml_file
from gan_dist.errors import InputError


def test_every_key_of_a_yaml_file_is_found_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# comment\ndata:\n  shards: a\n\ngame:\n  generator: {learning_rate: 1, beta1: 0}\n  latent: 3\n")
    tree, places, texts = yaml_file.read(path)
    assert tree == {"data": {"shards": "a"}, "game": {"generator": {"learning_rate": 1, "beta1": 0}, "latent": 3}}
    assert places == {
        key: f"{path}, line {line}"
        for key, line in {
            "data": 2,
            "data.shards": 3,
            "game": 5,
            "game.generator": 6,
            "game.generator.learning_rate": 6,
            "game.generator.beta1": 6,
            "game.latent": 7,
        }.items()
    }
    written = {"data.shards": "a", "game.generator.learning_rate": "1", "game.generator.beta1": "0", "game.latent": "3"}
    assert texts == written


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_has_no_sections(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert yaml_file.read(tmp_path / "x.yaml").tree == {}


def test_a_section_without_keys_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("track:\n  # every: 10\nrun:\n")
    assert yaml_file.read(tmp_path / "x.yaml").tree == {"track": {}, "run": {}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1\nb: 2\n", ["line 2", "not valid YAML"]),
        (b"a:\n\tb: 1\n", ["line 2", "not valid YAML"]),
        (b"a: \x00\n", ["not valid YAML"]),
        (b"a: \xff\xfe\n", ["it is not text"]),
        (b"a: !!python/object:os.system x\n", ["line 1", "not valid YAML"]),
        (b"- a\n- b\n", ["must hold sections", "not a list"]),
        (b"hello\n", ["must hold sections", "not a str"]),
        (b"data: {a: 1}\nrun:\n  seed: 1\ndata: {b: 1}\n", ["line 4: data", "second time", "line 1"]),
        (b"run:\n  seed: 1\n  name: x\n  seed: 2\n", ["line 4: run.seed", "second time", "line 2"]),
    ],
)
def test_what_is_no_yaml_with_sections_is_named(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        yaml_file.read(path)
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml cannot be read: No such file"):
        yaml_file.read(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        yaml_file.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),  # YAML 1.1: octal
        ("0o10", "0o10"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),  # YAML 1.1: base 60
        ("3:50:00", "3:50:00"),
        ("190:20:30.15", "190:20:30.15"),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T18:30:00", "2026-11-23T18:30:00"),
        ("2e6", 2e6),
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("10_000", 10_000),
        ("true", True),
        ("no", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'010'", "010"),
        ("_1", "_1"),
    ],
)
def test_numbers_and_words_are_what_they_look_like(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "x.yaml").write_text(f"run: {{a: {text}}}\nmore:\n  a: {text}\n")
    tree = yaml_file.read(tmp_path / "x.yaml").tree
    assert [tree["run"]["a"], tree["more"]["a"]] == [value, value]
    assert [type(section["a"]) for section in tree.values()] == [type(value)] * 2
    assert yaml_file.parse_value(text) == value
    assert type(yaml_file.parse_value(text)) is type(value)


def test_what_is_written_is_kept_beside_what_it_means(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("run: {name: 010, deadline: '3:50'}\n")
    assert yaml_file.read(tmp_path / "x.yaml").texts == {"run.name": "010", "run.deadline": "3:50"}


@pytest.mark.parametrize("text", ["data: &d {x: *d}\n", "data: &d\n  x: [1, *d]\n", "a: {b: &b [*b]}\n"])
def test_an_alias_that_leads_back_to_itself_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml, line \d: an alias leads back to itself; write the values out"):
        yaml_file.read(path)


@pytest.mark.parametrize("kind", ["mappings", "lists"])
def test_aliases_of_aliases_are_refused_before_they_are_written_out(tmp_path: Path, kind: str) -> None:
    """Written out, these are 2 to the 31st keys, which no machine would live to see."""
    names = "abcdefghijklmnopqrstuvwxyzABCDEF"
    pair = "{{x: *{0}, y: *{0}}}" if kind == "mappings" else "[*{0}, *{0}]"
    lines = ["a: &a {x: 1}", *(f"{new}: &{new} {pair.format(old)}" for old, new in itertools.pairwise(names))]
    path = tmp_path / "x.yaml"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"x\.yaml, line \d+: its aliases make too many keys"):
        yaml_file.read(path)


def test_a_few_aliases_and_merged_keys_are_fine(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: *one\n")
    assert yaml_file.read(tmp_path / "x.yaml").tree == {
        "one": {"a": 1, "b": 2},
        "two": {"a": 1, "b": 3},
        "three": {"a": 1, "b": 2},
    }
