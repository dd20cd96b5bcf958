"""Generators and discriminators in pure torch: they know nothing of ranks or files. One file a family, with its keys."""

from gan_dist.networks.article import Article
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.dcgan import Dcgan

__all__ = ["NETWORKS", "Network", "Shape"]

NETWORKS: dict[str, type[Network]] = {"dcgan": Dcgan, "article": Article}
