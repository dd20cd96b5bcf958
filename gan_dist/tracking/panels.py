"""Panels: what a run shows beside its figures and sample grids. A new panel is one class, the user's own included."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from gan_dist.config.section import Part, Positive
from gan_dist.errors import InputError
from gan_dist.tracking.media import MOST_BINS, Histogram, Media, check_name


class Panel(Part):
    """A panel under a name of its own: its keys are those of `track.panels.NAME` in the config.

    A user's panel is a subclass with keys of its own and `draw`.
    """

    every: Annotated[int, Field(ge=0)] = 0
    """Images between two drawings. 0: at each report (track.every)."""

    def draw(self, game: Any, images: int) -> dict[str, Media]:
        """Return what to show at a position, under names that are put behind the panel's own; "" is the panel's own.

        Rank 0 calls it, without gradients, while the moving averages are whole: it must not talk to other ranks. `game` is
        the run's: `game.players` have `name`, `network` and `average` (None where they keep none).
        """
        raise NotImplementedError(f"{type(self).__name__} has no draw(game, images)")


class Weights(Panel):
    """Histograms of each player's weights, one for each group of layers: NAME/G/layers.0 holds the weights of `layers.0`.

    Drawn from the moving average where a player keeps one. Weights that other ranks hold (zero3) are left out.
    """

    bins: Annotated[int, Field(gt=0, le=MOST_BINS)] = 64
    """Bars in a histogram."""
    depth: Positive = 2
    """Parts of a layer's dotted name that make its group. 1: layers.0 and layers.1 are one group, `layers`."""

    def draw(self, game: Any, images: int) -> dict[str, Media]:
        shown: dict[str, Media] = {}
        for player in game.players:
            network = player.network if player.average is None else player.average.network
            for group, weights in _groups(network, self.depth).items():
                shown[f"{player.name}/{group}"] = Histogram.of(torch.cat(weights), self.bins)
        return shown


PANELS: dict[str, type[Panel]] = {"weights": Weights}
"""Built-in panels by kind."""


def due(panels: Mapping[str, Panel], usual: int, is_due: Callable[[int], bool]) -> dict[str, Panel]:
    """Return the panels to draw now; `usual` is track.every, `is_due` tells whether the last step passed a multiple of so many images."""
    return {name: panel for name, panel in panels.items() if is_due(panel.every or usual)}


def draw(name: str, panel: Panel, game: Any, images: int) -> dict[str, Media]:
    """Return what a panel shows at a position, by whole name; the random numbers of the training stay as they are.

    Raises InputError for what is no medium or has a name that is none, and whatever the panel raises.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        shown = panel.draw(game, images)
    if not isinstance(shown, dict):
        raise InputError(f"draw must return a dictionary of media by name, not {type(shown).__name__}")
    found = {check_name(f"{name}/{part}" if part else name): content for part, content in shown.items()}
    for full, content in found.items():
        if not isinstance(content, Media):
            raise InputError(f"{full} must be a Scalar, Image, Histogram or Table, not {type(content).__name__}")
    return found


def _groups(network: nn.Module, depth: int) -> dict[str, list[torch.Tensor]]:
    """Flat weights that this rank holds, by the first parts of their names."""
    groups: dict[str, list[torch.Tensor]] = {}
    for name, weight in network.named_parameters():
        if weight.numel():
            group = re.sub(r"[^\w.+-]", "_", ".".join(name.split(".")[:-1][:depth]) or name)
            groups.setdefault(group, []).append(weight.detach().flatten().float())
    return groups
