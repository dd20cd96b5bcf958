"""The networks of VAE-GAN: the paper's sizes, what passes them, and the features that are compared."""

import pytest
import torch
from torch import nn

from gan_dist.errors import InputError
from gan_dist.networks import NETWORKS, Shape


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_paper_has_so_many_parameters() -> None:
    family, shape = NETWORKS["autoencoder"](), Shape((64, 64), 3, 128)
    with torch.device("meta"):
        sizes = [
            count(network) for network in (family.encoder(shape), family.generator(shape), family.discriminator(shape))
        ]
    assert sizes == [18_071_360, 4_693_155, 10_953_857]


def test_features_are_of_each_layer_and_the_fourth_are_of_the_last_convolution() -> None:
    family, shape = NETWORKS["autoencoder"](base_channels=4), Shape((16, 24), 1, 5)
    torch.manual_seed(0)
    encoder, decoder, judge = family.encoder(shape), family.generator(shape), family.discriminator(shape)
    mean, log_variance = encoder(torch.randn(3, 1, 16, 24))
    assert mean.shape == log_variance.shape == (3, 5)
    images = decoder(mean)
    assert images.shape == (3, 1, 16, 24)
    (features,) = judge(images, features=True)
    widths = [tuple(each.shape[1:]) for each in features]
    assert widths == [(2, 16, 24), (8, 8, 12), (16, 4, 6), (16, 2, 3), (32,), ()]
    assert torch.equal(features[-1], judge(images))


@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_classes_which_it_would_not_see_are_refused(role: str) -> None:
    with pytest.raises(InputError, match="knows no classes"):
        getattr(NETWORKS["autoencoder"](base_channels=4), role)(Shape((16, 16), 3, 8, classes=2))
