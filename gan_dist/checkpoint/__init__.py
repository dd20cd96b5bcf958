"""What is saved: named tensors of the players, whole on disk or absent, readable at any process count.

Store and Writer are imported when they are asked for: `gan-dist checkpoints` reads manifests, and does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_dist.checkpoint.store import Store
    from gan_dist.checkpoint.writer import Outcome, Writer

__all__ = ["Outcome", "Store", "Writer"]
_PLACES = {"Store": "store", "Outcome": "writer", "Writer": "writer"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
