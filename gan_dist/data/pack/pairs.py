"""List samples of several images: folders of counterparts, two halves of one image, lines of a list, edges of an image."""

import dataclasses
import io
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gan_dist.data.pack import write
from gan_dist.data.pack.convert import eight_bits
from gan_dist.data.pack.items import Item, Member, Source
from gan_dist.data.pack.sources import open_source, read
from gan_dist.errors import InputError

_NAME = re.compile(r"[a-z0-9_-]+")
_TURNED = 5  # EXIF orientations from here on swap width and height


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a source holds the images of a sample."""

    kind: str
    """folders, halves or list."""
    fields: Mapping[str, str]
    """Names of the images; of folders each with its place below the source, and perhaps a template: LR/X4:{}x4."""
    labels: Collection[str] = ()
    """Which of them are label maps: their numbers are kept, and never mixed."""

    @property
    def text(self) -> str:
        """Return what a plan records of it."""
        named = ",".join(f"{name}={place}" if place else name for name, place in self.fields.items())
        return f"{self.kind} {named}" + (f" labels {','.join(sorted(self.labels))}" if self.labels else "")


def layout(kind: str, text: str, labels: str = "") -> Layout:
    """Read an option: --fields a=A,b=B or --halves a,b or --list a,b, and --labels a. Raises InputError."""
    option = {"folders": "--fields"}.get(kind, f"--{kind}")
    fields: dict[str, str] = {}
    for entry in text.split(","):
        name, equals, place = entry.strip().partition("=")
        if not _NAME.fullmatch(name) or bool(equals) != (kind == "folders") or name in fields:
            example = "a=FOLDER,b=FOLDER" if kind == "folders" else "a,b"
            raise InputError(
                f"{option} {text}: {entry!r} is no name of an image of its own; write {option} {example}, in small letters"
            )
        fields[name] = place
    if len(fields) < 2 or (kind == "halves" and len(fields) > 2):
        raise InputError(f"{option} {text} names {len(fields)} images; two are needed{' or more' * (kind != 'halves')}")
    maps = [name.strip() for name in labels.split(",") if name.strip()]
    if strange := [name for name in maps if name not in fields]:
        raise InputError(f"--labels {labels}: {strange[0]} is none of the images; they are {', '.join(fields)}")
    return Layout(kind, fields, tuple(maps))


def listed(source: str, scratch: Path, wanted: Layout, resized: bool = False) -> Source:
    """Return a source's samples, with all their images, which are to be `resized` to one size or to stay as they are.

    Raises InputError, naming the sample, where they do not fit together.
    """
    if wanted.kind == "halves":
        found = open_source(source, scratch, "none")
        for item in found.items:
            if (size := size_of(item.place)) and size[0] % 2:
                raise InputError(f"{source}: {item.name} is {size[0]} pixels wide, which has no half; crop it first")
        items = [_halves(item, wanted) for item in found.items]
        return Source(items, {}, found.skipped, found.notes)
    by_field, skipped = _of_list(source, wanted) if wanted.kind == "list" else _of_folders(source, scratch, wanted)
    lossless = {name: name in wanted.labels or not _all_jpeg(each.values()) for name, each in by_field.items()}
    items = []
    for key in next(iter(by_field.values())):
        parts = {name: each[key] for name, each in by_field.items()}
        members = tuple(
            Member(name, item.place, "labels" if name in wanted.labels else "image", lossless[name])
            for name, item in parts.items()
        )
        items.append(_joined(key, list(parts.values()), members))
    factors = _factors(source, items)
    if resized and (scaled := [name for name, (factor, _) in factors.items() if abs(factor) != 1]):
        raise InputError(
            f"{source}: {scaled[0]} is of another size than {next(iter(by_field))}, and --resolution would make them one size; "
            "remove it"
        )
    return Source(items, {}, skipped)


def edges(found: Source) -> Source:
    """Return each image of a source with its edges beside it, which are the input of a game that draws the image."""
    items = []
    lossless = not _all_jpeg(found.items)
    for item in found.items:
        members = (
            Member("edges", item.place, "edges", lossless=True),
            Member("image", item.place, "image", lossless=lossless),
        )
        items.append(dataclasses.replace(item, members=members))
    return dataclasses.replace(found, items=items)


def with_channels(found: Source, channels: int | None, guess: Callable[[Sequence[Item]], int]) -> Source:
    """Return the samples with the channels of each image: as asked, or what `guess` says of the images of one name."""
    asked: dict[str, int] = {}
    for number, member in enumerate(found.items[0].members):
        same = [dataclasses.replace(item, place=item.members[number].place) for item in found.items]
        fixed = {"edges": 1, "labels": 0}  # a label map is stored as it is
        asked[member.field] = fixed[member.role] if member.role in fixed else channels or guess(same)
    items = [
        dataclasses.replace(
            item,
            members=tuple(dataclasses.replace(each, channels=asked[each.field]) for each in item.members),
        )
        for item in found.items
    ]
    return dataclasses.replace(found, items=items)


def _of_folders(source: str, scratch: Path, wanted: Layout) -> tuple[dict[str, dict[str, Item]], list[tuple[str, str]]]:
    """Return the images of each folder by what is the same in all names: the stem, or what stands for {} in a template."""
    by_field: dict[str, dict[str, Item]] = {}
    skipped = []
    for name, place in wanted.fields.items():
        folder, _, template = place.partition(":")
        path = str(Path(source) / folder)
        found = open_source(path, scratch / name, "none")
        skipped += [(f"{folder}/{file}", why) for file, why in found.skipped]
        by_field[name] = by_key(found.items, template or "{}", path)
    first, *others = by_field.items()
    for name, other in others:
        for has, lacks, lacking in ((first[1], other, name), (other, first[1], first[0])):
            if missing := [item.name for key, item in has.items() if key not in lacks]:
                where = wanted.fields[lacking].partition(":")[0]
                more = f", nor have {len(missing) - 1} others" if len(missing) > 1 else ""
                raise InputError(
                    f"{source}: {missing[0]} has no counterpart in {where} ({lacking}){more}; every "
                    "sample needs all images, of the same name but for the ending"
                )
    return by_field, skipped


def by_key(items: Sequence[Item], template: str, path: str) -> dict[str, Item]:
    if template.count("{}") != 1:
        raise InputError(f"--fields: the template {template} needs {{}} once, where the names are the same")
    pattern = re.compile("(.*)".join(re.escape(part) for part in template.split("{}")))
    found: dict[str, Item] = {}
    for item in items:
        pure = PurePosixPath(item.name)
        matched = pattern.fullmatch(pure.stem)
        if matched is None:
            raise InputError(
                f"{path}: {item.name} is not named as {template}; correct the template, or move it elsewhere"
            )
        key = str(pure.with_name(matched[1]))
        if key in found:
            raise InputError(
                f"{path} holds {found[key].name} and {item.name}, which are called the same; keep one of them"
            )
        found[key] = item
    return found


def _of_list(source: str, wanted: Layout) -> tuple[dict[str, dict[str, Item]], list[tuple[str, str]]]:
    """Return the files that each line of a list names, in the order of the fields."""
    path = Path(source)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--list: {source} is no list of files ({error})") from None
    by_field: dict[str, dict[str, Item]] = {name: {} for name in wanted.fields}
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in (line.split(",") if "," in line else line.split()) if word.strip()]
        if not words or words[0].startswith("#"):
            continue
        if len(words) != len(by_field):
            raise InputError(f"{source}, line {number}: {len(words)} files, and --list names {len(by_field)} images")
        for name, word in zip(by_field, words, strict=True):
            file = path.parent / word
            if not file.is_file():
                raise InputError(f"{source}, line {number}: there is no file {file} ({name}); correct the line")
            state = file.stat()
            item = Item(word, None, ("file", str(file)), state.st_size, int(state.st_mtime))
            by_field[name][f"{number:08d} {words[0]}"] = item
    if not next(iter(by_field.values())):
        raise InputError(f"{source} names no files; write a line for each sample: a.png, b.png")
    return by_field, []


def _joined(key: str, parts: Sequence[Item], members: tuple[Member, ...]) -> Item:
    stamp = zlib.crc32(repr([(item.name, item.size, item.stamp) for item in parts]).encode())
    return Item(key, None, parts[0].place, sum(item.size for item in parts), stamp, members)


def _all_jpeg(items: Collection[Item]) -> bool:
    return all(item.name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")) for item in items)


def _halves(item: Item, wanted: Layout) -> Item:
    members = tuple(
        Member(name, (half, side, item.place), "labels" if name in wanted.labels else "image", lossless=True)
        for side, name in enumerate(wanted.fields)
    )
    return dataclasses.replace(item, members=members)


def half(side: int, place: tuple[Any, ...]) -> np.ndarray:
    """Return the left (0) or right (1) half of an image, (H, W / 2) or (H, W / 2, 3) uint8; grey of more than 8 bits as uint16.

    What is transparent becomes white.
    """
    content = read(place)
    if isinstance(content, bytes):
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        if image.mode.startswith("I"):  # not to 8 bits yet: a label map keeps its numbers
            content = np.asarray(image).clip(0, 65535).astype(np.uint16)
        else:
            image = eight_bits(image, keep_alpha=False)
            content = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    middle = content.shape[1] // 2
    return np.ascontiguousarray(content[:, side * middle : (side + 1) * middle])


def size_of(place: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return width and height of an image; None for what packing will find unreadable."""
    try:
        content = place[1] if place[0] == "file" else read(place)
        if isinstance(content, np.ndarray):
            return content.shape[1], content.shape[0]
        with write.pixel_limit(), Image.open(content if isinstance(content, str) else io.BytesIO(content)) as image:
            turned = image.getexif().get(0x0112, 1) >= _TURNED
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow's decoders raise anything on damaged files
        return None


def _factors(source: str, items: Sequence[Item]) -> dict[str, tuple[int, str]]:
    """Return how many times the first image of a sample is as large as each other one, or -n where it is so much smaller.

    Raises InputError unless the factors are whole numbers, and the same in all samples.
    """
    factors: dict[str, tuple[int, str]] = {}
    for item in items:
        sizes = {member.field: size_of(member.place) for member in item.members}
        known = {name: size for name, size in sizes.items() if size}
        if len(known) < len(sizes):
            continue
        (first_name, first), *others = known.items()
        for name, size in others:
            large, small = max(first, size), min(first, size)
            factor = large[0] // small[0]
            signed = factor if first >= size else -factor
            expected = factors.setdefault(name, (signed, item.name))
            if (small[0] * factor, small[1] * factor) != large or signed != expected[0]:
                raise InputError(
                    f"{source}: {item.name} is a pair of different sizes: {first_name} is {first[0]}x{first[1]}, {name} is "
                    f"{size[0]}x{size[1]}; make them one size, or one the same multiple of the other in all samples"
                )
    return factors
