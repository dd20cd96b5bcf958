"""The state of players as named tensors: `G/weights/<name>`, `G/average/<name>`, `G/exp_avg/<name>`, ..."""

from collections.abc import Callable, Iterable, Mapping

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
        counts = []
        for name, weight in player.network.named_parameters():
            state = player.optimizer.state.get(weight)
            counts.append(state["step"] if state else torch.zeros(()))
            if state:
                tensors.update({f"{player.name}/{moment}/{name}": state[moment] for moment in _MOMENTS})
        found = set(torch.stack(counts).tolist())  # on a GPU: waited for once
        assert len(found) == 1, f"{player.name}'s weights were updated unequally often: {found}"
        steps[player.name] = int(found.pop())
    return tensors, steps


def weights(players: Iterable[Player]) -> dict[str, Tensor]:
    """The part of it that every process must hold alike: weights and statistics."""
    return {
        f"{player.name}/weights/{name}": tensor.detach()
        for player in players
        for name, tensor in player.network.state_dict().items()
    }


@torch.no_grad()
def restore(players: Iterable[Player], read: Callable[[str], Tensor], steps: Mapping[str, int]) -> None:
    """Put saved tensors into the players; `read(name)` gives one, on the CPU, and they are asked for one at a time.

    Raises KeyError or RuntimeError where they do not fit.
    """
    for player in players:
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                tensor.copy_(read(f"{player.name}/{kind}/{name}"))
        count = steps[player.name]
        before = player.optimizer.state
        if not count:
            before.clear()
            continue
        on_device = bool(player.optimizer.defaults.get("fused"))
        for name, weight in player.network.named_parameters():
            state = before[weight]  # of a run that goes back: its tensors are used again
            state["step"] = torch.tensor(float(count), device=weight.device if on_device else "cpu")
            for moment in _MOMENTS:
                if moment not in state:
                    state[moment] = torch.empty_like(weight, memory_format=torch.preserve_format)
                state[moment].copy_(read(f"{player.name}/{moment}/{name}"))


def _networks(player: Player) -> dict[str, nn.Module]:
    found = {"weights": player.network}
    if player.average is not None:
        found["average"] = player.average.network
    return found
