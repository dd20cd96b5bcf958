"""Keep a game's earlier images, so that a discriminator sees more than the newest (Shrivastava et al., 2017, section 2.3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.interfaces import Batch


class Run(NamedTuple):
    """A run of elements of a flattened tensor that this rank holds, and no other."""

    shape: tuple[int, ...]
    """Of the tensor, whole."""
    offset: int
    held: Tensor
    """Flat and live."""


class Pool:
    """Earlier images of each slot of the global batch. Each slot's are the pool of a run with batch 1.

    Until a slot has `size` images, its newest is kept and shown. From then on the newest is shown and not kept, or takes the
    place of one of the `size`, which is shown; each with probability 1/2. What happens is a function of the sample's
    position, so every number of ranks and every resume shows the same images. A rank holds those of its own slots.
    """

    def __init__(self, name: str, seed: int, size: int, batch: int, image: tuple[int, int, int]) -> None:
        """`image` are channels, height and width. A pool of size 0 keeps nothing."""
        self.name, self.size, self.batch = name, size, batch
        self.shape = (batch, size, *image)
        self.begin = 0
        """Position in images of the first step that exchanges images, and every step from there on does."""
        self._coin, self._place = (rng.key(seed, f"pool {name}: {what}") for what in ("coin", "place"))
        self._names = tuple(f"pool {name}: {what}" for what in ("slot", "place", "kept"))
        self._slots = range(0)
        self.images = torch.empty(0)
        """Those of this rank's slots: (slots, size, C, H, W), changed in place."""

    @property
    def bytes(self) -> int:
        """Return the memory of all slots, in fp32."""
        return 4 * math.prod(self.shape)

    def place(self, slots: range, device: torch.device, dtype: torch.dtype) -> None:
        """Make room for the images of some neighbouring slots."""
        self._slots = slots
        self.images = torch.zeros((len(slots), *self.shape[1:]), device=device, dtype=dtype)

    @torch.no_grad()
    def exchange(self, batch: Batch, images: Tensor) -> Tensor:
        """Return what is shown for the images (N, C, H, W) of a batch's samples. `commit` keeps what is to be kept."""
        if not self.size:
            return images.detach()
        positions = batch.positions
        # positions of other ranks' slots come in trials only, which keep nothing
        slot = (positions % self.batch - self._slots.start) % len(self._slots)
        step = positions // self.batch - -(-self.begin // self.batch)
        full = step >= self.size
        old = full & (batch.draw(rng.uniform, self._coin, 1)[:, 0] < 0.5)
        drawn = (batch.draw(rng.uniform, self._place, 1)[:, 0] * self.size).long()
        place = torch.where(full, drawn, step).clamp(0, self.size - 1)
        before = self.images[slot, place]
        images = images.detach().to(before.dtype)
        # what is not finite would be shown for a long time
        keep = (old | ~full) & images.isfinite().flatten(1).all(1)
        kept = torch.where(keep[:, None, None, None], images, before)
        batch.cache.update(zip(self._names, (slot, place, kept), strict=True))
        return torch.where(old[:, None, None, None], before, images)

    @torch.no_grad()
    def commit(self, batches: Sequence[Batch]) -> None:
        """Keep what the exchanges of a step left in its batches: the step is done. Trials do not call it, and leave no trace."""
        for batch in batches:
            if self._names[0] in batch.cache:
                slot, place, kept = (batch.cache[name] for name in self._names)
                self.images[slot, place] = kept

    def held(self) -> Run:
        """Return what this rank holds."""
        first = self._slots.start * math.prod(self.shape[1:])
        return Run(self.shape, first, self.images.view(-1))
