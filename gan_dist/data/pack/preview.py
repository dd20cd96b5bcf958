"""Draw preview.png beside the shards: a contact sheet of what training will see, by class where there are classes."""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gan_dist import files, units
from gan_dist.data import tar

NAME = "preview.png"
_SIDE = 96  # pixels of the longer side of an image in it
_COUNT = 100
_ROWS = 20  # classes at most
_EACH = 10
_GAP = 2
_TEXT = 90  # pixels for the names of classes
_LETTERS = 14


def write(destination: Path, shards: Sequence[str], classes: dict[str, int]) -> None:
    """Draw it from the first shards, whose samples come from all over the source. What cannot be drawn is left out."""
    samples = _samples([destination / f"{name}.tar" for name in shards], classes)
    if not samples:
        return
    buffer = io.BytesIO()
    _sheet(samples, classes).save(buffer, "PNG")
    files.write_atomic(destination / NAME, buffer.getvalue())


def _samples(shards: Sequence[Path], classes: dict[str, int]) -> dict[int, list[list[bytes]]]:
    """Return samples by class, -1 without classes; of each sample all images."""
    chosen = _spread(sorted(classes.values())) if classes else [-1]
    found: dict[int, list[list[bytes]]] = {label: [] for label in chosen}
    most = _EACH if classes else _COUNT
    for shard in shards[:10]:
        members, _ = tar.members(shard)
        by_key: dict[str, list[tar.Member]] = {}
        for member in members:
            by_key.setdefault(member.name.partition(".")[0], []).append(member)
        with shard.open("rb") as file:

            def content(member: tar.Member) -> bytes:
                file.seek(member.offset)
                return file.read(member.size)

            for parts in by_key.values():
                label = -1
                for member in parts:
                    if classes and member.name.endswith(".cls"):
                        label = int(content(member))
                if label in found and len(found[label]) < most:
                    found[label].append([content(each) for each in parts if not each.name.endswith(".cls")])
        if all(len(each) == most for each in found.values()):
            break
    return {label: each for label, each in found.items() if each}


def _spread(labels: Sequence[int]) -> list[int]:
    """Return at most so many of the classes, evenly spread."""
    if len(labels) <= _ROWS:
        return list(labels)
    return [labels[round(place * (len(labels) - 1) / (_ROWS - 1))] for place in range(_ROWS)]


def _sheet(samples: dict[int, list[list[bytes]]], classes: dict[str, int]) -> Image.Image:
    first = [image for content in next(iter(samples.values()))[0] if (image := _opened(content))]
    height, width = max(((each.height, each.width) for each in first), default=(_SIDE, _SIDE))
    scale = _SIDE / max(height, width)
    if scale > 1:  # small images stay sharp
        scale = max(1, int(scale))
    cell = max(1, round(height * scale)), max(1, round(width * scale))
    together = max(1, len(first))
    names = {number: name for name, number in classes.items()}
    columns = _EACH if classes else math.ceil(math.sqrt(len(samples[-1]) / together))
    left = _TEXT if classes else 0
    rows = sum(math.ceil(len(each) / columns) for each in samples.values())
    sheet = Image.new(
        "RGB",
        (left + columns * together * (cell[1] + _GAP) + _GAP, rows * (cell[0] + _GAP) + _GAP),
        "white",
    )
    pen, font, row = ImageDraw.Draw(sheet), ImageFont.load_default(), 0
    for label, each in samples.items():
        if classes:
            text = _plain(names.get(label, str(label)))
            pen.text((_GAP, _GAP + row * (cell[0] + _GAP)), text, "black", font)
        for number, sample in enumerate(each):
            for side, content in enumerate(sample[:together]):
                if image := _opened(content):
                    place = (number % columns) * together + side
                    at = left + _GAP + place * (cell[1] + _GAP), _GAP + (row + number // columns) * (cell[0] + _GAP)
                    sheet.paste(_fitted(image, cell), at)
        row += math.ceil(len(each) / columns)
    return sheet


def _plain(name: str) -> str:
    """Return a name in letters that the font has."""
    return "".join(letter if letter.isprintable() and letter < "\u0100" else "?" for letter in name)[:_LETTERS]


def _opened(content: bytes) -> Image.Image | None:
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    return None


def _fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Return the middle of an image in a cell's shape and size, as training cuts it."""
    top, left, height, width = units.centre((image.height, image.width), cell)
    method = Image.Resampling.NEAREST if cell[0] > height else Image.Resampling.BOX
    return image.resize((cell[1], cell[0]), method, box=(left, top, left + width, top + height))
