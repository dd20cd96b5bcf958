"""The state of players as named tensors: `G/weights/<name>`, `G/average/<name>`, `G/exp_avg/<name>`, ..."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gan_dist.player import Player

_MOMENTS = ("exp_avg", "exp_avg_sq")


def collect(players: Iterable[Player]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """All tensors by name, not copied, and each player's number of optimizer steps."""
    tensors: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for player in players:
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                tensors[f"{player.name}/{kind}/{name}"] = tensor.detach()
        counts = set()
        for name, weight in player.network.named_parameters():
            state = player.optimizer.state.get(weight)
            counts.add(int(state["step"]) if state else 0)
            if state:
                tensors.update({f"{player.name}/{moment}/{name}": state[moment] for moment in _MOMENTS})
        assert len(counts) == 1, f"{player.name}'s weights were updated unequally often: {counts}"
        steps[player.name] = counts.pop()
    return tensors, steps


@torch.no_grad()
def restore(players: Iterable[Player], tensors: Mapping[str, Tensor], steps: Mapping[str, int]) -> None:
    """Put saved tensors (on the CPU) into the players. Raises KeyError or RuntimeError where they do not fit."""
    for player in players:
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                tensor.copy_(tensors[f"{player.name}/{kind}/{name}"])
        count = steps[player.name]
        player.optimizer.state.clear()
        if not count:
            continue
        on_device = bool(player.optimizer.defaults.get("fused"))
        for name, weight in player.network.named_parameters():
            state = {"step": torch.tensor(float(count), device=weight.device if on_device else "cpu")}
            for moment in _MOMENTS:
                state[moment] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                state[moment].copy_(tensors[f"{player.name}/{moment}/{name}"])
            player.optimizer.state[weight] = state


def _networks(player: Player) -> dict[str, nn.Module]:
    found = {"weights": player.network}
    if player.average is not None:
        found["average"] = player.average.network
    return found
