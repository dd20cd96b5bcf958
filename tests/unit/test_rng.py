"""Random numbers are what their names say, and the same for a key and position wherever and whenever they are drawn."""

import numpy as np
import pytest
import torch

from gan_dist import rng

FAR = 10**12
"""A position that no 32-bit number holds."""


def test_distinct_keys_are_unrelated_and_equal_ones_equal() -> None:
    arguments = [
        (seed, purpose, *numbers)
        for seed in (0, 1, 2**40)
        for purpose in ("latent", "flip", "order")
        for numbers in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (10, 1), (1, 10**15))
    ]
    keys = [rng.key(*each) for each in arguments]
    assert len(set(keys)) == len(keys)
    assert keys == [rng.key(*each) for each in arguments]
    assert all(0 <= key < 2**64 for key in keys)
    assert rng.key(1, "order", np.int64(3)) == rng.key(1, "order", 3)
    flipped = [bin(rng.key(0, "latent", number) ^ rng.key(0, "latent", number + 1)).count("1") for number in range(200)]
    assert abs(np.mean(flipped) - 32) < 1.5


def test_mixing_is_the_published_splitmix64() -> None:
    # the first numbers of the reference implementation (Vigna, splitmix64.c) seeded with 0
    golden = np.arange(1, 4, dtype=np.uint64) * np.uint64(rng.GOLDEN)
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert rng.mix_numpy(golden).tolist() == known
    signed = torch.from_numpy(golden.astype(np.int64))
    assert [word % 2**64 for word in rng._mix_torch(signed).tolist()] == known


def test_the_numbers_of_a_run_never_change() -> None:
    """Frozen: another number here means that no old run can go on."""
    assert rng.key(0, "latent") == 6998651463489519304
    assert rng.key(7, "order", 3, 1) == 1616635585501676166
    positions = torch.tensor([0, 1, FAR])
    assert rng.bits(rng.key(0, "latent"), positions, 2).tolist() == [
        [1125046909004711334, 4553799241234062980],
        [5334012276953812935, -4840381581810746164],
        [1743620068413509750, -7878887472183614962],
    ]
    uniform = rng.uniform(rng.key(0, "latent"), positions, 2)
    assert [[number.hex() for number in row] for row in uniform.tolist()] == [
        ["0x1.f39f067edc110p-5", "0x1.f992c2434198cp-3"],
        ["0x1.2818df9ecd9e2p-2", "0x1.79a705318da77p-1"],
        ["0x1.8329536d10798p-4", "0x1.2551232d2670dp-1"],
    ]
    assert rng.integers(rng.key(0, "label"), positions, 1000).tolist() == [429, 126, 707]
    assert rng.key(2**40, "flip") == 12633915242768497519
    normal = rng.normal(rng.key(0, "latent"), positions, 3)
    assert [[number.hex() for number in row] for row in normal.tolist()] == [
        ["-0x1.22236e0000000p+1", "0x1.bb0aa80000000p-2", "0x1.59ce680000000p-1"],
        ["0x1.b22d8c0000000p-1", "-0x1.738f940000000p-1", "0x1.53dc040000000p+0"],
        ["0x1.90cbe60000000p+0", "0x1.26490e0000000p-2", "0x1.816c5e0000000p+0"],
    ]


@pytest.mark.parametrize("draw", [rng.normal, rng.uniform, rng.bits])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_a_position_has_the_same_bits_whatever_batch_it_is_drawn_in(draw, count: int) -> None:  # type: ignore[no-untyped-def]
    key = rng.key(3, "latent")
    positions = torch.cat([torch.arange(300), FAR + torch.arange(300)])
    together = draw(key, positions, count)
    mixed = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(key, positions[mixed], count), together[mixed])
    for size in (1, 7, 32):
        apart = torch.cat([draw(key, part, count) for part in positions.split(size)])
        assert torch.equal(apart, together)


def test_fewer_coordinates_of_uniform_numbers_are_the_first_of_more() -> None:
    positions = torch.arange(100)
    assert torch.equal(rng.uniform(5, positions, 3), rng.uniform(5, positions, 8)[:, :3])


