"""Count what a step starts on a device: kernels, bytes, operations, memory. Nothing is computed.

The step of training is played on fake tensors, which have shapes and no numbers. A call of ATen that is not a view counts
as one kernel, a convolution's backward as one for each gradient: fewer than CUDA starts, as cuDNN may change layouts.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree, flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from gan_dist import footprint, games, optimizer_probe, trial
from gan_dist.config import Config
from gan_dist.doctor import numerics, play
from gan_dist.engine import Engine
from gan_dist.interfaces import Phase
from gan_dist.player import Player
from gan_dist.step import play_step

_ATEN = torch.ops.aten
_NO_KERNEL = {
    _ATEN.empty.memory_format,
    _ATEN.empty_like.default,
    _ATEN.empty_strided.default,
    _ATEN.new_empty.default,
    _ATEN.new_empty_strided.default,
    _ATEN.detach.default,
    _ATEN.lift_fresh.default,
    _ATEN._local_scalar_dense.default,
}


@dataclasses.dataclass
class Counts:
    """What some calls took; sums, but for `peak`."""

    kernels: float = 0.0
    bytes: float = 0.0
    """Read and written, each operand of each kernel once."""
    operations: float = 0.0
    """Of convolutions and matrix products; a multiplication and an addition are two."""
    half_operations: float = 0.0
    """Those of them with 16-bit numbers."""
    product_bytes: float = 0.0
    """Those of `bytes` that convolutions and matrix products read and write."""
    peak: float = 0.0
    """Most bytes at once of what the calls made."""

    def plus(self, other: "Counts", times: float) -> "Counts":
        """Return the sum, with `other` counting so many times."""
        mine, its = dataclasses.asdict(self), dataclasses.asdict(other)
        summed = {name: value + times * its[name] for name, value in mine.items()}
        return Counts(**{**summed, "peak": max(self.peak, other.peak)})


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`with Counter() as counter: ...`: `counter.counts` and `counter.by_name` are then of the calls inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()
        self.by_name: dict[str, int] = {}
        self._live = 0
        self._last: Any = None
        self._storages = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Let the call happen, and count it."""
        if function is _ATEN._local_scalar_dense.default:  # a number that fake tensors do not have: yes, all is finite
            return True
        named = named or {}
        result = function(*arguments, **named)
        made = _tensors(result)
        self._see(made)
        if function.is_view or function in _NO_KERNEL or function.namespace == "prim":
            return result
        read = _tensors((arguments, named))
        moved = sum(map(_bytes, [*read, *_written(function, arguments, named, made)]))
        if not moved:  # a question about a tensor
            return result
        kernels = 1
        if function is _ATEN.convolution_backward.default:
            kernels = sum(arguments[10])
        elif function is self._last is _ATEN.linalg_vector_norm.default:  # of all gradients, by one foreach on a GPU
            kernels = 0
        self._last = function
        self.counts.kernels += kernels
        name = str(function.overloadpacket)
        self.by_name[name] = self.by_name.get(name, 0) + kernels
        self.counts.bytes += moved
        if operations := _operations(function, arguments, named, result):
            self.counts.operations += operations
            self.counts.half_operations += operations * (read[0].element_size() == 2)
            self.counts.product_bytes += moved
        return result

    def _see(self, made: list[Tensor]) -> None:
        """Follow the memory of what was made."""
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage not in self._storages:
                size = storage.nbytes()
                self._storages[storage] = _Memory(self, size)
                self._live += size
        self.counts.peak = max(self.counts.peak, self._live)


class _Memory:
    """Bytes of a storage, which are free when the storage is gone, and this with it."""

    def __init__(self, counter: Counter, size: int) -> None:
        self._counter, self._size = counter, size

    def __del__(self) -> None:
        self._counter._live -= self._size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(function: Any, arguments: Any, named: Any, made: list[Tensor]) -> list[Tensor]:
    """Return what a kernel writes: what it changes in place, else what it makes."""
    schema = function._schema.arguments
    by_name = {**{each.name: value for each, value in zip(schema, arguments, strict=False)}, **named}
    changed = [by_name.get(each.name) for each in schema if each.alias_info is not None and each.alias_info.is_write]
    return _tensors(changed) if changed else made


def _bytes(tensor: Tensor) -> int:
    """Return what a kernel reads of it: of an expanded tensor, what there is in memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _operations(function: Any, arguments: Any, named: Any, result: Any) -> float:
    """Return multiplications and additions; torch's own counter overcounts gradients of grouped weights."""
    if function in (_ATEN.convolution.default, _ATEN._convolution.default):
        return _of_convolution(result, arguments[0], arguments[1], arguments[6])
    if function is _ATEN.convolution_backward.default:
        gradient, inputs, weight = arguments[:3]
        return _of_convolution(gradient, inputs, weight, arguments[7]) * float(sum(arguments[10][:2]))
    counted = flop_counter.flop_registry.get(function.overloadpacket)
    return float(counted(*arguments, **named, out_val=result)) if counted else 0.0


