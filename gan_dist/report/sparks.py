"""Draw a series of numbers in one line of block characters."""

import numpy as np

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(positions: np.ndarray, values: np.ndarray, end: float, width: int) -> str:
    """Return `width` characters for the run from 0 to `end` images: heights between the least and the greatest value.

    A character shows the mean of the values in its part of the run, the last one before where it has none, and a blank
    before the first. So all figures of a run stand below each other.
    """
    column = np.minimum((positions / max(end, 1) * width).astype(int), width - 1)
    counts = np.bincount(column, minlength=width)
    sums = np.bincount(column, weights=values, minlength=width)
    means = sums / np.maximum(counts, 1)
    low, span = means[counts > 0].min(), np.ptp(means[counts > 0])
    text, shown = "", " "
    for mean, count in zip(means, counts, strict=True):
        if count:
            shown = BLOCKS[min(7, int((mean - low) / span * 8))] if span > 0 else BLOCKS[3]
        text += shown
    return text.rstrip() if width else ""
