"""Make generators and discriminators in pure torch, without ranks or files. Each family is one file, with its keys."""

from gan_dist.networks.article import Article
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.dcgan import Dcgan
from gan_dist.networks.mlp import Mlp

__all__ = ["NETWORKS", "Network", "Shape"]

NETWORKS: dict[str, type[Network]] = {"dcgan": Dcgan, "article": Article, "mlp": Mlp}
