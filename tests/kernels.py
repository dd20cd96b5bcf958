"""Look at what a training step asks of a GPU, on a machine without one: how many kernels, what waits, what is constant."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_dist import games, interfaces, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
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
        to_host = name == "to" and "cpu" in (each for each in (*args[1:], *kwargs.values()) if isinstance(each, str))
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


class Steps:
    """A game, and steps of it on random images. Widths and images may be small: the kernels are as many."""

    def __init__(self, config: Config) -> None:
        """Play a first step, in which things are made that stay."""
        self.engine, self.game, self.config = Engine(config, alone=True), games.build(config), config
        self.engine.wrap(self.game)
        for player in self.game.players:
            for weight in player.weights:
                weight.grad = torch.zeros_like(weight)
            player.optimizer.step()  # it makes its state, for which a first step waits
        self.play(self.batch(0), 0)

    def batch(self, images: int) -> list[Batch]:
        """Return the micro-batches of the step at a position."""
        step = images // self.config.training.batch
        micros = trial.random_batches(self.config, self.game.fields, step, self.engine.slots)
        return trial.on_device(self.config, self.engine, micros)

    def play(self, batch: list[Batch], images: int) -> None:
        """Play the step at a position."""
        play_step(self.engine, self.game, batch, images, self.config.training.batch)

    def calls(self, images: int) -> dict[str, list[str]]:
        """Return the kernels of each phase of the step at a position, whether it is due or not, and of the averages."""
        found: dict[str, list[str]] = {}
        engine, game, batch = self.engine, self.game, self.batch(images)
        interfaces.draw_together(batch)
        engine.at(images)
        game.images = images
        for phase in game.phases:
            with engine.turn(phase), Calls() as calls:
                for loss, micro in engine.share(batch):
                    engine.backward(loss(micro))
                engine.update(images)
            found[f"{phase.player.name}{'' if phase.loss else ' penalty'}"] = calls.found
        with Calls() as calls:
            game.average(images, self.config.training.batch)
        return {**found, "average": calls.found}
