"""The networks of CycleGAN have the parameters of the original code, less the biases that a normalisation takes away."""

import pytest
import torch
from torch import nn

from gan_dist.networks import patchgan, resnet
from gan_dist.networks.base import Shape


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize(("size", "blocks", "count"), [(256, 9, 11_378_179), (128, 6, 7_837_699)])
def test_generators_have_the_original_parameters(size: int, blocks: int, count: int) -> None:
    biases = 64 + 128 + 256 + 2 * 256 * blocks + 128 + 64
    generator = resnet.Resnet(kind="resnet").generator(Shape((size, size), 3, inputs=3))
    assert parameters(generator) == count - biases
    learnt = resnet.Resnet(kind="resnet", normalisation="instance").generator(Shape((size, size), 3, inputs=3))
    assert parameters(learnt) == count + biases  # a scale and a shift instead of a bias


@pytest.mark.usefixtures("without_numbers")
def test_the_discriminator_has_the_original_parameters() -> None:
    family = patchgan.Patchgan(kind="patchgan", normalisation="plain")
    assert parameters(family.discriminator(Shape((256, 256), 3))) == 2_764_737 - (128 + 256 + 512)


def test_images_keep_their_size_and_stay_in_range() -> None:
    generator = resnet.Generator(1, 3, 2, 1, "plain")
    made = generator(torch.rand(2, 1, 12, 20) * 2 - 1)
    assert made.shape == (2, 3, 12, 20)
    assert made.abs().max() <= 1


def test_images_are_continued_by_their_mirror_image() -> None:
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(resnet.Reflect(3)(images), nn.ReflectionPad2d(3)(images))
