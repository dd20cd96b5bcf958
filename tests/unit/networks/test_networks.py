"""The networks have the papers' sizes and begin where they should."""

import pytest
import torch

from gan_dist.networks import article, dcgan
from gan_dist.networks.residual import ConditionalBatchNorm


def count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (3, 4)])
def test_dcgan_has_every_power_of_two(size: int, channels: int, classes: int) -> None:
    generator = dcgan.Generator(size, channels, 10, 4, classes)
    discriminator = dcgan.Discriminator(size, channels, 4, classes)
    labels = torch.tensor([0, 3, 1]) if classes else None
    images = generator(torch.randn(3, 10), labels)
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (3,)


@torch.no_grad()
def test_classes_of_dcgan_leave_the_latents_their_say() -> None:
    torch.manual_seed(0)
    network = dcgan.Generator(16, 1, 10, 4, classes=3)
    norms = [layer for layer in network.modules() if isinstance(layer, ConditionalBatchNorm)]
    for norm in norms:
        torch.nn.init.normal_(norm.shift.weight, 0, 100)  # classes as different as can be
    labels = torch.arange(24) % 3
    x = network.layers[0](torch.randn(24, 10)[:, :, None, None])
    # by class or not, BatchNorm makes what latents give as large as 1
    assert (norms[0](x, labels) - norms[0].shift(labels)[:, :, None, None]).var() == pytest.approx(1, rel=0.1)
    joined = dcgan.Generator(16, 1, 10, 4, classes=3, conditioning="concatenation")
    assert joined.classes.weight.shape == (3, 10)
    assert not any(isinstance(layer, ConditionalBatchNorm) for layer in joined.modules())


def test_dcgan_at_64_has_the_papers_number_of_weights() -> None:
    assert count(dcgan.Generator(64, 3, 100, 64)) == 3_576_704
    assert count(dcgan.Discriminator(64, 3, 64)) == 2_765_568


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("layer", True), ("none", True)])
def test_without_batch_normalisation_each_sample_of_dcgan_is_by_itself(norm: dcgan.Normalisation, alone: bool) -> None:
    torch.manual_seed(0)
    for network, x in (
        (dcgan.Generator(16, 1, 10, 4, norm=norm), torch.randn(4, 10)),
        (dcgan.Discriminator(16, 1, 4, norm=norm), torch.randn(4, 1, 16, 16)),
    ):
        assert torch.allclose(network(x)[:2], network(x[:2]), atol=1e-7) == alone
        inner = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
        assert any(layer.bias is not None for layer in inner) == (norm == "none")


@pytest.mark.parametrize("classes", [0, 10])
def test_the_articles_networks(classes: int) -> None:
    generator, discriminator = article.Generator(100, classes), article.Discriminator(classes)
    labels = torch.arange(5) if classes else None
    images = generator(torch.randn(5, 100), labels)
    assert images.shape == (5, 1, 28, 28)
    assert discriminator(images, labels).shape == (5,)
    if not classes:
        assert count(generator) == 100 * 12544 + 2 * 12544 + 256 * 128 * 16 + 2 * 128 + 128 * 16 + 1
        assert count(discriminator) == 784 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 256 + 256 + 256 + 1


def test_no_generator_begins_with_a_saturated_tanh() -> None:
    torch.manual_seed(0)
    for generator in (article.Generator(100), dcgan.Generator(64, 3, 100, 64)):
        images = generator(torch.randn(16, 100))
        assert 0.01 < images.std() < 0.6


def test_classes_change_the_picture_and_the_score() -> None:
    torch.manual_seed(0)
    generator, discriminator = article.Generator(10, 3).eval(), article.Discriminator(3)
    latents = torch.randn(1, 10)
    one, other = (generator(latents, torch.tensor([label])) for label in (0, 1))
    assert (one - other).abs().max() > 1e-4
    assert discriminator(one, torch.tensor([0])) != discriminator(one, torch.tensor([1]))
