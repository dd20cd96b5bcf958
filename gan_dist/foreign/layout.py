"""Define what a layout is: the names of another system's tensors, and the config of the same network of ours."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gan_dist.errors import InputError

_ROW = torch.tensor([1.0, 3.0, 3.0, 1.0])
FILTER = torch.outer(_ROW, _ROW) / 64
"""The filter of all resampling in our networks of these kinds."""


@dataclasses.dataclass(frozen=True)
class Read:
    """One network as another system saved it, in our terms."""

    network: dict[str, Any]
    """Keys of `networks.ROLE`."""
    tensors: dict[str, Tensor]
    """Under our names."""
    size: int = 0
    """Pixels of a side of the images."""
    channels: int = 0
    latent: int = 0
    classes: int = 0


class Layout(abc.ABC):
    """How a system names and scales the tensors of its networks."""

    @abc.abstractmethod
    def generator(self, tensors: "Tensors") -> Read:
        """Read a generator. Raises InputError for a tensor that is missing, or says that the network is another one."""

    @abc.abstractmethod
    def discriminator(self, tensors: "Tensors") -> Read:
        """Read a discriminator, likewise; its `latent` is 0."""


class Tensors:
    """Tensors by name, each taken once: what is left over at the end belongs to another network."""

    def __init__(self, tensors: Mapping[str, Tensor], layout: str) -> None:
        self._tensors, self._layout = dict(tensors), layout

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._tensors)

    def shape(self, name: str) -> torch.Size:
        return self._get(name).shape

    def count(self, pattern: str, first: int = 0) -> int:
        """Return how many of the names that begin with `pattern.format(first)`, `pattern.format(first + 1)`, ... there are."""
        number = first
        while self.has(pattern.format(number)):
            number += 1
        return number - first

    def take(self, name: str) -> Tensor:
        """Return a tensor in float32, and forget it. Raises InputError where it is missing, or no number."""
        found = self._get(name).float()
        del self._tensors[name]
        if not found.isfinite().all():
            raise InputError(f"{name} holds what is no number (NaN or infinite); is the file damaged?")
        return found

    def take_filters(self) -> None:
        """Forget the filters of resampling. Raises InputError for one that our networks do not have."""
        for name in [name for name in self._tensors if name.endswith(("resample_filter", "Kernel"))]:
            found = self.take(name)
            if found.shape != FILTER.shape or not torch.allclose(found / found.sum(), FILTER, atol=1e-6):
                raise InputError(f"{name} is another filter than [1, 3, 3, 1], the only one that is known here")

    def end(self) -> None:
        """Raise InputError where tensors are left."""
        if self._tensors:
            names = sorted(self._tensors)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{names[0]}{more}: unknown in the layout {self._layout}; is it of another network?")

    def names(self) -> Iterator[str]:
        yield from sorted(self._tensors)

    def _get(self, name: str) -> Tensor:
        if name not in self._tensors:
            first = next(self.names(), "none")
            raise InputError(
                f"{name} is missing; the layout {self._layout} has it, and the file has {first} and others"
            )
        return self._tensors[name]
