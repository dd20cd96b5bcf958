"""Make micro-batches of pixels that are on the device."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.config import Config
from gan_dist.data import checks
from gan_dist.interfaces import Batch, one_hot

_ALIGNED = 64  # bytes: products may round otherwise where their factors begin elsewhere


def mirrored(seed: int, positions: np.ndarray, name: str = "") -> np.ndarray:
    """Say which positions of a run show their sample of a set left to right: integers -> booleans."""
    return rng.halves(rng.key(seed, f"flip of {name}" if name else "flip"), positions)


def normalised(name: str, pixels: Tensor, config: Config) -> Tensor:
    """Turn a field (N, H, W, C) uint8 into (N, C, H, W) in [-1, 1], a copy; a label map into 0 and 1."""
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    if labels := checks.label_maps(config).get(name):
        return one_hot(pixels[..., 0], labels.classes, dtype)
    # (N, H, W, C) seen as (N, C, H, W) is channels_last already
    return pixels.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


def micro_batches(
    pixels: Mapping[str, Tensor],
    labels: Tensor | None,
    mirrored: Mapping[str, Tensor],
    first: int,
    config: Config,
) -> list[Batch]:
    """Make micro-batches of neighbouring samples, the first at position `first` of the run.

    `pixels` (N, H, W, C) uint8 by field, `labels` (N,) int64 and `mirrored` (N,) booleans by field, the same for all
    fields of a sample; none where nothing is mirrored. What is done to each image is done to all of them at once: a few kernels for a step, not for each
    micro-batch.
    """
    count = config.training.micro_batch
    total = len(next(iter(pixels.values())))
    bytes_of = 8 if config.training.precision == "fp64" else 4
    if total > count and any(count * each[0].numel() * bytes_of % _ALIGNED for each in pixels.values()):
        made = []
        for start in range(0, total, count):
            part = slice(start, start + count)
            fields = {name: each[part] for name, each in pixels.items()}
            made += micro_batches(
                fields,
                None if labels is None else labels[part],
                {name: each[part] for name, each in mirrored.items()},
                first + start,
                config,
            )
        return made
    positions = torch.arange(first, first + total, device=next(iter(pixels.values())).device)
    whole = {name: _images(name, each, mirrored.get(name), config) for name, each in pixels.items()}
    if labels is not None:
        whole["class"] = labels
    parts = {name: torch.split(tensor, count) for name, tensor in whole.items()}
    return [
        Batch({name: part[number] for name, part in parts.items()}, each)
        for number, each in enumerate(torch.split(positions, count))
    ]


def _images(name: str, pixels: Tensor, mirrored: Tensor | None, config: Config) -> Tensor:
    if mirrored is not None:  # before they are four times as large
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
    images = normalised(name, pixels, config)
    return images if config.training.channels_last else images.contiguous()
