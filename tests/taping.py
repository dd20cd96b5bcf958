"""A stand-in for CUDA graphs on a CPU: it records the calls of ATen, runs none of them, and replays them on their addresses.

It is as strict as a GPU. What waits for the device is refused, memory of a tensor that nobody holds any more is gone, and what
a recording computed is not there before the first replay.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default}
FROM_HOST = {aten.lift_fresh.default, aten.lift_fresh_copy.default}


@dataclasses.dataclass
class Place:
    """Where a tensor lies."""

    storage: StorageWeakRef
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Place":
        storage = StorageWeakRef(tensor.untyped_storage())
        return cls(storage, tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset())

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a graph reads memory that was freed")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class Tape(TorchDispatchMode):
    """The calls of one recording."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Any], Any, list[Place | None]]] = []
        self.made: dict[int, torch.UntypedStorage] = {}
        """The graph's own memory, by address of the storage."""
        self.before: dict[int, tuple[Place, Tensor]] = {}
        """Other memory, as it was."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let what is compiled run: its calls are recorded as all others."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        if func in FROM_HOST:
            raise RuntimeError(f"cannot copy from pageable memory while a stream is capturing: {func}")
        flat, spec = tree_flatten((args, kwargs or {}))
        inputs = [each for each in flat if isinstance(each, Tensor)]
        for each in inputs:
            storage = each.untyped_storage()
            if storage._cdata not in self.made and storage._cdata not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self.before[storage._cdata] = Place.of(whole), whole.clone()
        known = {each.untyped_storage()._cdata for each in inputs}
        result = func(*args, **(kwargs or {}))
        outputs = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
        places: list[Place | None] = []
        for each in outputs:
            storage = each.untyped_storage()
            if storage._cdata in known:
                places.append(None)
            else:
                self.made[storage._cdata] = storage
                places.append(Place.of(each))
        if any(places) or func._schema.is_mutable:
            self.calls.append((func, [Place.of(e) if isinstance(e, Tensor) else e for e in flat], spec, places))
        return result

    def finish(self) -> None:
        """Take back what the recording did."""
        for place, whole in self.before.values():
            place.tensor().copy_(whole)
        self.before.clear()
        for storage in self.made.values():
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)  # NaN, and true

    @torch.no_grad()
    def replay(self) -> None:
        for func, flat, spec, places in self.calls:
            args, kwargs = tree_unflatten([e.tensor() if isinstance(e, Place) else e for e in flat], spec)
            result = func(*args, **kwargs)
            fresh = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
            for place, each in zip(places, fresh, strict=True):
                if place is not None:
                    place.tensor().copy_(each)


class TapeRecorder:
    """Records as engine/graphs.py wants it."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.replays = 0

    def record(self, play: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        try:
            with tape:
                play()
        finally:
            tape.finish()
        self.tapes.append(tape)

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay
