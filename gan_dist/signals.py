"""Measure what tells a collapse while a GAN trains: from figures that exist, and from a few images that are drawn anyway.

Images are compared after reducing them to 4x4 pixels by area. A collapsed generator draws one shape with ever different
speckle, which whole images and features of random networks take for variety.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gan_dist import rng

_LARGE = 64  # pixels: from here on images are reduced to 8x8
_CLOSE = 0.001  # the part of pairs of real images that are nearer than what counts as the same
_PAIRS = 30  # of one class, at least: fewer say little
_ROUNDS = 12  # of k-means
_IN_CELL = 16  # real images that a cell, and a class, should have at least


def of_figures(figures: Mapping[str, float], rivals: tuple[str, str] | None) -> dict[str, float]:
    """Return the signals that follow from means of an interval, as far as these are there.

    score/gap is E D(real) - E D(fake), score/level the larger of both without its sign. score/accuracy is the mean of the
    parts of real and of generated images on their side of the middle, or the part of pairs in the right order; an unsure
    logit counts half. grad_norm/ratio is log10 of D's mean gradient norm over that of G; `rivals` names both.
    """
    found = {}
    if "score/sign_pair" in figures:
        found["score/accuracy"] = (1 + figures["score/sign_pair"]) / 2
    if "score/sign_real" in figures and "score/sign_fake" in figures:
        found["score/accuracy"] = 0.5 + (figures["score/sign_real"] - figures["score/sign_fake"]) / 4
    if "score/real" in figures and "score/fake" in figures:
        found["score/gap"] = figures["score/real"] - figures["score/fake"]
        found["score/level"] = max(abs(figures["score/real"]), abs(figures["score/fake"]))
    if rivals is not None:
        judging, judged = (figures.get(f"grad_norm/{name}", 0.0) for name in rivals)
        if judging > 0 and judged > 0:
            found["grad_norm/ratio"] = math.log10(judging / judged)
    return found


def reduced(images: Tensor, side: int = 0) -> Tensor:
    """Reduce images (N, C, H, W) to `side` x `side` pixels by area: (N, C * side^2) float32. 0: 4, or 8 from 64 pixels on."""
    side = side or (8 if min(images.shape[-2:]) >= _LARGE else 4)
    return functional.adaptive_avg_pool2d(images.detach().float(), side).flatten(1)


class Variety:
    """How different samples are from each other, beside real images (N, C, H, W)."""

    def __init__(self, reals: Tensor, classes: Tensor | None = None) -> None:
        """Raise ValueError where the real images are fewer than two, or all alike. `classes` are theirs, (N,), if they have some."""
        distances = functional.pdist(reduced(reals))
        self._usual = float(distances.mean()) if len(distances) else 0.0
        if not self._usual > 0:
            raise ValueError("the data has no two different images")
        self._usual_in_class = _in_class(distances, classes)
        place = max(1, round(_CLOSE * len(distances)))
        self._close = float(distances.sort().values[place - 1])  # kthvalue has no deterministic form on a GPU

    def of(self, images: Tensor, classes: Tensor | None = None) -> dict[str, float]:
        """Return `diversity` and `duplicates` of images (N, C, H, W), N of at least 2, and `diversity_in_class`.

        diversity: their mean pairwise distance over that of the real images. diversity_in_class: the same over pairs of one
        class, where there are 30 of them at least. duplicates: the part of their pairs that are nearer than the nearest
        0.1 % of the pairs of real ones.
        """
        distances = functional.pdist(reduced(images))
        near = (distances < self._close).float().mean()
        mean, near = torch.stack([distances.mean(), near]).tolist()
        found = {"diversity": mean / self._usual, "duplicates": near}
        in_class = _in_class(distances, classes)
        if in_class is not None and self._usual_in_class:
            found["diversity_in_class"] = in_class / self._usual_in_class
        return found


def _in_class(distances: Tensor, classes: Tensor | None) -> float | None:
    """Return the mean of `distances`, as pdist orders them, of pairs of one class; None where these are few."""
    if classes is None:
        return None
    one, other = torch.triu_indices(len(classes), len(classes), 1, device=classes.device)
    alike = (classes[one] == classes[other]).to(distances.device)
    return float(distances[alike].mean()) if int(alike.sum()) >= _PAIRS else None


class Cells:
    """The space of real images, cut into cells of about as many each: k-means on 8x8 pixels by area (Lloyd, 1982)."""

    def __init__(self, points: Tensor, count: int, seed: int) -> None:
        """Cut the space of the real images' `points` (N, 8 * 8 * C) into `count` cells."""
        positions = torch.arange(len(points), device=points.device)
        order = rng.uniform(rng.key(seed, "cells"), positions, 1)[:, 0].argsort(stable=True)
        self._centres = points[order[:count]].clone()
        for _ in range(_ROUNDS):
            member = self._members(points)
            sizes = member.sum(0)[:, None]
            # a product and no index_add_, which has no fixed order on a GPU
            self._centres = torch.where(sizes > 0, member.T @ points / sizes.clamp(min=1), self._centres)
        self._parts = self._members(points).mean(0)

    @classmethod
    def of_reals(cls, reals: Tensor, seed: int, most: int = 64) -> "Cells | None":
        """Return the cells of images (N, C, H, W), one for at least 16 of them; None where that makes no two cells."""
        count = min(most, len(reals) // _IN_CELL)
        return cls(reduced(reals, 8), count, seed) if count > 1 else None

    def _members(self, points: Tensor) -> Tensor:
        """Return which cell each point is in: (N, cells) of 0 and 1."""
        # |c|^2 - 2 x.c orders the cells as the distance does
        scores = self._centres.square().sum(1) - 2 * points @ self._centres.T
        return _members(scores.argmin(1), len(self._centres)).float()

    def of(self, images: Tensor) -> dict[str, float]:
        """Return `cells` and `cells_kl` of images (N, C, H, W).

        cells: the part of the cells with 4 or more expected images that have none. cells_kl: KL(images || reals) of the
        cells, in nats.
        """
        found = self._members(reduced(images, 8)).sum(0)
        expected = self._parts * len(images)
        asked = expected >= min(4.0, float(expected.max()))
        p = found / len(images)
        kl = torch.special.xlogy(p, p / self._parts.clamp(min=1 / (len(images) * len(p)))).sum()
        empty, kl = torch.stack([(found == 0)[asked].float().mean(), kl]).tolist()
        return {"cells": empty, "cells_kl": kl}


def information(reals: Tensor, labels: Tensor) -> float | None:
    """Return how much more the classes of real images explain than random ones would: 1 for labels that are wrong.

    The F statistic of a one-way analysis of variance, over all 8x8 pixels by area. `labels` are (N,) int64. None where there
    are fewer than 16 images a class, or one class.
    """
    points, count = reduced(reals, 8).double(), len(reals)
    found, places = torch.unique(labels, return_inverse=True)
    classes = len(found)
    member = _members(places, classes).double()
    if classes < 2 or count < _IN_CELL * classes:
        return None
    means = (member.T @ points) / member.sum(0)[:, None]
    within = (points - member @ means).square().sum()
    total = (points - points.mean(0)).square().sum()
    between = (total - within) / (classes - 1)
    return float(between / (within / (count - classes)))


def _members(places: Tensor, count: int) -> Tensor:
    """Return which of `count` places each of (N,) int64 is: (N, count) boolean. one_hot scatters, in no fixed order on a GPU."""
    return places[:, None] == torch.arange(count, device=places.device)
