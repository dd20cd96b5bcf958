"""Load a config from a YAML file and the command line: merged first and validated once, so every error names its place."""

import os
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from gan_dist.config import compose, legacy, names, parts, yaml_file
from gan_dist.config.common import Config
from gan_dist.config.section import Section
from gan_dist.config.tree import fields
from gan_dist.errors import InputError
from gan_dist.redaction import redact_all

PATHS = ("run.directory", "data.source", "data.cache", "data.shards", "start.from", "evaluate.against")
"""Keys in which ~ and $VARIABLES are expanded."""


def load(arguments: Sequence[str], program: str = "train.py") -> Config:
    """Return the config of a command line: CONFIG [--key.path value ...].

    Raises InputError for a missing file, an unknown key or kind, a wrong type or value, and values that contradict each
    other; each message names the file and line or the option. `--help` prints every key of CONFIG and exits.
    """
    name, options, wants_help = _split(arguments, program)
    path = find(name) if name else None
    document = yaml_file.read(path) if path else yaml_file.Document({}, {}, {})
    tree, places, texts = document
    recorded: Mapping[str, str] = {}
    if path and "gan_dist" in tree:
        tree, texts, recorded = _of_run(path, tree, texts, options)
    if "data.allow_pipe" in places:
        raise InputError(
            f"{places['data.allow_pipe']}: data.allow_pipe lets data.shards run shell commands, so no file may set it; remove "
            "it, and give --data.allow_pipe true on the command line where you trust the commands"
        )
    for key, text in options.items():
        _put(tree, key, _parse_value(key, text), path)
        for below in [name for name in places if name.startswith(f"{key}.")]:  # what stands there no longer counts
            del places[below]
        places[key], texts[key] = f"--{key}", text
    if wants_help:
        try:
            print_help(tree, path, program)
            sys.stdout.flush()
        except BrokenPipeError:  # `... --help | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    if path is None:
        _refuse(f"give a CONFIG: a YAML file, for example configs/digits.yaml; `{program} --help` lists all keys")
    run = tree.setdefault("run", {})
    if isinstance(run, dict) and not isinstance(run.get("name"), list | dict):  # these are refused below
        run["name"] = texts.get("run.name") or path.stem
    return validate(tree, str(path), places, texts, path.parent, recorded)


def _of_run(
    path: Path, tree: dict[str, Any], texts: dict[str, str], options: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str], Mapping[str, str]]:
    """Return the keys of a run's own config.yaml, and the hashes that it recorded of users' files.

    Where it lies in its run, that is the run that goes on, wherever it was moved; with another name it is a new run of the
    same keys. A copy of it elsewhere is a config as any other.
    """
    recorded = tree.pop("gan_dist")
    if legacy.is_old(tree):
        tree, texts = legacy.convert(tree), {key: text for key, text in texts.items() if key == "run.name"}
    run = tree.get("run")
    if path.name == "config.yaml" and (path.parent / "checkpoints").is_dir() and isinstance(run, dict):
        if "run.directory" not in options:
            run["directory"] = "" if options.get("run.name") else str(path.parent)
            texts.pop("run.directory", None)
        sources = recorded.get("sources") if isinstance(recorded, dict) else None
        return tree, texts, sources if isinstance(sources, dict) else {}
    return tree, texts, {}


_SECTIONS = {*Config.model_fields, "game", "networks", "loss", "penalties", "augment", "optimizers", "average"}


def _split(arguments: Sequence[str], program: str) -> tuple[str, dict[str, str], bool]:
    """Return the config's name, {key: text} of the options, and whether help is wanted."""
    names: list[str] = []
    options: dict[str, str] = {}
    rest = list(arguments)
    wants_help = False
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            wants_help = True
        elif word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            if not equals:
                has_value = rest and not rest[0].startswith("--")
                if not has_value and ("." in key or key in _SECTIONS):  # another word is no key, which is said later
                    _refuse(f"{word} needs a value: {word} VALUE")
                text = rest.pop(0) if has_value else ""
            options[key] = text
        elif word.startswith("-") and len(word) > 1:
            _refuse(f"unknown argument {word}; keys are written --key.path VALUE")
        else:
            names.append(word)
    if len(names) > 1:
        _refuse(f"one CONFIG is needed, not {len(names)}: {', '.join(names)}; keys are written --key.path VALUE")
    return (names[0] if names else ""), options, wants_help


def _refuse(text: str) -> NoReturn:
    raise InputError(text)


def find(name: str) -> Path:
    """Return the config file: as given, that of a run directory, or under the folder that holds this package.

    The last finds `configs/digits.yaml` from anywhere.
    """
    path = Path(name)
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    shipped = Path(__file__).parent.parent.parent / name
    if not path.exists() and shipped.is_file():
        return shipped
    return path


