"""Figures over the run: a series for each, from lines of metrics.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gan_dist.report import facts

Series = tuple[np.ndarray, np.ndarray]
"""Positions in images, and values; both float64 (N,), in order of position."""
_POSITION = ("images", "step")


def columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Return lines of metrics.jsonl as one series for each figure; what is no number, or none to draw, is left out."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in _POSITION and facts.is_figure(value):
                positions, values = found.setdefault(name, ([], []))
                positions.append(float(line["images"]))
                values.append(float(value))
    return {name: (np.array(positions), np.array(values)) for name, (positions, values) in found.items()}
