"""Weights that no optimizer moves: some of a player's, or all of a helper network that comes from a file."""

from collections.abc import Iterable

from torch import nn


def fix(network: nn.Module, names: Iterable[str]) -> None:
    """Make buffers of the parameters of these names: they keep their names and places, and nothing trains them.

    So an optimizer, DDP and ZeRO do not see them; a checkpoint, an average and a move to a device do, under any strategy.
    """
    parameters = dict(network.named_parameters())
    fixed = {id(parameters[name]): parameters[name].detach() for name in names}
    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if id(weight) in fixed:  # also a weight that several layers share
                del module._parameters[name]
                module.register_buffer(name, fixed[id(weight)])
