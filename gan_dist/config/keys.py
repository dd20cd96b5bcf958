"""Walk through the keys of a config: its sections, its leaves, and copies with other values."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gan_dist.config.section import Section


def sections(section: Section) -> Iterator[Section]:
    """Yield the sections of a config, deepest last, beginning with those right below `section`."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for found in value.values() if isinstance(value, dict) else [value]:
            if isinstance(found, Section):
                yield found
                yield from sections(found)


def leaves(section: Section, prefix: str = "", free: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield every leaf of a config: its key, and whether it is free. Whatever lies in a free section is free."""
    free = free or section.all_free
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.", free)
        else:
            yield f"{prefix}{name}", free or section.is_free(name)


def is_below(key: str, keys: set[str]) -> bool:
    """Say whether a key is one of `keys`, or lies in a section that is."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in keys for count in range(1, len(parts) + 1))


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested dictionaries: ("training.batch", 64), ..."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def with_(section: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of a section with other values of some keys below it: {"training.batch": 8}."""
    below: dict[str, dict[str, Any]] = {}
    update: dict[str, Any] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if name not in type(section).model_fields:
            raise KeyError(f"{type(section).__name__} has no key {name}")
        if rest:
            below.setdefault(name, {})[rest] = value
        else:
            update[name] = value
    update |= {name: with_(getattr(section, name), rest) for name, rest in below.items()}
    return section.model_copy(update=update)


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf key of a section's class with its pydantic field: ("training.batch", FieldInfo), ... in order."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
