"""What is saved: named tensors of the players, whole on disk or absent, readable at any process count."""

from gan_dist.checkpoint.store import Store
from gan_dist.checkpoint.writer import Outcome, Writer

__all__ = ["Outcome", "Store", "Writer"]
