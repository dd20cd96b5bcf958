"""Train GANs on many GPUs and machines, from tar shards, without babysitting."""

__version__ = "0.2.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_dist.export.model import Generator

__all__ = ["Generator", "__version__", "load"]


def load(source: Any, revision: str | None = None) -> "Generator":
    """Load what `gan-dist export` wrote: a folder, or a name on the hub (docs/sharing.md)."""
    from gan_dist.export.model import Generator

    return Generator.from_pretrained(source, revision)


def __getattr__(name: str) -> Any:
    if name == "Generator":
        from gan_dist.export.model import Generator

        return Generator
    raise AttributeError(f"module {__name__} has no attribute {name}")
