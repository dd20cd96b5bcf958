"""What the documents name exists: commands with their options, keys of configs, files, links."""

import argparse
import functools
import itertools
import re
from pathlib import Path

import pytest

from gan_dist import cli, config
from gan_dist.errors import InputError
from tests.documents import commands
from tests.launching import REPOSITORY

DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("slurm/*.md")],
    key=lambda path: path.name,
)
OURS = ("gan_dist/", "launch/", "configs/", "slurm/", "benchmarks/", "tests/", "docs/")
STARTS_A_TRAINING = ("gan_dist/train.py", "launch/run.sh", "slurm/train.sbatch", "slurm/array.sbatch")


def problem(words: list[str]) -> str:
    """Say what is wrong with a command; nothing where all that it names exists."""
    if words[0] == "gan-dist":
        return problem_of_ours(words[1:])
    words = [word.removeprefix("./") for word in words]
    for word in words:
        path = word.split("::")[0]
        if path.startswith(OURS) and not is_placeholder(path) and not (REPOSITORY / path).exists():
            return f"there is no {path}"
    if "slurm/command.sbatch" in words:
        return problem_of_ours(words[words.index("slurm/command.sbatch") + 1 :])
    if "gan_dist.cli" in words:
        return problem_of_ours(words[words.index("gan_dist.cli") + 1 :])
    for script in STARTS_A_TRAINING:
        if script in words:
            rest = words[words.index(script) + 1 :]
            return problem_of_keys([word for word in rest if word != "--"])
    if benchmark := [word for word in words if word.startswith("benchmarks/")]:
        known = re.findall(r'"(--[\w-]+)"', (REPOSITORY / benchmark[0]).read_text())
        options = [word for word in words[words.index(benchmark[0]) :] if is_option(word) and "." not in word]
        return ", ".join(word for word in options if word not in known)
    return ""


def problem_of_ours(words: list[str]) -> str:
    """Check a `gan-dist` command, of which `words` are what follows."""
    words = [part for word in words for part in (word.split("=", 1) if is_option(word) else [word])]
    if not words or words[0] == "..." or words[0].isupper() or words[0].startswith("-"):
        return ""
    if words[0] not in cli.COMMANDS:
        return f"there is no command {words[0]}"
    if words[0] == "train":
        return problem_of_keys(words[1:])
    parser = subparsers()[words[0]]
    known = dict(parser._option_string_actions)
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for each in action.choices.values():
            known |= each._option_string_actions
    keys = [word for word in words if is_option(word) and "." in word]
    options = [word for word in words[1:] if re.match(r"--?[a-zA-Z]", word)]
    if unknown := [word for word in options if word not in known and word not in keys]:
        return f"{words[0]} has no {unknown[0]}"
    for option, value in itertools.pairwise(words):
        if problem := problem_of_choice(known.get(option), value):
            return f"{words[0]} {option} {value}: {problem}"
    at = [words.index(key) for key in keys]
    named = [word for word in words[1:] if word.endswith((".yaml", ".yml")) and word not in keys]
    if missing := [path for path in named if not is_placeholder(path) and not (REPOSITORY / path).exists()]:
        return f"there is no {missing[0]}"
    return problem_of_keys([*named[:1], *(word for place in at for word in words[place : place + 2])]) if keys else ""


def problem_of_choice(action: argparse.Action | None, value: str) -> str:
    """Say what is wrong with an option's value: none of its choices, or no number. AB|BA stands for both."""
    if (
        action is None
        or action.nargs == 0
        or is_option(value)
        or value == "..."
        or (value.isupper() and not action.choices)
    ):
        return ""
    for each in value.split("|"):
        try:
            given = action.type(each) if callable(action.type) else each
        except (ValueError, argparse.ArgumentTypeError) as error:
            return str(error)
        if action.choices is not None and given not in action.choices and not each.isupper():
            return f"the choices are {', '.join(map(str, action.choices))}"
    return ""


def problem_of_keys(words: list[str]) -> str:
    """Check a training's config and keys; keys beside a placeholder must be those of some config."""
    words = words[1:] if words and words[0].startswith("runs/") else words  # a run's own config
    files = [word for word in words if word.endswith(".yaml")]
    keys = [word for word in words if word not in files and not word.isupper() and word not in ("...", "--help")]
    real = [path for path in files if (REPOSITORY / path).exists()]
    if wrong := [path for path in files if path not in real and not is_placeholder(path)]:
        return f"there is no {wrong[0]}"
    if any(word.isupper() for word in words if word not in files[:1]):  # --key VALUE
        return ", ".join(f"no part has {key}" for key in keys if is_option(key) and not any_has(key))
    try:
        for path in real[:1]:
            config.load([str(REPOSITORY / path), *keys])
    except (InputError, SystemExit) as error:
        return str(error)
    return "" if real or any_takes(tuple(keys)) else f"no config takes {' '.join(keys)}"


@functools.cache
def any_takes(keys: tuple[str, ...]) -> bool:
    """Say whether a config of ours takes these keys."""
    if not keys:
        return True
    for path in sorted(REPOSITORY.glob("configs/*.yaml")):
        try:
            config.load([str(path), *keys])
        except (InputError, SystemExit):
            continue
        return True
    return False


@functools.cache
def any_has(key: str) -> bool:
    """Say whether a part declares a key of this last name."""
    last = key.rpartition(".")[2]
    return any(
        re.search(rf"^ +{last}\b.*:", path.read_text(), re.MULTILINE) for path in REPOSITORY.rglob("gan_dist/**/*.py")
    )


@functools.cache
def subparsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    actions = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def is_option(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def is_placeholder(path: str) -> bool:
    """Say whether a path stands for the reader's own: one letter, in capitals, or a config that `gan-dist init` writes."""
    stem = Path(path).name.split(".")[0].strip("'")
    return len(stem) == 1 or stem in ("mine", "*", "photos", "flowers", "NAME") or stem.isupper()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_a_document_exist_with_their_options_and_keys(document: Path) -> None:
    found = list(commands(document.read_text()))
    wrong = {" ".join(words): text for words in found if (text := problem(words))}
    assert not wrong


def test_a_wrong_command_option_key_file_or_config_is_seen() -> None:
    block = """```
gan-dist pakc photos/ data/photos
gan-dist pack photos/ data/photos --size 64
./launch/run.sh configs/digits.yaml --training.batsh 3
gan-dist train configs/digit.yaml
python benchmarks/nothing.py
python benchmarks/cache.py --shards FOLDER
sbatch slurm/command.sbatch evaluate runs/x --m 50000
gan-dist track runs/x --to tensorboards
gan-dist pack photos/ data/photos --channels=2
gan-dist generate runs/x --n many
gan-dist doctor configs/digit.yaml
gan-dist config diff configs/digits.yaml configs/digit.yaml
```"""
    wrong = list(commands(block))
    assert [words for words in wrong if not problem(words)] == []
    assert len(wrong) == 12
    assert not problem(["gan-dist", "track", "RUN", "--to", "tensorboard|trackio"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