def _of_convolution(output: Tensor, inputs: Tensor, weight: Tensor, transposed: bool) -> float:
    places = inputs if transposed else output
    return 2.0 * len(inputs) * math.prod(places.shape[2:]) * math.prod(weight.shape)


@dataclasses.dataclass
class Weights:
    """What decides a player's memory and traffic."""

    sizes: list[int]
    """Elements of each weight."""
    moments: int
    """Tensors that its optimizer keeps of each weight."""
    averaged: bool
    uses: footprint.Uses
    """In a step with one pass."""

    @property
    def weights(self) -> int:
        return sum(self.sizes)


@dataclasses.dataclass
class Step:
    """A step of one process, the mean over all kinds of steps: what every step has, and what comes with each pass."""

    once: Counts
    """`peak`: gradients of the largest player."""
    each_pass: Counts
    """Of one micro-batch in a pass; `peak`: what it keeps for its backward."""
    players: dict[str, Weights]
    phases: list[str]
    by_phase: dict[str, Counts]
    """In a step with one pass."""
    pixels: int
    """Numbers of a sample."""


def step(config: Config) -> Step:
    """Count a step of a config's game, at one micro-batch and at two, each a pass of its own.

    Raises InputError where the game cannot be built, and RuntimeError for a network that needs numbers to know shapes.
    """
    one, players, by_phase, pixels = _played(config, 1)
    two, *_ = _played(config, 2)
    gradients = float(footprint.word(config.training.precision) * max(player.weights for player in players.values()))
    each = two.plus(one, -1)
    each.peak = max(0.0, one.peak - gradients)
    once = one.plus(each, -1)
    once.peak = gradients
    return Step(once, each, players, list(by_phase), by_phase, pixels)


def _played(config: Config, passes: int) -> tuple[Counts, dict[str, Weights], dict[str, Counts], int]:
    """Return what a step of so many passes takes, on average, and what is known of the players and phases."""
    batch = config.training.micro_batch * passes
    small = {
        "training.batch": batch,
        "training.device": "cpu",
        "training.micro_batches_per_pass": 1,
        "training.tf32": False,
    }
    config = config.with_(small)
    # the losses are those of the config's strategy, which one process does not need
    strategy = "exact" if config.training.strategy == "exact" else "ddp"
    engine = Engine(config.with_({"training.strategy": strategy, "training.compile": False}), alone=True)
    game = games.build(config)
    engine.wrap(game)
    numerics.from_the_start(game)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for player in game.players:
            _imagine(player, mode)
        players = {
            player.name: Weights(
                [weight.numel() for weight in player.weights],
                len(player.kept.tensors),
                player.average is not None,
                footprint.Uses(0.0, 0.0, 0.0, 0.0),
            )
            for player in game.players
        }
        uses = {name: player.uses for name, player in players.items()}
        total, by_phase = Counts(), {play.called(phase): Counts() for phase in game.phases}
        kinds = play.kinds_of_steps(game, batch)
        # the first fills what metrics add to, and does not count
        for number, part in [(min(kinds), 0.0), *kinds.items()]:
            engine.at(-batch)  # no position of a step: each one fills in its own
            batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, number, engine.slots))
            around = _counting(config, engine, game, part, uses, by_phase)
            with Counter() as counter:
                play_step(engine, game, batches, number * batch, batch, around=around)
            total = total.plus(counter.counts, part)
    pixels = sum(field.channels * math.prod(field.size) for field in game.fields.values())
    return total, players, by_phase, pixels


def _imagine(player: Player, mode: FakeTensorMode) -> None:
    """Give the player weights without numbers. Its other tensors become such when they are used."""
    for module in player.network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = mode.from_tensor(weight)  # type: ignore[assignment]
    player.weights = tuple(player.network.parameters())
    player.optimizer = optimizer_probe.build(player.make_optimizer, player.weights)
    as_on_a_gpu(player.optimizer)
    for weight in player.weights:
        weight.grad = torch.zeros_like(weight)
    with Counter():
        player.optimizer.step()  # makes its state
    player.optimizer.zero_grad(set_to_none=True)


def as_on_a_gpu(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer move all weights by few kernels, as torch does by default on a GPU, and not on a CPU."""
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True
        elif "foreach" in group:
            group["foreach"] = True


def _counting(
    config: Config,
    engine: Engine,
    game: games.Game,
    part: float,
    uses: dict[str, footprint.Uses],
    by_phase: dict[str, Counts],
) -> Callable[[Phase], contextlib.AbstractContextManager[None]]:
    """Return what surrounds each phase of a step that is `part` of all steps."""

    @contextlib.contextmanager
    def around(phase: Phase) -> Iterator[None]:
        with Counter() as counter, play.counting(config, engine, game, phase, part, uses):
            yield
        by_phase[play.called(phase)] = by_phase[play.called(phase)].plus(counter.counts, part * phase.every)

    return around
