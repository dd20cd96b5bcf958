"""SNGAN: the papers' sizes, and each block against the formula written out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from gan_dist import config as config_module
from gan_dist.errors import InputError
from gan_dist.networks import Shape
from gan_dist.networks.residual import ConditionalBatchNorm
from gan_dist.networks.sngan import Sngan
from gan_dist.networks.statistics import BatchNorm, SpectralNorm, statistics_of
from tests import making


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize(
    ("size", "classes", "of_generator", "of_discriminator"),
    [
        (32, 0, 4_276_739, 1_053_824),
        (32, 10, 4_304_387, 1_055_104),
        (64, 0, 12_220_675, 10_141_441),
        (64, 1000, 17_974_915, 11_165_441),
        (128, 0, 32_150_787, 29_017_857),
        (128, 1000, 41_996_931, 30_041_857),
    ],
)
def test_parameters_are_as_many_as_the_papers(
    size: int, classes: int, of_generator: int, of_discriminator: int
) -> None:
    shape = Shape((size, size), 3, 128, classes)
    assert count(Sngan().generator(shape)) == of_generator
    assert count(Sngan().discriminator(shape)) == of_discriminator


@pytest.mark.parametrize("size", [(32, 48), (64, 80), (160, 128)])
def test_sizes_that_double_as_often(size: tuple[int, int]) -> None:
    shape = Shape(size, 2, 8, 3)
    generator, discriminator = Sngan(base_channels=1).generator(shape), Sngan(base_channels=1).discriminator(shape)
    labels = torch.tensor([2, 0])
    images = generator(torch.randn(2, 8), labels)
    assert images.shape == (2, 2, *size)
    assert discriminator(images, labels).shape == (2,)


def test_the_blocks_are_the_papers() -> None:
    """Written out in the paper's order: nearest and mean before or after a 1x1 convolution are the same."""
    torch.manual_seed(0)
    shape = Shape((32, 32), 3, 8, 3)
    generator, discriminator = (
        made.double() for made in (Sngan(base_channels=2).generator(shape), Sngan(base_channels=2).discriminator(shape))
    )
    for network in (generator, discriminator):
        for weight in network.parameters():
            nn.init.normal_(weight, 0, 0.3)
    labels = torch.tensor([0, 2])
    block, x = generator.blocks[1], torch.randn(2, 8, 4, 4, dtype=torch.float64)

    def norm(layer: ConditionalBatchNorm, x: torch.Tensor) -> torch.Tensor:
        normal = (x - x.mean((0, 2, 3), True)) / (x.var((0, 2, 3), False, keepdim=True) + 2e-5).sqrt()
        return normal * (1 + layer.gain.weight[labels])[..., None, None] + layer.shift.weight[labels][..., None, None]

    def up(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    main = block.convolution1(up(norm(block.norm1, x).relu()))
    main = block.convolution2(norm(block.norm2, main).relu())
    assert torch.allclose(block(x, labels), main + block.shortcut(up(x)), atol=1e-12)

    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    first, second, third, fourth = discriminator.blocks
    x = functional.avg_pool2d(first.convolution2(first.convolution1(images).relu()), 2)
    x = x + first.shortcut(functional.avg_pool2d(images, 2))
    x = functional.avg_pool2d(second.convolution2(second.convolution1(x.relu()).relu()) + second.shortcut(x), 2)
    for block in (third, fourth):
        x = x + block.convolution2(block.convolution1(x.relu()).relu())
    features, last = x.relu().sum((2, 3)), discriminator.logit
    expected = features @ last.linear.normalised()[0] + (features * last.classes.normalised()[labels]).sum(1)
    assert torch.allclose(discriminator(images, labels), expected, atol=1e-10)


def test_a_thin_block_has_as_many_channels_inside_as_before_it() -> None:
    blocks = Sngan(base_channels=2).discriminator(Shape((64, 64), 3)).blocks
    assert [block.convolution1.out_channels for block in blocks] == [2, 2, 4, 8, 16]


def test_classes_begin_alike_and_change_the_image_once_trained() -> None:
    torch.manual_seed(1)
    generator = Sngan(base_channels=2).generator(Shape((32, 32), 3, 8, 2))
    latents, labels = torch.randn(1, 8).expand(2, 8), torch.tensor([0, 1])
    images = generator(latents, labels)
    assert torch.equal(images[0], images[1])
    (images[0].sum() - images[1].sum()).backward()
    with torch.no_grad():
        for weight in generator.parameters():
            weight -= 0.1 * weight.grad
    images = generator(latents, labels)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("classes", [0, 3])
def test_micro_batches_that_share_a_pass_change_nothing(classes: int) -> None:
    torch.manual_seed(2)
    network = Sngan(base_channels=2).generator(Shape((32, 32), 1, 8, classes)).double()
    for weight in network.parameters():
        nn.init.normal_(weight, 0, 0.3)
    latents, labels = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 2, 0])
    apart = torch.cat([network(*half) for half in zip(latents.chunk(2), labels.chunk(2), strict=True)])
    for each in statistics_of(network):
        each.parts = 2
    assert torch.allclose(network(latents, labels), apart, rtol=0, atol=1e-12)
    norms = [norm for norm in statistics_of(network) if isinstance(norm, BatchNorm)]
    assert len(norms) == 7
    assert {norm.epsilon for norm in norms} == {2e-5}


