"""The state of players as named tensors: `G/weights/<name>`, `G/average/<name>`, `G/exp_avg/<name>`, ...

The names do not depend on how ranks share the work, so a checkpoint loads under any strategy at any process count.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from gan_dist.checkpoint.format import Piece, deal
from gan_dist.player import Player, Shard

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True)
class State:
    """The players' tensors as one rank has them, not copied."""

    shapes: dict[str, Tensor]
    """Every tensor's shape and type, whole (without memory)."""
    whole: dict[str, Tensor]
    """Those that are the same on all ranks."""
    owned: list[tuple[Piece, Tensor]]
    """Runs of elements of the other tensors, which only this rank has."""
    steps: dict[str, int]
    """Each player's optimizer steps."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], steps: Mapping[str, int] | None = None) -> "State":
        """Return the state where every rank holds every tensor whole."""
        shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        return cls(shapes, dict(tensors), [], dict(steps or {}))

    def pieces(self, rank: int, world_size: int) -> list[tuple[Piece, Tensor]]:
        """Return what this rank writes: (piece, the tensor that holds it). Whole tensors are dealt over the ranks."""
        dealt = deal(self.whole, world_size)[rank]
        return [*((piece, self.whole[piece.name]) for piece in dealt), *self.owned]


def collect(players: Iterable[Player]) -> State:
    """Return all tensors of the players by name."""
    state = State({}, {}, [], {})
    for player in players:
        for kind, network in _networks(player).items():
            sharded = set() if player.shards is None else set(player.shards.shapes)
            for name, tensor in network.state_dict().items():
                if name not in sharded:
                    state.whole[f"{player.name}/{kind}/{name}"] = tensor.detach()
        if player.shards is None:
            state.steps[player.name] = _collect_moments(player, state.whole)
            continue
        state.steps[player.name] = player.shards.steps
        for shard in player.shards.owned():
            for name, tensor in _named(player, shard, moments=bool(player.shards.steps)):
                state.owned.append((Piece(name, shard.offset, len(tensor)), tensor))
        for name, shape in player.shards.shapes.items():
            kinds = ["weights", *(_MOMENTS if player.shards.steps else ()), *(["average"] if player.average else [])]
            dtype = player.shards.dtype
            for kind in kinds:
                state.shapes[f"{player.name}/{kind}/{name}"] = torch.empty(shape, dtype=dtype, device="meta")
    state.shapes.update({name: torch.empty_like(tensor, device="meta") for name, tensor in state.whole.items()})
    return state


def _collect_moments(player: Player, tensors: dict[str, Tensor]) -> int:
    """Put the Adam moments of a player with whole weights into `tensors`. Returns its number of steps."""
    counts = []
    for name, weight in player.network.named_parameters():
        state = player.optimizer.state.get(weight)
        counts.append(state["step"] if state else torch.zeros(()))
        if state:
            tensors.update({f"{player.name}/{moment}/{name}": state[moment] for moment in _MOMENTS})
    steps = set(torch.stack(counts).tolist())  # waits for a GPU once
    assert len(steps) == 1, f"{player.name}'s weights were not all updated equally often: {steps}"
    return int(steps.pop())


def weights(players: Iterable[Player]) -> dict[str, Tensor]:
    """Return the tensors that must be the same on every rank: statistics, and weights that are not sharded."""
    return {
        f"{player.name}/weights/{name}": tensor.detach()
        for player in players
        for name, tensor in player.network.state_dict().items()
        if player.shards is None or name not in player.shards.shapes
    }


@torch.no_grad()
def restore(players: Iterable[Player], read: Callable[..., Tensor], steps: Mapping[str, int]) -> None:
    """Put saved tensors into the players.

    `read(name)` returns a tensor on the CPU, `read(name, offset, length)` a run of its elements. They are read one at a
    time. Every rank calls this. Raises KeyError or RuntimeError where the tensors do not fit.
    """
    for player in players:
        sharded = set() if player.shards is None else set(player.shards.shapes)
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                if name not in sharded:
                    tensor.copy_(read(f"{player.name}/{kind}/{name}"))
        count = steps[player.name]
        if player.shards is None:
            _restore_moments(player, read, count)
            continue
        player.shards.steps = count
        for shard in player.shards.owned():
            for name, tensor in _named(player, shard, moments=bool(count)):
                tensor.copy_(read(name, shard.offset, len(tensor)))
            if not count:
                for moment in shard.moments.values():
                    moment.zero_()
        player.shards.refresh()


def _restore_moments(player: Player, read: Callable[..., Tensor], count: int) -> None:
    before = player.optimizer.state
    if not count:
        before.clear()
        return
    on_device = bool(player.optimizer.defaults.get("fused"))
    for name, weight in player.network.named_parameters():
        state = before[weight]  # a run that goes back uses the tensors it has
        state["step"] = torch.tensor(float(count), device=weight.device if on_device else "cpu")
        for moment in _MOMENTS:
            if moment not in state:
                state[moment] = torch.empty_like(weight, memory_format=torch.preserve_format)
            state[moment].copy_(read(f"{player.name}/{moment}/{name}"))


def _named(player: Player, shard: Shard, moments: bool) -> list[tuple[str, Tensor]]:
    named = [(f"{player.name}/weights/{shard.name}", shard.weight)]
    if moments:
        named += [(f"{player.name}/{moment}/{shard.name}", shard.moments[moment]) for moment in _MOMENTS]
    if shard.average is not None:
        named.append((f"{player.name}/average/{shard.name}", shard.average))
    return named


def _networks(player: Player) -> dict[str, nn.Module]:
    networks = {"weights": player.network}
    if player.average is not None:
        networks["average"] = player.average.network
    return networks
