"""The order of samples: every sample once an epoch, all orders alike, and no trace of how many processes there are."""

import itertools
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gan_dist import rng
from gan_dist.data import order


def read(total: int, batch: int, streams: int, steps: int, *, seed: int = 0, start: int = 0) -> np.ndarray:
    """(steps, batch) sample numbers."""
    places = range(start, start + steps * batch, batch)
    return np.stack([order.samples(seed, total, batch, streams, images, np.arange(batch)) for images in places])


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_any_size_is_permuted(size: int, key: int) -> None:
    assert sorted(order.permute(key, size, np.arange(size)).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 97, 256, 257, 65536, 99991, 100_000])
def test_edges_primes_and_squares_are_permuted(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        places = order.permute(key, size, np.arange(size))
        assert places.dtype == np.int64
        assert np.array_equal(np.sort(places), np.arange(size))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_orders_of_few_samples_are_equally_likely(size: int) -> None:
    orders = Counter(tuple(order.permute(rng.key(0, "x", n), size, np.arange(size)).tolist()) for n in range(6000))
    all_orders = list(itertools.permutations(range(size)))
    expected = 6000 / len(all_orders)
    squares = sum((orders[each] - expected) ** 2 / expected for each in all_orders)
    free = len(all_orders) - 1
    assert squares < free + 5 * (2 * free) ** 0.5


@pytest.mark.parametrize("size", [10, 37, 100])
def test_every_sample_comes_equally_often_at_every_place_and_after_every_other(size: int) -> None:
    keys = 4000
    orders = np.stack([order.permute(rng.key(1, "x", number), size, np.arange(size)) for number in range(keys)])
    places = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    assert ((places - keys / size) ** 2 / (keys / size)).sum() < (size - 1) ** 2 + 5 * (2 * (size - 1) ** 2) ** 0.5
    pairs = np.bincount((orders[:, :-1] * size + orders[:, 1:]).ravel(), minlength=size * size)
    expected = keys / size
    apart = pairs.reshape(size, size)[~np.eye(size, dtype=bool)]
    assert ((apart - expected) ** 2 / expected).sum() < 1.05 * len(apart) + 5 * (2 * len(apart)) ** 0.5


@pytest.mark.parametrize("size", [1000, 99_991])
def test_neighbouring_places_hold_unrelated_samples(size: int) -> None:
    places = order.permute(12345, size, np.arange(size)).astype(float)
    for step in (1, 2, 316):
        assert abs(np.corrcoef(places[:-step], places[step:])[0, 1]) < 5 / size**0.5
    assert abs(np.corrcoef(places, np.arange(size))[0, 1]) < 5 / size**0.5


@pytest.mark.parametrize("size", [10**9, 10**12 + 39, 10**15])
def test_huge_data_sets_cost_no_more_than_small_ones(size: int) -> None:
    positions = np.array([0, 1, 2, size // 2, size - 1])
    places = order.permute(99, size, positions)  # by a table of that size it would never end
    assert len(set(places.tolist())) == 5
    assert ((places >= 0) & (places < size)).all()
    many = order.permute(99, size, np.arange(0, 20_000))
    assert len(np.unique(many)) == 20_000
    assert abs(many.mean() / size - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5


def test_the_order_of_a_run_never_changes() -> None:
    """Frozen: another number here means that no old run can go on."""
    assert order.permute(5, 10, np.arange(10)).tolist() == [9, 5, 2, 8, 6, 1, 7, 0, 3, 4]
    assert order.permute(5, 10**15, np.array([0, 1, 10**15 - 1])).tolist() == [
        721298389266583,
        747770766822686,
        768307680338384,
    ]
    assert order.samples(3, 100, 8, 2, 0, np.arange(8)).tolist() == [18, 5, 16, 30, 51, 59, 69, 64]
    # 3 streams of 33, 33 and 34 samples, on both sides of an epoch's end, from a slot in the middle
    assert order.samples(11, 100, 12, 3, 12 * 8, np.arange(12)).tolist() == [
        0,
        25,
        19,
        26,
        34,
        43,
        38,
        34,
        67,
        81,
        99,
        76,
    ]
    assert order.samples(11, 100, 12, 3, 12 * 9, np.arange(3, 9)).tolist() == [14, 36, 49, 42, 62, 94]
    assert [order.substitute(0, 1000, 40, attempt) for attempt in range(3)] == [672, 239, 441]
    far = order.samples(3, 10**9, 8, 1, 8 * 10**11, np.arange(8))
    assert far.tolist() == [777306033, 117290980, 926017040, 455284172, 494066321, 716317622, 38644943, 770665547]


@settings(max_examples=40, deadline=None)
@given(
    streams=st.integers(1, 6),
    per_stream=st.integers(1, 4),
    spare=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    epochs=st.integers(1, 3),
)
def test_every_stream_reads_each_of_its_samples_once_an_epoch(
    streams: int, per_stream: int, spare: int, seed: int, epochs: int
) -> None:
    batch, total = streams * per_stream, streams + spare
    steps = -(-epochs * (total // streams + 1) // per_stream)
    seen = read(total, batch, streams, steps, seed=seed)
    assert seen.min() >= 0
    assert seen.max() < total
    for stream in range(streams):
        first, end = stream * total // streams, (stream + 1) * total // streams
        own = seen[:, stream * per_stream : (stream + 1) * per_stream].ravel()
        assert ((own >= first) & (own < end)).all(), "a slot reads outside of its stream"
        for epoch in range(len(own) // (end - first)):
            part = own[epoch * (end - first) : (epoch + 1) * (end - first)]
            assert sorted(part.tolist()) == list(range(first, end))


def test_epochs_seeds_and_streams_have_orders_of_their_own() -> None:
    epochs = read(64, 64, 1, 4)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert not np.array_equal(epochs[0], read(64, 64, 1, 1, seed=1)[0])
    halves = read(128, 128, 2, 1)[0]
    assert not np.array_equal(halves[:64], halves[64:] - 64)


@pytest.mark.parametrize(("streams", "batch"), [(1, 24), (3, 24), (4, 24), (24, 24)])
def test_any_division_of_the_slots_reads_what_one_process_reads(streams: int, batch: int) -> None:
    for images in (0, 24, 240, 24 * 10**10):
        whole = order.samples(7, 1001, batch, streams, images, np.arange(batch))
        for parts in (2, 3, 4, 8, 24):
            shares = [
                order.samples(7, 1001, batch, streams, images, part) for part in np.split(np.arange(batch), parts)
            ]
            assert np.array_equal(np.concatenate(shares), whole)
        mixed = np.random.default_rng(0).permutation(batch)
        assert np.array_equal(order.samples(7, 1001, batch, streams, images, mixed), whole[mixed])


def test_far_positions_and_huge_data_sets_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for total in (1, 2, 1000, 10**15):
            for images in (0, 10**15, 9 * 10**18):
                batch = 1 if total == 1 else 2
                found = order.samples(0, total, batch, 1, images, np.arange(batch))
                assert ((found >= 0) & (found < total)).all()


@pytest.mark.parametrize(("total", "batch", "streams", "images"), [(100, 8, 3, 0), (100, 8, 1, 4), (3, 8, 4, 0)])
def test_what_does_not_fit_is_refused(total: int, batch: int, streams: int, images: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        order.samples(0, total, batch, streams, images, np.arange(batch))


def test_many_steps_at_once_are_those_one_by_one() -> None:
    for streams, slots in ((1, np.arange(12)), (3, np.arange(3, 9)), (12, np.array([11, 0, 5]))):
        single = [order.samples(7, 101, 12, streams, 12 * step, slots) for step in range(5, 45)]
        assert np.array_equal(order.samples_of_steps(7, 101, 12, streams, 60, 40, slots), np.stack(single))
    read = order.samples_of_steps(7, 101, 12, 3, 0, 200, np.arange(4, 8))
    assert sorted(set(read.ravel().tolist())) == list(order.read_by(range(4, 8), 101, 12, 3)) == list(range(33, 67))


BLOCKS = [(1, 1), (3, 2), (8, 4), (64, 64)]


@pytest.mark.parametrize(("size", "window"), BLOCKS)
@pytest.mark.parametrize("total", [1, 2, 63, 100, 997])
def test_blocks_deal_each_sample_once_and_a_window_holds_few_blocks(total: int, size: int, window: int) -> None:
    for epoch in (0, 1):
        dealt = order.Epoch(3, "order", 0, epoch, total, order.Blocks(size, window))
        samples = dealt.samples(np.arange(total))
        assert sorted(samples.tolist()) == list(range(total))
        windows = dealt.windows(np.arange(total))
        assert (np.diff(windows) >= 0).all()
        for number in np.unique(windows).tolist():
            places = np.flatnonzero(windows == number)
            blocks = np.unique(samples[places] // size)
            assert sorted(dealt.blocks_of(number).tolist()) == blocks.tolist()
            assert len(blocks) <= window
            starts, ends = dealt.span(blocks)
            assert set(starts.tolist()) == {places[0]}
            assert set(ends.tolist()) == {places[-1] + 1}
        assert len(dealt.blocks_of(windows[-1] + 1)) == 0


def test_blocks_depend_on_nothing_but_the_position() -> None:
    blocks = order.Blocks(8, 4)
    for streams, slots in ((1, np.arange(12)), (3, np.arange(3, 9)), (12, np.array([11, 0, 5]))):
        single = [order.samples(7, 501, 12, streams, 12 * step, slots, blocks=blocks) for step in range(5, 105)]
        many = order.samples_of_steps(7, 501, 12, streams, 60, 100, slots, blocks=blocks)
        assert np.array_equal(many, np.stack(single))
    whole = order.samples(7, 501, 12, 1, 480, np.arange(12), blocks=blocks)
    shares = [order.samples(7, 501, 12, 1, 480, part, blocks=blocks) for part in np.split(np.arange(12), 4)]
    assert np.array_equal(np.concatenate(shares), whole)
    # frozen, as no run of blocks could go on with other numbers
    assert whole.tolist() == [123, 492, 23, 22, 127, 493, 494, 17, 488, 121, 18, 495]
    assert not np.array_equal(order.samples(7, 501, 12, 1, 480, np.arange(12), "A", blocks), whole)
    far = order.samples(3, 10**9, 8, 1, 8 * 10**11, np.arange(8), blocks=blocks)
    assert len(set(far.tolist())) == 8


@pytest.mark.parametrize("size", [1, 2, 10, 97, 65536, 99_991])
def test_a_permutation_is_undone(size: int) -> None:
    places = np.arange(size)
    for key in (0, 1, 2**64 - 1):
        assert np.array_equal(order.unpermute(key, size, order.permute(key, size, places)), places)
    far = np.array([0, 1, 10**15 - 1])
    assert np.array_equal(order.unpermute(5, 10**15, order.permute(5, 10**15, far)), far)
