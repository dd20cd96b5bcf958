"""Find keys by words: their names, their docstrings, and what other tools call them."""

import dataclasses
import difflib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gan_dist.config import compose, tree
from gan_dist.config.common import Config
from gan_dist.config.loading import shown, type_name
from gan_dist.config.names import MEANINGS
from gan_dist.config.section import Many, One, Part, Section


@dataclasses.dataclass
class Found:
    """A key, at every place that has it."""

    name: str
    """Its last part."""
    type: str
    default: str | None
    """As help prints it; None: required."""
    description: str
    free: bool
    """Whether it may change when a run goes on."""
    keys: list[str] = dataclasses.field(default_factory=list)
    """In full: optimizers.generator.learning_rate, ..."""
    kinds: list[str] = dataclasses.field(default_factory=list)
    """Of parts that have it; none where every config has it."""
    games: list[str] = dataclasses.field(default_factory=list)
    """That have it; none where all do."""


def everything() -> list[Found]:
    """Return all keys of all games and built-in parts. Keys that mean the same stand together."""
    entries: dict[tuple[Any, ...], Found] = {}
    games = compose.games()
    for game, keys in games.items():
        for key, described, kind in _of_game(game, keys):
            found = entries.setdefault((*described, bool(kind)), Found(key.rpartition(".")[2], *described))
            for entry, entries_of in ((key, found.keys), (kind, found.kinds), (game, found.games)):
                if entry and entry not in entries_of:
                    entries_of.append(entry)
    for found in entries.values():
        if len(found.games) == len(games):
            found.games = []
    return list(entries.values())


def search(known: Sequence[Found], words: Sequence[str]) -> tuple[list[Found], str]:
    """Return the keys that some words mean, the likeliest first, and a note on what another tool's word means here."""
    words = [word.lower().lstrip("-").replace("-", "_") for word in words]
    meaning = MEANINGS.get("_".join(words))
    wanted = meaning.keys if meaning else ()
    meant = [_at(found, key) for key in wanted for found in known if any(_ends(each, key) for each in found.keys)]
    parts = [part for word in words for part in re.findall(r"[a-z0-9]+", word)]
    ranked = sorted(
        ((rank, place) for place, found in enumerate(known) if (rank := _rank(found, parts)) is not None),
    )
    told = {key for found in meant for key in found.keys}
    others = [known[place] for _, place in ranked if not told.issuperset(known[place].keys)] if parts else []
    if not meant and not others and len(words) > 1:  # one of them may be another tool's
        answers = (search(known, [word]) for word in words if word in MEANINGS)
        return next((answer for answer in answers if answer[0]), ([], ""))
    return [*meant, *others], meaning.note if meaning else ""


def _ends(key: str, wanted: str) -> bool:
    return key == wanted or key.endswith(f".{wanted}")


def _at(found: Found, wanted: str) -> Found:
    """Return the key at those places alone that another tool's word means."""
    keys = [key for key in found.keys if _ends(key, wanted)]
    named = {part for key in keys for part in key.split(".")}
    kinds = [kind for kind in found.kinds if kind in named] or found.kinds
    return dataclasses.replace(found, keys=keys, kinds=kinds)


def near(known: Sequence[Found], words: Sequence[str]) -> list[str]:
    """Return names that are written like the words, of our keys or of other tools'."""
    names = [*{found.name for found in known}, *MEANINGS]
    return difflib.get_close_matches("_".join(words).lower().replace("-", "_"), sorted(names), n=3, cutoff=0.6)


def _rank(found: Found, parts: Sequence[str]) -> int | None:
    """Say how near a key is to words that all occur in it, the nearest 0; None where one does not."""
    name = found.name.replace("_", " ")
    keys = " ".join(found.keys).replace("_", " ").replace(".", " ")
    kinds = " ".join(found.kinds).replace("_", " ")
    if name == " ".join(parts) or (name == "kind" and "_".join(parts) in found.type.strip("{}").split(",")):
        return 0
    for rank, text in enumerate((name, keys, f"{keys} {kinds}", f"{keys} {kinds} {found.description.lower()}"), 1):
        if all(re.search(rf"\b{re.escape(part)}", text) for part in parts):
            return rank
    return None


Described = tuple[str, str | None, str, bool]
"""Type, default, description of a key, and whether it is free."""


def _of_game(game: str, keys: type[Part]) -> Iterator[tuple[str, Described, str]]:
    """Yield each key of a game, what it is, and the kind of the part that has it."""
    yield "game.kind", _choice(compose.games(), "generation", False), ""
    yield from ((key, described, game) for key, described in _fields(keys, "game."))
    schedules: Any = importlib.import_module("gan_dist.schedules")
    places: dict[str, Any] = {
        **{name: field.annotation for name, field in Config.model_fields.items() if tree.is_section(field.annotation)},
        **compose.common_places(),
        **keys.parts,  # type: ignore[attr-defined]
        "SCHEDULE": One(schedules.Schedule, schedules.SCHEDULES, ""),
    }
    for place, what in places.items():
        if isinstance(what, type):
            yield from ((key, described, "") for key, described in _fields(what, f"{place}."))
            continue
        free = place.split(".")[0] in _FREE_PLACES
        kinds = {kind: part for kind, part in what.kinds.items() if _takes(part, what.base, place)}
        within = "" if isinstance(what, One) else ".NAME" if isinstance(what, Many) else ".0"  # of a list
        default = "the name" if isinstance(what, Many) else getattr(what, "default", None) or None
        yield f"{place}{within}.kind", _choice(kinds, default, free), ""
        for kind, part in kinds.items():
            prefix = f"{place}.{kind}." if isinstance(what, Many) else f"{place}{within}."
            yield from ((key, described, kind) for key, described in _fields(part, prefix, free))


_SENTENCE = re.compile(r"(?<!eq)\. ")
_FREE_PLACES = ("evaluate", "track")


def _takes(part: type[Part], base: type[Part], place: str) -> bool:
    """Say whether a part can stand at a place: a network makes only some of generator, discriminator and encoder."""
    role = place.rpartition(".")[2].replace("decoder", "generator")
    lacking = getattr(base, role, None)
    return lacking is None or getattr(part, role) is not lacking


def _choice(kinds: Mapping[str, type[Part]], default: str | None, free: bool) -> Described:
    docs = {kind: " ".join((part.__doc__ or "").split()) for kind, part in kinds.items()}
    texts = [f"{kind}: {_SENTENCE.split(doc)[0].rstrip('.')}" for kind, doc in docs.items()]
    text = f"What it is, or FILE.py:CLASS of your own. {'. '.join(texts)}."
    return "{" + ",".join(kinds) + "}", default, text, free


def _fields(section: type[Section], prefix: str, free: bool = False) -> Iterator[tuple[str, Described]]:
    free = free or section.all_free
    for name, field in section.model_fields.items():
        if tree.is_section(field.annotation):
            below: Any = field.annotation
            yield from _fields(below, f"{prefix}{name}.", free)
        elif name != "kind":
            default = None if field.is_required() else shown(field.default)
            description = " ".join((field.description or "").split())
            yield f"{prefix}{name}", (type_name(field.annotation), default, description, free or section.is_free(name))
