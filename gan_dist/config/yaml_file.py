"""Read a YAML file of keys, and where each key stands.

Numbers and words are read as YAML 1.2 has them: 010 is ten, and 3:50:00 is a word. yes, no, on and off stay truth values,
so that they are refused where they are meant as words.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gan_dist.errors import InputError

_MOST_NODES = 100_000  # aliases of aliases grow without limit


class Document(NamedTuple):
    """What a file holds."""

    tree: dict[str, Any]
    places: dict[str, str]
    """{"training.batch": "x.yaml, line 7", ...}"""
    texts: dict[str, str]
    """{"training.batch": "64", ...}: what is written there, for keys that take any text."""


class _Loader(yaml.SafeLoader):
    """The SafeLoader without YAML 1.1's octal and base-60 numbers and its dates, and with 1e-4 as a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*|[0-9][0-9_]*\.?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z"),
    list("-+.0123456789"),
)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def parse_value(text: str) -> Any:
    """One value as it would stand in a file. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def _near(path: Path) -> str:
    """Return a hint of configs with a name like that of a missing one: beside it, in ./configs or in the project's."""
    if path.exists():
        return ""
    found: dict[str, Path] = {}
    for folder in (Path(__file__).parents[2] / "configs", Path("configs"), path.parent):
        with contextlib.suppress(OSError):
            found |= {each.stem: each for each in folder.glob("*.yaml")}
    close = difflib.get_close_matches(path.stem, found, n=2)
    return f"; did you mean {' or '.join(str(found[name]) for name in close)}?" if close else ""


def read(path: Path) -> Document:
    """Return the sections of a YAML file. Raises InputError, with the line, where it cannot be read or has no sections."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"the config {path} cannot be read: {reason}{_near(path)}") from None
    places: dict[str, str] = {}
    texts: dict[str, str] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        for key, line, value in _keys(node, path) if node else ():
            if key in places:
                raise InputError(
                    f"{path}, line {line}: {key} stands there a second time, after {places[key]}; keep one"
                )
            places[key] = f"{path}, line {line}"
            if isinstance(value, yaml.ScalarNode):
                texts[key] = value.value
        tree = yaml.load(text, Loader=_Loader) or {}  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits, !!int of a word
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold sections (run, data, training, ...), not a {type(tree).__name__}")
    # a section with all its keys commented out is an empty one
    return Document({str(key): {} if value is None else _apart(value) for key, value in tree.items()}, places, texts)


def _apart(value: Any) -> Any:
    """Return a copy in which what an alias stands for is another object each time: a key is changed where it is named alone."""
    if isinstance(value, dict):
        return {key: _apart(below) for key, below in value.items()}
    return [_apart(each) for each in value] if isinstance(value, list) else value


def _keys(root: yaml.Node, path: Path) -> Iterator[tuple[str, int, yaml.Node]]:
    """Every key with its line and value. Raises InputError where aliases lead back to themselves or grow too large."""
    stack: list[tuple[yaml.Node, str, tuple[int, ...]]] = [(root, "", ())]
    seen = 0
    while stack:
        node, prefix, above = stack.pop()
        seen += 1
        if id(node) in above or seen > _MOST_NODES:
            what = "an alias leads back to itself" if id(node) in above else "its aliases make too many keys"
            raise InputError(f"{path}, line {node.start_mark.line + 1}: {what}; write the values out")
        above = (*above, id(node))
        if isinstance(node, yaml.SequenceNode):
            stack += [(value, f"{prefix}{number}.", above) for number, value in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        below = []
        for name, value in node.value:
            key = f"{prefix}{getattr(name, 'value', '?')}"
            yield key, name.start_mark.line + 1, value
            below.append((value, f"{key}.", above))
        stack += reversed(below)
