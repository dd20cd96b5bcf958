"""Several ranks in the threads of one process, for what knows of ranks by `gather` alone."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gan_dist.evaluation import Ranks

T = TypeVar("T")


def on_ranks(count: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` returns on each of so many ranks of one machine; the first error of any is raised."""
    barrier = threading.Barrier(count)
    slots: list[Any] = [None] * count
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def gather(rank: int, value: Any) -> list[Any]:
        slots[rank] = value
        barrier.wait(60)
        found = list(slots)
        barrier.wait(60)
        return found

    def run(rank: int) -> None:
        try:
            results[rank] = work(Ranks(rank, count, lambda value: gather(rank, value), writes=rank == 0))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results
