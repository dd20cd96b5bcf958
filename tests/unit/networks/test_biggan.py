"""BigGAN: the numbers of the original code, its latents and classes, and what a config may ask of it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist import config as config_module
from gan_dist.errors import InputError
from gan_dist.networks import Shape, biggan, residual
from gan_dist.networks.biggan import Biggan
from gan_dist.networks.statistics import BatchNorm, SpectralNorm, statistics_of
from tests import making


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


SIZES: dict[str, tuple[dict[str, Any], Shape, int, int]] = {
    "128": ({}, Shape((128, 128), 3, 120, 1000), 70_433_988, 87_982_370),
    "128, ch 64": ({"base_channels": 64}, Shape((128, 128), 3, 120, 1000), 31_978_628, 39_448_258),
    "64": ({}, Shape((64, 64), 3, 120, 1000), 70_239_108, 45_500_449),
    "64, ch 64": ({"base_channels": 64}, Shape((64, 64), 3, 120, 1000), 31_908_100, 20_566_721),
    "256": ({}, Shape((256, 256), 3, 140, 1000), 82_235_844, 99_225_890),
    "tables by class": (
        {"base_channels": 64, "shared": 0, "hierarchical": False, "attention": ()},
        Shape((32, 32), 3, 128, 10),
        4_304_387,
        4_207_361,
    ),
}


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_as_many_as_the_originals(name: str) -> None:
    keys, shape, of_generator, of_discriminator = SIZES[name]
    network = Biggan(**keys)
    assert count(network.generator(shape)) == of_generator
    assert count(network.discriminator(shape)) == of_discriminator


@pytest.mark.usefixtures("without_numbers")
def test_the_attention_of_studiogans_cifar_network_has_the_originals_parameters() -> None:
    """The original attends after each of the discriminator's four blocks; our key after one."""
    generator = Biggan(attention=(16,)).generator(Shape((32, 32), 3, 80, 10))
    discriminator = residual.Discriminator(3, [384] * 4, 2, 10, thin=False, attention=range(4))
    assert count(generator) == 9_416_196
    assert count(discriminator) == 10_194_053


def pattern(*shape: int) -> Tensor:
    numbers = torch.arange(math.prod(shape))
    return (((7919 * numbers + 104729) % 10007).double() / 10007 - 0.5).view(shape)


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Set each weight to a pattern of integers, and each spectral norm's vectors to the exact ones."""
    for name, weight in network.named_parameters():
        if name.endswith("gamma"):
            weight.fill_(0.1)
        elif weight.dim() == 1:
            weight.copy_(0.2 * pattern(*weight.shape))
        else:
            weight.copy_(pattern(*weight.shape) * 2 / math.sqrt(weight[0].numel()))
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            left, _, right = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
            module.u.copy_(left[:, 0])
            module.v.copy_(right[0])


def test_outputs_are_the_originals() -> None:
    """Figures of the original code in fp64, attention at 16 pixels and in the discriminator after all four blocks."""
    keys = Biggan(base_channels=4, attention=(16,), shared=6)
    generator = keys.generator(Shape((32, 32), 3, 20, 5)).double().eval()
    discriminator = residual.Discriminator(3, [16] * 4, 2, 5, thin=False, attention=range(4)).double().eval()
    assert (count(generator), count(discriminator)) == (19_202, 18_405)
    for network in (generator, discriminator):
        fill(network)
    labels = torch.tensor([0, 3])
    images = generator(4 * pattern(2, 20), labels)
    figures = images.mean(), images.std(), images[0, 0, 0, 0], images[-1, -1, -1, -1]
    expected = -0.046009081, 0.044675342, -0.006819859, -0.095252773
    assert [each.item() for each in figures] == pytest.approx(expected, rel=0, abs=1e-9)
    logits = discriminator(2 * pattern(2, 3, 32, 32), labels)
    assert logits.tolist() == pytest.approx([37.015740021, 36.259819085], rel=0, abs=1e-8)


def test_each_block_sees_its_own_part_of_the_latents_and_the_class() -> None:
    torch.manual_seed(0)
    generator = Biggan(base_channels=4, shared=6).generator(Shape((64, 96), 1, 20, 3))  # 4x6 doubled 4 times
    assert generator.stem.in_features == 4
    latents, labels = torch.randn(2, 20), torch.tensor([0, 2])
    stem, conditions = generator.conditions(latents, labels)
    assert torch.equal(stem, latents[:, :4])
    for number, condition in enumerate(conditions, 1):
        assert torch.equal(condition, torch.cat([generator.shared(labels), latents[:, 4 * number : 4 * number + 4]], 1))
    assert generator(latents, labels).shape == (2, 1, 64, 96)


