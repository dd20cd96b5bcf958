"""The state of players as named tensors: `G/weights/<name>`, `G/average/<name>`, `G/exp_avg/<name>`, ...

An optimizer's tensors have its own names for them. No name says how ranks share the work, so a checkpoint loads under any
strategy at any number of ranks.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from gan_dist import optimizer_probe
from gan_dist.checkpoint.format import Piece, deal
from gan_dist.networks.statistics import SpectralNorm
from gan_dist.player import Player, Shard
from gan_dist.pool import Pool


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


def collect(
    players: Iterable[Player], of_game: Mapping[str, Tensor] | None = None, pools: Iterable[Pool] = ()
) -> State:
    """All tensors of the players by name, what the game keeps beside them as `game/<name>`, and `pool/<name>`."""
    state = State({}, {f"game/{name}": tensor.detach() for name, tensor in (of_game or {}).items()}, [], {})
    for player in players:
        for kind, network in _networks(player).items():
            sharded = set() if player.shards is None else set(player.shards.shapes)
            for name, tensor in network.state_dict().items():
                if name not in sharded:
                    state.whole[f"{player.name}/{kind}/{name}"] = tensor.detach()
        if player.shards is None:
            state.steps[player.name] = _collect_optimizer(player, state.whole)
            continue
        state.steps[player.name] = player.shards.steps
        for shard in player.shards.owned():
            for name, tensor in _named(player, shard, stepped=bool(player.shards.steps)):
                state.owned.append((Piece(name, shard.offset, len(tensor)), tensor))
        for name, shape in player.shards.shapes.items():
            optimizers = player.kept.tensors if player.shards.steps else ()
            kinds = ["weights", *optimizers, *(["average"] if player.average else [])]
            dtype = player.shards.dtype
            for kind in kinds:
                state.shapes[f"{player.name}/{kind}/{name}"] = torch.empty(shape, dtype=dtype, device="meta")
    state.shapes.update({name: torch.empty_like(tensor, device="meta") for name, tensor in state.whole.items()})
    for pool in (pool for pool in pools if pool.size):
        name, part = f"pool/{pool.name}", pool.held()
        state.shapes[name] = torch.empty(part.shape, dtype=part.held.dtype, device="meta")
        state.owned.append((Piece(name, part.offset, len(part.held)), part.held))
    return state


def _collect_optimizer(player: Player, tensors: dict[str, Tensor]) -> int:
    """Put the optimizer's state of a whole player into `tensors`; its number of steps (1 of one that keeps no count)."""
    kept, counts = player.kept, []
    for name, weight in player.network.named_parameters():
        state = player.optimizer.state.get(weight)
        if kept.step is None:
            counts.append(torch.tensor(float(bool(state))))
        else:
            counts.append(torch.as_tensor(state["step"], dtype=torch.float32) if state else torch.zeros(()))
        if state:
            tensors.update({f"{player.name}/{kind}/{name}": state[kind] for kind in kept.tensors})
    found = set(torch.stack(counts).tolist())  # on a GPU: waited for once
    assert len(found) == 1, f"{player.name}'s weights were updated unequally often: {found}"
    return int(found.pop())