def test_singular_vectors_move_by_commit_only() -> None:
    torch.manual_seed(3)
    discriminator = Sngan(base_channels=2).discriminator(Shape((32, 32), 3, 0, 4))
    layers = [module for module in discriminator.modules() if isinstance(module, SpectralNorm)]
    # each convolution, the last layer and the class embedding; the third and fourth block have no shortcut to convolve
    weights = [name for name, weight in discriminator.named_parameters() if weight.dim() > 1]
    assert len(layers) == len(weights) == 4 * 2 + 2 + 2
    for layer in layers:
        layer.tracking = True
        nn.init.normal_(layer.weight)
    before = [layer.u.clone() for layer in layers]
    discriminator(torch.randn(2, 3, 32, 32), torch.tensor([1, 3])).sum().backward()
    assert all(torch.equal(layer.u, u) for layer, u in zip(layers, before, strict=True))
    for layer in layers:
        layer.commit(torch.tensor(True))
    moved = [not torch.equal(layer.u, u) for layer, u in zip(layers, before, strict=True)]
    assert [move for layer, move in zip(layers, moved, strict=True) if len(layer.u) > 1] == [True] * 11


def test_initial_weights_are_glorots() -> None:
    torch.manual_seed(4)
    generator = Sngan(base_channels=8).generator(Shape((32, 32), 3, 16))
    block = generator.blocks[0]
    for layer, gain, fans in (
        (generator.stem, 1, 16 + 512),
        (block.convolution1, math.sqrt(2), 2 * 32 * 9),
        (block.convolution2, math.sqrt(2), 2 * 32 * 9),
        (block.shortcut, 1, 2 * 32),
        (generator.last, 1, (32 + 3) * 9),
    ):
        bound = gain * math.sqrt(6 / fans)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    for layer in Sngan(base_channels=8).discriminator(Shape((32, 32), 3)).modules():
        if isinstance(layer, SpectralNorm):  # of these weights, and not of those drawn before them
            assert torch.linalg.matrix_norm(layer.normalised().detach().flatten(1), 2) == pytest.approx(1, abs=0.1)


def test_a_size_without_a_network_is_refused_in_a_line() -> None:
    keys = {f"networks.{role}.kind": "sngan" for role in ("generator", "discriminator")}
    message = "networks.* = sngan needs a size from 4 pixels, doubled 3, 4 or 5 times, as data.resolution, not 16x16"
    with pytest.raises(InputError, match=message):
        config_module.load(["tests/data/digits.yaml", *making.flags(making.tiny("unused", "unused") | keys)])
