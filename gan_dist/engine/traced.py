"""Compile a loss or penalty of a phase together with its gradients, so that penalties may differentiate a gradient.

Experimental: no GPU has run it yet. torch.compile cannot differentiate a compiled network twice. So nothing is left to be
differentiated: make_fx writes down all calls of a term, its derivatives by the images and those by the weights, as one graph
of tensors without autograd, and that is compiled. It does not know hooks, so the gradients are summed over ranks by hand
(engine/flat.py).

What a term does beside it is kept: state of layers and augmentations is changed in place by the graph, metrics and what
is made for a later phase are results of it, and numbers that depend on the position are inputs.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from gan_dist.engine.graphs import said
from gan_dist.interfaces import Batch, Draw, Phase, Together
from gan_dist.metrics import Metrics
from gan_dist.networks.statistics import BatchNorm, Gathering
from gan_dist.player import Player
from gan_dist.pool import Pool
from gan_dist.schedules import FrozenError, Moving, number

BACKEND = "inductor"
_NUMBERS = 16
"""Numbers of one term that depend on the position, at most."""

Term = Callable[[Batch], Tensor]
Function = Callable[[int], float]


class Played(Protocol):
    """What is traced of a game."""

    players: tuple[Player, ...]
    metrics: Metrics
    pools: Sequence[Pool]
    images: int

    @property
    def modules(self) -> Sequence[nn.Module]: ...


class Reports(Protocol):
    """Where a term puts the loss without its penalty (engine.py)."""

    reported: Tensor | None


@dataclasses.dataclass
class _Compiled:
    call: Callable[..., list[Tensor]]
    used: list[int]
    """Which of all inputs it takes."""
    metrics: list[tuple[str, float | None]]
    """Names, and what a number of it counts; None: as usual."""
    made: list[str]
    """What is made for a later phase."""
    reports: bool
    weights: list[nn.Parameter]
    """Those that have a gradient."""
    gathered: list[Gathering]
    numbers: list[tuple[Function, Tensor]]
    places: list[Tensor]
    draws: list[tuple[Draw, int, int]]
    """The random numbers that it takes as inputs."""


class _Noted(Metrics):
    """Takes down what a term records, instead of adding it up."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.added: list[tuple[str, Tensor, float | None]] = []

    def add(self, name: str, value: Tensor, weight: float | Tensor | None = None) -> None:
        if isinstance(weight, Tensor):
            raise FrozenError(f"records {name} with a weight on the device")
        self.added.append((name, value.detach(), weight))


