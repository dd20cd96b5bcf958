"""Share the work over ranks. No other package knows how."""

from gan_dist.engine.consensus import Gate, lost_contact
from gan_dist.engine.engine import Engine
from gan_dist.engine.launch import refuse
from gan_dist.errors import AgreedError

__all__ = ["AgreedError", "Engine", "Gate", "lost_contact", "refuse"]