@pytest.mark.parametrize("start", [0, FAR, 2**62])
def test_normal_numbers_have_the_moments_of_a_normal_distribution(start: int) -> None:
    numbers = rng.normal(rng.key(0, "latent"), start + torch.arange(20_000), 51).double()
    assert numbers.shape == (20_000, 51)
    count = numbers.numel()
    assert abs(numbers.mean()) < 5 / count**0.5
    assert abs(numbers.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((numbers**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((numbers**4).mean() - 3) < 5 * (96 / count) ** 0.5
    beyond = (numbers.abs() > 3).double().mean()
    assert abs(beyond - 0.0026998) < 5 * (0.0027 / count) ** 0.5
    # each coordinate for itself, the first and last ones too
    assert numbers.mean(0).abs().max() < 5 / 20_000**0.5
    assert (numbers.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5


def test_uniform_numbers_fill_the_open_unit_interval_evenly() -> None:
    numbers = rng.uniform(rng.key(0, "flip"), torch.arange(200_000), 1)[:, 0]
    assert numbers.dtype == torch.float64
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 100, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 5 * (2 * 99) ** 0.5  # chi-squared
    assert abs(numbers.var() - 1 / 12) < 1e-3


def test_the_ends_of_the_unit_interval_are_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([[0, -1]])  # all bits 0 and all bits 1
    monkeypatch.setattr(rng, "bits", lambda *_: ends)
    assert rng.uniform(0, torch.zeros(1, dtype=torch.int64), 2).tolist() == [[2.0**-53, 1 - 2.0**-53]]
    assert rng.normal(0, torch.zeros(1, dtype=torch.int64), 2).isfinite().all()


def test_positions_coordinates_purposes_and_seeds_are_uncorrelated() -> None:
    def draw(seed: int, purpose: str) -> torch.Tensor:
        return rng.normal(rng.key(seed, purpose), torch.arange(4096), 64).double()

    def most(left: torch.Tensor, right: torch.Tensor) -> float:
        return float((left * right).mean(0).abs().max())

    limit = 5 / 4096**0.5  # each mean of products has a deviation of 1 / sqrt(4096)
    numbers = draw(0, "latent")
    between = numbers.T @ numbers / 4096 - torch.eye(64)
    assert between.abs().max() < 5.5 / 4096**0.5 * 2**0.5
    for step in (1, 2, 64):
        assert most(numbers[:-step], numbers[step:]) < limit
    across = (numbers[:, :-1] * numbers[:, 1:]).mean(1).abs()
    assert across.max() < 5.5 / 63**0.5
    assert most(numbers, draw(1, "latent")) < limit
    assert most(numbers, draw(0, "sample")) < limit


def test_far_positions_do_not_repeat_near_ones() -> None:
    near = torch.arange(1000)
    everywhere = torch.cat([near, near + 2**31, near + 2**32, near + FAR, near + 2**53])
    assert len(rng.bits(0, everywhere, 1).unique()) == len(everywhere)


@pytest.mark.parametrize("below", [1, 2, 3, 10, 1000])
def test_integers_are_evenly_spread_below_their_bound(below: int) -> None:
    numbers = rng.integers(rng.key(0, "class"), torch.arange(50_000), below)
    counts = torch.bincount(numbers, minlength=below)
    assert len(counts) == below
    expected = 50_000 / below
    assert ((counts - expected) ** 2 / expected).sum() < below + 5 * (2 * below) ** 0.5


def test_numbers_of_several_names_that_are_drawn_at_once_are_those_of_each() -> None:
    draws = rng.Draws(5, FAR + torch.arange(6))
    shapes = {"a": (1, 3, 5), "b": (1,), "c": (2, 8), "d": (7,)}
    for (name, shape), found in zip(shapes.items(), draws.normals(shapes), strict=True):
        assert torch.equal(found, draws.normal(name, *shape))


def test_draws_of_a_position_do_not_depend_on_the_batch_or_on_other_names() -> None:
    positions = FAR + torch.arange(12)
    together = rng.Draws(5, positions)
    apart = [rng.Draws(5, part) for part in positions.split(4)]
    for draw in (
        lambda draws: draws.normal("noise", 1, 3, 5),
        lambda draws: draws.uniform("shift", 2),
        lambda draws: draws.integers("turn", 4),
    ):
        assert torch.equal(torch.cat([draw(each) for each in apart]), draw(together))
    assert together.normal("noise", 1, 3, 5).shape == (12, 1, 3, 5)
    assert together.integers("turn", 4).shape == (12,)
    assert torch.equal(
        torch.cat([each.for_micro_batch("mixing", 2) for each in apart]), together.for_micro_batch("mixing", 6)
    )
    assert len(together.for_micro_batch("mixing", 6).unique()) == 6
    assert not torch.equal(together.uniform("shift"), together.uniform("turn"))
    assert not torch.equal(together.uniform("shift"), rng.Draws(6, positions).uniform("shift"))


def test_halves_are_the_uniform_numbers_below_a_half() -> None:
    positions = np.concatenate([np.arange(1000), FAR + np.arange(1000)])
    for stream in (rng.key(0, "flip"), rng.key(7, "flip"), 2**64 - 1):
        expected = rng.uniform(stream, torch.from_numpy(positions), 1)[:, 0] < 0.5
        assert np.array_equal(rng.halves(stream, positions), expected.numpy())


@pytest.mark.parametrize("position", [0, 7, 123_456_789_012])
def test_numbers_of_one_position_are_the_same_without_torch(position: int) -> None:
    stream = rng.key(3, "twin")
    assert np.array_equal(
        rng.uniform_numpy(stream, position, 33), rng.uniform(stream, torch.tensor([position]), 33)[0].numpy()
    )
    wanted = rng.normal(stream, torch.tensor([position]), 33)[0].numpy()
    assert np.allclose(rng.normal_numpy(stream, position, 33), wanted, rtol=0, atol=1e-6)
