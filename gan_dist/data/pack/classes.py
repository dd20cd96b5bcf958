"""Find the classes of a tree of images: in its folders, StyleGAN's dataset.json or a labels.csv; say what was guessed."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Sequence, Set
from pathlib import PurePosixPath
from typing import NamedTuple

from gan_dist import units
from gan_dist.errors import InputError

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "traina", "trainb", "testa", "testb"}
_DENSE = 10  # numbers up to so many times their count are class numbers; others, dates say, are names


_HEADERS = {"file", "filename", "file_name", "image", "path", "name", "id"}
"""What the first column of a table is called."""


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


def of_csv(name: str, content: bytes, images: Sequence[str]) -> Labels | None:
    """Return the labels in a table with the columns file, label and perhaps name, with a header or without; None without rows.

    A label is a whole number, or in all rows a word: words are numbered in natural order. Paths are from the table's folder.
    Raises InputError, naming the line, for what cannot be read as this.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is no text in UTF-8; save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        rows = [
            (number, [cell.strip() for cell in row])
            for number, row in enumerate(reader, 1)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}: {error}; write file,label or file,label,name, or pack without it: "
            "--classes folder or --classes none"
        ) from None
    there = {posixpath.normpath(image) for image in images}
    stems = {posixpath.splitext(image)[0]: image for image in there}
    paths = [posixpath.normpath(posixpath.join(posixpath.dirname(name), row[0].replace("\\", "/"))) for _, row in rows]
    if rows and (rows[0][1][0].lower() in _HEADERS or _is_header([row for _, row in rows], paths, {*there, *stems})):
        del rows[0], paths[0]
    given: dict[str, tuple[str, str]] = {}
    for (number, row), path in zip(rows, paths, strict=True):
        if len(row) not in (2, 3) or not row[0] or not row[1]:
            wrong = "a cell is empty" if len(row) in (2, 3) else f"{units.count(len(row), 'column')}"
            raise InputError(
                f"{name}, line {number}: {wrong}; write file,label or file,label,name, or pack without it: "
                "--classes folder or --classes none"
            )
        label = row[1], row[2] if len(row) > 2 else ""
        if given.setdefault(path, label) != label:
            raise InputError(
                f"{name}, line {number}: {row[0]} has the label {given[path][0]} already; keep one of them"
            )
    if not given:
        return None
    if not there & given.keys():  # Kaggle's tables name files without their endings
        given = {stems.get(path, path): label for path, label in given.items()}
    if images and not there & given.keys():
        raise InputError(
            f"{name}: none of its {len(given):,} files is there, first {next(iter(given))}; write paths from its folder, as "
            f"{images[0]}, or pack without it: --classes folder or --classes none"
        )
    numbers, classes = _classes_of(name, list(given.values()))
    labels = [numbers[given[path]] if (path := posixpath.normpath(image)) in given else None for image in images]
    notes = []
    if absent := sorted(given.keys() - there):
        notes.append(f"{len(absent):,} of {len(given):,} files of {name} are not there, first {absent[0]}")
    if without := [image for image, label in zip(images, labels, strict=True) if label is None]:
        notes.append(f"{len(without):,} of {len(images):,} images have no label in {name}, first {without[0]}")
    return Labels(labels, classes, notes)


def _is_header(rows: Sequence[Sequence[str]], paths: Sequence[str], known: Set[str]) -> bool:
    """Say whether the first row names no file, as others do, and has a label that no other has: columns of any names."""
    labels = {row[1] for row in rows[1:] if len(row) > 1}
    first = rows[0]
    return (
        not known.isdisjoint(paths[1:])
        and paths[0] not in known
        and not posixpath.splitext(first[0])[1]
        and not labels.issuperset(first[1:2])
    )


def _classes_of(name: str, given: Sequence[tuple[str, str]]) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Return the number of each (label, name), and the classes. Raises InputError where they contradict each other."""
    words = {label for label, _ in given}
    if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
        if number := next((word for word in sorted(words) if re.fullmatch(r"[-+]?[0-9.]+", word)), None):
            others = "" if re.fullmatch(r"[0-9]{1,9}", number) else ", no whole number from 0"
            raise InputError(f"{name}: the label {number} is a number{others}; give all whole numbers, or all words")
        classes = {word: number for number, word in enumerate(sorted(words, key=_natural))}
        return {each: classes[each[0]] for each in given}, classes
    classes = {}
    for label, called in sorted(set(given), key=lambda each: int(each[0])):
        other = next((known for known, number in classes.items() if number == int(label)), None)
        if classes.setdefault(called or str(int(label)), int(label)) != int(label) or other not in (
            None,
            called or str(int(label)),
        ):
            raise InputError(
                f"{name}: label {label} and the name {called or label} do not belong to each other alone; fix it"
            )
    return {each: int(each[0]) for each in given}, classes
