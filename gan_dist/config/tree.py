"""Walk a config: its sections, its leaf keys, and copies with other values."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gan_dist.config.section import Section


def sections(section: Section) -> Iterator[Section]:
    """Return the sections of a config, deepest last, beginning with those right below `section`."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]:
            if isinstance(each, Section):
                yield each
                yield from sections(each)


def named(section: Section, prefix: str = "") -> Iterator[tuple[str, Section]]:
    """Return the sections of a config that hold keys of their own name, each with that: ("training", Training), ..."""
    for name, field in type(section).model_fields.items():
        if is_section(field.annotation):
            below: Section = getattr(section, name)
            yield f"{prefix}{name}", below
            yield from named(below, f"{prefix}{name}.")


def leaves(section: Section, prefix: str = "", free: bool = False) -> Iterator[tuple[str, bool]]:
    """Every leaf key of a config, and whether it is free. Whatever lies in a free section is free."""
    free = free or section.all_free
    for name, field in type(section).model_fields.items():
        if is_section(field.annotation):
            yield from leaves(getattr(section, name), f"{prefix}{name}.", free)
        else:
            yield f"{prefix}{name}", free or section.is_free(name)


def orders(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each section whose parts work one after the other, in another order than the alphabet's: ("augment", "b, a")."""
    for name, field in type(section).model_fields.items():
        if is_section(field.annotation):
            below: Section = getattr(section, name)
            names = list(type(below).model_fields)
            if below.in_order and names != sorted(names):
                yield f"{prefix}{name}", ", ".join(names)
            yield from orders(below, f"{prefix}{name}.")


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf key of a section's class with its pydantic field: ("training.batch", FieldInfo), ... in order."""
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if is_section(kind):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def is_section(kind: Any) -> bool:
    """Whether a field holds a section. A schedule in the place of a number is a value."""
    return isinstance(kind, type) and issubclass(kind, Section)


def flat(section: Section, dumped: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf key with its value of `dumped`, the section as plain data."""
    for name, field in type(section).model_fields.items():
        if is_section(field.annotation):
            yield from flat(getattr(section, name), dumped[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", dumped[name]


def changed(section: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy with other values of some keys. Raises KeyError for a key that is not there."""
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
    update |= {name: changed(getattr(section, name), rest) for name, rest in below.items()}
    return section.model_copy(update=update)


def spread(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the same with dictionaries spread out: {"a": {"b": 1}} has the key a.b."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from spread(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
