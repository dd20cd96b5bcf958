"""Draw what a score points at: generated images beside the real ones that they are like."""

from collections.abc import Callable

import torch
from torch import Tensor

from gan_dist.evaluation import Evaluation
from gan_dist.tracking.media import Image

_PAIRS_IN_A_ROW = 4


def pictures_of(
    found: Evaluation, fake: Callable[[range], Tensor], real: Callable[[range], Tensor]
) -> dict[str, Image]:
    """Return a picture for each score that shows pairs, by its name under RUN/media: generated, real, generated, real, ...

    Rank 0 calls it; the others have nothing to show.
    """
    drawn = {}
    for name, pairs in found.shown.items():
        sides = [
            torch.cat([of(range(number, number + 1)) for number in numbers])
            for of, numbers in zip((fake, real), zip(*pairs, strict=True), strict=True)
        ]
        together = torch.stack([side.float().cpu() for side in sides], 1).flatten(0, 1)
        caption = "generated images and the real one nearest to each, the nearest first"
        drawn[f"score/{name}/nearest"] = Image(together, caption, 2 * _PAIRS_IN_A_ROW)
    return drawn
