"""R3GAN's networks are the paper's: outputs of a known fill, sizes, initial magnitudes, number formats, and any image size."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist.engine.precision import Lowered
from gan_dist.networks.base import Shape
from gan_dist.networks.r3gan import Discriminator, Generator, R3gan

SMALL = R3gan(widths=[32, 32, 16], group_width=8)
"""Three stages, of 4 to 16 pixels, with 8, 8 and 4 groups."""


def pattern(*shape: int) -> Tensor:
    """Numbers between -0.5 and 0.5 that look random and are the same everywhere."""
    count = torch.Size(shape).numel()
    return (((7919 * torch.arange(count) + 104729) % 10007).double() / 10007 - 0.5).view(shape)


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Give each weight the pattern, also those that begin with zero."""
    for name, weight in network.named_parameters():
        if name == "classes.weight":  # the original's is a linear layer, whose weight lies the other way
            weight.copy_((2 / len(weight) ** 0.5 * pattern(*weight.t().shape)).t())
        elif weight.dim() == 1:
            weight.copy_(0.2 * pattern(*weight.shape))
        else:
            weight.copy_(2 / weight[0].numel() ** 0.5 * pattern(*weight.shape))


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


# made by the authors' code in fp64
FINGERPRINTS = [
    (
        0,
        (43_440, 43_216),
        (0.030785172, 0.035189881, 0.074066489, 0.017134247),
        (0.028838301, 0.026991763),
        (8.89843242e-5, 8.93274584e-5),
    ),
    (
        3,
        (43_720, 44_304),
        (0.033336687, 0.028983225, 0.065246436, 0.022976711),
        (0.002210230, -0.145879940),
        (3.49140969e-4, 1.49101045e-4),
    ),
]


@pytest.mark.parametrize(("classes", "counts", "of_images", "of_logits", "of_gradients"), FINGERPRINTS)
def test_outputs_and_gradients_of_a_known_fill_are_those_of_the_authors_code(
    classes: int, counts: Any, of_images: Any, of_logits: Any, of_gradients: Any
) -> None:
    plan = SMALL.plan(Shape((16, 16), 3))
    generator = Generator(plan, latent=8, classes=classes, class_features=8).double()
    discriminator = Discriminator(plan, classes).double()
    assert (count(generator), count(discriminator)) == counts
    for network in (generator, discriminator):
        fill(network)
    labels = torch.tensor([0, 2]) if classes else None

    images = generator(4 * pattern(2, 8), labels)
    found = [images.mean(), images.std(), images[0, 0, 0, 0], images[-1, -1, -1, -1]]
    assert [value.item() for value in found] == pytest.approx(of_images, abs=1e-9)

    real = (2 * pattern(2, 3, 16, 16)).requires_grad_()
    logits = discriminator(real, labels)
    assert logits.tolist() == pytest.approx(of_logits, abs=1e-9)
    (gradient,) = torch.autograd.grad(logits.sum(), real)
    assert gradient.square().sum((1, 2, 3)).tolist() == pytest.approx(of_gradients, rel=1e-8)


IMAGENET = {"widths": [1536] * 4, "group_width": 32}
# keys, size, classes, weights of generator and discriminator, smallest stage in 16 bits
PRESETS = [
    ({}, 32, 0, 20_732_160, 20_683_776, 8),  # StackedMNIST, CIFAR-10 without classes
    ({}, 32, 10, 20_781_952, 21_280_512, 8),  # CIFAR-10
    ({}, 64, 0, 22_429_824, 22_381_440, 8),  # FFHQ-64
    ({}, 256, 0, 23_057_952, 23_009_568, 32),  # FFHQ-256
    (IMAGENET, 32, 1000, 82_914_304, 86_548_992, 8),
    (IMAGENET | {"widths": [1536] * 5}, 64, 1000, 103_570_432, 107_205_120, 8),
]


@pytest.mark.parametrize(("keys", "size", "classes", "of_generator", "of_discriminator", "lowered_from"), PRESETS)
def test_every_preset_has_the_authors_number_of_weights_and_of_stages_in_fp32(
    keys: dict[str, Any], size: int, classes: int, of_generator: int, of_discriminator: int, lowered_from: int
) -> None:
    network, shape = R3gan(**keys), Shape((size, size), 3, 64, classes)
    with torch.device("meta"):
        assert count(network.generator(shape)) == of_generator
        assert count(network.discriminator(shape)) == of_discriminator
    assert 4 << network.plan(shape).full == lowered_from


