"""Random numbers are good, and functions of their key alone."""

import numpy as np
import pytest
import torch

from gan_dist import rng


def test_numbers_of_a_position_do_not_depend_on_what_is_drawn_with_it() -> None:
    stream = rng.key(3, "latent")
    together = rng.normal(stream, torch.arange(1000), 7)
    for position in (0, 1, 500, 999):
        assert torch.equal(rng.normal(stream, torch.tensor([position]), 7)[0], together[position])
    assert torch.equal(rng.normal(stream, torch.arange(500, 517), 7), together[500:517])


def test_normal_numbers_are_normal() -> None:
    numbers = rng.normal(rng.key(0, "test"), torch.arange(20_000), 50).double()
    assert numbers.mean().abs() < 0.005
    assert (numbers.std() - 1).abs() < 0.005
    assert (numbers**3).mean().abs() < 0.02
    assert ((numbers**4).mean() - 3).abs() < 0.05


def test_coordinates_positions_purposes_and_seeds_are_independent() -> None:
    positions = torch.arange(20_000)
    columns = [
        rng.normal(rng.key(0, "a"), positions, 3),
        rng.normal(rng.key(0, "b"), positions, 3),
        rng.normal(rng.key(1, "a"), positions, 3),
        rng.normal(rng.key(0, "a"), positions + 1, 3),
    ]
    correlations = np.corrcoef(torch.cat(columns, dim=1).numpy().T)
    assert np.abs(correlations - np.eye(12)).max() < 0.035


def test_uniform_numbers_fill_the_interval_evenly_and_never_touch_its_ends() -> None:
    numbers = rng.uniform(rng.key(0, "test"), torch.arange(100_000), 1)
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = torch.histc(numbers.float(), 20, 0, 1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi-squared, 19 degrees of freedom


def test_far_positions_work() -> None:
    far = rng.normal(rng.key(0, "test"), torch.arange(10**15, 10**15 + 1000), 10)
    assert abs(float(far.mean())) < 0.05
    assert far.unique().numel() > 9900


def test_integers_are_below_their_bound() -> None:
    drawn = rng.integers(rng.key(0, "test"), torch.arange(7000), 7)
    assert torch.bincount(drawn, minlength=7).min() > 850
    assert drawn.max() == 6


def test_the_stream_is_frozen() -> None:
    """A change here would change every run that goes on."""
    assert rng.key(0, "latent") == rng.key(0, "latent")
    assert rng.normal(12345, torch.tensor([0, 7, 10**12]), 2).flatten().tolist() == pytest.approx(FROZEN, abs=1e-6)


FROZEN = [-1.13873076, 0.30667266, -0.81379396, 0.22596163, -0.86692464, 1.10505581]
