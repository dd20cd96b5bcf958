"""Send samples to a device without waiting: from pinned memory, which is written again when its copies have ended."""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SLACK = 2
"""Groups by which a ring for a GPU is longer: the host is then asked to wait for a copy only where the GPU is so far behind
that it has work for longer than the wait."""


class Mark(Protocol):
    """A moment in the work of a device."""

    def synchronize(self) -> None:
        """Wait until the device has passed it."""


class Sender:
    """Sends tensors from this process's memory to a device.

    To a GPU it does not wait: what is sent must stay as it is until the device has passed the next `mark`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned: list[Tensor] = []

    def pin(self, buffer: Tensor) -> None:
        """Let a GPU read this memory directly, until `close`. Where that is refused, `send` copies it once more."""
        if self.device.type != "cuda" or not buffer.numel():
            return
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        try:
            torch.cuda.check_error(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0))
            self._pinned.append(buffer)
        except (RuntimeError, AssertionError):
            with contextlib.suppress(
                RuntimeError
            ):  # CUDA remembers an error until it is asked, and tells the next kernel
                torch.zeros(1, device=self.device)

    def send(self, tensor: Tensor, copy: bool = False) -> Tensor:
        """Return the tensor on the device. On a CPU that is the tensor itself, unless a `copy` is wanted."""
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()  # torch keeps this copy until it has been read
        return tensor.to(self.device, non_blocking=True, copy=copy)

    def send_values(self, values: np.ndarray) -> Tensor:
        """Return an array on the device; it need not be kept."""
        return self.send(torch.from_numpy(values))

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory to write and to send once; torch gives it to nobody else until it has been read."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def mark(self) -> Mark | None:
        """Return the moment at which all that was sent will have been read; None where that is now."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def close(self) -> None:
        """Give pinned memory back, once the device has read it."""
        with contextlib.suppress(RuntimeError):  # of a kernel that failed before, which is being told already
            if self._pinned:
                torch.cuda.synchronize(self.device)
        while self._pinned:
            runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            runtime.cudaHostUnregister(self._pinned.pop().data_ptr())


class Turns:
    """Say when groups of a ring may be written again: `slack` groups after they were sent, once the device has read them."""

    def __init__(self, mark: Callable[[], Mark | None], slack: int) -> None:
        self._mark, self._slack = mark, slack
        self._marks: deque[Mark | None] = deque()

    def sent(self) -> None:
        """Say that a group was sent."""
        self._marks.append(self._mark())

    def await_next(self) -> None:
        """Return when the next group may be asked for, which lets the oldest one be written."""
        while len(self._marks) > self._slack:
            if (mark := self._marks.popleft()) is not None:
                mark.synchronize()