@pytest.mark.parametrize(("classes", "deviation"), [(0, 0.53), (10, 0.39)])
def test_weights_images_and_logits_begin_with_the_papers_magnitudes(classes: int, deviation: float) -> None:
    # blocks begin as the identity, and all else keeps its scale at any width: the figures of 768 channels hold for 96,
    # with more spread over seeds
    network, shape = R3gan(widths=96, blocks=1), Shape((32, 32), 3, 64, classes)
    labels = torch.arange(8) % classes if classes else None
    deviations = []
    with torch.no_grad():
        for seed in range(4):
            torch.manual_seed(seed)
            generator, discriminator = network.generator(shape), network.discriminator(shape)
            deviations.append(generator(torch.randn(8, 64), labels).std().item())
        assert sum(deviations) / 4 == pytest.approx(deviation, rel=0.15)
        assert 0.005 < discriminator(torch.randn(8, 3, 32, 32).clamp(-1, 1), labels).std() < 0.1
        block = discriminator.stages[0][0]
        x = torch.randn(2, 96, 4, 4)
        assert torch.equal(block(x), x)
    # sqrt(2 / 1.04) * 4 blocks ** -1/4 / sqrt(inputs of an output)
    drawn = {block.widen.weight: 0.98058 / 96**0.5, block.mix.weight: 0.98058 / 144**0.5}
    if classes:
        drawn |= {generator.classes.weight: 10**-0.5, discriminator.classes.weight: 960**-0.5}
    for weight, wanted in drawn.items():
        assert weight.std().item() == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize(("size", "channels", "start"), [((16, 24), 1, (4, 6)), ((20, 20), 4, (5, 5))])
def test_sizes_that_are_no_square_or_power_of_two_and_any_number_of_channels(
    size: tuple[int, int], channels: int, start: tuple[int, int]
) -> None:
    network, shape = R3gan(widths=8), Shape(size, channels, 5, 3)
    assert network.plan(shape).start == start
    labels = torch.tensor([0, 2])
    generator, discriminator = network.generator(shape), network.discriminator(shape)
    images = generator(torch.randn(2, 5), labels)
    assert images.shape == (2, channels, *size)
    logits = discriminator(images, labels)
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(weight.grad is not None for net in (generator, discriminator) for weight in net.parameters())


@pytest.mark.parametrize(("below", "lowered_sides"), [("auto", {8, 16}), (0, {4, 8, 16}), (16, {16}), (32, set())])
def test_stages_below_a_size_compute_in_fp32_and_the_others_in_16_bits(below: Any, lowered_sides: set[int]) -> None:
    torch.manual_seed(0)
    network, shape = R3gan(widths=16, full_precision_below=below), Shape((16, 16), 3, 8)
    generator, discriminator = network.generator(shape), network.discriminator(shape)
    seen: set[tuple[int, torch.dtype]] = set()
    for net in (generator, discriminator):
        fill(net)  # so that the blocks do something
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, inputs, y: seen.add((y.shape[-1], y.dtype)))
    latents, images = torch.randn(2, 8), torch.randn(2, 3, 16, 16, requires_grad=True)
    plain = generator(latents), discriminator(images)
    assert {dtype for _, dtype in seen} == {torch.float32}
    seen.clear()
    lowered = Lowered(torch.device("cpu"), torch.bfloat16)
    lowered.lower(generator)
    lowered.lower(discriminator)
    outputs = generator(latents), discriminator(images)
    assert seen == {(side, torch.bfloat16 if side in lowered_sides else torch.float32) for side in (4, 8, 16)}
    for one, other in zip(outputs, plain, strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, rtol=0.05, atol=0.02)
    # the exact penalty goes through the stages in 16 bits
    (gradient,) = torch.autograd.grad(outputs[1].sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in discriminator.parameters())


@pytest.mark.parametrize(
    ("keys", "size", "precision", "said"),
    [
        ({"widths": [8, 8]}, (16, 16), "fp32", "widths has 2 numbers, and the stages are 3, of 4, 8, 16 pixels; give"),
        ({"widths": 12}, (16, 16), "fp32", "12 channels times expansion 2 are no multiple of group_width 16; for"),
        ({"widths": [8, 0, 8]}, (16, 16), "fp32", "0 channels times expansion 2 .* for example 8 channels are"),
        ({}, (30, 31), "fp32", "data.resolution"),
        ({"full_precision_below": 8}, (16, 16), "fp32", "has no effect with training.precision: fp32; remove it"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: Any, size: Any, precision: str, said: str) -> None:
    config: Any = SimpleNamespace(
        data=SimpleNamespace(size=size, channels=3), training=SimpleNamespace(precision=precision)
    )
    R3gan().check(SimpleNamespace(data=SimpleNamespace(size=(96, 64), channels=3), training=config.training))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        R3gan(**keys).check(config)