@pytest.mark.parametrize("keys", [{}, {"shared": 0, "hierarchical": False}, {"hierarchical": False}])
@pytest.mark.parametrize("init", ["orthogonal", "normal"])
def test_classes_change_the_image_and_the_logit(keys: dict[str, Any], init: str) -> None:
    torch.manual_seed(1)
    network = Biggan(base_channels=4, init=init, **keys)
    shape = Shape((32, 32), 1, 8, 3)
    generator, discriminator = network.generator(shape), network.discriminator(shape)
    latents = torch.randn(1, 8).expand(2, 8)
    images = generator(latents, torch.tensor([0, 1]))
    assert not torch.allclose(images[0], images[1], atol=1e-4)
    logits = discriminator(images[:1].expand(2, 1, 32, 32), torch.tensor([0, 1]))
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_without_classes_only_latents_condition(hierarchical: bool) -> None:
    generator = Biggan(base_channels=4, hierarchical=hierarchical).generator(Shape((32, 32), 2, 8))
    norms = [norm for norm in statistics_of(generator) if isinstance(norm, BatchNorm)]
    assert [isinstance(norm, residual.ConditionalBatchNorm) for norm in norms] == [hierarchical] * 6 + [False]
    generator(torch.randn(2, 8)).sum().backward()
    assert all(weight.grad is not None for weight in generator.parameters())


def test_micro_batches_that_share_a_pass_change_nothing_and_state_moves_in_commit_only() -> None:
    torch.manual_seed(2)
    network = Biggan(base_channels=4, attention=(16,)).generator(Shape((32, 32), 3, 8, 4)).double()
    latents, labels = torch.randn(8, 8, dtype=torch.float64), torch.arange(8) % 4
    nn.init.constant_(network.attention["1"].gamma, 0.5)
    for each in statistics_of(network):
        each.tracking = True
    before = {name: buffer.clone() for name, buffer in network.state_dict().items()}
    apart = torch.cat([network(*half) for half in zip(latents.chunk(2), labels.chunk(2), strict=True)])
    gathered = [each.take() for each in statistics_of(network)]
    for each in statistics_of(network):
        each.parts = 2
    assert torch.allclose(network(latents, labels), apart, rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for each, means in zip(statistics_of(network), gathered, strict=True):
        assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(each.take(), means, strict=True))
        each.give(means)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SpectralNorm):
                module.weight.add_(torch.randn_like(module.weight))
    for each in statistics_of(network):
        each.commit()
    moved = {
        name.rsplit(".", 1)[1] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"u", "v", "running_mean", "running_var", "weight"}


def test_a_penalty_can_be_differentiated_twice() -> None:
    torch.manual_seed(3)
    discriminator = Biggan(base_channels=2, attention=(16,)).discriminator(Shape((32, 32), 1, classes=2)).double()
    nn.init.constant_(discriminator.blocks[1].gamma, 0.5)
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images, torch.tensor([0, 1])).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    for part in ("blocks.0.convolution1", "blocks.1.queries", "blocks.1.values", "logit.linear"):
        assert discriminator.get_submodule(part).weight.grad.abs().max() > 0


def test_initial_weights_are_orthogonal_and_their_norm_is_known() -> None:
    torch.manual_seed(4)
    generator = Biggan(base_channels=4).generator(Shape((32, 32), 3, 8, 4))
    matrix = generator.blocks[0].convolution1.weight.detach().flatten(1)
    assert torch.allclose(matrix @ matrix.t(), torch.eye(16), atol=1e-5)
    for module in generator.modules():
        if isinstance(module, SpectralNorm):
            assert torch.linalg.matrix_norm(module.normalised().detach().flatten(1), 2) == pytest.approx(1, abs=1e-4)


def load(**keys: object) -> Any:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", data__resolution=32)
    wanted |= {f"networks.{role}.kind": "biggan" for role in ("generator", "discriminator")}
    return config_module.load(["tests/data/digits.yaml", *making.flags(wanted | dict(keys))])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.resolution": 28}, "doubled 3, 4, 5 or 6 times, as data.resolution, not 28x28; for example 32, 64"),
        ({"game.latent": 10}, "cuts game.latent = 10 into 4 equal parts; set game.latent: 8 or 12, or hierarchical"),
        (
            {"data.labels": True, "networks.generator.shared": 0},
            "networks.generator.shared = 0 gives each layer a table",
        ),
        ({"networks.discriminator.hierarchical": False}, "networks.discriminator.hierarchical has no effect"),
        ({"networks.discriminator.attention": "[32]"}, "attention = 32: .* choose from 16, 8, or"),
        (
            {"networks.generator.attention": "[64, 16]"},
            "networks.generator.attention = 64: .* choose from 8, 16, 32, or",
        ),
    ],
)
def test_what_the_networks_cannot_do_is_refused_in_a_line(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(**keys)


def test_keys_reach_the_networks() -> None:
    config = load(**{"networks.generator.attention": "[16]", "networks.discriminator.attention": "[8]"})
    shape = Shape((32, 32), 1, 8)
    assert list(config.networks.generator.generator(shape).attention) == ["1"]
    blocks = config.networks.discriminator.discriminator(shape).blocks
    assert [type(each).__name__ for each in blocks] == ["DownBlock", "DownBlock", "Attention", "DownBlock", "DownBlock"]
    with pytest.raises(InputError, match=r"set game\.latent: 8 or 12"):
        config.networks.generator.generator(Shape((32, 32), 1, 9))
    assert biggan.GENERATOR.keys() == biggan.DISCRIMINATOR.keys()
