"""Augmentations of what a discriminator sees: keyed by position, differentiable, on the device. One file each."""

from gan_dist.augment.base import Augment, Augmentation

__all__ = ["AUGMENTATIONS", "Augment", "Augmentation"]

AUGMENTATIONS: dict[str, type[Augmentation]] = {}
