"""The one room that knows how processes share the work."""

from gan_dist.engine.core import Engine

__all__ = ["Engine"]
