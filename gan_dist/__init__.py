"""Train GANs on many GPUs and machines, from tar shards, without babysitting."""

__version__ = "0.1.0"
