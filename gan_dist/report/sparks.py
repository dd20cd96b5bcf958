"""Draw a series of numbers in one line of block characters."""

from collections.abc import Sequence

import numpy as np

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float] | np.ndarray, width: int) -> str:
    """Return at most `width` characters from the first value to the last, scaled between the least and the greatest.

    Of more values than characters, each character shows the mean of its part.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return ""
    parts = np.array([part.mean() for part in np.array_split(numbers, min(width, len(numbers)))])
    low, span = parts.min(), parts.max() - parts.min()
    if not span > 0:
        return BLOCKS[3] * len(parts)
    return "".join(BLOCKS[level] for level in np.minimum((parts - low) / span * 8, 7).astype(int))
