"""The moving average is a function of images, not of steps or batches."""

import pytest
import torch
from torch import nn

from gan_dist.ema import Average, decay


def test_after_a_half_life_half_remains() -> None:
    for batch in (10, 50, 1000):
        kept = 1.0
        for _ in range(1000 // batch):
            kept *= decay(10**9, batch, 1000)
        assert kept == pytest.approx(0.5)


def test_the_half_life_grows_with_the_run() -> None:
    assert decay(0, 64, 1000) == 0
    assert decay(2000, 100, 1000) == pytest.approx(0.5)  # a twentieth of 2000 images
    assert decay(10**6, 1000, 1000) == pytest.approx(0.5)


def test_it_follows_weights_and_statistics() -> None:
    network = nn.BatchNorm1d(3, track_running_stats=True).double()
    network.num_batches_tracked = None  # type: ignore[assignment]
    average = Average(network, 100)
    network.weight.data.fill_(3.0)
    network.running_mean.fill_(1.0)
    average.update(network, images=10**6, batch=100)
    assert average.network.weight.tolist() == pytest.approx([2.0] * 3)
    assert average.network.running_mean.tolist() == pytest.approx([0.5] * 3)
    assert not any(weight.requires_grad for weight in average.network.parameters())
    assert network.weight.tolist() == [3.0] * 3
    assert not average.network.training
    assert torch.equal(network.running_mean, torch.ones(3).double())
