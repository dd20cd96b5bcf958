"""Make generators and discriminators in pure torch, without ranks or files. Each family is one file, with its keys."""

from gan_dist.networks.article import Article
from gan_dist.networks.autoencoder import Autoencoder
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.biggan import Biggan
from gan_dist.networks.dcgan import Dcgan
from gan_dist.networks.mlp import Mlp
from gan_dist.networks.msrresnet import Msrresnet
from gan_dist.networks.patchgan import Patchgan
from gan_dist.networks.r3gan import R3gan
from gan_dist.networks.resnet import Resnet
from gan_dist.networks.rrdb import Rrdb
from gan_dist.networks.sngan import Sngan
from gan_dist.networks.stylegan2 import Stylegan2
from gan_dist.networks.unet import Unet
from gan_dist.networks.unet_discriminator import UnetDiscriminator
from gan_dist.networks.vgg_discriminator import VggDiscriminator

__all__ = ["NETWORKS", "Network", "Shape"]

NETWORKS: dict[str, type[Network]] = {
    "dcgan": Dcgan,
    "article": Article,
    "autoencoder": Autoencoder,
    "sngan": Sngan,
    "biggan": Biggan,
    "stylegan2": Stylegan2,
    "r3gan": R3gan,
    "mlp": Mlp,
    "unet": Unet,
    "patchgan": Patchgan,
    "resnet": Resnet,
    "msrresnet": Msrresnet,
    "rrdb": Rrdb,
    "vgg_discriminator": VggDiscriminator,
    "unet_discriminator": UnetDiscriminator,
}
