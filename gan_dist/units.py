"""Write sizes and times for a person, and read image sizes."""

import re


def size(count: float) -> str:
    """Return bytes in words: 72.30 GiB, 1.00 MiB, 24 KiB."""
    for unit, bytes_of in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if abs(count) >= bytes_of:
            return f"{count / bytes_of:,.2f} {unit}"
    return f"{count / 2**10:.0f} KiB"


def bytes_of(text: str) -> int:
    """Return the number of bytes that a person writes as 20GiB, 500 MB, 1.5 TiB or 4096. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?)?B?", str(text).strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"{text} is no size; write 20GiB, 500MB or 0, for example")
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def image_size(text: int | str) -> tuple[int, int]:
    """Return (height, width) of an image size: 64 for a square, "96x64" for width x height. Raises ValueError."""
    found = re.fullmatch(r"(\d+)(?:\s*[xX]\s*(\d+))?", str(text).strip())
    if not found:
        raise ValueError(f"{text} is no image size; write 64 for a square, or 96x64 for width x height")
    return int(found[2] or found[1]), int(found[1])


def pixels(size: tuple[int, int]) -> str:
    """Return (height, width) as a person writes it: 64, or 96x64 for width x height."""
    height, width = size
    return str(width) if height == width else f"{width}x{height}"


def centre(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest part in the middle of an image with the proportions of `wanted`."""
    height, width = size
    cut_height = min(height, round(width * wanted[0] / wanted[1]))
    cut_width = min(width, round(height * wanted[1] / wanted[0]))
    return (height - cut_height) // 2, (width - cut_width) // 2, cut_height, cut_width


def count(number: int, thing: str) -> str:
    """Return a number of things in words: 1 shard, 1,000 shards."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def hours(seconds: float) -> str:
    """Return a duration in words: 3.2 hours, 4.0 minutes."""
    return f"{seconds / 3600:,.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
