"""Statistics move once an update; else our BatchNorm and spectral norm are torch's. What is not managed is found by trying."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from gan_dist.networks.flat_statistics import together
from gan_dist.networks.statistics import (
    BatchNorm,
    RunningMean,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    Statistics,
    statistics_of,
    unmanaged,
)


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
    ours.give([mean, variance])
    ours.commit()
    assert torch.allclose(ours.running_mean, 0.1 * mean)


def test_only_the_running_statistics_are_state() -> None:
    assert set(pair()[0].state_dict()) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 3)])
def test_vectors_and_images(shape: tuple[int, ...]) -> None:
    assert pair()[0](torch.randn(shape, dtype=torch.float64)).shape == shape


def test_a_running_mean_moves_once_an_update_by_the_mean_over_all_parts() -> None:
    mean = RunningMean((3,), momentum=0.25).double()
    mean.tracking, mean.parts = True, 2
    batches = [torch.randn(4, 3, dtype=torch.float64) for _ in range(3)]
    for batch in batches:
        mean.add(batch)
        assert mean.value.abs().max() == 0
    assert mean.step_count == 6
    mean.commit(torch.tensor(True))
    assert torch.allclose(mean.value, 0.25 * torch.cat(batches).mean(0))
    before = mean.value.clone()
    mean.add(batches[0])
    mean.commit(torch.tensor(False))
    assert torch.equal(mean.value, before)
    assert not mean.gathered
    mean.tracking = False
    mean.add(batches[0])
    assert not mean.gathered
    assert set(mean.state_dict()) == {"value"}


def normalising(flat: bool, forwards: tuple[int, ...], good: bool) -> tuple[nn.Module, list[Tensor]]:
    """Three layers after an update with some forwards of each, the means shared by way of another rank's; and these."""
    torch.manual_seed(5)
    network = nn.Sequential(BatchNorm(3), BatchNorm(5), BatchNorm(5, momentum=0.4))
    before = dict(network.named_buffers())
    moved: Sequence[Any] = together(statistics_of(network)) if flat else statistics_of(network)
    assert all(buffer is before[name] for name, buffer in network.named_buffers()), "an average follows them"
    assert len(moved) == (2 if flat else 3)
    inputs = [torch.randn(4, channels, 2, 2) for channels in (3, 5, 5)]
    for step in range(2):
        for layer, x, count in zip(network, inputs, forwards, strict=True):
            layer.tracking = True
            for number in range(count):
                layer((step + number + 1) * x)
        taken = [(each, each.take()) for each in moved if each.gathered]
        assert not any(each.gathered for each in moved)
        for each, means in taken:
            each.give([mean / 2 for mean in means])
        for each in moved:
            each.commit(torch.tensor(good))
    return network, [mean for _, means in taken for mean in means]


@pytest.mark.parametrize("forwards", [(1, 1, 1), (3, 3, 3), (2, 1, 0)])
def test_layers_whose_statistics_lie_in_one_tensor_keep_those_of_layers_by_themselves(
    forwards: tuple[int, ...],
) -> None:
    (flat, means), (apart, _) = (normalising(flat, forwards, good=True) for flat in (True, False))
    for name, tensor in apart.state_dict().items():
        assert torch.equal(flat.state_dict()[name], tensor), name
        assert not name.endswith("mean") or tensor.any() or not forwards[int(name[0])]
    assert len(means) == (2 if len(set(forwards)) == 1 else 4)
    skipped, _ = normalising(True, forwards, good=False)
    assert not any(tensor.any() for name, tensor in skipped.state_dict().items() if name.endswith("mean"))


def test_a_copy_of_layers_in_one_tensor_is_by_itself_and_a_number_that_is_not_finite_does_not_stay() -> None:
    network = nn.Sequential(BatchNorm(3), BatchNorm(5))
    (group,) = together(statistics_of(network))
    copied = copy.deepcopy(network)
    for layer in (*network, *copied):
        layer.tracking = True
    network[0](torch.full((4, 3), torch.inf))
    network[1](torch.ones(4, 5))
    group.commit(torch.tensor(False))
    for x in network, copied:
        x[1](x[0](torch.arange(12.0).view(4, 3)) @ torch.ones(3, 5))
    group.commit()
    for layer in copied:
        layer.commit()
    assert all(torch.equal(value, copied.state_dict()[name]) for name, value in network.state_dict().items())
    assert copied[0].running_mean.any()
    assert copied[0].running_mean.data_ptr() != network[0].running_mean.data_ptr()
    network[0](torch.ones(4, 3))
    group.drop()
    assert not group.gathered


