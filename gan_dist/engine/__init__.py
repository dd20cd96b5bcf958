"""The one room that knows how processes share the work."""

from gan_dist.engine.core import AgreedError, Engine
from gan_dist.engine.talk import lost_contact

__all__ = ["AgreedError", "Engine", "lost_contact"]
