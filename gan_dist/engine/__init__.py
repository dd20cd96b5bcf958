"""Share the work over ranks. No other package knows how."""

from gan_dist.engine.consensus import lost_contact
from gan_dist.engine.engine import Engine
from gan_dist.engine.launch import refuse
from gan_dist.errors import AgreedError

__all__ = ["AgreedError", "Engine", "lost_contact", "refuse"]
