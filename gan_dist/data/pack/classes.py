"""Find the classes of a tree of images, in its folders or in StyleGAN's dataset.json, and say what was guessed."""

import json
import posixpath
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from gan_dist.errors import InputError

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "traina", "trainb", "testa", "testb"}
_DENSE = 10  # numbers up to so many times their count are class numbers; others, dates say, are names


class Labels(NamedTuple):
    labels: list[int | None]
    """Of each image, in order."""
    classes: dict[str, int]
    """Name -> number."""
    notes: list[str]
    """What a person should know."""


def of_folders(images: Sequence[str]) -> Labels:
    """Return the classes that the folders name: below the folders that all images share, the next folder is the class.

    Two classes at least: images that all lie in one folder have none. Folders that are numbers are the classes of these
    numbers; others are numbered in natural order, 2 before 10.
    """
    parents = {name: PurePosixPath(name).parent.parts for name in images}
    least, most = min(parents.values(), default=()), max(parents.values(), default=())  # what they share, all share
    common = next(
        (i for i, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), min(len(least), len(most))
    )
    folders = {parent[common] for parent in parents.values() if len(parent) > common}
    if len(folders) < 2:
        return Labels([None] * len(images), {}, [])
    classes = _number(folders)
    labels = [classes[parent[common]] if len(parent) > common else None for parent in parents.values()]
    notes = []
    if strays := [name for name, label in zip(images, labels, strict=True) if label is None]:
        notes.append(
            f"{len(strays):,} of {len(images):,} images lie in no class folder and have no label, first {strays[0]}; move "
            "them, or take no labels: --classes none"
        )
    if {folder.lower() for folder in folders} <= SPLITS:
        notes.append(
            f"the classes {', '.join(classes)} are named as the parts of a data set; if they are no classes, pack one "
            "of the folders, or take no labels: --classes none"
        )
    if all(re.fullmatch(r"0\d{3,}", folder) for folder in list(classes)[:2]):
        notes.append(
            f"the folders {', '.join(list(classes)[:2])} ... look like running numbers; if they are no classes, take no "
            "labels: --classes none"
        )
    return Labels(labels, classes, notes)


def _number(folders: set[str]) -> dict[str, int]:
    if all(re.fullmatch(r"[0-9]{1,9}", folder) for folder in folders):
        numbers = {folder: int(folder) for folder in sorted(folders, key=lambda folder: (int(folder), folder))}
        if len(set(numbers.values())) == len(numbers) and max(numbers.values()) <= _DENSE * len(numbers):
            return numbers
    return {folder: number for number, folder in enumerate(sorted(folders, key=_natural))}


def _natural(name: str) -> tuple[list[tuple[int, int | str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts if part], name


def of_dataset_json(name: str, content: bytes, images: Sequence[str]) -> Labels | None:
    """Return the labels in the dataset.json that StyleGAN's dataset_tool writes; None where the file is something else.

    `labels` is a list of [image, class], with paths from the file's folder, or null: no labels. Raises InputError for
    labels that are no whole numbers.
    """
    try:
        tree = json.loads(content)
        rows = tree["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if rows is None:
        return Labels([None] * len(images), {}, [])
    folder = posixpath.dirname(name)
    numbers: dict[str, int] = {}
    for row in rows if isinstance(rows, list) else [rows]:
        try:
            image, label = row
            path = posixpath.normpath(posixpath.join(folder, image))
        except (TypeError, ValueError):
            raise InputError(f"{name}: labels holds {str(row)[:60]}, which is not [image, class]; fix it") from None
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 1 << 31:
            raise InputError(
                f"{name}: the label of {image} is {str(label)[:60]}; only whole numbers from 0 are classes: fix it, or pack "
                "without labels (--classes none)"
            )
        numbers[path] = label
    labels = [numbers.get(posixpath.normpath(image)) for image in images]
    notes = []
    if without := [image for image, label in zip(images, labels, strict=True) if label is None]:
        notes.append(f"{len(without):,} of {len(images):,} images have no label in {name}, first {without[0]}")
    classes = sorted({label for label in labels if label is not None})
    return Labels(labels, {str(label): label for label in classes}, notes)
