"""Score points of the plane against a mixture of Gaussians: which modes are there, how well, and how evenly."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from gan_dist.config.common import Config
from gan_dist.evaluation.base import Metric, State

_LEAST = 20 / 2500
"""Part of the samples that must be good ones of a mode, so that it counts as covered: 20 of 2,500."""


class PlaneModes(Metric):
    """For game.kind: plane. `modes`: covered Gaussians; `good_percent`: good samples; `kl`: how unevenly they are dealt.

    A sample is good within `deviations` of the nearest centre (Srivastava et al., VEEGAN, 2017). A mode is covered by 20 good
    samples of 2,500. The KL divergence in nats is that of the shares of the modes, each sample counted for its nearest
    centre, from equal shares: 0 at best, log 8 = 2.08 where all of 8 go to one. Samples that are not finite are not good.
    """

    deviations: Annotated[float, Field(gt=0)] = 3.0
    """How far from a centre a good sample may be."""

    compares: ClassVar[bool] = False
    better: ClassVar[Literal["lower", "higher"] | Mapping[str, Literal["lower", "higher"]]] = {
        "modes": "higher",
        "good_percent": "higher",
        "kl": "lower",
    }
    _mixture: Any = PrivateAttr(None)

    def parts(self) -> Collection[str]:
        return tuple(self.better)

    def check(self, config: Config) -> None:
        if getattr(config.game, "samples", "") != "points":
            raise ValueError(
                f"evaluate.scores: {self.kind} counts the modes of game.kind: plane, not of {config.game.kind}; remove it"
            )

    def for_game(self, game: Any) -> Metric:
        found = self.model_copy()
        found._mixture = game.mixture
        return found

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        """Count samples, and for each mode the finite samples that are nearest to it, and the good ones: (modes,) float64."""
        centres = self._mixture.centres.double()
        fake = fake.double()
        finite = fake.isfinite().all(1)
        distance, mode = torch.cdist(fake[finite], centres).min(1)
        good = mode[distance <= self.deviations * self._mixture.deviation]
        counts = {"near": mode.bincount(minlength=len(centres)), "good": good.bincount(minlength=len(centres))}
        for name, count in {**counts, "all": counts["near"].new_tensor([len(fake)])}.items():
            state[name] = state[name] + count.double() if name in state else count.double()

    def value(self, state: State) -> dict[str, float]:
        """Return the three values."""
        total, near, good = float(state["all"]), state["near"], state["good"]
        shares = near / near.sum()
        return {
            "modes": float((good >= _LEAST * total).sum()),
            "good_percent": 100 * float(good.sum()) / total,
            "kl": float(torch.xlogy(shares, shares * len(shares)).sum()),
        }
