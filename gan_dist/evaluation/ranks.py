"""Say how the ranks of a launch share an evaluation: the caller knows the engine, this package does not."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from gan_dist.errors import InputError

T = TypeVar("T")
_BUSY = 1.0  # seconds between two words of a rank that the others wait for


class ScoreError(Exception):
    """An evaluation ends on all ranks: the message says why. Training can go on without."""

    everywhere = False
    """Whether every rank raises it, of the same gather."""


@dataclasses.dataclass(frozen=True)
class _Failed:
    """What a rank gathers in the place of a value that it does not have."""

    problem: str


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
            problem = said(error)
        if problems := [said for said in self.gather(problem) if said]:
            raise InputError(problems[0])
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def agreed(self) -> Iterator["Ranks"]:
        """Yield these ranks for work that fails on all of them where it fails on one. Every rank enters it.

        All ranks must gather the same number of times. What is raised on one rank meets the next gather of the others,
        whichever it is, so that nobody waits for a rank that has given up. Raises ScoreError on every rank; what a gather
        itself raises, as of a rank that is gone, stays as it is.
        """
        lost = False

        def gather(value: Any) -> list[Any]:
            nonlocal lost
            try:
                everyone = self.gather(value)
            except Exception:
                lost = True
                raise
            if failed := [each for each in everyone if isinstance(each, _Failed)]:
                error = ScoreError(failed[0].problem)
                error.everywhere = True
                raise error
            return everyone

        try:
            yield dataclasses.replace(self, gather=gather)
            gather(None)  # for what is raised on one rank after its last exchange
        except Exception as error:
            if lost or (isinstance(error, ScoreError) and error.everywhere):
                raise
            gather(_Failed(said(error)))

    def on_main(self, work: Callable[[Callable[[], object]], T], beat: Callable[[], object]) -> T | None:
        """Return what `work` returns on rank 0, and None on the others, which wait for it; call it within `agreed`.

        `work` is given a function to call often: each rank's own `beat` is called then, so that no watchdog takes the
        waiting for a hang.
        """
        if not self.is_main:
            while self.gather(None)[0]:
                beat()
            return None
        told = time.monotonic()

        def busy() -> None:
            nonlocal told
            beat()
            if time.monotonic() - told >= _BUSY:
                self.gather(True)
                told = time.monotonic()

        result = work(busy)
        self.gather(False)
        return result


def said(error: Exception) -> str:
    """Return an error in words: with its type, unless it is one of ours."""
    return str(error) if isinstance(error, InputError | ScoreError) else f"{type(error).__name__}: {error}"


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
