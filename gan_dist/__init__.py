"""Train GANs on many GPUs and machines, from tar shards, without babysitting."""

__version__ = "0.2.0"
