"""What is read when is foretold: as the order itself says, sample by sample."""

import itertools

import numpy as np
import pytest

from gan_dist.data import order
from gan_dist.data.order import Blocks
from gan_dist.data.upcoming import NEVER, Schedule

CASES = [(None, 1), (None, 3), (Blocks(4, 3), 1), (Blocks(7, 5), 3), (Blocks(50, 4), 1)]


def schedule(blocks: Blocks | None, streams: int, end: int = 12 * 30) -> Schedule:
    return Schedule(seed=5, name="", total=101, batch=12, streams=streams, end=end, blocks=blocks)


def read(made: Schedule, images: int, slots: range) -> list[int]:
    """The units that a step reads in some slots."""
    numbers = np.arange(slots.start, slots.stop)
    samples = order.samples(made.seed, made.total, made.batch, made.streams, images, numbers, blocks=made.blocks)
    return made.units_of(samples).tolist()


def everything(made: Schedule) -> np.ndarray:
    return np.unique(made.units_of(np.arange(made.total)))


@pytest.mark.parametrize(("blocks", "streams"), CASES)
def test_units_hold_each_sample_once(blocks: Blocks | None, streams: int) -> None:
    made = schedule(blocks, streams)
    held = [sample for unit in everything(made).tolist() for sample in made.samples_of(unit)]
    assert held == list(range(101))
    for unit in everything(made).tolist():
        assert set(made.units_of(np.array(made.samples_of(unit))).tolist()) == {unit}


@pytest.mark.parametrize(("blocks", "streams"), CASES)
@pytest.mark.parametrize("slots", [[range(12)], [range(4, 8)], [range(2), range(10, 12)]])
def test_the_next_use_is_the_one_of_the_order(blocks: Blocks | None, streams: int, slots: list[range]) -> None:
    made = schedule(blocks, streams)
    steps = {images: {unit for each in slots for unit in read(made, images, each)} for images in range(0, 360, 12)}
    units = everything(made)
    for images in (0, 60, 96, 204):
        found = made.next_use(units, images, slots).tolist()
        for unit, use in zip(units.tolist(), found, strict=True):
            true = next((at for at in range(images, 360, 12) if unit in steps[at]), NEVER)
            if blocks is None:
                assert use == true or (use == NEVER and true > images + 2 * 101)  # in a later epoch than it looks
            else:  # its window begins there, wherever in the window its samples are, and in whichever slots
                assert use <= true
                window = blocks.size * blocks.window * streams
                assert len(slots[0]) < 12 or true == NEVER or true - use <= window + 12


@pytest.mark.parametrize(("blocks", "streams"), CASES)
def test_what_comes_is_complete_and_in_order(blocks: Blocks | None, streams: int) -> None:
    made, slots = schedule(blocks, streams), [range(3, 9)]
    coming = list(made.upcoming(60, slots))
    positions = [position for position, _ in coming]
    assert positions == sorted(positions)
    assert positions[-1] < made.end
    for step in range(60, 360, 12):
        known = {unit for position, units in coming if position <= step for unit in units.tolist()}
        for unit in read(made, step, slots[0]):
            # a window that has begun is left out
            assert unit in known or (blocks is not None and step - 60 <= 12 * (blocks.size * blocks.window // 2))


def test_a_billion_samples_cost_no_more() -> None:
    for blocks in (None, Blocks(64, 64)):
        made = Schedule(seed=1, name="", total=10**9, batch=512, streams=8, end=10**12, blocks=blocks)
        units = made.units_of(np.array([0, 10**9 - 1, 5 * 10**8]))
        assert (made.next_use(units, 512 * 10**6, [range(512)]) < NEVER).all()
        assert len(list(itertools.islice(made.upcoming(512 * 10**6, [range(8)]), 3))) == 3
