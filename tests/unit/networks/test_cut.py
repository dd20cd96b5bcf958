"""The networks of CUT have the parameters and the layers of the original code, and blur as torch's own functions do."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gan_dist.games.contrastive import Translator
from gan_dist.networks import blur, patchgan, resnet
from gan_dist.networks.base import Shape


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.usefixtures("without_numbers")
def test_the_networks_have_the_original_parameters() -> None:
    # without a normalisation convolutions have their biases, as in the original
    family = resnet.Resnet(kind="resnet", blur=True, normalisation="none")
    generator = family.generator(Shape((256, 256), 3, inputs=3))
    assert parameters(generator) == 11_378_179
    assert parameters(Translator(generator, 256, 256).heads) == 560_384
    judge = patchgan.Patchgan(kind="patchgan", blur=True, normalisation="none")
    assert parameters(judge.discriminator(Shape((256, 256), 3))) == 2_764_737


def test_the_layers_that_are_compared_are_those_of_the_original() -> None:
    family = resnet.Resnet(kind="resnet", blur=True, base_channels=2, blocks=9)
    generator = family.generator(Shape((64, 64), 3, inputs=3))
    images = torch.rand(1, 3, 64, 64)
    features = generator(images, features=True, decode=False)
    assert [tuple(each.shape[1:]) for each in features] == [
        (3, 70, 70), (4, 64, 64), (8, 32, 32), (8, 16, 16), (8, 16, 16),
    ]  # fmt: skip
    assert [each.shape[1] for each in features] == list(generator.widths)
    made, same = generator(images, features=True)
    assert torch.equal(made, generator(images))
    assert all(torch.equal(*pair) for pair in zip(features, same, strict=True))


def test_blurs_are_those_of_torch() -> None:
    images = torch.rand(2, 3, 7, 10, dtype=torch.float64)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    window = torch.outer(line, line).expand(3, 1, 3, 3)
    halved = functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="reflect"), window, stride=2, groups=3)
    assert torch.allclose(blur.Halve()(images), halved)
    assert torch.allclose(blur.Double()(images), functional.interpolate(images, scale_factor=2, mode="bilinear"))
