"""Weights that nothing trains: some of a player's, or all of a helper network that comes from a user's file."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gan_dist import files
from gan_dist.errors import InputError

WEIGHTS = "GAN_DIST_WEIGHTS"
"""The variable with the folder of weights files."""


def fix(network: nn.Module, names: Iterable[str]) -> None:
    """Make buffers of the parameters of these names: they keep their names and places, and nothing trains them.

    So an optimizer, DDP and ZeRO do not see them; a checkpoint, an average and a move to a device do, under any strategy.
    """
    parameters = dict(network.named_parameters())
    fixed = {id(parameters[name]): parameters[name].detach() for name in names}
    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if id(weight) in fixed:  # also a weight that several layers share
                del module._parameters[name]
                module.register_buffer(name, fixed[id(weight)])


class Frozen(nn.Module):
    """A helper of a game with the weights of a file: in evaluation mode, without gradients of its own, in no checkpoint.

    The game names it in its `modules`. It is empty until an engine places it: then every rank reads the file for itself. What
    passes it is differentiated by the images alone.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        path: Callable[[], Path],
        key: str,
        pick: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    ) -> None:
        """`make` returns the network, `path` the file, `pick` those tensors of it that belong to the network.

        `path` and `pick` raise InputError for what will not do. `key` is the config key that names the file, for messages.
        """
        super().__init__()
        with torch.device("meta"):  # the file has the weights
            self.network = make()
        self.network.eval().requires_grad_(False)
        self._path, self._key, self._pick = path, key, pick

    def read(self) -> None:
        """Take the weights of the file. Raises InputError, naming file and tensor, where it is another network's."""
        path = self._path()
        state = dict(self._pick(read_weights(path, self._key)))
        for name, own in self.network.state_dict().items():
            if name not in state or state[name].shape != own.shape:
                found = "x".join(map(str, state[name].shape)) if name in state else "missing"
                wanted = "x".join(map(str, own.shape))
                raise InputError(f"{self._key} = {path}: {name} is {found}, not {wanted}: it is of another network")
        kept = {name: state[name].float() for name in self.network.state_dict()}
        self.network.load_state_dict(kept, assign=True)
        fix(self.network, [name for name, _ in self.network.named_parameters()])

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)


class Lowers(Protocol):
    """Lets a network compute in 16 bits (engine/precision.py)."""

    def lower(self, network: nn.Module) -> None: ...


def filled(module: nn.Module, lowered: Lowers | None) -> nn.Module:
    """Return a game's module; a frozen one is given its weights, and computes in 16 bits where the players do."""
    if isinstance(module, Frozen):
        module.read()
        if lowered is not None:
            lowered.lower(module)
    return module


def locate(given: str, usual: str, key: str, hint: str = "") -> Path:
    """Return a weights file: the given one, or that of the usual name in $GAN_DIST_WEIGHTS or in torch's hub cache.

    Raises InputError where it is not there, saying how to get it; `hint` goes behind.
    """
    if given:
        path = Path(os.path.expandvars(os.path.expanduser(given)))
        if not path.is_file():
            raise InputError(f"{key}: there is no weights file {path}; fix the path")
        return path
    folders = [Path(os.environ[WEIGHTS])] if os.environ.get(WEIGHTS) else []
    folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        if (folder / usual).is_file():
            return folder / usual
    raise InputError(
        f"{key}: no weights {usual} in {' or '.join(map(str, folders))}; give the file as {key}, or put it there{hint}"
    )


def read_weights(path: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors of a file; no code in it is run. Raises InputError for a damaged file or another kind of file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        if not isinstance(found, dict) or not found or not all(isinstance(each, Tensor) for each in found.values()):
            raise ValueError
        return found
    except Exception:  # torch.load raises anything on damaged files, no class covers it
        raise InputError(
            f"{key}: {path} is damaged, or no file of weights alone (a state_dict by torch.save, or .safetensors)"
        ) from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a weights file, which is read once in a process."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    return files.sha256_file(path)
