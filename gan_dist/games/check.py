"""Try a game on a few random samples before it trains, so that a user's part that will not do is one line and no traceback."""

import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor

from gan_dist.config.common import Config
from gan_dist.errors import AgreedError, InputError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.networks.statistics import Statistics, unmanaged


def verify(game: Game, config: Config, batch: Batch) -> None:
    """Play every phase once on a batch, without an update. Leaves no trace in the game.

    Raises AgreedError, naming file, class and what is missing, for a part that fails, gives no scalar loss, has buffers
    that would depend on the number of ranks, or state that would not be saved.
    """
    prefix = _own(config)
    modules = {type(module).__name__: module for module in game.modules}
    for player in game.players:
        for each in player.statistics:
            each.tracking, each.parts = False, 1
    held, recorded = dict(_values(game)), game.metrics
    game.metrics = Metrics(recorded.device)
    try:
        problems = unmanaged(
            {**{player.name: player.network for player in game.players}, **modules}, lambda: _play(game, batch)
        )
        if problems:
            raise AgreedError(f"{prefix}{problems[0]}")
        for name, value in _values(game):
            if name not in held or not _same(held[name], value):
                raise AgreedError(
                    f"{prefix}{name} changes in a step, and would not be saved; make it a buffer of a class that derives from "
                    "gan_dist.networks.statistics.Statistics"
                )
    except InputError as error:
        raise AgreedError(str(error) if isinstance(error, AgreedError) else f"{prefix}{error}") from error
    except Exception as error:  # whatever a user's part raises
        raise AgreedError(f"{prefix}{_said(error, config)}") from error
    finally:
        game.metrics = recorded
        for player in game.players:
            player.network.requires_grad_(True).zero_grad(set_to_none=True)


@contextlib.contextmanager
def naming(config: Config) -> Iterator[None]:
    """While parts are made, put the user's own parts before what is said to be wrong with one."""
    try:
        yield
    except AgreedError as error:
        raise AgreedError(f"{_own(config)}{error}") from error


def _own(config: Config) -> str:
    """The user's own parts, to begin a message with."""
    own = ", ".join(kind.rpartition("/")[2] for kind in config.sources)
    return f"{own}: " if own else ""


def _play(game: Game, batch: Batch) -> None:
    fresh = Batch(dict(batch.fields), batch.positions)
    for phase in game.phases:
        for player in game.players:
            player.network.requires_grad_(player is phase.player)
        for loss in (phase.loss, phase.penalty):
            if loss is not None:
                _check_loss(loss(fresh), phase)


def _check_loss(value: object, phase: Phase) -> None:
    if not isinstance(value, Tensor) or value.dim():
        is_now = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(
            f"the loss of {phase.player.name} is {is_now}; the mean over the samples is needed, a scalar tensor"
        )
    if not value.requires_grad:
        raise InputError(f"the loss of {phase.player.name} does not depend on the weights of {phase.player.name}")


def _said(error: Exception, config: Config) -> str:
    """Return the error, and the line of the user's file where it came from."""
    paths = {source.rpartition(":")[0] for source in config.sources}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in paths]
    where = f"{frames[-1].name}, line {frames[-1].lineno}, fails" if frames else "a phase of the game fails"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{where}: {type(error).__name__}: {text}"


def _values(game: Game) -> Iterator[tuple[str, Tensor | float]]:
    """Yield tensors and numbers that are plain attributes of the game's modules, or tensors of the game itself."""
    for name, value in vars(game).items():
        if isinstance(value, Tensor):
            yield f"{type(game).__name__}.{name}", value.detach().clone()
    for module in (each for outer in game.modules for each in outer.modules()):
        if isinstance(module, Statistics):
            continue
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{type(module).__name__}.{name}", value.detach().clone()
            elif isinstance(value, float | int) and name != "training":
                yield f"{type(module).__name__}.{name}", value


def _same(before: Tensor | float, after: Tensor | float) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.shape == after.shape and torch.equal(before, after)
    return type(before) is type(after) and bool(before == after)
