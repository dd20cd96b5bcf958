"""Networks of super-resolution: parameters as in the authors' code, sizes, channels."""

import pytest
import torch
from torch import nn

from gan_dist.errors import InputError
from gan_dist.networks import NETWORKS, Shape


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def generator(kind: str, scale: int, inputs: int = 3, channels: int = 3, **keys: int) -> nn.Module:
    return NETWORKS[kind](kind=kind, **keys).generator(Shape((32, 32), channels, inputs=inputs, scale=scale))


@pytest.mark.parametrize(
    ("kind", "scale", "parameters"),
    [
        ("msrresnet", 2, 1_369_859),
        ("msrresnet", 3, 1_554_499),
        ("msrresnet", 4, 1_517_571),
        ("rrdb", 1, 16_723_907),
        ("rrdb", 2, 16_703_171),
        ("rrdb", 4, 16_697_987),
    ],
)
def test_generators_have_the_parameters_of_basicsr(kind: str, scale: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(generator(kind, scale)) == parameters


def test_rrdb_with_6_blocks_has_the_parameters_of_real_esrgan_s() -> None:
    with torch.device("meta"):
        assert count(generator("rrdb", 4, blocks=6)) == 4_467_779


@pytest.mark.parametrize(
    ("kind", "size", "parameters"),
    [
        ("vgg_discriminator", 128, 14_499_401),
        ("vgg_discriminator", 256, 21_055_049),
        ("unet_discriminator", 64, 4_376_897),
    ],
)
def test_discriminators_have_the_parameters_of_basicsr(kind: str, size: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(NETWORKS[kind](kind=kind).discriminator(Shape((size, size), 3))) == parameters


@pytest.mark.parametrize("kind", ["msrresnet", "rrdb"])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(("inputs", "channels"), [(1, 1), (4, 3), (1, 3), (2, 1), (4, 4)])
def test_images_of_any_shape_become_scale_times_as_large(kind: str, scale: int, inputs: int, channels: int) -> None:
    network = generator(kind, scale, inputs, channels, base_channels=4, blocks=1)
    assert network(torch.rand(2, inputs, 8, 12)).shape == (2, channels, 8 * scale, 12 * scale)


def test_msrresnet_takes_odd_sizes_and_begins_near_the_enlarged_input() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 7, 9)
    made = generator("msrresnet", 3)(images)
    plain = nn.functional.interpolate(images, scale_factor=3, mode="bilinear", align_corners=False)
    assert float((made.detach() - plain).abs().max()) < 0.1


@pytest.mark.parametrize(("kind", "shape"), [("unet_discriminator", (2, 1, 37, 21)), ("vgg_discriminator", (2,))])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_discriminators_take_any_shape(kind: str, shape: tuple[int, ...], channels: int) -> None:
    network = NETWORKS[kind](kind=kind, base_channels=2).discriminator(Shape((37, 21), channels))
    assert network(torch.rand(2, channels, 37, 21)).shape == shape


def test_what_a_network_does_not_do_is_one_line() -> None:
    with pytest.raises(InputError, match="enlarges by 1, 2 or 4, not by 3"):
        generator("rrdb", 3)
    with pytest.raises(InputError, match=r"multiples of 4, and data.resolution = 30; set data.resolution: 28"):
        NETWORKS["rrdb"](kind="rrdb").generator(Shape((30, 30), 3, inputs=3, scale=2))
    with pytest.raises(InputError, match="needs images of 8 pixels"):
        NETWORKS["vgg_discriminator"](kind="vgg_discriminator").discriminator(Shape((7, 9), 3))
