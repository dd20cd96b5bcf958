"""The networks of pix2pix have the parameters of the original code, and dropout that positions decide about."""

import types

import pytest
import torch
from torch import nn

from gan_dist import rng
from gan_dist.networks import patchgan, unet
from gan_dist.networks.base import Shape

KEY = rng.key(0, "dropout")


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize(
    ("inputs", "channels", "size", "count"),
    [(3, 3, 256, 54_413_955), (3, 3, 128, 41_828_995), (1, 2, 256, 54_409_858)],
)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_u_nets_have_the_original_parameters(inputs: int, channels: int, size: int, count: int, norm: str) -> None:
    family = unet.Unet(kind="unet", normalisation=norm)
    assert parameters(family.generator(Shape((size, size), channels, inputs=inputs))) == count


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize(
    ("layers", "count", "side", "field"),
    [
        (0, 9_024, 256, 1),
        (1, 139_585, 126, 16),
        (2, 666_433, 62, 34),
        (3, 2_768_705, 30, 70),
        (4, 6_964_033, 14, 142),
        (5, 11_159_361, 6, 286),
    ],
)
def test_patchgans_have_the_original_parameters_logits_and_patches(
    layers: int, count: int, side: int, field: int
) -> None:
    network = patchgan.Patchgan(kind="patchgan", layers=layers, normalisation="batch").discriminator(
        Shape((256, 256), 6)
    )
    assert parameters(network) == count
    assert network(torch.empty(2, 6, 256, 256)).shape == (2, 1, side, side)
    seen = 1
    for module in reversed([each for each in network.modules() if isinstance(each, nn.Conv2d)]):
        seen = (seen - 1) * module.stride[0] + module.kernel_size[0]
    assert seen == field


@pytest.mark.usefixtures("without_numbers")
def test_two_scales_are_pix2pixhd_s_but_for_the_scales_of_the_norms() -> None:
    family = patchgan.Patchgan(kind="patchgan", scales=2)
    network = family.discriminator(Shape((256, 256), 39))
    # theirs have biases that instance norm takes away again, ours a scale and a shift
    assert parameters(network) == 5_603_202 + 2 * (128 + 256 + 512)
    features = network(torch.empty(1, 39, 256, 256), features=True)
    assert [len(each) for each in features] == [5, 5]
    assert [each[-1].shape[-1] for each in features] == [30, 14]


def test_dropout_depends_on_positions_alone() -> None:
    torch.manual_seed(0)
    network = unet.Generator(1, 1, 4, 4)
    images = torch.rand(1, 1, 16, 16).expand(4, -1, -1, -1)
    positions = torch.tensor([3, 8, 1, 3])
    whole = network(images, rng.Draws(KEY, positions))
    assert torch.equal(whole[0], whole[3])
    assert not torch.equal(whole[0], whole[1])
    alone = network(images[:1], rng.Draws(KEY, positions[1:2]))
    assert torch.allclose(alone[0], whole[1], atol=1e-6)
    assert torch.equal(network(images[:1]), network(images[:1]))


def test_dropout_drops_its_part_and_keeps_the_mean() -> None:
    kept = unet.dropped(torch.ones(4, 8, 16, 16), 0.25, rng.Draws(KEY, torch.arange(4)), "x")
    assert kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs(float((kept == 0).float().mean()) - 0.25) < 0.02
    assert abs(float(kept.mean()) - 1) < 0.02


def test_a_u_net_says_which_sizes_it_takes() -> None:
    assert unet.Unet(kind="unet").levels_of((192, 256)) == 6
    assert unet.Unet(kind="unet").levels_of((512, 512)) == 8
    with pytest.raises(ValueError, match=r"multiples of 2, and data\.resolution = 31"):
        unet.Unet(kind="unet").levels_of((31, 31))
    with pytest.raises(ValueError, match=r"multiples of 2, .*; set data\.resolution: 32$"):
        unet.Unet(kind="unet").levels_of((33, 33))
    with pytest.raises(ValueError, match="multiples of 32"):
        unet.Unet(kind="unet", levels=5).levels_of((48, 48))


@pytest.mark.parametrize(
    ("side", "layers", "scales", "advice"),
    [
        (4, 3, 1, "layers: 0"),
        (16, 3, 1, "layers: 2"),
        (16, 3, 3, "layers: 2 and scales: 1"),
        (32, 3, 3, "layers: 1"),
        (4, 1, 4, "layers: 0 and scales: 2"),
    ],
)
def test_a_patchgan_advises_what_its_images_allow(side: int, layers: int, scales: int, advice: str) -> None:
    data = types.SimpleNamespace(data=types.SimpleNamespace(size=(side, side), resolution=side))
    family = patchgan.Patchgan(kind="patchgan", layers=layers, scales=scales, base_channels=2)
    with pytest.raises(ValueError, match=f"; set {advice}$"):
        family.check(data)
    chosen = {name: int(number) for name, number in (each.split(": ") for each in advice.split(" and "))}
    fitting = family.model_copy(update=chosen)
    fitting.check(data)
    features = fitting.discriminator(Shape((side, side), 3))(torch.zeros(1, 3, side, side), features=True)
    assert all(each[-1].numel() for each in features)


def test_scales_that_a_game_does_not_look_at_are_refused() -> None:
    space = types.SimpleNamespace
    config = space(data=space(size=(64, 64)), game=space(kind="generation"))
    with pytest.raises(ValueError, match="scales = 2 has no effect with game"):
        patchgan.Patchgan(scales=2).check(config)
    config.game.kind = "paired"
    patchgan.Patchgan(scales=2).check(config)
