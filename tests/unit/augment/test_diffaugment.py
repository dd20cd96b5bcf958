"""DiffAugment against what its table says, and its second derivatives."""

import types

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gan_dist.augment.diffaugment import _DRAWS, DiffAugment, DifferentiableAugment
from gan_dist.interfaces import Batch


def build(**keys: object) -> DifferentiableAugment:
    augment = DiffAugment(**keys).build(5)
    assert isinstance(augment, DifferentiableAugment)
    return augment


def only(name: str, **keys: object) -> DifferentiableAugment:
    return build(**{"color": False, "translation": False, "cutout": False, name: True, **keys})


def noise(count: int = 4, channels: int = 3, size: tuple[int, int] = (13, 20)) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def numbers(**draws: float) -> dict[str, Tensor]:
    """Draws of one image, 0.5 where not given."""
    return {name: torch.tensor([draws.get(name.replace(" ", "_"), 0.5)], dtype=torch.float64) for name in _DRAWS}


def batch_of(positions: list[int]) -> Batch:
    return Batch({}, torch.tensor(positions))


def test_colour_is_brightness_then_saturation_then_contrast() -> None:
    image = noise(1)
    assert torch.allclose(only("color").change(image, numbers()), image)
    draws = numbers(brightness=0.9, saturation=0.2, contrast=0.75)
    x = image + 0.4
    x = (x - x.mean(1, keepdim=True)) * 0.4 + x.mean(1, keepdim=True)
    expected = (x - x.mean()) * 1.25 + x.mean()
    assert torch.allclose(only("color").change(image, draws), expected)


def test_a_shift_is_up_to_an_eighth_with_zeros_outside() -> None:
    image, augment = noise(1), only("translation")
    made = augment.change(image, numbers(shift_y=0.999, shift_x=0.001))  # 2 of 13 down, 3 of 20 to the left
    assert torch.equal(made[..., 2:, :-3], image[..., :-2, 3:])
    assert not made[..., :2, :].any()
    assert not made[..., -3:].any()
    assert torch.equal(augment.change(image, numbers()), image)


@pytest.mark.parametrize(
    ("y", "x", "rows", "columns"),
    [
        (0.5, 0.5, (3, 10), (5, 15)),  # 7 of 13 rows, 10 of 20 columns
        (0.001, 0.999, (0, 4), (15, 20)),  # with its centre in the first row, and behind the last column
    ],
)
def test_a_hole_is_half_as_high_and_wide_and_may_lie_outside(
    y: float, x: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = noise(1)
    expected = image.clone()
    expected[..., rows[0] : rows[1], columns[0] : columns[1]] = 0
    assert torch.equal(only("cutout").change(image, numbers(centre_y=y, centre_x=x)), expected)


def test_an_image_gets_the_same_in_any_grouping_of_the_batch() -> None:
    augment, images, positions = build(), noise(), [40, 41, 42, 10**12]
    together = augment(images, batch_of(positions), "fake")
    for group in ([3], [2, 0]):
        alone = augment(images[group], batch_of([positions[place] for place in group]), "fake")
        assert torch.allclose(alone, together[group], atol=1e-14)
    assert not torch.allclose(augment(images, batch_of(positions), "real"), together)


def test_it_is_twice_differentiable() -> None:
    augment, images = build(), noise(2, size=(8, 9)).requires_grad_()

    def squared(x: Tensor) -> Tensor:
        return augment(x, batch_of([3, 8]), "real").square()

    assert torch.autograd.gradcheck(squared, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(squared, images, fast_mode=True)


def test_a_probability_leaves_the_other_images_alone() -> None:
    augment = build(probability={"kind": "linear", "start": 0.25, "stop": 0.75, "end": 100})
    images, batch = noise(1).expand(1000, -1, -1, -1), batch_of(list(range(1000)))
    changed = {}
    for position in (0, 100):
        augment.images = position
        changed[position] = (augment(images, batch, "real") != images).flatten(1).any(1)
        assert changed[position].double().mean().item() == pytest.approx(0.25 + position / 200, abs=0.05)
    assert not (changed[0] & ~changed[100]).any()


def test_it_is_computed_in_fp32_whatever_surrounds_it() -> None:
    images, batch = noise().bfloat16(), batch_of([1, 2, 3, 4])
    expected = build()(images.float(), batch, "real").bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(build()(images, batch, "real"), expected)


def test_what_has_no_effect_is_refused() -> None:
    for keys in ({"color": False, "translation": False, "cutout": False}, {"probability": 0}):
        with pytest.raises(ValueError, match=r"augment.diffaugment has no effect: set"):
            DiffAugment(**keys).check(types.SimpleNamespace(key_of=lambda section: "augment.diffaugment"))
    with pytest.raises(ValidationError, match="at most 1"):
        DiffAugment(probability={"kind": "linear", "start": 0, "stop": 1.5, "end": 100})
