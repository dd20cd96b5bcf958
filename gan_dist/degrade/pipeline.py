"""Make a degraded image of a clean one, by steps that a config names. What is random is a function of the position."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.degrade.resample import resample
from gan_dist.degrade.steps import Degradation, Draws, rounded
from gan_dist.errors import InputError


class Pipeline:
    """The steps of a run. They depend on seed and position alone: every number of ranks, and every resume, sees the same."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.steps: Sequence[Degradation] = config.data.degradations
        self._keys = {
            purpose: [rng.key(config.run.seed, f"degrade, {purpose}", number) for number in range(len(self.steps))]
            for purpose in ("training", "shown")
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Pipeline, (self._config,)  # a user's step is of a class that another process must load first

    def __call__(
        self, clean: np.ndarray, position: int, purpose: Literal["training", "shown"] = "training"
    ) -> np.ndarray:
        """Return what is made of an image (H, W, C) uint8 at a position; `shown` has draws of its own, by sample number."""
        image = clean.astype(np.float64)
        size = (clean.shape[0], clean.shape[1])
        for key, step in zip(self._keys[purpose], self.steps, strict=True):
            draws = Draws(key, position)
            size = (size[0] // step.shrinks, size[1] // step.shrinks)
            if step.probability == 1 or float(draws.uniform("probability")[0]) < step.probability:
                image = self._done(step, image, draws, size)
        if image.shape[:2] != size:
            image = resample(image, size)
        return rounded(image)

    def _done(self, step: Degradation, image: np.ndarray, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        """Return what a step makes. Raises InputError, naming it, where it fails or gives other channels than it says."""
        try:
            made = step.degrade(image, draws, size).clip(0, 255)
            if made.ndim == 3 and made.shape[2] == step.channels_of(image.shape[2]):
                return made
            said = (
                f"it gives an array of {made.shape}, and (height, width, {step.channels_of(image.shape[2])}) is needed"
            )
        except Exception as error:  # a user's step may raise anything
            said = f"{type(error).__name__}: {error}"
        raise InputError(f"data.degrade: {step.kind.rpartition('/')[2]} fails at position {draws.position}: {said}")


def pipeline(config: Config) -> Pipeline | None:
    """Return the steps of a config; None where both images of a sample are stored."""
    return Pipeline(config) if config.data.degradations else None
