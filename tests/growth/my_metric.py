"""A metric of one's own: how far the mean brightness of generated images is from that of real ones."""

import torch
from torch import Tensor

from gan_dist.evaluation import Metric


class Brightness(Metric):
    """|mean of generated pixels - mean of real pixels|, pixels in [-1, 1]."""

    def begin(self) -> dict[str, Tensor]:
        return {name: torch.zeros(2, dtype=torch.float64) for name in ("fake", "real")}

    def add(self, state: dict[str, Tensor], fake: Tensor, real: Tensor | None) -> None:
        for name, images in (("fake", fake), ("real", real)):
            if images is not None:
                pixels = images.double().cpu()
                state[name] += torch.tensor([pixels.sum(), pixels.numel()], dtype=torch.float64)

    def merge(self, states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([state[name] for state in states]).sum(0) for name in ("fake", "real")}

    def value(self, state: dict[str, Tensor]) -> float:
        means = [float(total / count) for total, count in (state["fake"], state["real"])]
        return abs(means[0] - means[1])
