"""Know the keys of version 0.1: read the config.yaml of its runs, and give them the same fingerprint as it did."""

from collections.abc import Mapping
from typing import Any

from gan_dist.errors import InputError

RENAMED = {
    "game.networks": ("networks.generator.kind", "networks.discriminator.kind"),
    "game.base_channels": ("networks.generator.base_channels", "networks.discriminator.base_channels"),
    "game.loss": ("loss.kind",),
    "game.penalty.r1": ("penalties.r1.weight",),
    "game.penalty.r2": ("penalties.r2.weight",),
    "game.penalty.wgan_gp": ("penalties.wgan_gp.weight",),
    "game.average.half_life": ("average.half_life",),
    **{
        f"game.{player}.{key}": (f"optimizers.{player}.{key}",)
        for player in ("generator", "discriminator")
        for key in ("learning_rate", "beta1", "beta2", "epsilon", "clip_norm")
    },
}
"""Old key -> the new keys that had its value. Two more keys hold for all penalties: `every` and `full_precision`."""

_PENALTIES = ("r1", "r2", "wgan_gp")
_SHARED = {"every": 1, "full_precision": True}
"""What all penalties had in common, with the defaults."""

_CONDITIONING = "networks.generator.conditioning"


def is_old(tree: Mapping[str, Any]) -> bool:
    """Whether a config.yaml is of version 0.1."""
    game = tree.get("game")
    return isinstance(game, dict) and "networks" in game


def convert(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a config.yaml of version 0.1 under the keys of today."""
    game = dict(tree["game"])
    penalty = game.pop("penalty", {})
    if penalty.get("method", "exact") != "exact":
        raise InputError(
            "the run has game.penalty.method = finite_difference, which this version does not have; go on with version 0.1"
        )
    kind = game.pop("networks", "dcgan")
    width = {"base_channels": game.pop("base_channels", 64)} if kind == "dcgan" else {}
    game.pop("base_channels", None)
    average = game.pop("average", {})
    players = {player: {"kind": "adam", **game.pop(player, {})} for player in ("generator", "discriminator")}
    loss = game.pop("loss", "nonsaturating")
    data = tree.get("data")
    by_class = kind == "dcgan" and isinstance(data, dict) and data.get("labels")
    joined = {"conditioning": "concatenation"} if by_class else {}
    shared = {key: penalty.get(key, usual) for key, usual in _SHARED.items()}
    return {
        **{name: section for name, section in tree.items() if name != "game"},
        "game": game,
        "networks": {"generator": {"kind": kind, **width, **joined}, "discriminator": {"kind": kind, **width}},
        "loss": {"kind": loss},
        "penalties": {name: {"weight": weight, **shared} for name in _PENALTIES if (weight := penalty.get(name, 0.0))},
        "optimizers": players,
        "average": average,
    }


def names(chosen: Mapping[str, Any], everything: Mapping[str, Any]) -> dict[str, Any]:
    """`chosen`, the keys that are not at their default, under their old names where they have one.

    A key that stands for several new ones has a name only where all of them agree; `everything` has all keys.
    """
    found = dict(chosen)
    on = [name for name in _PENALTIES if everything.get(f"penalties.{name}.kind") == name]
    others = {key.split(".")[1] for key in everything if key.startswith("penalties.")} - set(on)
    for old, new in RENAMED.items():
        values = [everything[key] for key in new if key in everything]
        if len(values) < len(new) or any(value != values[0] for value in values):
            continue
        if old == "game.networks" and values[0] not in ("article", "dcgan"):
            continue
        changed = [key for key in new if key in found]
        for key in changed:
            del found[key]
        if changed:
            found[old] = values[0]
    by_class = _CONDITIONING in everything and everything.get("data.labels")
    if by_class and found.pop(_CONDITIONING, None) is None:  # version 0.1 had what is not today's default
        found[_CONDITIONING] = everything[_CONDITIONING]
    for name in on:
        found.pop(f"penalties.{name}.kind", None)
    for key, usual in _SHARED.items():
        values = [everything[f"penalties.{name}.{key}"] for name in on]
        if others or not values or any(value != values[0] for value in values):
            continue
        for name in on:
            found.pop(f"penalties.{name}.{key}", None)
        if values[0] != usual:
            found[f"game.penalty.{key}"] = values[0]
    return found
