"""Try a game on a few random samples before it trains, so that a user's part that will not do is one line and no traceback."""

import collections
import contextlib
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gan_dist.config.common import Config
from gan_dist.errors import AgreedError, InputError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.networks.statistics import Statistics, unmanaged


def what_is_wrong(game: Game, config: Config, batch: Batch) -> str:
    """Play every phase once on a batch, without an update; what is wrong with the game on this rank, or "".

    It names file, class and what is missing for a part that fails, gives no scalar loss, leaves a weight without gradient,
    has buffers that would depend on the number of ranks, or state that would not be saved. Leaves no trace in the game.
    """
    modules = {f"{number} {type(module).__name__}": module for number, module in enumerate(game.modules)}
    networks = {player.name: player.network for player in game.players}
    for player in game.players:
        for each in player.statistics:
            each.tracking, each.parts = False, 1
    before, recorded = _values(game), game.metrics
    game.metrics = Metrics(recorded.device)
    try:
        if problems := unmanaged({**networks, **modules}, lambda: _play(game, batch)):
            return f"{_own(config)}{problems[0]}"
        for (name, old), (_, new) in zip(before, _values(game), strict=True):
            if not _same(old, new):
                return (
                    f"{_own(config)}{name} changes in a step, and would not be saved; make it a buffer of a class that derives "
                    "from gan_dist.networks.statistics.Statistics"
                )
    except torch.OutOfMemoryError:  # nobody's wrong input
        raise
    except InputError as error:
        return f"{_own(config)}{error}"
    except Exception as error:  # whatever a user's part raises
        return f"{_own(config)}{_said(error, config)}"
    finally:
        game.metrics = recorded
        for player in game.players:
            player.network.requires_grad_(True).zero_grad(set_to_none=True)
    return ""


def refuse_alike(everyone: Sequence[str]) -> None:
    """Raise AgreedError where a rank found something wrong; `everyone` has what each rank found."""
    for rank, said in enumerate(everyone):
        if said:
            raise AgreedError(said if all(everyone) else f"rank {rank}: {said}")


@contextlib.contextmanager
def naming(config: Config) -> Iterator[None]:
    """While parts are made, put the user's own parts before what is said to be wrong with one."""
    try:
        yield
    except InputError as error:
        raise AgreedError(f"{_own(config)}{error}") from error
    except Exception as error:
        if not config.sources:  # nobody's but ours
            raise
        raise AgreedError(f"{_own(config)}{_said(error, config)}") from error


def _own(config: Config) -> str:
    """Return the user's own parts, to begin a message with."""
    own = ", ".join(kind.rpartition("/")[2] for kind in config.sources)
    return f"{own}: " if own else ""


def _play(game: Game, batch: Batch) -> None:
    fresh = Batch(dict(batch.fields), batch.positions)
    for phase in game.phases:
        for player in game.players:
            player.network.requires_grad_(player is phase.player).zero_grad(set_to_none=True)
        for loss, _ in phase.terms():
            _check_loss(loss(fresh), phase).backward()  # type: ignore[no-untyped-call]
        without = [name for name, weight in phase.player.network.named_parameters() if weight.grad is None]
        if without:
            raise InputError(
                f"the weight {without[0]} of {phase.player.name} has no gradient in a turn of {phase.player.name}, so its "
                "optimizer would skip it; use it, or add 0 * logits.sum() to a penalty"
            )


def _check_loss(value: object, phase: Phase) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        is_now = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(
            f"the loss of {phase.player.name} is {is_now}; the mean over the samples is needed, a scalar tensor"
        )
    if not value.requires_grad:
        raise InputError(f"the loss of {phase.player.name} does not depend on the weights of {phase.player.name}")
    return value


def _said(error: Exception, config: Config) -> str:
    """Return the error, and the line of the user's file where it came from."""
    paths = {source.rpartition(":")[0] for source in config.sources}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in paths]
    where = f"{frames[-1].name}, line {frames[-1].lineno}, fails" if frames else "a phase of the game fails"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{where}: {type(error).__name__}: {text}"


def _values(game: Game) -> list[tuple[str, Any]]:
    """Return copies of the plain data that the game, its modules and its networks hold outside of parameters and buffers."""
    found = [(f"{type(game).__name__}.{name}", _copied(value)) for name, value in vars(game).items()]
    for outer in (*game.modules, *(player.network for player in game.players)):
        for path, module in outer.named_modules():
            if isinstance(module, Statistics):
                continue
            label = f"{type(module).__name__}{f' {path}' if path else ''}"
            found += [
                (f"{label}.{name}", _copied(value))
                for name, value in vars(module).items()
                if not name.startswith("_") and name != "training"
            ]
    return found


def _copied(value: Any, depth: int = 4) -> Any:
    """Return the value if it is plain data of any depth; of anything else its type."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, str | bytes | int | float | complex | None):
        return value
    if depth and isinstance(value, list | tuple | set | collections.deque):
        return [_copied(each, depth - 1) for each in value]
    if depth and isinstance(value, dict):
        return {str(name): _copied(each, depth - 1) for name, each in value.items()}
    return type(value)


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.shape == after.shape and torch.equal(before, after)
    if type(before) is not type(after):
        return False
    if isinstance(before, list):
        return len(before) == len(after) and all(_same(old, new) for old, new in zip(before, after, strict=True))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[name], after[name]) for name in before)
    return bool(before == after) or (before != before and after != after)  # NaN is NaN
