"""What a strategy holds and sends, by formula; benchmarks/engines.py measures the same."""

import pytest

from gan_dist import footprint


def test_zero_cuts_moments_then_gradients_then_weights() -> None:
    sizes = [100] * 8
    whole = 4 * 800
    held = {name: footprint.memory(name, sizes, 4, False) for name in ("ddp", "exact", "zero1", "zero2", "zero3")}
    assert held["ddp"] == held["exact"]
    assert (held["ddp"].weights, held["ddp"].gradients, held["ddp"].moments) == (whole, whole, 2 * whole)
    for name in ("zero1", "zero2"):
        assert (held[name].weights, held[name].moments, held[name].masters) == (whole, whole / 2, whole / 4)
        assert held[name].gradients == whole / 4
    assert (held["zero3"].weights, held["zero3"].gradients) == (whole / 4, whole / 4)
    assert held["zero3"].buffers == whole  # smaller than a bucket


def test_a_weight_that_is_cut_keeps_its_gradient_whole() -> None:
    assert [footprint.memory("zero2", [10, 1000, 10], 2, False, rank).gradients for rank in (0, 1)] == [4040, 4040]


def test_a_ring_sends_everything_twice_less_the_own_part() -> None:
    used = footprint.Uses(backwards=2, passes=6, looks=1, updates=1)
    assert footprint.traffic("ddp", 1000, 1, used) == 0
    once = 4000 * 3 / 4
    assert footprint.traffic("ddp", 1000, 4, used) == pytest.approx(2 * once)
    assert footprint.traffic("zero1", 1000, 4, used) == pytest.approx(3 * once)
    assert footprint.traffic("zero2", 1000, 4, used) == pytest.approx(5 * once)
    assert footprint.traffic("zero3", 1000, 4, used) == pytest.approx(15 * once)


def test_the_discriminator_is_passed_through_in_both_turns_and_for_penalties() -> None:
    uses, Uses = footprint.uses, footprint.Uses
    assert uses("zero2", 2) == {"G": Uses(2, 2, 0, 1), "D": Uses(2, 6, 0, 1)}
    assert uses("zero2", 2, 1)["D"].backwards == 4
    assert uses("zero3", 2, 2) == {"G": Uses(2, 2, 0, 1), "D": Uses(3, 7, 0, 1)}  # gathered for the phase
    assert uses("zero3", 2, 2, exact=False)["D"] == Uses(4, 14, 0, 1)


def test_what_is_seldom_due_counts_as_seldom() -> None:
    seldom = footprint.uses("ddp", 2, 1, every=4, discriminator_steps=2)
    assert seldom["G"] == footprint.Uses(1, 1, 1, 0.5)  # in every other step it makes images for D alone
    assert seldom["D"] == footprint.Uses(2.5, 5.5, 0, 1.25)
