"""Resample images by an affine map, through orthonormal wavelets, each image by itself and twice differentiable.

Images (N, C, H, W) go on without end, reflected at their borders (the outermost pixel is not doubled). So nothing is padded
by what some image of the batch needs, and the result of an image does not depend on the images beside it. One period of
such an image, 2 (H - 1) by 2 (W - 1) pixels, says all.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filters of Daubechies' least asymmetric wavelets with 2 and 6 vanishing moments; their sum is sqrt 2."""

_REACH = 3  # pixels on either side that the 12 taps touch, two of them for each pixel

FIRST_TORCH = "2.15"
"""The first torch whose grid_sample is known to have a second derivative (pytorch/pytorch#177487): it is tested there."""


def takes_grid_sample(images: Tensor) -> bool:
    """Say whether torch's grid_sample can resample the images here.

    An older torch has no second derivative of it, and on a GPU its backward has no deterministic form.
    """
    deterministic = images.is_cuda and torch.are_deterministic_algorithms_enabled()
    return torch.__version__ >= FIRST_TORCH and not deterministic


def reflect(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Return the images with so many pixels more on both sides of a dimension, reflected as often as it takes.

    By copies, as the backward of torch's reflection padding has no deterministic form on a GPU, and it stops at one
    reflection.
    """
    size = x.shape[dim]
    period = torch.cat([x, x.narrow(dim, 1, size - 2).flip(dim)], dim)
    start = -before % period.shape[dim]
    length = before + size + after
    times = -(-(start + length) // period.shape[dim])
    return torch.cat([period] * times, dim).narrow(dim, start, length)


def affine(images: Tensor, linear: Tensor, offset: Tensor, wavelet: Tensor) -> Tensor:
    """Resample images by an affine map of each: (N, C, H, W), (N, 2, 2) and (N, 2) -> (N, C, H, W).

    A pixel at p is taken from linear @ p + offset, (x, y) in pixels from the image's centre. Sampled at twice the
    resolution by a wavelet of 12 taps, SYM6 (Karras et al., 2020, appendix B); the identity gives the image itself.
    """
    height, width = images.shape[2:]
    with torch.no_grad():
        taps = wavelet.to(images.dtype) / 2**0.5
        columns, rows = _places(linear, offset, height, width, images.dtype)
        doubling, halving = ([matrix(size, taps) for size in (height, width)] for matrix in (_doubling, _halving))
    sample = bilinear if takes_grid_sample(images) else bilinear_by_gathers
    return _along_both(sample(_along_both(images, *doubling), columns, rows), *halving)


def _along_both(images: Tensor, along_height: Tensor, along_width: Tensor) -> Tensor:
    """Multiply the columns and the rows of images by a matrix each: (N, C, h, w), (h, H), (w, W) -> (N, C, H, W).

    Most of their numbers are 0. Convolutions of one channel made the whole pipe 4.6 times as slow on a CPU core, at 64 pixels.
    """
    return (images.mT @ along_height).mT @ along_width


def _doubling(size: int, taps: Tensor) -> Tensor:
    """Return the matrix from pixels to one period at twice the resolution, and two places more: (size, 4 size - 2)."""
    none = taps.new_zeros(1)
    # what falls on even places, between zeros, and on odd ones
    kernel = 2 * torch.stack([torch.cat([taps[1::2].flip(0), none]), torch.cat([none, taps[0::2].flip(0)])])
    pixels = reflect(torch.eye(size, dtype=taps.dtype, device=taps.device), 1, _REACH, size + _REACH - 1)
    return functional.conv1d(pixels[:, None], kernel[:, None]).mT.reshape(size, -1)


def _halving(size: int, taps: Tensor) -> Tensor:
    """Return the matrix from the places that `_places` gives to pixels: (2 size + 10, size)."""
    places = torch.eye(2 * size + 10, dtype=taps.dtype, device=taps.device)
    return functional.conv1d(places[:, None], taps[None, None], stride=2)[:, 0]


def _places(linear: Tensor, offset: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the columns and rows of the doubled period that are to be sampled: (N, 2H + 10, 2W + 10) each.

    They are the pixels of the result at twice its resolution, and those around them that halving touches.
    """
    sizes = width, height
    x, y = (
        torch.arange(1, 2 * size + 11, dtype=linear.dtype, device=linear.device) / 2 - _REACH - (size - 1) / 2
        for size in sizes
    )
    places = []
    for axis, size in enumerate(sizes):
        along = linear[:, axis, 0, None] * x + (offset[:, axis] + (size - 1) / 2)[:, None]
        across = linear[:, axis, 1, None] * y
        # in float64 until here: a product of one number and another costs nothing, the sum of both is an image
        place = 2 * (along.to(dtype)[:, None, :] + across.to(dtype)[:, :, None])
        places.append(torch.remainder(place, 4 * (size - 1)))
    return places[0], places[1]


def bilinear(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return the images at places between their pixels: (N, C, h, w), twice (N, H, W) -> (N, C, H, W)."""
    height, width = images.shape[2:]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def bilinear_by_gathers(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return the same as `bilinear`, from four pixels each: differentiable twice by any torch."""
    count, channels, height, width = images.shape
    left, top = columns.floor().clamp(0, width - 2), rows.floor().clamp(0, height - 2)
    x, y = (columns - left)[:, None], (rows - top)[:, None]
    corner = (top * width + left).long().view(count, 1, -1).expand(-1, channels, -1)
    flat = images.reshape(count, channels, -1)

    def pixel(step: int) -> Tensor:
        return flat.gather(2, corner + step).view(count, channels, *columns.shape[1:])

    upper = (1 - x) * pixel(0) + x * pixel(1)
    lower = (1 - x) * pixel(width) + x * pixel(width + 1)
    return (1 - y) * upper + y * lower


def wavelet_bands(levels: int = 3) -> Tensor:
    """Return filters of one centre that cut a signal into octaves, the lowest first: (levels + 1, taps) float64.

    They add up to 1 at the centre. Of the sym2 wavelet, with 43 taps for 3 levels (Karras et al., 2020, appendix B).
    """
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low, high = (np.convolve(each, each[::-1]) / 2 for each in (low, high))
    bands = np.ones((1, 1))
    for _ in range(levels):
        spread = np.zeros((len(bands), 2 * bands.shape[1] - 1))
        spread[:, ::2] = bands
        lower = np.stack([np.convolve(band, low) for band in spread])
        finest = np.zeros((1, lower.shape[1]))
        middle = lower.shape[1] // 2
        finest[0, middle - len(high) // 2 : middle + len(high) // 2 + 1] = high
        bands = np.concatenate([lower, finest])
    return torch.from_numpy(bands)


def weigh_bands(images: Tensor, filters: Tensor) -> Tensor:
    """Convolve each image with a filter of its own in both directions: (N, C, H, W), (N, taps) -> (N, C, H, W)."""
    count, channels, height, width = images.shape
    reach = filters.shape[1] // 2
    each = filters.repeat_interleave(channels, 0).to(images.dtype)
    x = images.reshape(1, count * channels, height, width)
    x = functional.conv2d(reflect(x, 3, reach, reach), each[:, None, None, :], groups=count * channels)
    x = functional.conv2d(reflect(x, 2, reach, reach), each[:, None, :, None], groups=count * channels)
    return x.reshape(images.shape)
