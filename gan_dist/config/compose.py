"""Put a config together: the sections that every run has, the game's, and those of the parts that its kinds name.

The kinds are read first. Their classes are looked up in the dictionaries of the package, or loaded from users' files. The
composed class is then validated once, so that every error names its place.
"""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from gan_dist.config import parts
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Part, Section, Steps
from gan_dist.errors import InputError

_NAME = re.compile(r"[A-Za-z][\w-]*")
_NO_SOURCE = {"use_attribute_docstrings": False}
"""For sections that are made here: pydantic would look for docstrings in the source of the caller, half of the time of a load."""
Place = One | Many | Steps | type[Section]


def games() -> Mapping[str, type[Part]]:
    """Return the built-in games. Looked up by name: config/ is below games/ and must not import it."""
    found: Mapping[str, type[Part]] = importlib.import_module("gan_dist.games").GAMES
    return found


def compose(tree: dict[str, Any]) -> type[Config]:
    """Return the config's class for a tree of keys, within `parts.reading(folder)`.

    Kinds in `tree` are completed: a part that is only named becomes a section, a user's file has its whole path. Raises
    InputError for unknown kinds and for users' parts that will not do.
    """
    game = _section(tree, "game")
    kind, keys = parts.find(str(game.get("kind") or "generation"), _base_of_games(), games(), "game.kind")
    game["kind"] = kind
    built: dict[str, Any] = {"game": _field(_with_kind(keys, "generation"))}
    for top, below in _by_top({**common_places(), **keys.parts}).items():  # type: ignore[attr-defined]
        place = _section_of(tree, top, below) if isinstance(below, dict) else _place(tree, top, below)
        built[top] = _field(place, Config.model_fields[top].description if top in Config.model_fields else None)
    return create_model("ComposedConfig", __base__=Config, __cls_kwargs__=_NO_SOURCE, **built)


def validate(tree: dict[str, Any], folder: Path | None = None) -> Config:
    """Return the config of a tree of keys. Users' files are looked for in `folder` first.

    Raises InputError for kinds, and pydantic's ValidationError for the rest.
    """
    with parts.reading(folder) as sources:
        config = compose(tree).model_validate(tree)
    config._sources = sources
    return config


def rebuild(tree: dict[str, Any], sources: dict[str, str], contents: dict[str, str]) -> Config:
    """Return the config that was dumped as `tree`, in another process."""
    config = validate(tree)
    config._sources, config._contents = sources, contents
    return config


def _base_of_games() -> type[Part]:
    base: type[Part] = importlib.import_module("gan_dist.games.base").GameKeys
    return base


def common_places() -> dict[str, Place]:
    """Return the places for parts in the sections that every run has. Looked up by name, like the games."""
    scores, panels = (importlib.import_module(f"gan_dist.{name}") for name in ("evaluation", "tracking.panels"))
    scores_text, panels_text = (f"{what} by name, with the keys of each." for what in ("Scores", "Panels"))
    features_text = (
        "Networks that look at images for scores, by name, with the keys of each; a kind alone needs no entry."
    )
    return {
        "evaluate.scores": Many(scores.Metric, scores.METRICS, scores_text, scores.check_name),
        "evaluate.features": Many(scores.Extractor, scores.EXTRACTORS, features_text),
        "track.panels": Many(panels.Panel, panels.PANELS, panels_text, panels.check_name),
    }


def kinds(composed: type[Config]) -> dict[str, list[str]]:
    """Return the built-in kinds of every place of a composition, and of schedules."""
    keys: Any = composed.model_fields["game"].annotation
    places = {**keys.parts, **common_places()}
    schedules = importlib.import_module("gan_dist.schedules").SCHEDULES
    return {
        "game": list(games()),
        **{key: list(place.kinds) for key, place in places.items() if isinstance(place, One | Many | Steps)},
        "a SCHEDULE": list(schedules),
    }


def _by_top(places: Mapping[str, Place]) -> dict[str, Any]:
    """{"loss": place, "networks": {"generator": place, ...}} of dotted keys."""
    found: dict[str, Any] = {}
    for key, place in places.items():
        top, _, rest = key.partition(".")
        if rest:
            found.setdefault(top, {})[rest] = place
        else:
            found[top] = place
    return found


