"""Find folders of clean images and of the same images degraded, which belong together by the names of their files."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gan_dist.data.pack.pairs import size_of
from gan_dist.errors import InputError
from gan_dist.recipes import pairs

_CLEAN = re.compile(r"hr|gt|gtmod\d+|clean|sharp")
_DEGRADED = re.compile(r"lr|lq|lrbicx?\d*|noisy|blur|blurry")
"""Words in the names of folders, in small letters: DIV2K_train_HR, LR_bicubic."""
_INPUT, _TARGET = "input", "target"
_HELD_OUT = {"valid", "val", "test"}
_OFTEN = "bicubic"
"""Of several ways in which DIV2K degrades its images, the one that papers begin with."""
USUAL = 4
"""How many times papers enlarge an image."""
_LOOKED = 64  # pairs whose sizes are compared; packing compares all


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two folders below a source whose files belong together by their names."""

    target: str
    input: str
    templates: tuple[str, str]
    """How files of both are called, {} for what is the same: ("{}", "{}x4")."""
    scale: int
    """How many times smaller the sides of an input are."""
    jpeg: tuple[bool, bool]
    """Whether all files of a folder are JPEGs by name: pack then keeps them so."""
    others: tuple[str, ...] = ()
    """Folders that would have done as well as `input`."""


def find(source: str, game: str) -> Pair | None:
    """Return clean and degraded folders below a source, for a `game` that was asked for or for any ("").

    None where there are none. Raises InputError where their images do not fit together.
    """
    if game not in ("", "restoration") or not os.path.isdir(source):
        return None
    strange = ""
    for target, named in _folders(Path(source)):
        clean = pairs.names_in(Path(source) / target)
        found = [(each, pairs.names_in(Path(source) / each)) for each in named]
        fitting = [(each, names, called) for each, names in found if (called := templates(clean, names))]
        if not fitting:
            strange = strange or f"{target} has {len(clean)} images and {named[0]} {len(found[0][1])}"
            continue
        degraded, names, called = fitting[0]
        scale = _scale(Path(source), target, degraded, called, clean, names)
        if scale == 1 and not game and target.lower() == _TARGET:  # pix2pix, unless restoration is asked for
            continue
        others = tuple(each for each, *_ in fitting[1:])
        return Pair(target, degraded, called, scale, (pairs.all_jpeg(clean), pairs.all_jpeg(names)), others)
    if strange and game:
        raise InputError(
            f"{source}: {strange}, of names that do not belong together; each image needs a counterpart of the same name, as "
            "0001.png and 0001x4.png"
        )
    return None


def _folders(source: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder of clean images and those that may hold them degraded, the likeliest first."""
    below = _below(source)
    clean, degraded = ([(name, _before(name, kind)) for name in below] for kind in (_CLEAN, _DEGRADED))
    sides = [[(name, before) for name, before in side if before is not None] for side in (clean, degraded)]
    alone = len(sides[0]) == len(sides[1]) == 1
    for name, before in sorted(sides[0], key=lambda each: bool(_HELD_OUT & set(each[1]))):
        alike = [other for other, words in sides[1] if alone or words == before]
        places = [
            place
            for other in sorted(alike, key=lambda other: _OFTEN not in other.lower())
            for place in _by_scale(source, other)
        ]
        if places:
            yield name, places
    names = {name.lower(): name for name in below}
    if {_INPUT, _TARGET} <= names.keys():
        yield names[_TARGET], [names[_INPUT]]


def _before(name: str, kind: re.Pattern[str]) -> list[str] | None:
    """Return the words of a folder's name before the first one of a kind; None where it has none of it."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    place = next((place for place, word in enumerate(words) if kind.fullmatch(word)), None)
    return None if place is None else words[:place]


def _by_scale(source: Path, folder: str) -> list[str]:
    """Return the folders below one that are named by a scale, as X2, X3 and X4, the usual one first; else the folder itself."""
    scales = {
        name: int(found[1]) for name in _below(source / folder) if (found := re.fullmatch(r"[xX]?(\d+)[xX]?", name))
    }
    ranked = sorted(scales, key=lambda name: (scales[name] != USUAL, -scales[name]))
    return [f"{folder}/{name}" for name in ranked] or [folder]


def _below(folder: Path) -> list[str]:
    """Return the folders in one, by name, without those that an option of `gan-dist pack` cannot name."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not re.search(r"[,:{}]", entry.name))


def templates(clean: Sequence[str], degraded: Sequence[str]) -> tuple[str, str] | None:
    """Return how the files of two folders are called, {} for what is the same in both; None where they are no pairs.

    0001.png and 0001x4.png: ("{}", "{}x4").
    """
    if len(clean) != len(degraded) or not clean:
        return None
    paths = [[PurePosixPath(name) for name in names] for names in (clean, degraded)]
    stems = [[path.stem for path in each] for each in paths]
    heads = [_common(each) for each in stems]
    cut = [[stem[len(head) :] for stem in each] for each, head in zip(stems, heads, strict=True)]
    tails = [_common_end(each) for each in cut]
    shared = len(_common_end(heads))  # of both: it belongs to what is the same
    heads = [head[: len(head) - shared] for head in heads]
    tails = [tail[len(_common(tails)) :] for tail in tails]
    if re.search(r"[,:={}]", "".join((*heads, *tails))):
        return None
    keys = [
        {(path.parent, path.stem[len(head) : len(path.stem) - len(tail)]) for path in each}
        for each, head, tail in zip(paths, heads, tails, strict=True)
    ]
    whole = len(keys[0]) == len(clean) and all(key for _, key in keys[0])
    first, second = (f"{head}{{}}{tail}" for head, tail in zip(heads, tails, strict=True))
    return (first, second) if keys[0] == keys[1] and whole else None


def _common(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    first, last = min(texts), max(texts)
    alike = (one == other for one, other in zip(first, last, strict=False))
    return first[: sum(1 for _ in itertools.takewhile(bool, alike))]


def _common_end(texts: Sequence[str]) -> str:
    return _common([text[::-1] for text in texts])[::-1]


def _scale(
    source: Path, target: str, degraded: str, called: tuple[str, str], clean: Sequence[str], names: Sequence[str]
) -> int:
    """Return how many times as large clean images are. Raises InputError unless that is one whole number for all."""
    at = {_key(name, called[1]): name for name in names}
    found: set[int] = set()
    for name in sorted(clean)[:: max(1, len(clean) // _LOOKED)]:
        files = f"{target}/{name}", f"{degraded}/{at[_key(name, called[0])]}"
        large, small = (size_of(("file", str(source / file))) for file in files)
        if large is None or small is None:  # said where all images are looked at
            continue
        found.add(large[0] // small[0])
        if len(found) > 1 or large != tuple(side * max(found) for side in small) or not max(found):
            raise InputError(
                f"{source}: {files[0]} has {large[0]}x{large[1]} pixels and {files[1]} {small[0]}x{small[1]}; all clean images "
                "must be the same whole number of times as large as their degraded ones: crop or resize them"
            )
    return found.pop() if found else 1


def _key(name: str, template: str) -> tuple[str, str]:
    path, (head, tail) = PurePosixPath(name), template.split("{}")
    return str(path.parent), path.stem[len(head) : len(path.stem) - len(tail)]
