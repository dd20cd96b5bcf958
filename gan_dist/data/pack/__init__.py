"""Make WebDataset shards of a folder, an archive or a data set of arrays."""

from gan_dist.data.pack.packing import PackReport, is_packed, pack

__all__ = ["PackReport", "is_packed", "pack"]
