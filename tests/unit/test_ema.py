"""The average follows the network by its half-life in images, whatever the batch."""

import pytest
import torch
from torch import nn

from gan_dist.ema import RAMP, Average, decay
from gan_dist.networks.statistics import BatchNorm


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm(4), nn.Conv2d(4, 2, 1))


def test_half_of_the_average_is_left_after_a_half_life() -> None:
    assert decay(10**9, 1000, 1000) == pytest.approx(0.5)
    assert decay(10**9, 2000, 1000) == pytest.approx(0.25)


def test_the_batch_does_not_matter() -> None:
    assert decay(10**9, 64, 10_000) == pytest.approx(decay(10**9, 16, 10_000) ** 4)


def test_the_half_life_grows_with_the_images_seen_up_to_its_own_length() -> None:
    assert decay(0, 64, 10_000) == 0.0
    assert decay(2000, 100, 10_000) == pytest.approx(0.5)  # a twentieth of 2000
    assert decay(20 * 10_000, 64, 10_000) == decay(10**9, 64, 10_000)
    assert decay(20 * 10_000 - 64, 64, 10_000) < decay(10**9, 64, 10_000)
    assert RAMP == 0.05


def test_the_first_step_forgets_the_random_start() -> None:
    net = network()
    average = Average(net, 1000)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1)
    average.update(0, 16)
    for own, new in zip(average.network.parameters(), net.parameters(), strict=True):
        assert torch.equal(own, new)


def test_weights_and_batch_norm_statistics_follow_the_formula() -> None:
    net = network().double()
    average = Average(net, 300)
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        kept = 0.5 ** (16 / min(300, 0.05 * 16 * step)) if step else 0
        expected = {name: kept * expected[name] + (1 - kept) * now for name, now in net.state_dict().items()}
        average.update(16 * step, 16)
    assert {"1.running_mean", "1.running_var", "0.weight", "1.weight"} <= expected.keys()
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


def test_the_average_is_a_copy_in_evaluation_mode_that_takes_no_gradients() -> None:
    net = network().to(memory_format=torch.channels_last)
    average = Average(net, 100)
    assert net.training
    assert not any(module.training for module in average.network.modules())
    assert not any(weight.requires_grad for weight in average.network.parameters())
    before = [weight.clone() for weight in net.parameters()]
    average.update(1000, 16)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    own = {weight.data_ptr() for weight in average.network.parameters()}
    assert own.isdisjoint(weight.data_ptr() for weight in net.parameters())
    assert next(average.network.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_integers_and_flags_are_copied_and_the_half_life_may_depend_on_the_images() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("warm", torch.tensor([False, True]))
            self.register_buffer("mean", torch.zeros(()))

    net = Counter()
    average = Average(net, lambda images: 50 if images > 5000 else 100)
    net.calls += 7
    net.warm |= True
    net.mean += 1
    average.update(10_000, 50)
    own = average.network
    assert (own.calls, own.warm.tolist(), float(own.mean)) == (7, [True, True], 0.5)
    average.update(5000, 100)
    assert float(own.mean) == 0.75
