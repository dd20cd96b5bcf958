"""Make WebDataset shards of a folder, an archive or a data set of arrays."""

from gan_dist.data.pack.packing import is_packed, pack
from gan_dist.data.pack.report import PackReport

__all__ = ["PackReport", "is_packed", "pack"]
