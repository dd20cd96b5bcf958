"""Where numbers first went bad: the layer whose output is not finite, or the weight whose gradient is not."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def first_bad(networks: Mapping[str, nn.Module], loss: Callable[[], Tensor], together: bool = False) -> str:
    """Compute a loss and its gradients, and return in words what was not finite first; "" if all is finite.

    `networks` maps a player's name to its network. Gradients of the networks are overwritten. It waits for the device at
    every layer, so it is too slow for a healthy step. `together`: the ranks need each other for a forward (ZeRO), so each
    computes all of it, and none computes the backward.
    """
    if together:
        bad_outputs: list[str] = []
        with _watching(networks, bad_outputs):
            value = loss()
        return bad_outputs[0] if bad_outputs else "" if torch.isfinite(value) else "the loss itself"
    for player, network in networks.items():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"weight {player}.{name}"
    bad_outputs = []
    with _watching(networks, bad_outputs):
        value = loss()
        if bad_outputs:
            return bad_outputs[0]
        if not torch.isfinite(value):
            return "the loss itself"
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
    # the backward goes through the layers from the last to the first
    for player, network in networks.items():
        for name, weight in reversed(list(network.named_parameters())):
            if weight.grad is not None and not torch.isfinite(weight.grad).all():
                return f"gradient of {player}.{name}"
    return ""


@contextlib.contextmanager
def _watching(networks: Mapping[str, nn.Module], bad_outputs: list[str]) -> Iterator[None]:
    """Note the first module whose output is not finite."""

    def hook(place: str) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if not bad_outputs and isinstance(output, Tensor) and not torch.isfinite(output).all():
                bad_outputs.append(f"output of {place}")

        return look

    handles = [
        module.register_forward_hook(hook(f"{player}.{name}" if name else player))
        for player, network in networks.items()
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
