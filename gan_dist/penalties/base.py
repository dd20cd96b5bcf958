"""Define what a penalty is: a term of a player's loss beside the adversarial one.

Every weight must have a gradient by it, as DDP would wait for one. A penalty that leaves some out, such as one of a gradient,
which no output bias moves, adds nothing times the output.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from gan_dist import schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Part, Positive
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import Statistics
from gan_dist.player import Player

Logits = Callable[[Tensor], Tensor]


class Adversarial(Protocol):
    """What a penalty sees of a game with a discriminator."""

    seed: int
    generator: Player
    discriminator: Player
    pack: int
    """Images that the discriminator judges together, side by side in a batch; a gradient penalty is of all of them."""

    def logits_of(self, batch: Batch, purpose: str = "real") -> Logits:
        """Return the discriminator as a function of images, with the rest of what it sees (labels, an input) from the batch.

        `purpose` keys its augmentations: "real" or "fake".
        """

    def images_and_logits(self, batch: Batch, purpose: str) -> tuple[Tensor, Tensor]:
        """Return "real" or "fake" images, which take gradients, and their logits: those of the loss where it has them."""

    def real(self, batch: Batch) -> Tensor:
        """Return the images that the discriminator is to believe."""

    def fakes(self, batch: Batch) -> Tensor:
        """Return the generator's images of this step for the batch, without gradients."""

    def generate(self, batch: Batch, purpose: str, noise: float = 0.0, **asked: Any) -> Any:
        """Return what the generator makes of latents of its own for each position of the batch; `purpose` keys them.

        `noise` is the deviation of what is added to the latents: images beside those without.
        """


class Penalty(Part):
    """A term of a player's loss, in each of its updates or in an update of its own every few steps."""

    weight: schedules.ScheduledNonnegative
    """How much it counts."""
    every: Positive = 1
    """Steps between two penalties, each then so many times as strong (Karras et al., 2020). 1: in every update of its
    player; more: an update of its own, with the optimizer corrected for it."""
    full_precision: bool = True
    """Compute it in fp32 where training.precision is bf16 or fp16."""

    player: ClassVar[Literal["generator", "discriminator"]] = "discriminator"
    """Whose loss it belongs to."""
    twice: ClassVar[bool] = True
    """Whether it differentiates a gradient."""
    shares: ClassVar[Literal["", "real", "fake"]] = ""
    """Which images `game.images_and_logits` gives it. In every update, the logits of the loss then serve the penalty too."""
    of_each: ClassVar[bool] = False
    """Whether it is a formula of each sample's own gradient, which BatchNorm mixes with those of the others."""
    reads_weights: ClassVar[bool] = False
    """Whether it reads the weights of its player, which must then be whole on every rank, and not only calls it."""

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        """Return the penalty without its weight: a scalar, the mean over the batch. `kept` is what `statistics` made."""
        raise NotImplementedError

    def of_player(self) -> Literal["generator", "discriminator"]:
        """Return whose loss it belongs to."""
        return self.player

    def factor(self, images: int) -> float:
        """Return what the value is multiplied by when so many images have been seen."""
        return schedules.at(self.weight, images)

    def statistics(self) -> Statistics | None:
        """Return what the penalty keeps from step to step, if anything; the game attaches it to the player and saves it."""
        return None

    def check(self, config: Config) -> None:
        if config.training.precision in ("fp32", "fp64") and not self.full_precision:
            raise ValueError(
                f"{config.key_of(self)}.full_precision: false has no effect with training.precision: "
                f"{config.training.precision}; remove it, or set training.precision: bf16"
            )
