"""Halve and double images behind a blur, so that a shift by a pixel shifts the result (Zhang, 2019; used by CUT, 2020).

By slices and sums: torch's own interpolation has no deterministic gradient on a GPU.
"""

import torch
from torch import Tensor, nn


class Halve(nn.Module):
    """Images (N, C, H, W), blurred by [1, 2, 1] / 4 both ways, every second pixel: (N, C, ceil(H / 2), ceil(W / 2)).

    They are continued by their mirror image.
    """

    def forward(self, images: Tensor) -> Tensor:
        for axis in (2, 3):
            size = images.shape[axis]
            before, after = images.narrow(axis, 1, 1), images.narrow(axis, size - 2, 1)
            left, middle, right = torch.cat([before, images, after], axis).unfold(axis, 3, 2).unbind(-1)
            images = (left + 2 * middle + right) / 4
        return images


class Double(nn.Module):
    """Images (N, C, H, W), twice as large: (N, C, 2 H, 2 W), by [1, 3, 3, 1] / 4 both ways, which is bilinear.

    They are continued by their border.
    """

    def forward(self, images: Tensor) -> Tensor:
        for axis in (2, 3):
            size = images.shape[axis]
            before = torch.cat([images.narrow(axis, 0, 1), images.narrow(axis, 0, size - 1)], axis)
            after = torch.cat([images.narrow(axis, 1, size - 1), images.narrow(axis, size - 1, 1)], axis)
            pair = torch.stack([(before + 3 * images) / 4, (3 * images + after) / 4], axis + 1)
            images = pair.flatten(axis, axis + 1)
        return images
