"""What an augmentation is: a section of keys that makes a function of images, perhaps with state."""

from typing import Any

from torch import Tensor, nn

from gan_dist.config.section import Part
from gan_dist.interfaces import Batch


class Augmentation(Part):
    """A change of all images on their way into the discriminator, real and generated alike."""

    def build(self, seed: int) -> "Augment":
        """Return the function, for the run of a seed."""
        raise NotImplementedError


class Augment(nn.Module):
    """Called as augment(images, batch): the same images, changed by random numbers that batch.positions key.

    What it keeps from step to step are buffers of Statistics modules in it, so that they are gathered over all ranks, kept
    in checkpoints, and not touched by trials.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        """Position of the step that is played, for what changes over the run; the game sets it."""
        self.batch_size = 0
        """Images in a step, of all ranks together; the game sets it."""

    def forward(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W). `purpose` is "real" or "fake": a key of its own for either."""
        raise NotImplementedError

    def observe(self, real: Tensor, fake: Tensor, batch: Batch) -> None:
        """See the logits of the discriminator's own turn."""

    def figures(self) -> dict[str, Tensor]:
        """Return what a person wants to see of its state, by name: a scalar on the device each."""
        return {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Tensor:
        output: Tensor = super().__call__(*arguments, **keywords)
        return output
