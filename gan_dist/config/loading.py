"""A config from a YAML file and the command line: merged first and validated once, so every error names its place."""

import argparse
import difflib
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from gan_dist import files
from gan_dist.config.common import Config, fields
from gan_dist.errors import InputError


def load(arguments: Sequence[str], program: str = "train.py") -> Config:
    """The config of a command line: CONFIG [--key.path value ...].

    Raises InputError for a missing file, an unknown key, a wrong type or value, and values that contradict
    each other; each message names the file and line or the option. `--help` prints every key and exits.
    """
    parser = _parser(program)
    options, unknown = parser.parse_known_args(arguments)
    given = vars(options)
    path = find(given.pop("CONFIG"))
    for word in unknown:
        raise InputError(f"unknown argument {word}{_nearest(word.split('=')[0], [f'--{key}' for key, _ in fields()])}")
    tree, places = files.read_yaml(path)
    if "data.allow_pipe" in places:
        raise InputError(
            f"{places['data.allow_pipe']}: data.allow_pipe lets data.shards run shell commands, so no file may set it; remove "
            "it, and give --data.allow_pipe true on the command line where you trust the commands"
        )
    kinds = {key: field.annotation for key, field in fields()}
    for key, text in given.items():
        _put(tree, key, _parse_value(key, text, kinds[key]), path)
        places[key] = f"--{key}"
    tree.setdefault("run", {})
    if isinstance(tree["run"], dict):
        tree["run"]["name"] = tree["run"].get("name") or path.stem
    return validate(tree, str(path), places)


def find(name: str) -> Path:
    """The config file: as given, or under the folder that holds this package (`configs/digits.yaml` from anywhere)."""
    path = Path(name)
    shipped = Path(__file__).parent.parent.parent / name
    if not path.exists() and shipped.is_file():
        return shipped
    return path


def validate(tree: dict[str, Any], origin: str, places: dict[str, str] | None = None) -> Config:
    """Check a tree of keys read from `origin`; `places` names where single keys were written."""
    places = places or {}
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError("\n".join(_explain(problem, origin, places) for problem in error.errors())) from None


def read_run(directory: Path) -> tuple[Config, dict[str, Any]]:
    """The resolved config of a run directory, and what was recorded with it (version, fingerprint, W&B id)."""
    path = directory / "config.yaml"
    tree, places = files.read_yaml(path)
    recorded = tree.pop("gan_dist", {})
    if isinstance(tree.get("data"), dict):
        tree["data"].pop("allow_pipe", None)  # for the command line alone
    return validate(tree, str(path), places), recorded


def to_yaml(config: Config, recorded: dict[str, Any]) -> str:
    tree = config.model_dump(mode="json")
    del tree["data"]["allow_pipe"]  # for the command line alone: a recorded config may become somebody's CONFIG
    return yaml.safe_dump({"gan_dist": recorded, **tree}, sort_keys=False, width=120)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage="%(prog)s CONFIG [--key.path value ...]",
        description="Train a GAN. The same command again goes on where the run stopped.",
        epilog="Example: accelerate launch gan_dist/train.py configs/mnist.yaml --training.images 600000",
    )
    parser.add_argument("CONFIG", help="YAML file with any of the keys below")
    groups: dict[str, Any] = {}
    for key, field in fields():
        section = key.split(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section, Config.model_fields[section].description)
        default = "required" if field.is_required() else f"default: {_shown(field.default)}"
        text = f"{' '.join((field.description or '').split())} [{default}]"
        groups[section].add_argument(
            f"--{key}", dest=key, metavar=_type_name(field.annotation), help=text.replace("%", "%%")
        )
    return parser


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(kind: Any) -> str:
    if isinstance(kind, type):
        return kind.__name__
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(str(choice) for choice in typing.get_args(kind)) + "}"
    if typing.get_origin(kind) is dict:
        return "{NAME: {KEY: VALUE}}"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return "|".join(_type_name(part) for part in typing.get_args(kind))
    return str(kind)


def _parse_value(key: str, text: str, kind: Any) -> Any:
    several = typing.get_origin(kind) is dict or text.startswith("[")
    if kind is str or (str in typing.get_args(kind) and not several):
        return text  # 2024, null or {00..09}.tar are fine names
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        raise InputError(f"--{key} {text}: not a value that YAML can read; quote it?") from None


def _put(tree: dict[str, Any], key: str, value: Any, path: Path) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"{path}: {section} must be a section of keys, not the value {tree!r}")
    tree[name] = value


def _explain(problem: Any, origin: str, places: dict[str, str]) -> str:
    path = [str(part) for part in problem["loc"] if not (isinstance(part, str) and part.startswith(("list[", "str")))]
    key = ".".join(path)
    known = [part for part in (".".join(path[:count]) for count in range(len(path), 0, -1)) if part in places]
    where = places[known[0]] if known else origin
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key {key}{_nearest(key, _names())}"
    if problem["type"] == "missing":
        needed = [name for name, field in fields() if f"{name}.".startswith(f"{key}.") and field.is_required()]
        return "\n".join(f"{origin}: {name} is missing; write it there or give --{name} VALUE" for name in needed)
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not key or problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key} = {problem['input']!r}: {message}"


def _names() -> list[str]:
    leaves = [key for key, _ in fields()]
    return list(dict.fromkeys([*leaves, *(key.rsplit(".", 1)[0] for key in leaves)]))


def _nearest(word: str, names: Sequence[str]) -> str:
    leaf = word.rsplit(".", 1)[-1].lstrip("-")
    close = [name for name in names if name.rsplit(".", 1)[-1].lstrip("-") == leaf][:1]  # in a wrong section
    close = close or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; `{Path(sys.argv[0]).name} --help` lists all keys"
