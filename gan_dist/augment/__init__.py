"""Augmentations of what a discriminator sees: keyed by position, differentiable, on the device. One file each."""

from gan_dist.augment.ada import Ada
from gan_dist.augment.base import Augment, Augmentation
from gan_dist.augment.diffaugment import DiffAugment

__all__ = ["AUGMENTATIONS", "Augment", "Augmentation"]

AUGMENTATIONS: dict[str, type[Augmentation]] = {"ada": Ada, "diffaugment": DiffAugment}
