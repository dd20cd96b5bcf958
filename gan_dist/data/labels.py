"""Turn the bytes of a label into a class: one rule for index and pack."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

ENDINGS = ("cls", "json")
"""Members that hold labels; the first one present counts."""
MOST_LETTERS = 40
"""Of a class's name where it is shown."""
_T = TypeVar("_T")


def parse(content: bytes, ending: str) -> int | None:
    """Return the class in a .cls member, or under `label` in a .json member; None where it is not a whole number from 0.

    A .cls is text as WebDataset reads it: 007 and +7 are numbers, 0.7 and cat are not.
    """
    try:
        value: Any = content.decode() if ending == "cls" else json.loads(content)
        if isinstance(value, dict):
            value = value["label"]
        whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
        label = int(value) if whole and not isinstance(value, bool) else -1
    except (ValueError, KeyError, RecursionError):
        return None
    return label if 0 <= label < 1 << 31 else None


def of_sample(members: Mapping[str, _T], read: Callable[[_T], bytes]) -> int | None:
    """Return the class of a sample's members (ending -> where they lie)."""
    ending = next((ending for ending in ENDINGS if ending in members), None)
    return None if ending is None else parse(read(members[ending]), ending)


def names_beside(shards: str | list[str] | dict[str, str | list[str]]) -> dict[str, int]:
    """Return what `gan-dist pack` wrote beside the shards: class names and their numbers. Empty if it is not there."""
    if not isinstance(shards, str) or not shards:
        return {}
    place = Path(shards)
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((place if place.is_dir() else place.parent).joinpath("classes.json").read_text())
        if isinstance(found, dict):
            return {str(name): number for name, number in found.items() if isinstance(number, int)}
    return {}


def names(shards: str | list[str] | dict[str, str | list[str]], classes: int) -> list[str]:
    """Return the name of each class of a run: what stands beside its shards, else its number."""
    known = {number: name[:MOST_LETTERS] for name, number in names_beside(shards).items()}
    return [known.get(number, str(number)) for number in range(classes)]
