"""Show label maps in colours."""

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0.6180339887  # neighbours in number get hues far apart


def coloured(maps: Tensor, palette: Sequence[str] = ()) -> Tensor:
    """Return label maps (N, classes, H, W), 1 where a pixel is of the class and 0 elsewhere, as (N, 3, H, W) in [-1, 1].

    `palette` are colours as #RRGGBB, one for each class. Default: hues far apart. What is of no class is black.
    """
    count = maps.shape[1]
    names = [tuple(int(each[first : first + 2], 16) / 255 for first in (1, 3, 5)) for each in palette]
    colours = names or [
        colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.55 + 0.4 * (number % 2), 0.95 - 0.25 * (number % 3))
        for number in range(count)
    ]
    table = torch.tensor(colours, dtype=maps.dtype, device=maps.device)
    return 2 * torch.einsum("nkhw,kc->nchw", maps, table) - 1