LAYERS: dict[str, tuple[Any, Any, tuple[Any, ...], Tensor]] = {
    "convolution": (SpectralConv2d, nn.Conv2d, (3, 5, 3, 2, 1), torch.randn(2, 3, 8, 8)),
    "linear": (SpectralLinear, nn.Linear, (6, 4, False), torch.randn(2, 6)),
    "embedding": (SpectralEmbedding, nn.Embedding, (7, 4), torch.tensor([1, 5, 6])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_singular_value_of_a_spectral_layer_is_1_and_forwards_do_not_move_it(name: str) -> None:
    torch.manual_seed(1)
    kind, plain_kind, arguments, x = LAYERS[name]
    layer, plain = kind(*arguments), plain_kind(*arguments)
    for _ in range(200):
        layer.commit()
    matrix = layer.normalised().detach().flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2) == pytest.approx(1, abs=1e-4)
    state = copy.deepcopy(layer.state_dict())
    layer.tracking = True
    for _ in range(3):
        layer(x)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    plain.load_state_dict({key: value for key, value in state.items() if key not in "uv"})
    with torch.no_grad():
        plain.weight.copy_(layer.normalised())
    assert torch.equal(layer(x), plain(x))


def test_a_power_iteration_is_torchs_and_a_skipped_update_makes_none() -> None:
    torch.manual_seed(2)
    ours = SpectralLinear(6, 4).double()
    theirs = torch.nn.utils.spectral_norm(nn.Linear(6, 4).double())
    theirs.weight_orig.data.copy_(ours.weight.data)
    theirs.weight_u.copy_(ours.u)
    ours.commit(torch.tensor(False))
    assert torch.equal(ours.u, theirs.weight_u)
    ours.commit(torch.tensor(True))
    x = torch.randn(3, 6, dtype=torch.float64)
    for layer in (ours, theirs):  # torch iterates in the forward
        (functional.linear(x, layer.normalised()) if layer is ours else layer(x) - layer.bias).pow(3).sum().backward()
    assert torch.allclose(ours.u, theirs.weight_u, rtol=1e-12)
    assert torch.allclose(ours.normalised(), theirs.weight, rtol=1e-12)
    assert torch.allclose(ours.weight.grad, theirs.weight_orig.grad, rtol=1e-9, atol=1e-12)


def test_a_spectral_layer_with_shortened_vectors_as_in_an_average_is_normalised_all_the_same() -> None:
    layer = SpectralLinear(6, 4).eval()
    expected = layer.normalised().detach().clone()
    layer.u.mul_(0.5)
    assert torch.allclose(layer.normalised(), expected)


class Counting(nn.Module):
    """A user's layer: one buffer in the state, one not, both changed by a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("kept", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept = x.detach().mean()
        return x


def test_buffers_that_a_forward_changes_are_named_and_put_back() -> None:
    network = nn.Sequential(
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        torch.nn.utils.spectral_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        Counting(),
        BatchNorm(4),
        SpectralLinear(4, 4),
        nn.Dropout(),
    )
    network[3].parametrizations.weight[0]._u.fill_(0.5)  # not where the iteration ends
    before = {name: None if value is None else value.clone() for name, value in _buffers(network).items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    statistics_of(network)[0].tracking = True
    found = unmanaged({"D": network}, lambda: network(torch.randn(8, 4)))
    for layer, kind, buffer in (
        ("1", "BatchNorm1d", "running_mean"),
        ("1", "BatchNorm1d", "num_batches_tracked"),
        ("2", "Linear", "weight_u"),
        ("3.parametrizations.weight.0", "_SpectralNorm", "_u"),
        ("4", "Counting", "calls"),
        ("4", "Counting", "kept"),
    ):
        said = f"the network of D: layer {layer} ({kind}) changes its buffer {buffer} in a training forward, "
        assert any(line.startswith(said) for line in found), (said, found)
    assert all("gan_dist.networks.statistics" in line and "\n" not in line for line in found)
    assert not any(f"layer {layer} " in line for line in found for layer in "0567")
    after = _buffers(network)
    assert before.keys() == after.keys()
    assert all(value is after[name] or torch.equal(value, after[name]) for name, value in before.items())
    assert not any(each.gathered for each in network if isinstance(each, Statistics))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_whose_state_is_managed_is_not_named() -> None:
    network = nn.Sequential(nn.Linear(4, 4), BatchNorm(4), SpectralLinear(4, 4), nn.GroupNorm(2, 4))
    assert unmanaged({"G": network}, lambda: network(torch.randn(8, 4))) == []


def _buffers(network: nn.Module) -> dict[str, Tensor | None]:
    return {
        f"{path}.{name}": value for path, module in network.named_modules() for name, value in module._buffers.items()
    }
