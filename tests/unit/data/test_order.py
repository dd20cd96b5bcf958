"""The order of samples: every sample once an epoch, the same at any process count, at any position in no time."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from gan_dist import rng
from gan_dist.data import order


@settings(deadline=None, max_examples=60)
@given(size=strategies.integers(1, 3000), key=strategies.integers(0, 2**64 - 1))
def test_it_is_a_permutation(size: int, key: int) -> None:
    assert sorted(order.permute(key, size, np.arange(size)).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 99_991])
def test_it_is_a_permutation_of_many(size: int) -> None:
    assert (np.sort(order.permute(99, size, np.arange(size))) == np.arange(size)).all()


def test_all_orders_of_three_are_equally_likely() -> None:
    orders = [tuple(order.permute(rng.key(0, "x", i), 3, np.arange(3)).tolist()) for i in range(6000)]
    counts = np.array([orders.count(each) for each in set(orders)])
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, one in a thousand


def test_places_are_not_related_to_samples() -> None:
    places = np.arange(10_000)
    for key in range(5):
        assert abs(np.corrcoef(places, order.permute(rng.key(key, "x"), 10_000, places))[0, 1]) < 0.04


def epoch(total: int, batch: int, streams: int, start: int, count: int) -> list[int]:
    steps = [
        order.samples(5, total, batch, streams, images, np.arange(batch))
        for images in range(start, start + count, batch)
    ]
    return np.concatenate(steps).tolist()


def test_every_sample_comes_once_an_epoch_and_epochs_differ() -> None:
    first, second = epoch(100, 10, 1, 0, 100), epoch(100, 10, 1, 100, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_an_epoch_may_end_within_a_batch() -> None:
    drawn = epoch(25, 10, 1, 0, 100)
    for number in range(4):
        assert sorted(drawn[25 * number : 25 * (number + 1)]) == list(range(25))


def test_a_slot_reads_its_stream_and_every_sample_comes() -> None:
    total, batch, streams = 103, 8, 4
    seen: set[int] = set()
    for images in range(0, 30 * batch, batch):
        drawn = order.samples(5, total, batch, streams, images, np.arange(batch))
        for slot, sample in enumerate(drawn.tolist()):
            stream = slot * streams // batch
            assert stream * total // streams <= sample < (stream + 1) * total // streams
            seen.add(sample)
    assert seen == set(range(total))


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4, 16])
def test_the_order_does_not_depend_on_who_asks(streams: int, world_size: int) -> None:
    whole = order.samples(5, 1000, 16, streams, 4800, np.arange(16))
    share = 16 // world_size
    parts = [
        order.samples(5, 1000, 16, streams, 4800, np.arange(r * share, (r + 1) * share)) for r in range(world_size)
    ]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_a_billion_samples_at_any_position_take_no_array_of_them() -> None:
    for position in (0, 10**9, 10**15):
        drawn = order.samples(0, 10**9, 256, 1, position // 256 * 256, np.arange(256))
        assert len(set(drawn.tolist())) == 256
        assert 0 <= drawn.min() < 10**8 < 9 * 10**8 < drawn.max() < 10**9


def test_the_order_is_frozen() -> None:
    """A change here would change every run that goes on."""
    assert order.samples(0, 1000, 8, 2, 8000, np.arange(8)).tolist() == FROZEN


FROZEN = [195, 291, 312, 427, 769, 604, 603, 953]
