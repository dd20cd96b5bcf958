"""StyleGAN2 has the original's numbers for the same weights, and nothing in it depends on how samples are grouped."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist import config as config_module
from gan_dist.config import tree
from gan_dist.engine.precision import Lowered
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.networks.base import Shape
from gan_dist.networks.statistics import RunningMean, Statistics, statistics_of
from gan_dist.networks.stylegan2 import Discriminator, Generator, Stylegan2
from gan_dist.networks.stylegan2_layers import Conv, Linear, MinibatchStd, StyledConv, ToImage
from gan_dist.penalties import PathLength
from gan_dist.rng import Draws, key


def pattern(*shape: int) -> Tensor:
    numbers = torch.arange(math.prod(shape))
    return (((7919 * numbers + 104729) % 10007).double() / 10007 - 0.5).view(shape)


def filled(network: nn.Module) -> nn.Module:
    """The network in fp64 with weights that any build of it can be given."""
    affine = {id(module.affine) for module in network.modules() if hasattr(module, "affine")}
    for module in network.double().modules():
        rate = module.rate if isinstance(module, Linear) else 1.0
        for weight in module.parameters(recurse=False):
            values = pattern(*weight.shape)
            if weight.dim() == 0:
                values = torch.tensor(0.1, dtype=torch.float64)
            elif weight.dim() == 1:
                values = 0.2 / rate * values + (id(module) in affine)
            else:
                values = math.sqrt(12) / rate * values
            weight.data.copy_(values)
        if isinstance(module, StyledConv):
            module.fixed_noise.copy_(2 * pattern(*module.size))
    return network


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def small(size: tuple[int, int] = (16, 16), classes: int = 0, **keys: Any) -> tuple[Generator, Discriminator]:
    """Both networks, in fp64, with all noises switched on."""
    chosen = {"mapping_layers": 2, "style": 16, "channel_base": 256, "channel_maximum": 32, "minibatch_std": 2, **keys}
    section, shape = Stylegan2(**chosen), Shape(size, 3, 16, classes)
    class_layers = section.model_copy(update={"mapping_layers": 8})
    return filled(section.generator(shape)), filled(class_layers.discriminator(shape))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("classes", "counts", "styles", "image", "logits", "gradients"),
    [
        (
            0,
            (39_806, 53_041),
            (0.613714124, 1.153951718),
            (0.026355422, 0.633313816, 0.442631280, -0.273872923),
            (0.253672341, 0.253719719, 0.257027310, 0.257812706),
            (1.30646820e-4, 1.01826147e-4, 8.90002891e-5, 1.05023747e-4),
        ),
        (
            3,
            (40_126, 61_104),
            (0.463843418, 0.885183028),
            (-0.004264122, 0.591832117, 0.381181278, -0.312312438),
            (0.223404038, 0.165158827, 0.164221304, 0.163731253),
            (1.43231654e-5, 8.47401304e-6, 7.86331137e-6, 8.32749890e-6),
        ),
    ],
)
def test_the_same_weights_give_the_originals_numbers(
    classes: int,
    counts: tuple[int, ...],
    styles: tuple[float, ...],
    image: tuple[float, ...],
    logits: tuple[float, ...],
    gradients: tuple[float, ...],
) -> None:
    """The numbers are those of the original with these weights; without classes residual, with them plain."""
    generator, discriminator = small(classes=classes, architecture="plain" if classes else "residual")
    assert (count(generator), count(discriminator)) == counts
    latents, labels = 4 * pattern(4, 16), torch.tensor([0, 2, 1, 1]) if classes else None
    made, ws = generator(latents, labels, styles=True)
    assert [ws[:, 0].mean().item(), ws[:, 0].std().item()] == pytest.approx(styles, abs=1e-9)
    found = [made.mean(), made.std(), made[0, 0, 0, 0], made[-1, -1, -1, -1]]
    assert [each.item() for each in found] == pytest.approx(image, abs=1e-9)
    images = (2 * pattern(4, 3, 16, 16)).requires_grad_()
    judged = discriminator(images, labels)
    assert judged.tolist() == pytest.approx(logits, abs=1e-9)
    (gradient,) = torch.autograd.grad(judged.sum(), images)
    assert gradient.square().sum((1, 2, 3)).tolist() == pytest.approx(gradients, rel=1e-8)


@pytest.mark.parametrize(
    ("size", "keys", "classes", "counts", "styles"),
    [
        (32, {"channel_base": 32768, "mapping_layers": 2, "architecture": "plain"}, 0, (19_947_539, 20_720_641), 8),
        (32, {"channel_base": 32768, "mapping_layers": 2, "architecture": "plain"}, 10, (20_215_315, 23_089_664), 8),
        (64, {"mapping_layers": 2}, 0, (22_243_608, 23_407_361), 10),
        (128, {"mapping_layers": 2}, 0, (22_949_277, 23_882_369), 12),
        (256, {"mapping_layers": 2}, 0, (23_191_522, 24_001_089), 14),
        (256, {}, 0, (24_767_458, 24_001_089), 14),
        (512, {"mapping_layers": 2}, 0, (28_700_647, 28_982_849), 16),
        (512, {}, 0, (30_276_583, 28_982_849), 16),
        (1024, {}, 0, (30_370_060, 29_012_513), 18),
    ],
)
def test_the_published_configurations_have_the_originals_number_of_weights(
    size: int, keys: dict[str, Any], classes: int, counts: tuple[int, int], styles: int
) -> None:
    section, shape = Stylegan2(**keys), Shape((size, size), 3, 512, classes)
    with torch.device("meta"):
        generator = section.generator(shape)
        discriminator = section.model_copy(update={"mapping_layers": 8}).discriminator(shape)
    assert (count(generator), count(discriminator)) == counts
    assert generator.style_count == styles


def test_networks_begin_at_the_smallest_size_that_doubles_to_the_images() -> None:
    generator, discriminator = small((24, 16))
    images = generator(pattern(2, 16))
    assert images.shape == (2, 3, 24, 16)
    assert discriminator(images).shape == (2,)


def test_draws_give_a_sample_the_same_image_in_any_pass_and_micro_batches_their_own_mixing() -> None:
    generator, _ = small(mixing=0.5)
    latents, positions = 4 * pattern(12, 16), torch.arange(100, 112)

    def images(chosen: slice, parts: int, draws: int = 7) -> tuple[Tensor, Tensor]:
        for each in statistics_of(generator):
            each.parts = parts
        with torch.no_grad():
            return generator(latents[chosen], None, Draws(draws, positions[chosen]), styles=True)

    together, ws = images(slice(0, 12), 6)
    apart = [images(slice(start, start + 2), 1)[0] for start in range(0, 12, 2)]
    assert torch.allclose(torch.cat(apart), together, rtol=0, atol=1e-13)
    assert (images(slice(0, 12), 6, draws=8)[0] - together).abs().mean() > 0.1
    # one layer for both samples of a micro-batch, from 1 on, and not for all of them
    changes = (ws != ws[:, :1]).any(2)
    begins = torch.where(changes.any(1), changes.int().argmax(1), 0).view(6, 2)
    assert torch.equal(begins[:, 0], begins[:, 1])
    assert len(begins.unique()) > 2
    assert 0 in begins


def test_styles_are_mixed_as_often_as_asked_from_every_layer_but_the_first() -> None:
    draws = Draws(key(0, "G"), torch.arange(4000))
    mixing = small(mixing=0.9)[0].mixing
    assert mixing is not None
    mixing.parts = 2000
    ws = mixing(torch.zeros(4000, 1), torch.ones(4000, 1), 6, draws)[:, :, 0]
    begins = 6 - ws.sum(1)[::2]
    counts = torch.bincount(begins.long(), minlength=7) / 2000
    assert counts[0] == 0
    assert counts.tolist()[1:] == pytest.approx([0.18] * 5 + [0.1], abs=0.04)


def test_minibatch_deviations_of_a_pass_are_those_of_its_micro_batches() -> None:
    layer, x = MinibatchStd(2), pattern(8, 3, 4, 4)
    apart = torch.cat([layer(part) for part in x.chunk(2)])
    layer.parts = 2
    together = layer(x)
    assert torch.equal(together, apart)
    assert together.shape == (8, 4, 4, 4)
    # samples 0 and 2 of a micro-batch of four are a group
    expected = (x[[0, 2]].var(0, correction=0) + 1e-8).sqrt().mean()
    assert together[[0, 2], 3].flatten().tolist() == pytest.approx([expected.item()] * 32)
    layer.group = 3
    with pytest.raises(InputError, match="minibatch_std = 3 does not divide the 4 samples"):
        layer(x)


def test_the_mean_style_moves_at_a_commit_alone_and_truncation_goes_towards_it() -> None:
    generator, _ = small(mixing=1.0)
    latents, draws = 4 * pattern(4, 16), Draws(0, torch.arange(4))
    styles = generator.mapping(latents, None)
    generator(latents, None, draws)
    assert not generator.w_avg.gathered  # not its turn
    generator.w_avg.tracking = True
    generator(latents, None, draws)
    assert generator.w_avg.value.abs().max() == 0
    generator.w_avg.commit()
    assert torch.allclose(generator.w_avg.value, 0.002 * styles.mean(0))

    before = generator(latents)
    generator.truncation, generator.truncation_layers = 0.25, 3
    assert torch.equal(generator(latents), before)  # in training
    ws = generator.eval()(latents, styles=True)[1]
    assert torch.allclose(ws[:, :3], (0.25 * styles + 0.75 * generator.w_avg.value)[:, None])
    assert torch.equal(ws[:, 3:], styles[:, None].expand(-1, 3, -1))


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_in_16_bits_the_small_sizes_and_the_ends_stay_in_32(kind: torch.dtype) -> None:
    generator, discriminator = (network.float() for network in small((128, 128), channel_base=512))
    latents = 4 * pattern(2, 16).float()
    images, ws = generator(latents, styles=True)
    logits = discriminator(images)
    types: dict[str, torch.dtype] = {}
    for module in generator.modules():
        if isinstance(module, StyledConv):
            module.weight.mul_(1e5)  # the demodulation takes it away, before fp16 overflows
    for name, module in [*generator.named_modules(), *discriminator.named_modules()]:
        if isinstance(module, StyledConv | ToImage | Conv | Linear):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: types.update({name: output.dtype})  # type: ignore[misc]
            )
    for network in (generator, discriminator):
        Lowered(torch.device("cpu"), kind).lower(network)
    in_16, ws_too = generator(latents, styles=True)
    logits_16 = discriminator(images)
    # of 4 to 128 pixels the last four sizes; the discriminator's blocks begin at 128
    of_blocks = [f"blocks.{number}.{layer}" for number in range(2, 6) for layer in ("convolutions", "to_image")]
    halvings = [f"blocks.{number}." for number in range(4)]
    for name, found in types.items():
        is_low = name.startswith((*of_blocks, "from_image")) or (
            name.startswith(tuple(halvings)) and name.endswith(("first", "second", "shortcut"))
        )
        is_low = is_low and not name.endswith("affine")
        assert found == (kind if is_low else torch.float32), name
    assert torch.equal(ws_too, ws)
    assert in_16.dtype == logits_16.dtype == torch.float32
    assert (in_16 - images).abs().mean() < 0.02
    assert (logits_16 - logits).abs().max() < 0.02


class Linears:
    """A game whose generator has two styles and is linear in them: image = first * weight + second."""

    seed = 3

    def __init__(self) -> None:
        self.weight = torch.tensor([2.0, -1.0, 0.5, 3.0], dtype=torch.float64).view(1, 2, 2).requires_grad_()

    def generate(self, batch: Batch, purpose: str, styles: bool = False) -> tuple[Tensor, Tensor]:
        assert (purpose, styles) == ("path length", True)
        ws = torch.ones(len(batch), 2, 4, dtype=torch.float64, requires_grad=True)
        return (ws[:, 0].view(-1, 1, 2, 2) * self.weight + ws[:, 1].view(-1, 1, 2, 2)), ws


def lengths_of(positions: list[int], weight: Tensor) -> Tensor:
    noise = Draws(key(3, "path length"), torch.tensor(positions)).normal("pixels", 1, 2, 2).double() / 2
    return (((weight * noise).square() + noise.square()).sum((1, 2, 3)) / 2).sqrt()


def test_of_a_linear_generator_the_path_length_is_that_of_its_weight() -> None:
    penalty, game = PathLength(shrink=2), Linears()
    kept = penalty.statistics()
    assert isinstance(kept, RunningMean)
    kept.double()
    kept.tracking, kept.parts = True, 2
    batch = Batch({}, torch.arange(8), parts=2)
    value = penalty.value(game, batch, kept)  # type: ignore[arg-type]
    lengths = lengths_of([0, 1, 4, 5], game.weight)  # half of each micro-batch
    assert value.item() == pytest.approx(lengths.square().mean().item())
    assert kept.value == 0
    kept.commit()
    assert kept.value.item() == pytest.approx(0.01 * lengths.mean().item())
    value = penalty.value(game, batch, kept)  # type: ignore[arg-type]
    expected = (lengths - kept.value).square().mean()
    assert value.item() == pytest.approx(expected.item())
    (found,), (wanted,) = (torch.autograd.grad(each, game.weight) for each in (value, expected))
    assert torch.allclose(found, wanted)
    assert penalty.factor(0) == 2


def test_every_weight_of_the_generator_has_a_gradient_by_the_path_length_alone() -> None:
    generator, _ = small(classes=3)
    game = SimpleNamespace(
        seed=0,
        generate=lambda batch, purpose, styles: generator(
            4 * pattern(len(batch), 16), batch["class"], Draws(0, batch.positions), styles
        ),
    )
    kept: Statistics = PathLength().statistics().double()
    PathLength().value(game, Batch({"class": torch.tensor([0, 1, 2, 1])}, torch.arange(4)), kept).backward()
    assert all(weight.grad is not None for weight in generator.parameters())
    assert generator.mapping.layers[0].weight.grad.abs().max() > 0


CONFIG = """\
data: {shards: -, resolution: 16, channels: 1}
training: {images: 32, batch: 16, micro_batch: 4, device: cpu}
networks: {generator: {kind: stylegan2}, discriminator: {kind: stylegan2}}
penalties: {path_length: {}}
"""


def check(config: config_module.Config) -> None:
    for section in tree.sections(config):
        section.check(config)


def test_keys_that_do_nothing_or_contradict_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = config_module.load([str(tmp_path / "config.yaml")])
    for key_, value, message in (
        ("networks.generator.architecture", "plain", "generator.architecture has no effect in this generator"),
        ("networks.discriminator.mixing", 0.0, "discriminator.mixing has no effect in this discriminator"),
        ("networks.discriminator.mapping_layers", 2, "mapping_layers has no effect in this discriminator"),
        ("networks.discriminator.minibatch_std", 3, "minibatch_std = 3 does not divide the 4 samples"),
        ("game.latent_distribution", "uniform", "networks.generator.mixing draws normal latents"),
        ("networks.generator.channel_base", 15, "channel_base = 15 leaves no channel"),
        ("networks.generator.truncation_layers", 3, "truncation_layers has no effect with truncation: 1"),
        ("penalties.path_length.shrink", 3, "path_length.shrink = 3 does not divide training.micro_batch = 4"),
        ("data.resolution", 15, "kind = stylegan2: data.resolution = 15"),
    ):
        changed = config.with_({key_: value})
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            check(changed)
        assert "\n" not in str(caught.value)
    changed = config.with_({"training.micro_batch": 2, "game.generator_batch": 3})
    with pytest.raises(ValueError, match=r"does not divide the 6 samples .* game.generator_batch times as many"):
        check(changed)
    with pytest.raises(InputError, match=r"path_length needs a generator with styles; set"):
        config_module.load([str(tmp_path / "config.yaml"), "--networks.generator.kind", "dcgan"])
