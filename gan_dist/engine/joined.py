"""Join the ranks of a launch for work that is no training: each has a device, and values are gathered."""

import datetime
import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

from gan_dist.engine import rendezvous

_TIMEOUT = datetime.timedelta(hours=2)


class Joined:
    """This rank among those that torchrun started; the only one where nothing did."""

    def __init__(self, use: str = "auto") -> None:
        """Join the others. `use` is auto, cuda or cpu."""
        self._accelerator: Accelerator | None = None
        self.rank, self.world_size = 0, 1
        on_cpu = use == "cpu" or not torch.cuda.is_available() or bool(os.environ.get("ACCELERATE_USE_CPU"))
        self.device = torch.device("cpu" if on_cpu else "cuda")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            rendezvous.check_ranks("", {"the device": self.device.type}, _TIMEOUT)
            waiting = InitProcessGroupKwargs(timeout=_TIMEOUT)
            self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[waiting])
            self.rank, self.world_size = self._accelerator.process_index, self._accelerator.num_processes
            self.device = self._accelerator.device

    @property
    def gather(self) -> Callable[[Any], list[Any]]:
        """Return what collects the value of every rank, in order, on every rank."""
        return lambda value: list(gather_object([value])) if self.world_size > 1 else [value]

    def close(self) -> None:
        """Leave the process group."""
        if self._accelerator is not None:
            self._accelerator.end_training()