def _section(tree: dict[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
    """Return the section at a key of the tree, made where it is missing. A bare word is its kind."""
    value = tree.setdefault(key, {})
    if isinstance(value, str):
        value = tree[key] = {"kind": value}
    if value is None:
        value = tree[key] = {}
    if not isinstance(value, dict):
        raise InputError(f"{prefix}{key} must be a section of keys, not the value {value!r}")
    return value


def _section_of(tree: dict[str, Any], top: str, below: Mapping[str, Place]) -> type[Section]:
    """Return a section whose keys are places, beside those that it has anyway."""
    section = _section(tree, top)
    base: Any = Config.model_fields[top].annotation if top in Config.model_fields else Section
    made = {
        name: _steps(section, name, place, f"{top}.")
        if isinstance(place, Steps)
        else _field(_place(section, name, place, f"{top}."))
        for name, place in below.items()
    }
    described = _made(top.capitalize(), base, made)
    described.__doc__ = base.__doc__ if base is not Section else f"{top.capitalize()} of {' and '.join(below)}."
    return described


def _steps(tree: dict[str, Any], key: str, place: Steps, prefix: str) -> tuple[Any, Any]:
    """Return a list of parts as a field: a tuple whose entries have the sections that their kinds name."""
    entries = [{"kind": each} if isinstance(each, str) else each for each in _listed(tree, key, prefix)]
    found = []
    for number, entry in enumerate(entries):
        where = f"{prefix}{key}.{number}"
        if not isinstance(entry, dict) or not entry.get("kind"):
            raise InputError(
                f"{where} must be a step with its kind, {{kind: {next(iter(place.kinds))}}}, not {entry!r}"
            )
        entry["kind"], part = parts.find(str(entry["kind"]), place.base, place.kinds, f"{where}.kind")
        found.append(part)
    tree[key] = entries
    return tuple[tuple(found)], Field((), description=place.description)  # type: ignore[misc]


def _listed(tree: dict[str, Any], key: str, prefix: str) -> list[Any]:
    value = tree.get(key)
    if isinstance(value, str | dict):
        value = [value]
    if not isinstance(value, list | tuple | None):
        raise InputError(f"{prefix}{key} must be a list of steps, not the value {value!r}")
    return list(value or ())


def _place(tree: dict[str, Any], key: str, place: One | Many | type[Section], prefix: str = "") -> type[Section]:
    if isinstance(place, One):
        section = _section(tree, key, prefix)
        kind, found = parts.find(
            str(section.get("kind") or place.default), place.base, place.kinds, f"{prefix}{key}.kind"
        )
        section["kind"] = kind
        return _with_kind(found, place.default)
    if isinstance(place, Many):
        if isinstance(tree.get(key), list):
            tree[key] = by_name(tree[key])
        entries = _section(tree, key, prefix)
        if isinstance(entries.get("kind"), str):  # a: one, or one, two
            entries = tree[key] = _joined(by_name(entries.pop("kind").split(",")), entries)
        made = {}
        for name in list(entries):
            _check_name(place, name, f"{prefix}{key}")
            section = _section(entries, name, f"{prefix}{key}.")
            kind, found = parts.find(
                str(section.get("kind") or name), place.base, place.kinds, f"{prefix}{key}.{name}.kind"
            )
            section["kind"] = kind
            made[name] = _field(found)
        described = _made(key.capitalize(), Section, made)
        described.__doc__ = place.description
        described.in_order = place.in_order
        return described
    return place


def _check_name(place: Many, name: Any, key: str) -> None:
    try:
        if isinstance(name, str):
            place.check_name(name)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(key) else f"{key}.{name}: {error}") from None
    if not isinstance(name, str) or not _NAME.fullmatch(name) or hasattr(Section, name):
        raise InputError(
            f"{key}: {name!r} is no name for a part, or has a meaning already; give letters, digits and -_"
        )


def _made(name: str, base: Any, made: dict[str, Any]) -> type[Section]:
    section: type[Section] = create_model(name, __base__=base, __cls_kwargs__=_NO_SOURCE, **made)
    return section


def by_name(kinds: list[Any]) -> dict[str, Any]:
    """Return the sections of parts whose kinds alone are given."""
    found: dict[str, Any] = {}
    for kind in (str(each).strip() for each in kinds):
        if _name(kind) in found:
            raise InputError(
                f"{kind} stands twice in a list of parts; give them names: {{a: {{kind: ...}}, b: {{kind: ...}}}}"
            )
        found[_name(kind)] = {"kind": kind}
    return found


def _joined(named: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    for name, section in entries.items():
        named[name] = {**named.get(name, {}), **section} if isinstance(section, dict) else section
    return named


def _name(kind: str) -> str:
    """Return what a part is called whose kind alone is given."""
    return kind.rpartition(":")[2].removesuffix(".py").rpartition("/")[2]


def _with_kind(found: type[Part], usual: str) -> type[Part]:
    """Return the part's section with the kind that a config has when it names none."""
    described = Field(usual, description=Part.model_fields["kind"].description)
    chosen: type[Part] = create_model(
        found.__name__,
        __base__=found,
        __doc__=found.__doc__,
        __module__=found.__module__,
        __cls_kwargs__=_NO_SOURCE,
        kind=(str, described),
    )
    return chosen


def _field(section: type[Section], description: str | None = None) -> tuple[type[Section], Any]:
    """Return the section as a field: optional where it has no required key."""
    description = description or " ".join((section.__doc__ or "").split())
    if any(field.is_required() for field in section.model_fields.values()):
        return section, Field(description=description)
    return section, Field(section(), description=description)
