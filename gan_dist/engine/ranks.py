"""The ranks of a launch, and what they tell each other outside of a step."""

import platform
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from gan_dist.engine import launch
from gan_dist.engine.consensus import Agreement, Board, board, channel, who_differs
from gan_dist.errors import AgreedError, InputError, RunError

T = TypeVar("T")


class Ranks:
    """This rank among the others of its launch. It knows nothing of players."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        """Be a rank of a process group; without `accelerator`, the one rank that uses no process group."""
        self.accelerator = accelerator
        self.rank, self.world_size, self.is_main = 0, 1, True
        if accelerator is not None:
            self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
            self.is_main = accelerator.is_main_process

    def on_main(self, work: Callable[[], T], where: Literal["first", "machine"] = "first") -> T | None:
        """Run `work` on one rank (or on one of each machine); an InputError or RunError there is raised everywhere.

        Returns work's result on the ranks that ran it and, with where="first", on all.
        """
        runs = self.is_main
        if where == "machine" and self.accelerator is not None:
            runs = self.accelerator.is_local_main_process
        result: T | None = None
        problem: tuple[type[Exception], str] | None = None
        if runs:
            try:
                result = work()
            except InputError as error:
                problem = AgreedError, str(error)
            except RunError as error:
                problem = RunError, str(error)
        if self.world_size > 1:
            problems = [found for found in gather_object([problem]) if found]
            problem = problems[0] if problems else None
            if where == "first" and problem is None:
                box: list[Any] = [result]
                broadcast_object_list(box)
                result = box[0]
        if problem is not None:
            kind, text = problem
            raise kind(text)
        return result

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, in order, on every rank."""
        return list(gather_object([value])) if self.world_size > 1 else [value]

    def who_differs(self, value: Hashable) -> str:
        """Return on which machines `value` is another than on most, in words; "" where it is the same. All ranks call it."""
        everyone = self.gather((platform.node(), value))
        return who_differs([machine for machine, _ in everyone], [found for _, found in everyone])

    def channel(self) -> Callable[[Any], list[Any]]:
        """Make a `gather` for another thread. Every rank calls it."""
        return channel(self.world_size, launch.TIMEOUT)

    def board(self, names: Sequence[str]) -> Board | None:
        """Return short texts by name that ranks tell each other from any thread; None for one rank. All ranks call it."""
        return board(self.rank, self.world_size, names)

    def agreement(self, count: int) -> Agreement:
        """Exchange `count` integers of every rank from time to time, in the background. Every rank calls it."""
        return Agreement(self.world_size, count)

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        if self.accelerator is not None:
            self.accelerator.end_training()
