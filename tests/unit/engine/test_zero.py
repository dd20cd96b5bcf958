"""ZeRO-3's copy of a network, by which it computes penalties, without DeepSpeed."""

import copy

import torch
from torch import Tensor, nn

from gan_dist.engine.zero import _Gathered
from gan_dist.player import Player


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor, styles: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return (self.linear(x), x) if styles else self.linear(x)


def test_a_penalty_may_call_the_copy_by_keywords() -> None:
    """As the path length asks StyleGAN2's generator for its styles."""
    network = Network()
    player = Player("G", network, torch.optim.Adam)
    gathered = _Gathered(player, copy.deepcopy(network), None)
    gathered._weights = dict(network.named_parameters())
    player.trained, player.has_turn = gathered, True
    images, styles = player(torch.ones(1, 2), styles=True)
    assert torch.equal(images, network.linear(styles))
