"""The penalty on weights whose outputs are not at right angles."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import Statistics
from gan_dist.penalties.base import Adversarial, Penalty
from gan_dist.player import Player


class Orthogonal(Penalty):
    """weight sum ||W W^T * (1 - I)||_F^2 over a player's weights of two or more axes (Brock et al., 2019, section 3.1).

    A row of W is all that leads to one output. The gradient is that of the formula, 4 weight (W W^T * (1 - I)) W; code that
    adds a gradient of its own may have another factor in it.
    """

    of: Literal["generator", "discriminator"] = "discriminator"
    """Whose weights."""
    without: list[str] = Field([])
    """Beginnings of the names of weights to leave out, such as an embedding of the classes that layers share."""

    twice: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = True

    def value(self, game: Adversarial, batch: Batch, kept: Statistics | None) -> Tensor:
        if self.of == "generator":
            player, called = game.generator, game.generate(batch, "latent")
        else:
            player, called = game.discriminator, game.logits_of(batch)(game.real(batch))
        total: Tensor = 0 * called.sum()  # DDP shares gradients of what it was called for only
        for matrix in self._matrices(player):
            products = matrix @ matrix.t()
            total = total + (products - products.diagonal().diag()).square().sum()
        return total

    def _matrices(self, player: Player) -> Iterator[Tensor]:
        weights = player.whole_weights()
        for beginning in self.without:
            if not any(name.startswith(beginning) for name in weights):
                raise InputError(
                    f"penalties.orthogonal.without: no weight of the {self.of} has a name that begins with {beginning}; "
                    f"there are {', '.join(weights)}"
                )
        outputs = {
            f"{path}.weight".lstrip("."): 1
            for path, module in player.network.named_modules()
            if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        }
        for name, weight in weights.items():
            if weight.ndim > 1 and not name.startswith(tuple(self.without)):
                yield weight.transpose(0, outputs.get(name, 0)).flatten(1)

    def of_player(self) -> Literal["generator", "discriminator"]:
        return self.of