class _Drawn:
    """Draws the random numbers of a batch outside of what is traced, where they are inputs: a compiler of floats does not take
    the products of 64-bit integers that they are made of (Inductor: OverflowError), and might round another way."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self.is_complete = batch, False
        self.values: dict[tuple[Draw, int, int], Tensor] = {}

    def draw(self, part: int, draw: Draw, stream: int, count: int) -> Tensor:
        """Return what the batch draws, once."""
        key = draw, stream, count
        if key not in self.values:
            if self.is_complete:
                raise FrozenError("draws other random numbers each time")
            self.values[key] = self._batch.draw(draw, stream, count)
        return self.values[key]


class Traced:
    """The compiled terms of a game."""

    def __init__(self, game: Played, device: torch.device, dtype: torch.dtype, say: Callable[[str], None]) -> None:
        """`dtype` is that of losses."""
        self._game, self._device, self._dtype, self._say = game, device, dtype, say
        self._compiled: dict[Any, _Compiled] = {}
        self.why_not = ""
        """Why nothing is compiled any more."""
        modules = [*(player.network for player in game.players), *game.modules]
        modules += [each for player in game.players for each in player.attached]
        layers = dict.fromkeys(each for outer in modules for each in outer.modules())
        self._gathering = [each for each in layers if isinstance(each, Gathering)]
        self._norms = [each for each in layers if isinstance(each, BatchNorm)]
        buffers = [buffer for each in layers for buffer in each.buffers(recurse=False)]
        self._buffers = [buffer for buffer in dict.fromkeys(buffers) if buffer.numel()]
        weights = [weight for player in game.players for weight in player.weights]
        self._state = [*dict.fromkeys(weights), *self._buffers, *(pool.images for pool in game.pools if pool.size)]

    def compute(
        self, phase: Phase, term: tuple[int, Term], batch: Batch, weight: float, scale: Tensor | None, turn: Reports
    ) -> tuple[Tensor, list[tuple[nn.Parameter, Tensor]] | None]:
        """Return a term of some samples, and its gradients times `weight` and `scale`, for the weights that have one.

        `term` comes with its number among the phase's.
        None for the gradients where nothing can be compiled: the term then has a graph of autograd.
        """
        number_of_term, play = term
        if self.why_not:
            return play(batch), None
        key = id(phase), number_of_term, weight, scale is None, batch.parts, _forms(batch.fields), _forms(batch.cache)
        inputs = [*self._state, batch.positions, *batch.fields.values(), *batch.cache.values()]
        inputs += [] if scale is None else [scale]
        try:
            compiled = self._compiled.get(key)
            if compiled is None:
                compiled = self._compiled[key] = self._trace(phase, play, batch, weight, scale, turn, inputs)
            for function, place in compiled.numbers:
                value = number(function, self._game.images)
                place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
            with torch.no_grad():
                inputs += [batch.draw(*draw) for draw in compiled.draws] + compiled.places
                results = iter(compiled.call(*(inputs[place] for place in compiled.used)))
        except Exception as error:  # whatever a part of the user's does, or a compiler lacks
            if isinstance(self._game.images, Moving):
                raise  # this is a recording of graphs.py, which then goes on without graphs
            self.why_not = f"the turn of {phase.player.name} {said(error, 'cannot be compiled')}"
            self._say(f"training.compile: the steps run uncompiled from here on, as {self.why_not}")
            return play(batch), None
        value = next(results)
        turn.reported = next(results) if compiled.reports else None
        for name, counts in compiled.metrics:
            self._game.metrics.add(name, next(results), counts)
        for name in compiled.made:
            batch.cache[name] = next(results)
        for layer in compiled.gathered:
            layer._gathered = True
        return value, list(zip(compiled.weights, results, strict=True))

    def _trace(
        self,
        phase: Phase,
        term: Term,
        batch: Batch,
        weight: float,
        scale: Tensor | None,
        turn: Reports,
        inputs: list[Tensor],
    ) -> _Compiled:
        noted, numbers = _Noted(self._device), list[tuple[Function, Tensor]]()
        places = list(torch.zeros(_NUMBERS, dtype=self._dtype, device=self._device).unbind())
        found: dict[str, Any] = {}
        drawn = _Drawn(batch)

        def number_of(function: Function) -> Tensor:
            if len(numbers) == len(places):
                raise FrozenError(f"has more than {_NUMBERS} numbers that change over the run")
            numbers.append((function, places[len(numbers)]))
            return numbers[-1][1]

        def computed(*_: Tensor) -> list[Tensor]:
            # the inputs are the very tensors that the term uses, so that each use is seen
            seen = Batch(dict(batch.fields), batch.positions, batch.parts, dict(batch.cache), cast(Together, drawn))
            noted.added.clear()
            numbers.clear()
            turn.reported = None
            value = term(seen)
            descended = value if weight == 1 else value * weight
            descended = descended if scale is None else descended * scale
            gradients = torch.autograd.grad(descended, phase.player.weights, allow_unused=True)
            pairs = [(own, each) for own, each in zip(phase.player.weights, gradients, strict=True) if each is not None]
            made = {name: tensor for name, tensor in seen.cache.items() if name not in batch.cache}
            found.update(made=list(made), weights=[own for own, _ in pairs], reports=turn.reported is not None)
            return [
                value.detach(),
                *([] if turn.reported is None else [turn.reported]),
                *(value for _, value, _ in noted.added),
                *made.values(),
                *(_like(own, each) for own, each in pairs),
            ]

        with self._without_trace(noted, Moving(number_of)):
            computed()  # to see which random numbers it draws
            drawn.is_complete = True
            graph = make_fx(computed)(*inputs, *drawn.values.values(), *places)
            gathered = [layer for layer in self._gathering if layer._gathered]
            if other := [each for each in phase.player.statistics if each.gathered and not isinstance(each, Gathering)]:
                for each in other:
                    each.drop()
                raise FrozenError(f"gathers statistics in {type(other[0]).__name__}, which is no Gathering")
        turn.reported = None
        given = [node for node in graph.graph.nodes if node.op == "placeholder"]
        used = [place for place, node in enumerate(given) if node.users]
        for node in given:
            if not node.users:
                graph.graph.erase_node(node)
        graph.recompile()
        call = torch.compile(graph, backend=BACKEND, fullgraph=True, dynamic=False)
        metrics = [(name, counts) for name, _, counts in noted.added]
        return _Compiled(
            call, used, metrics, draws=list(drawn.values), gathered=gathered, numbers=numbers, places=places, **found
        )

    @contextlib.contextmanager
    def _without_trace(self, noted: Metrics, moving: Moving) -> Iterator[None]:
        """Take back what the term changes in the block, and let it see `noted` and a position that moves."""
        game = self._game
        images, metrics = game.images, game.metrics
        before = [buffer.clone() for buffer in self._buffers]
        flags = [layer._gathered for layer in self._gathering]
        groups = [layer.group for layer in self._norms]
        for layer in self._gathering:
            layer._gathered = False
        for norm in self._norms:
            norm.group = None  # each gathers by itself
        noted.weight = metrics.weight
        game.images, game.metrics = cast(int, moving), noted
        try:
            yield
        finally:
            game.images, game.metrics = images, metrics
            if before:  # torch refuses an empty list
                with torch.no_grad():
                    torch._foreach_copy_(self._buffers, before)
            for layer, flag in zip(self._gathering, flags, strict=True):
                layer._gathered = flag
            for norm, group in zip(self._norms, groups, strict=True):
                norm.group = group


def _like(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the weight's order of memory, as autograd does."""
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


def _forms(tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    return tuple((name, tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in tensors.items())
