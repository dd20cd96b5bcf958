"""An augmentation with state: images are shifted with a probability that follows the discriminator (Karras et al., 2020)."""

import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.augment import Augment, Augmentation
from gan_dist.config import Fraction, Positive
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import Statistics


class Shift(Augmentation):
    """Shift images to a side, more often the surer the discriminator is of real ones."""

    pixels: Positive = 2
    """Longest shift."""
    target: Fraction = 0.6
    """Mean sign of the discriminator's logits of real images above which shifts become more frequent."""
    speed: Fraction = 0.05
    """Change of the probability in an update of the discriminator."""

    def build(self, seed: int) -> Augment:
        return Shifting(self, seed)


class Probability(Statistics):
    """How often images are shifted: moved once an update of the discriminator, by the signs that all ranks saw."""

    probability: Tensor

    def __init__(self, target: float, speed: float) -> None:
        super().__init__()
        self.target, self.speed = target, speed
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(1), persistent=False)
        self.count = 0

    @property
    def gathered(self) -> bool:
        return self.count > 0

    def see(self, logits: Tensor) -> None:
        if self.tracking:
            for part in logits.chunk(self.parts):
                self.signs += part.sign().mean()
                self.count += 1

    @torch.no_grad()
    def take(self) -> list[Tensor]:
        taken = [self.signs / self.count]
        self.signs.zero_()
        self.count = 0
        return taken

    @torch.no_grad()
    def give(self, taken: list[Tensor]) -> None:
        self.signs.copy_(taken[0])
        self.count = 1

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        if self.count:
            step = self.speed * (self.signs[0] / self.count - self.target).sign()
            step = step if good is None else torch.where(good, step, 0.0)
            self.probability.add_(step.to(self.probability.dtype)).clamp_(0, 1)
            self.signs.zero_()
            self.count = 0


class Shifting(Augment):
    def __init__(self, keys: Shift, seed: int) -> None:
        super().__init__()
        self.seed, self.pixels = seed, keys.pixels
        self.state = Probability(keys.target, keys.speed)

    def forward(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        chosen = rng.uniform(rng.key(self.seed, f"shift {purpose}"), batch.positions, 2)
        by = ((2 * chosen[:, 0] - 1) * (self.pixels + 0.5)).round().long()
        by = torch.where(chosen[:, 1] < self.state.probability, by, 0)
        columns = (torch.arange(images.shape[-1], device=images.device) - by[:, None]).clamp(0, images.shape[-1] - 1)
        return images.gather(-1, columns[:, None, None, :].expand_as(images))

    def observe(self, real: Tensor, fake: Tensor, batch: Batch) -> None:
        self.state.see(real)
