"""Say how the ranks of a launch share an evaluation: the caller knows the engine, this package does not."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from gan_dist.errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This rank among its launch's. By default there is one."""

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """Returns the value of every rank, in order, on every rank."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it is immutable
    machine: str = "here"
    """Its name: ranks of one machine see the same files."""
    writes: bool = True
    """Whether this rank writes the files of its machine."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on this rank, once all ranks are here. Raises InputError on all where it fails on one."""
        problem, result = "", None
        try:
            result = work()
        except Exception as error:  # the other ranks must not wait for this one
            problem = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if problems := [said for said in self.gather(problem) if said]:
            raise InputError(problems[0])
        return result  # type: ignore[return-value]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute products and convolutions in fp32 while it lasts: TF32 has 10 bits of mantissa, and distances lose 3 digits.

    By cuDNN's usual algorithms, not by those that it found fastest on this rank.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    cuda.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
