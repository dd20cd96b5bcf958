"""Where numbers went bad: the first layer whose output is not finite, or the first weight whose gradient is not."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def first_bad(networks: Mapping[str, nn.Module], loss: Callable[[], Tensor], together: bool = False) -> str:
    """Compute a loss and its gradients while looking; what was not finite first, in words, or "" for nothing.

    `networks` maps a player's name to its network. Gradients of the networks are overwritten. It waits for the
    device at every layer: not for a healthy step. `together`: the processes need each other for a forward (ZeRO), so
    each does all of it, and none does the backward.
    """
    if together:
        together_found: list[str] = []
        with _looking(networks, together_found):
            value = loss()
        return together_found[0] if together_found else "" if torch.isfinite(value) else "the loss itself"
    for player, network in networks.items():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"weight {player}.{name}"
    found: list[str] = []
    with _looking(networks, found):
        value = loss()
        if found:
            return found[0]
        if not torch.isfinite(value):
            return "the loss itself"
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
    # backward passes the layers from the last to the first
    for player, network in networks.items():
        for name, weight in reversed(list(network.named_parameters())):
            if weight.grad is not None and not torch.isfinite(weight.grad).all():
                return f"gradient of {player}.{name}"
    return ""


@contextlib.contextmanager
def _looking(networks: Mapping[str, nn.Module], found: list[str]) -> Iterator[None]:
    def watch(place: str) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(f"output of {place}")

        return look

    handles = [
        module.register_forward_hook(watch(f"{player}.{name}" if name else player))
        for player, network in networks.items()
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
