"""Find out by a few steps on a small weight what an optimizer keeps, so that any optimizer can be saved and cut."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.errors import AgreedError

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_KINDS = ("weights", "average")
"""First words of other tensors' names in a checkpoint."""
_TORCHS = ("_warned_capturable_if_run_uncaptured", "_opt_called", "_step_count", "found_inf", "grad_scale")
"""Attributes that torch changes and does not need."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What an optimizer keeps of a weight."""

    tensors: dict[str, torch.dtype]
    """Types of those with the weight's shape, by name (`exp_avg`, `momentum_buffer`), in order of name."""
    begin_as_weight: frozenset[str]
    """Those that begin as a copy of the weight (Lookahead's slow weights); the others begin as zeros, where they can be cut."""
    step: Tensor | int | float | None
    """How it counts its steps of the weight: a scalar tensor, a number, or not at all."""
    why_not_cut: str
    """Why its state cannot be cut over ranks (ZeRO); empty where it can."""

    def first_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Return what it keeps of a weight before its first step, of an optimizer that can be cut."""
        return {name: _first(weight, name in self.begin_as_weight) for name in self.tensors}

    def step_of(self, count: int) -> Any:
        """`count` steps in the optimizer's own form."""
        assert self.step is not None
        if isinstance(self.step, Tensor):
            return torch.full_like(self.step, count)
        return type(self.step)(count)


def build(make: MakeOptimizer, weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer; on a GPU it counts its steps there where it can, so that a step never waits for the device."""
    optimizer = make(list(weights))
    for group in optimizer.param_groups:
        if "capturable" in group and not group.get("fused") and weights[0].is_cuda:
            group["capturable"] = True
            # torch would warn that no graph is captured
            optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def probe(name: str, make: MakeOptimizer, device: torch.device, dtype: torch.dtype) -> Kept:
    """Return what the optimizers of a player keep. Raises AgreedError, naming class and state, for what would not be saved."""
    weight = nn.Parameter(torch.linspace(-1, 1, 24, device=device, dtype=dtype).view(4, 6))
    optimizer, first = build(make, [weight]), weight.detach().clone()
    kind = type(optimizer).__name__

    def refuse(why: str) -> AgreedError:
        return AgreedError(f"the optimizer of {name} ({kind}) cannot be saved: {why}")

    seen: list[dict[str, Any]] = []
    numbers: list[dict[tuple[int, str], Any]] = []
    for step in range(3):
        # the first without a gradient: what it then keeps is what it starts with
        weight.grad = torch.zeros_like(weight) if step == 0 else _gradient(weight, step)
        try:
            optimizer.step()
        except Exception as error:
            raise refuse(f"a step on a 2-D weight fails ({error})") from error
        seen.append({key: _copied(value) for key, value in optimizer.state[weight].items()})
        numbers.append(_numbers(optimizer))
        for owner in optimizer.state:
            if owner is not weight:
                raise refuse(f"its state `{owner}` would not be saved")
    for later in numbers[1:]:
        for place in numbers[0].keys() | later.keys():
            if not _equal(numbers[0].get(place), later.get(place)):
                raise refuse(f"its state `{place[1]}` would not be saved")
    tensors, counter = {}, None
    for key, value in seen[-1].items():
        if value is None:
            continue
        if key == "step" and all(_counts(state.get(key), number) for number, state in enumerate(seen, 1)):
            counter = value
        elif isinstance(value, Tensor) and value.shape == weight.shape and key in seen[0] and key not in _KINDS:
            tensors[key] = value.dtype
        else:
            raise refuse(f"its state `{key}` would not be saved")
    start = {key: seen[0].get(key) for key in tensors}
    copies = frozenset(key for key, value in start.items() if _equal(value, first))
    why_not_cut = _why_not_cut(make, weight, start, copies, dtype, counter)
    return Kept(dict(sorted(tensors.items())), copies, counter, why_not_cut)


def _why_not_cut(
    make: MakeOptimizer,
    like: Tensor,
    start: dict[str, Any],
    copies: frozenset[str],
    dtype: torch.dtype,
    counter: Any,
) -> str:
    """Why pieces of a flattened weight, their state beginning with zeros or as they are, would not move as the weight does."""
    for key, value in start.items():
        if not isinstance(value, Tensor) or value.dtype != dtype or (key not in copies and bool(value.count_nonzero())):
            return f"its state `{key}` does not start as zeros"
    whole = _moved(make, [like.detach()], {}, None)
    flat = like.detach().reshape(-1)
    begin = {key: key in copies for key in start}
    try:
        pieces = [_moved(make, [piece], begin, counter) for piece in (flat[:9], flat[9:])]
    except Exception as error:
        return f"a step on a flattened weight fails ({error})"
    # not to the bit: a kernel's last elements may go another way than the others
    if not torch.allclose(whole[0].reshape(-1), torch.cat([piece for (piece,) in pieces]), 1e-4, 1e-6):
        return "it does not move each element of a weight by itself, or its first step is another than from zeros"
    return ""


def _first(weight: Tensor, as_weight: bool) -> Tensor:
    return weight.detach().clone() if as_weight else torch.zeros_like(weight)


def _moved(make: MakeOptimizer, tensors: list[Tensor], begin: dict[str, bool], counter: Any) -> list[Tensor]:
    """Weights after two steps, whose state, where it is given, begins with zeros, or as the weight where that is True."""
    weights = [nn.Parameter(tensor.clone()) for tensor in tensors]
    optimizer = build(make, weights)
    for weight in weights:
        if begin:
            optimizer.state[weight] = {name: _first(weight, as_weight) for name, as_weight in begin.items()}
            if counter is not None:
                zero = torch.zeros_like(counter) if isinstance(counter, Tensor) else type(counter)(0)
                optimizer.state[weight]["step"] = zero
    for step in (1, 2):
        for weight, tensor in zip(weights, tensors, strict=True):
            weight.grad = _gradient(tensor, step)
        optimizer.step()
    return [weight.detach() for weight in weights]


def _gradient(weight: Tensor, step: int) -> Tensor:
    """Different for each element and step, and of the element alone."""
    return (weight.detach() * (3 + step)).sin() + 0.1 * step


def _numbers(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], Any]:
    """Return what an optimizer holds beside the state of weights: values of its groups, and (at -1) its own attributes."""
    found = {
        (number, key): _copied(value)
        for number, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if key != "params"
    }
    simple = (bool, int, float, Tensor)
    return found | {
        (-1, key): _copied(value)
        for key, value in vars(optimizer).items()
        if key not in _TORCHS and isinstance(value, simple)
    }


def _counts(value: Any, count: int) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.dim() == 0 and float(value) == count
    return isinstance(value, int | float) and value == count


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    return bool(one == other)