def validate(
    tree: dict[str, Any],
    origin: str,
    places: dict[str, str] | None = None,
    texts: dict[str, str] | None = None,
    folder: Path | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Config:
    """Check a tree of keys read from `origin`; `places` and `texts` tell where and how single keys were written.

    `folder` is where users' files are looked for; `recorded` are the hashes that the run in it recorded of them.
    """
    places = places or {}
    try:
        with parts.reading(folder, recorded) as sources:
            composed = compose.compose(tree)
            _take_texts(tree, composed, texts or {}, places)
            config = composed.model_validate(tree)
        config._sources = sources
        return _expand(config)
    except ValidationError as error:
        kinds = [
            _explain(problem, origin, places, composed) for problem in error.errors() if not _is_of_a_union(problem)
        ]
        raise InputError("\n".join(dict.fromkeys(kinds))) from None
    except InputError as error:
        where = _place(str(error).partition(" ")[0].rstrip(":").split("."), places)
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def _take_texts(
    tree: dict[str, Any], composed: type[Config], texts: Mapping[str, str], places: Mapping[str, str]
) -> None:
    """Keys of type str take what is written: `name: 2024` and `deadline: 3:50:00` are words.

    In a file, null and truth values stay what they are, so that they are refused; a word on the command line is a word.
    """
    for key, field in fields(composed):
        if key not in texts or key.endswith(".kind") or not _is_text(field.annotation):
            continue  # a kind is complete: a user's file has its whole path
        *sections, name = key.split(".")
        section: Any = tree
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or (texts[key].startswith("[") and field.annotation is not str):
            continue  # a list of words
        if _names_words(field.annotation, section.get(name)):
            continue
        if (texts[key] and places.get(key, "").startswith("--")) or not isinstance(
            section.get(name), str | bool | type(None)
        ):
            section[name] = texts[key]


def _names_words(kind: Any, value: Any) -> bool:
    """Say whether a key takes words by name and has some: {A: data/a, B: data/b}, and not the pattern {a,b}."""
    takes = any(typing.get_origin(each) is dict for each in typing.get_args(kind))
    return takes and isinstance(value, dict) and all(isinstance(each, str | list) for each in value.values())


def _is_text(kind: Any) -> bool:
    return kind is str or (typing.get_origin(kind) in (typing.Union, types.UnionType) and str in typing.get_args(kind))


def _expand(config: Config) -> Config:
    """~ and $VARIABLES in paths. Raises InputError for a variable that is not set."""
    changes: dict[str, Any] = {}
    flat = {key: value for key, value in config.flat().items() if key in PATHS}
    for key, value in flat.items():
        if (expanded := _expanded_all(key, value)) != value:
            changes[key] = expanded
    return config.with_(changes) if changes else config


def _expanded_all(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded_all(f"{key}.{name}", each) for name, each in value.items()}
    return [_expanded(key, each) for each in value] if isinstance(value, list) else _expanded(key, value)


def _expanded(key: str, text: str) -> str:
    if "://" in text or text.startswith("pipe:"):
        return text
    found = os.path.expandvars(os.path.expanduser(text))
    if missing := re.search(r"\$(\w+|\{\w+\})", found):
        raise InputError(f"{key} = {text}: the variable {missing[0]} is not set; set it, or write the path out")
    return found


def read_run(directory: Path) -> tuple[Config, dict[str, Any]]:
    """Return the resolved config of a run directory, and what was recorded with it (version, fingerprint, W&B id)."""
    path = directory / "config.yaml"
    tree, places, texts = yaml_file.read(path)
    recorded = tree.pop("gan_dist", {})
    if isinstance(tree.get("data"), dict):
        tree["data"].pop("allow_pipe", None)  # for the command line alone
    if legacy.is_old(tree):
        tree, texts = legacy.convert(tree), {}
    sources = recorded.get("sources", {})
    config = validate(tree, str(path), places, texts, directory, sources)
    # a user's file as it was when the run was recorded
    config._sources = {**config.sources, **sources}
    config._contents = dict(recorded.get("contents") or {})
    return config, recorded


def to_yaml(config: Config, recorded: dict[str, Any]) -> str:
    """Return the text of RUN/config.yaml, without the secrets that addresses may hold: a copy of it must not give them away."""
    more = {name: facts for name in ("sources", "contents") if (facts := getattr(config, name))}
    keys = redact_all(config.model_dump(mode="json"))
    keys["data"].pop("allow_pipe", None)  # for the command line alone: a recorded config may become somebody's CONFIG
    return yaml.safe_dump({"gan_dist": {**recorded, **more}, **keys}, sort_keys=False, width=120)


def print_help(tree: dict[str, Any], path: Path | None, program: str) -> None:
    """Print every key that a config has with the game and the parts that `tree` names."""
    with parts.reading(path.parent if path else None):
        composed = compose.compose(tree)
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    print(f"usage: {program} CONFIG [--key.path value ...]\n")
    print("Train a GAN. The same command again goes on where the run stopped.")
    started = f"accelerate launch gan_dist/{program}" if program == "train.py" else program
    print(f"Example: {started} configs/mnist.yaml --training.images 600000\n")
    print(f"Keys of {path or 'a config (give CONFIG to see those of its game and parts)'}:")
    for line in _help(composed, width):
        print(line)
    for key, kinds in compose.kinds(composed).items():
        print(
            f"\nkinds of {key}: {', '.join(kinds) or 'none built in'}, or FILE.py:CLASS of your own (docs/extending.md)"
        )


def _help(composed: type[Config], width: int) -> Iterator[str]:
    last = ""
    for key, field in fields(composed):
        top = key.split(".")[0]
        if top != last:
            last = top
            yield f"\n{top}: {composed.model_fields[top].description or ''}"
        yield f"  --{key} {type_name(field.annotation)}"
        default = "required" if field.is_required() else f"default: {shown(field.default)}"
        text = f"{' '.join((field.description or '').split())} [{default}]"
        yield from textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def shown(value: Any) -> str:
    """Return a value as help prints it."""
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def type_name(kind: Any) -> str:
    """Return a key's type as help prints it."""
    if isinstance(kind, type):
        return "SCHEDULE" if issubclass(kind, BaseModel) else kind.__name__
    if typing.get_origin(kind) is tuple and ... in typing.get_args(kind):
        return f"[{type_name(typing.get_args(kind)[0])}, ...]"
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(str(choice) for choice in typing.get_args(kind)) + "}"
    if typing.get_origin(kind) is tuple:
        return "[{kind: KIND, KEY: VALUE}, ...]"
    if typing.get_origin(kind) is dict:
        return "{NAME: {KEY: VALUE}}"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return "|".join(type_name(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Annotated:
        return type_name(typing.get_args(kind)[0])
    return str(kind)


def _parse_value(key: str, text: str) -> Any:
    try:
        return yaml_file.parse_value(text) if text else text
    except (yaml.YAMLError, ValueError):
        return text  # a word such as {00..09}.tar


def _put(tree: dict[str, Any], key: str, value: Any, path: Path | None) -> None:
    *sections, name = key.split(".")
    for number, section in enumerate(sections):
        if isinstance(tree.get(section), str) and (number or section not in Config.model_fields):
            tree[section] = {"kind": tree[section]}  # a part by its kind alone
        if isinstance(tree.get(section), list) and section not in Config.model_fields:
            tree[section] = compose.by_name(tree[section])
        if isinstance(tree.get(section), int | float) and number:  # a number becomes a schedule
            tree[section] = {}
        if tree.get(section) is None:  # an empty section
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise InputError(f"{path}: {section} must be a section of keys, not the value {tree!r}")
    tree[name] = value


def _is_of_a_union(problem: Any) -> bool:
    """Return what one branch of a union says that another one took up: `number or schedule` complains twice."""
    return problem["type"] == "model_type" and any(str(part).endswith("Schedule") for part in problem["loc"])


def _explain(problem: Any, origin: str, places: dict[str, str], composed: type[Config]) -> str:
    path = [str(part) for part in problem["loc"] if not (isinstance(part, str) and _BRANCH.match(part))]
    key = ".".join(path)
    where = _place(path, places) or origin
    if problem["type"] == "extra_forbidden":
        # of an unknown section (optimizer.G.lr) the key in it says more
        below = [name for name in places if name.startswith(f"{key}.")]
        written = key if key in places or not below else below[-1]
        where = places.get(written, where)
        mark = "--" if where == f"--{written}" else ""
        near = [names.suggest(word, _names(composed), mark) for word in (*reversed(below), key)]
        hint = next(filter(None, near), f"`{Path(sys.argv[0]).name} --help` lists all keys")
        return f"unknown argument {where}; {hint}" if mark else f"{where}: unknown key {written}; {hint}"
    if problem["type"] == "missing":
        needed = [name for name, field in fields(composed) if f"{name}.".startswith(f"{key}.") and field.is_required()]
        if not needed:  # a key of a schedule
            return f"{where}: {key} is missing; write it there or give --{key} VALUE"
        return "\n".join(f"{origin}: {name} is missing; write it there or give --{name} VALUE" for name in needed)
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not key:
        return f"{_place_of_named(message, places) or origin}: {message}"
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key} = {problem['input']!r}: {message}"


def _place(path: Sequence[str], places: Mapping[str, str]) -> str:
    """Return where a key, or what lies above it, was written: a line of a file, or an option. Empty: nowhere."""
    known = (".".join(path[:count]) for count in range(len(path), 0, -1))
    return next((places[part] for part in known if part in places), "")


def _place_of_named(message: str, places: Mapping[str, str]) -> str:
    """Return where one of the keys that a message names was written: on the command line rather than in the file."""
    named = [key.rstrip(".") for key in re.findall(r"[A-Za-z_][\w.]*\.[\w.]+", message)]
    options = (place for key in named if (place := _place(key.split("."), places)).startswith("--"))
    return next(options, "") or next((places[key] for key in named if key in places), "")


_BRANCH = re.compile(r"list\[|str$|float$|int$|constrained|function-|literal|[A-Z]\w*$")
"""Names of a union's branches, which pydantic puts between the names of keys."""


def _names(composed: type[Section]) -> list[str]:
    leaves = [key for key, _ in fields(composed)]
    return list(dict.fromkeys([*leaves, *(key.rsplit(".", 1)[0] for key in leaves)]))
