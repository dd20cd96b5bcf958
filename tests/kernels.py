"""Look at what a training step asks of a GPU, on a machine without one: how many kernels, what waits, what is constant."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_dist import games, interfaces, optimizer_probe
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.step import play_step

FREE = (
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "detach",
    "lift_fresh",
)
"""Calls that start nothing on a device, beside views."""
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
"""Calls whose result, or its shape, the host must know."""
TO_HOST = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")
FROM_HOST = ("tensor", "as_tensor", "new_tensor", "from_numpy")
DEVICE = torch.device("cpu", 0)
"""Stands for a GPU: what goes to a device without a number goes to the host."""


class Calls(TorchDispatchMode):
    """Take down each kernel with all its arguments that are no tensors; views and empty memory are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = call._schema.name
        if name.startswith("aten::") and not call.is_view and name.removeprefix("aten::") not in FREE:
            constants = [
                f"{each.dtype}{list(each.shape)}" if isinstance(each, Tensor) else each
                for each in tree_leaves((args, kwargs))
            ]
            self.found.append(f"{call} {constants}")
        return call(*args, **kwargs)

    def __len__(self) -> int:
        return len(self.found)


class Waits(TorchDispatchMode):
    """Take down what makes the host wait for `DEVICE`: numbers that it reads, and copies from and to it that block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._asked = _Asked(self.found)

    def __enter__(self) -> "Waits":
        self._asked.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._asked.__exit__(*error)

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = call._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1:2])
        )
        counts = (
            name == "repeat_interleave" and call._overloadname == "Tensor" and not (kwargs or {}).get("output_size")
        )
        if name in WAITING or by_mask or counts:
            self.found.append(str(call))
        return call(*args, **(kwargs or {}))


class _Asked(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        to_host = name == "to" and any(
            isinstance(each, str | torch.device) and torch.device(each) == torch.device("cpu")
            for each in (*args[1:], *kwargs.values())
        )
        if name in TO_HOST or name in FROM_HOST or to_host:
            self._found.append(name)
        return function(*args, **kwargs)


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let tensors say that they are on a GPU: optimizers are fused, and the device decides about updates."""
    with (
        mock.patch.object(Tensor, "is_cuda", property(lambda tensor: True), create=True),
        mock.patch.object(clip_grad, "_has_foreach_support", return_value=True),
    ):
        yield


@dataclasses.dataclass
class Step:
    """What a step of a game is played with."""

    engine: Engine
    game: Game
    config: Config

    def play(self, images: int, batch: Sequence[Batch] | None = None) -> None:
        """Play the step at a position, of `batch` if it is made already."""
        play_step(self.engine, self.game, batch or self.batch(images), images, self.config.training.batch)

    def batch(self, images: int) -> list[Batch]:
        """Return micro-batches for it; the images are the same for all positions."""
        training, made = self.config.training, []
        layout = torch.channels_last if training.channels_last else torch.contiguous_format
        for slot in self.engine.slots[:: training.micro_batch]:
            positions = torch.arange(images + slot, images + slot + training.micro_batch)
            small = interfaces.random_batch(self.game.fields, 0, positions)
            made.append(small.to(self.engine.device, torch.float32, layout))
        return made

    def begin(self) -> None:
        """Let the optimizers make their state, for which a step on a GPU would wait."""
        for player in self.game.players:
            for weight in player.weights:
                weight.grad = torch.zeros_like(weight)
            player.optimizer.step()
            player.optimizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def fake_step(config: Config) -> Iterator[Step]:
    """Make a game of tensors that have shapes and no numbers, so that a step of large networks takes a second."""
    probe = optimizer_probe.probe

    def probed(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return probe(*arguments)

    with (
        as_on_a_gpu(),
        FakeTensorMode(),
        mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True),  # for the average
        mock.patch.object(optimizer_probe, "probe", probed),
        # it would put other tensors into the place of fake ones, which is refused
        mock.patch.object(nn.Module, "to", lambda module, *arguments, **named: module),
    ):
        engine = Engine(config, alone=True)
        game = games.build(config)
        engine.wrap(game)
        step = Step(engine, game, config)
        step.begin()
        yield step
