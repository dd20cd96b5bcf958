"""Resize images as MATLAB's imresize does: antialiased where they become smaller, mirrored at their edges."""

import functools
from typing import Literal

import numpy as np

Filter = Literal["bicubic", "bilinear", "area", "nearest"]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return the kernel of Keys (1981), a = -1/2."""
    x = np.abs(x)
    near: np.ndarray = (1.5 * x - 2.5) * x * x + 1
    far: np.ndarray = ((-0.5 * x + 2.5) * x - 4) * x + 2
    found: np.ndarray = np.where(x <= 1, near, np.where(x <= 2, far, 0))
    return found


def _triangle(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.maximum(0, 1 - np.abs(x))
    return found


def _box(x: np.ndarray) -> np.ndarray:
    return ((x >= -0.5) & (x < 0.5)).astype(float)


_KERNELS = {"bicubic": (_cubic, 4), "bilinear": (_triangle, 2), "area": (_box, 1), "nearest": (_box, 1)}
"""Each with its width in pixels."""


@functools.lru_cache(maxsize=256)
def _contributions(before: int, after: int, kind: Filter) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `before` pixels each of `after` is a sum of, and their weights: (taps, after) each."""
    kernel, width = _KERNELS[kind]
    scale = after / before
    shrink = min(scale, 1.0) if kind != "nearest" else 1.0  # the kernel is as much wider: the antialiasing
    reach = width / shrink
    centre = (np.arange(after) + 0.5) / scale - 0.5
    left = np.floor(centre - reach / 2) + 1
    places = left + np.arange(int(np.ceil(reach)) + 2)[:, None] - 1
    weights = kernel((centre - places) * shrink)
    weights /= weights.sum(0)
    used = np.abs(weights).any(1)
    mirrored = places[used].astype(np.int64) % (2 * before)
    return np.where(mirrored < before, mirrored, 2 * before - 1 - mirrored), weights[used]


def resample(image: np.ndarray, size: tuple[int, int], kind: Filter = "bicubic") -> np.ndarray:
    """Return an image (H, W, C) at another (height, width), as float64. Values may lie outside of the image's range.

    Every pixel is summed in the same order, so the bits do not depend on threads.
    """
    made = image.astype(np.float64)
    for axis, after in enumerate(size):
        if made.shape[axis] == after:
            continue
        places, weights = _contributions(made.shape[axis], after, kind)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        total = np.zeros((after, *made.shape[1:]) if axis == 0 else (made.shape[0], after, made.shape[2]))
        for place, weight in zip(places, weights, strict=True):
            total += np.take(made, place, axis=axis) * weight.reshape(shape)
        made = total
    return made