def weights(players: Iterable[Player], of_game: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the part of it that every rank must hold alike: weights, unless they are cut, statistics, and the game's state."""
    return {f"game/{name}": tensor.detach() for name, tensor in (of_game or {}).items()} | {
        f"{player.name}/weights/{name}": tensor.detach()
        for player in players
        for name, tensor in player.network.state_dict().items()
        if player.shards is None or name not in player.shards.shapes
    }


@torch.no_grad()
def restore(
    players: Iterable[Player],
    read: Callable[..., Tensor],
    steps: Mapping[str, int],
    of_game: Mapping[str, Tensor] | None = None,
    pools: Iterable[Pool] = (),
) -> None:
    """Put saved tensors into the players.

    `read(name)` returns a tensor on the CPU, `read(name, offset, length)` a run of its elements. They are read one at a
    time. Every rank calls this. Raises KeyError or RuntimeError where the tensors do not fit.
    """
    for name, tensor in (of_game or {}).items():
        tensor.copy_(read(f"game/{name}"))
    for pool in (pool for pool in pools if pool.size):
        part = pool.held()
        part.held.copy_(read(f"pool/{pool.name}", part.offset, len(part.held)))
    for player in players:
        sharded = set() if player.shards is None else set(player.shards.shapes)
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                if name not in sharded:
                    tensor.copy_(read(f"{player.name}/{kind}/{name}"))
        count = steps[player.name]
        if player.shards is None:
            _restore_optimizer(player, read, count)
            continue
        player.shards.steps = count
        for shard in player.shards.owned():
            for name, tensor in _named(player, shard, stepped=bool(count)):
                tensor.copy_(read(name, shard.offset, len(tensor)))
            if not count:
                for name, tensor in player.kept.first_of(shard.weight).items():
                    shard.state[name].copy_(tensor)
        player.shards.refresh()


@torch.no_grad()
def take_over(
    players: Iterable[Player], read: Callable[..., Tensor], names: Mapping[str, str], steps: Mapping[str, int]
) -> None:
    """Put tensors of another run into the players: `names` is {name here: name there}, all others stay as they are.

    `read` is as in `restore`, `steps` are those of the optimizers whose state is among them. Every rank calls it.
    """
    for player in players:
        sharded = set() if player.shards is None else set(player.shards.shapes)
        for kind, network in _networks(player).items():
            for name, tensor in network.state_dict().items():
                if name not in sharded and (source := names.get(f"{player.name}/{kind}/{name}")):
                    tensor.copy_(read(source))
        for path, module in player.network.named_modules():
            averaged = names.get(f"{player.name}/weights/{path}.u", "").split("/")[1:2] == ["average"]
            if averaged and isinstance(module, SpectralNorm):
                module.straighten()
        count = steps.get(player.name, 0)
        if player.shards is None:
            _restore_optimizer(player, lambda name: read(names[name]), count)
            continue
        player.shards.steps = count
        for shard in player.shards.owned():
            for name, tensor in _named(player, shard, stepped=bool(count)):
                if source := names.get(name):
                    tensor.copy_(read(source, shard.offset, len(tensor)))
            if not count:  # Lookahead's slow weights begin as the weights
                for name, tensor in player.kept.first_of(shard.weight).items():
                    shard.state[name].copy_(tensor)
        player.shards.refresh()


def _restore_optimizer(player: Player, read: Callable[..., Tensor], count: int) -> None:
    before, kept = player.optimizer.state, player.kept
    if not count:
        before.clear()
        before.update(optimizer_probe.build(player.make_optimizer, player.weights).state)  # Adagrad begins with some
        return
    for name, weight in player.network.named_parameters():
        state = before[weight]  # of a run that goes back: its tensors are used again
        if kept.step is not None:
            state["step"] = kept.step_of(count)
        for kind, dtype in kept.tensors.items():
            if kind not in state:
                state[kind] = torch.empty_like(weight, dtype=dtype, memory_format=torch.preserve_format)
            state[kind].copy_(read(f"{player.name}/{kind}/{name}"))


def _named(player: Player, shard: Shard, stepped: bool) -> list[tuple[str, Tensor]]:
    named = [(f"{player.name}/weights/{shard.name}", shard.weight)]
    if stepped:
        named += [(f"{player.name}/{kind}/{shard.name}", tensor) for kind, tensor in shard.state.items()]
    if shard.average is not None:
        named.append((f"{player.name}/average/{shard.name}", shard.average))
    return named


def _networks(player: Player) -> dict[str, nn.Module]:
    networks = {"weights": player.network}
    if player.average is not None:
        networks["average"] = player.average.network
    return networks
