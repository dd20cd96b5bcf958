"""What a strategy holds and sends, by formula; benchmarks/engines.py measures the same."""

import pytest

from gan_dist import config as config_module, footprint, games
from gan_dist.doctor import play
from gan_dist.engine import Engine
from gan_dist.footprint import Uses
from tests import making


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
    used = Uses(backwards=2, passes=6, looks=1, updates=1)
    assert footprint.traffic("ddp", 1000, 1, used) == 0
    once = 4000 * 3 / 4
    assert footprint.traffic("ddp", 1000, 4, used) == pytest.approx(2 * once)
    assert footprint.traffic("zero1", 1000, 4, used) == pytest.approx(3 * once)
    assert footprint.traffic("zero2", 1000, 4, used) == pytest.approx(5 * once)
    assert footprint.traffic("zero3", 1000, 4, used) == pytest.approx(15 * once)


def counted(**keys: object) -> dict[str, Uses]:
    """How often the players of a small game are used in a step, with two micro-batches a rank."""
    wanted = making.tiny(
        "unused", "unused", training__strategy="ddp", training__batch=8, training__micro_batch=4, **keys
    )
    config = config_module.load(["tests/data/digits.yaml", *making.flags(wanted)])
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    return play.play(config, engine, game).uses


def test_the_discriminator_is_passed_through_in_both_turns_and_for_penalties() -> None:
    assert counted() == {"G": Uses(2, 2, 0, 1), "D": Uses(2, 6, 0, 1)}
    assert counted(penalties__r1__weight=1.0) == {"G": Uses(2, 2, 0, 1), "D": Uses(2, 6, 0, 1)}
    assert counted(penalties__r1__weight=1.0, penalties__r2__weight=1.0)["D"] == Uses(2, 6, 0, 1)
    # has images of its own
    assert counted(penalties__wgan_gp__weight=1.0) == {"G": Uses(2, 2, 0, 1), "D": Uses(4, 8, 0, 1)}


def test_micro_batches_that_share_a_pass_are_one_use() -> None:
    assert counted(training__micro_batches_per_pass=2) == {"G": Uses(1, 1, 0, 1), "D": Uses(1, 3, 0, 1)}


def test_what_is_seldom_due_counts_as_seldom() -> None:
    seldom = counted(game__discriminator_steps=2, penalties__r1__weight=1.0, penalties__r1__every=4)
    assert seldom["G"] == Uses(1, 1, 1, 0.5)  # in every other step it makes images for D alone
    assert seldom["D"] == Uses(2.5, 5.5, 0, 1.25)
