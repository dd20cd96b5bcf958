"""Count the modes of StackedMNIST that a generator draws, by a classifier of digits."""

import functools
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from gan_dist.evaluation import digits
from gan_dist.evaluation.base import Metric, State

if TYPE_CHECKING:
    from gan_dist.config import Config

_LEAST = 5
"""Samples of a mode that is surely there: a wrong digit of the classifier puts a sample or two anywhere."""


class Modes(Metric):
    """Count which digits a generator draws in its channels: the 1,000 modes of StackedMNIST, or 10 of grey digits.

    A sample's mode is the digit that the classifier sees in each channel. score/NAME/covered: modes with a sample or more;
    covered_by_5: with 5 or more; kl: sum of p ln(p * modes) over the modes seen, p the fraction of samples in a mode, in
    nats, 0 where all modes are alike; kl_above_floor: kl less (modes - 1) / (2 * samples), which even perfect samples have;
    samples; classifier_accuracy: of the classifier on its test digits. NaN where a sample is not finite. Lin et al.,
    "PacGAN", 2018, take 26,000 samples: evaluate.samples.
    """

    compares: ClassVar[bool] = False
    better: ClassVar[Mapping[str, Literal["lower", "higher"]]] = {"covered": "higher", f"covered_by_{_LEAST}": "higher"}

    classifier: str
    """File of the digit classifier, which `gan-dist digit-classifier MNIST FILE` makes."""

    def parts(self) -> Collection[str]:
        return ("covered", f"covered_by_{_LEAST}", "kl", "kl_above_floor")

    def check(self, config: "Config") -> None:
        if config.data.drawn:
            raise ValueError(f"the score modes reads digits, and game.kind: {config.game.kind} has none; remove it")
        if config.data.size not in digits.SIZES or config.data.channels not in (1, 3):
            raise ValueError(
                f"the score modes reads digits of 16x16, 28x28 or 32x32 pixels in 1 or 3 channels, and data.resolution is "
                f"{config.data.resolution} with data.channels {config.data.channels}; change them, or remove the score"
            )

    def prepare(self) -> None:
        """Raise InputError where the classifier's file is missing or damaged."""
        digits.load(self._path)

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        """Count the samples of each mode, (10^C,) float64, and those that are not finite."""
        classifier = _load(str(self._path), str(fake.device))
        finite = fake.isfinite().flatten(1).all(1)
        seen = classifier.digits(fake[finite])
        channels = fake.shape[1]
        places = 10 ** torch.arange(channels - 1, -1, -1, device=seen.device)
        counts = (seen * places).sum(1).bincount(minlength=10**channels).double()
        for name, tensor in {"counts": counts, "not_finite": (~finite).sum().double()}.items():
            state[name] = state[name] + tensor if name in state else tensor

    def value(self, state: State) -> dict[str, float]:
        """Return the scores by name."""
        counts = state["counts"]
        samples = float(counts.sum() + state["not_finite"])
        scores = {**of_counts(counts), "samples": samples}
        if state["not_finite"] > 0:
            scores = dict.fromkeys(scores, math.nan)
        return {**scores, "classifier_accuracy": _load(str(self._path), "cpu").test_accuracy}

    @property
    def _path(self) -> Path:
        return Path(os.path.expandvars(os.path.expanduser(self.classifier)))


def of_counts(counts: Tensor) -> dict[str, float]:
    """Return the scores of the number of samples in each mode, (modes,) float64."""
    modes, samples = len(counts), float(counts.sum())
    p = counts / samples
    kl = float(torch.special.xlogy(p, p * modes).sum())
    return {
        "covered": int((counts > 0).sum()),
        f"covered_by_{_LEAST}": int((counts >= _LEAST).sum()),
        "kl": kl,
        "kl_above_floor": kl - (modes - 1) / (2 * samples),
    }


@functools.lru_cache(maxsize=4)  # a metric keeps nothing in itself
def _load(path: str, device: str) -> digits.Classifier:
    return digits.load(Path(path), device)
