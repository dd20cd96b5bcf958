"""Our BatchNorm is torch's, but for when its running statistics move."""

import pytest
import torch
from torch import nn

from gan_dist.networks.statistics import BatchNorm


def pair(channels: int = 5) -> tuple[BatchNorm, nn.BatchNorm2d]:
    ours, theirs = BatchNorm(channels).double(), nn.BatchNorm2d(channels).double()
    ours.tracking = True
    return ours, theirs


def test_one_forward_an_update_is_torchs_batch_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = pair()
    for _ in range(3):
        x = torch.randn(4, 5, 6, 6, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(value) for norm, value in zip((ours, theirs), inputs, strict=True)]
        for output in outputs:
            (output**3).sum().backward()
        ours.commit()
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert torch.allclose(ours.running_mean, theirs.running_mean, rtol=0, atol=1e-15)
    assert torch.allclose(ours.running_var, theirs.running_var, rtol=0, atol=1e-15)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-14)


def test_several_forwards_move_the_statistics_once_by_their_mean() -> None:
    ours, _ = pair()
    parts = [torch.randn(8, 5, dtype=torch.float64) for _ in range(3)]
    for part in parts:
        ours(part)
    ours.commit()
    assert torch.allclose(ours.running_mean, 0.1 * torch.stack([part.mean(0) for part in parts]).mean(0))
    assert torch.allclose(ours.running_var, 0.9 + 0.1 * torch.stack([part.var(0) for part in parts]).mean(0))


def test_without_tracking_a_forward_leaves_no_trace() -> None:
    ours, _ = pair()
    ours.tracking = False
    ours(torch.randn(8, 5, dtype=torch.float64))
    ours.commit()
    assert ours.running_mean.abs().max() == 0
    assert not ours.gathered


def test_a_second_commit_changes_nothing() -> None:
    ours, _ = pair()
    ours(torch.randn(8, 5, dtype=torch.float64))
    ours.commit()
    before = ours.running_mean.clone()
    ours.commit()
    assert torch.equal(ours.running_mean, before)


def test_what_was_taken_can_be_given_back() -> None:
    ours, _ = pair()
    ours(torch.randn(8, 5, dtype=torch.float64))
    mean, variance = ours.take()
    assert not ours.gathered
    ours.give(mean, variance)
    ours.commit()
    assert torch.allclose(ours.running_mean, 0.1 * mean)


def test_only_the_running_statistics_are_state() -> None:
    assert set(pair()[0].state_dict()) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 3)])
def test_vectors_and_images(shape: tuple[int, ...]) -> None:
    assert pair()[0](torch.randn(shape, dtype=torch.float64)).shape == shape
