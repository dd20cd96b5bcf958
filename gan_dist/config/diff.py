"""Compare two configs with all defaults filled in: what differs, and which of it changes the mathematics."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_dist.config import compose, loading, parts, tree, yaml_file
from gan_dist.config.common import Config
from gan_dist.redaction import redact_all

PLACES = ("run.name", "run.directory", "run.fresh")
"""Keys that name a run, and say nothing of it."""
MISSING = "(required)"


@dataclasses.dataclass(frozen=True)
class Side:
    """A config to compare."""

    keys: Mapping[str, Any]
    """Every key with its value."""
    mathematics: Mapping[str, Any]
    """Those that decide what is computed."""
    fingerprint: str
    """Empty where it is not known yet: a required key is missing, as recipes leave data.shards to the command line, or the
    number of classes is left to the data."""


def read(path: Path) -> Side:
    """Return the config of a YAML file or a run directory. Raises InputError for what is none."""
    if path.is_dir():
        return _of(loading.read_run(path)[0])
    path = loading.find(str(path))
    document = yaml_file.read(path)
    document.tree.pop("gan_dist", None)  # a run's own config.yaml
    missing = _missing(document.tree, path.parent)
    for key in missing:
        *sections, name = key.split(".")
        section = document.tree
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = MISSING
    found = _of(loading.validate(document.tree, str(path), document.places, document.texts, path.parent))
    return dataclasses.replace(found, fingerprint="") if missing else found


def _missing(document: dict[str, Any], folder: Path) -> list[str]:
    """Return the required keys of words that a file leaves to the command line."""
    with parts.reading(folder):
        composed = compose.compose(document)
    flat = dict(tree.spread(document))
    found = [key for key, field in tree.fields(composed) if field.is_required() and key not in flat]
    return [key for key in found if key in loading.PATHS and not any(each.startswith(f"{key}.") for each in flat)]


def _of(config: Config) -> Side:
    data = config.data
    known = config.fingerprint() if data.classes or not data.labels else ""
    return Side(redact_all(config.flat()), redact_all(config.mathematics()), known)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key and its two values; None where one side has no such key."""

    key: str
    old: Any
    new: Any
    mathematics: bool

    @property
    def same(self) -> bool:
        return bool(self.old == self.new)


def compare(old: Side, new: Side) -> list[Difference]:
    """Return every key of two configs but those that name the run, in the order of the config.

    data.classes is left out where one of them leaves it to the data, as a run's config has what was found there.
    """
    found = []
    left = any(side.keys.get("data.labels") and not side.keys.get("data.classes") for side in (old, new))
    skipped = (*PLACES, "data.classes") if left else PLACES
    for key in dict.fromkeys([*old.keys, *new.keys, *old.mathematics, *new.mathematics]):
        if key in skipped:
            continue
        decides = key in old.mathematics or key in new.mathematics
        before, after = (side.mathematics.get(key, side.keys.get(key)) for side in (old, new))
        found.append(Difference(key, before, after, decides))
    return found
