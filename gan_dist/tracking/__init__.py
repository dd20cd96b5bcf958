"""What a run says about itself: JSON lines (the truth), W&B, console and pictures."""

from gan_dist.tracking.grid import save_columns, save_grid
from gan_dist.tracking.tracker import Tracker

__all__ = ["Tracker", "save_columns", "save_grid"]
