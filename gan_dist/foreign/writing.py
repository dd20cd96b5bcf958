"""Write another system's networks as a run: what `gan-dist generate`, `export` and `start.from` take."""

import datetime
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_dist import __version__, config as config_module, files, games
from gan_dist.checkpoint import Store, Writer, tensors as checkpoint_tensors
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.foreign import LAYOUTS
from gan_dist.foreign.layout import Read, Tensors
from gan_dist.games.base import Game

_NETWORKS = ("G_ema", "G", "D")
"""Networks that a file may hold, each behind its name and a dot; without any, it holds one without a name."""
_UNNAMED = ""
_WRAPPER = "Model."
"""In front of all names of R3GAN's networks, where its training code saved them."""


def take_in(file: Path, layout: str, folder: Path, discriminator: Path | None = None) -> Config:
    """Write a run of a file of weights, with one checkpoint at 0 images, and return its config.

    Raises InputError, with nothing written, for a file of another layout, and for a folder that is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is in use; give a new or empty folder")
    if layout not in LAYOUTS:
        raise InputError(f"--as {layout}: there is no such layout; known are {', '.join(LAYOUTS)}")
    found = networks_in(read(file))
    if unnamed := found.pop(_UNNAMED, None):
        found["G_ema"] = unnamed
    if discriminator is not None:
        others = networks_in(read(discriminator))
        if "D" not in others and set(others) != {_UNNAMED}:
            raise InputError(f"{discriminator} holds no discriminator: its tensors begin with {', '.join(others)}")
        found["D"] = others["D"] if "D" in others else others[_UNNAMED]
    generators = {name: _read(file, found[name], layout, "generator") for name in ("G_ema", "G") if name in found}
    if not generators:
        raise InputError(f"{file} holds no generator: no tensor begins with G_ema. or G.")
    judge = _read(discriminator or file, found["D"], layout, "discriminator") if "D" in found else None
    best = generators.get("G_ema") or generators["G"]
    config = _config(best, judge, folder.absolute().name, discriminator or file)
    game = games.build(config)
    for player in game.players:
        player.place(torch.device("cpu"), torch.float32)
    generator, rival = game.players
    assert generator.average is not None
    _fill(generator.average.network, best, file)
    _fill(generator.network, generators.get("G") or best, file)
    if judge is not None:
        _fill(rival.network, judge, discriminator or file)
    source = {"file": file.name, "sha256": files.sha256_file(file), "layout": layout}
    write_run(game, config, folder, {"imported": source}, f"imported from {file.name}")
    return config


def read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises InputError where it is none."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (SafetensorError, OSError, ValueError) as error:
        more = (
            ""
            if file.suffix == ".safetensors"
            else "; a pickle (.pkl, .pt) is no such file: docs/sharing.md says how to turn one"
        )
        raise InputError(f"{file} is no whole safetensors file ({' '.join(str(error).split())[:120]}){more}") from None


def networks_in(found: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each network that is named in a file, or all of them as those of one without a name.

    Raises InputError for a tensor beside those of the named networks.
    """
    parts = {
        name: {key.removeprefix(f"{name}."): tensor for key, tensor in found.items() if key.startswith(f"{name}.")}
        for name in _NETWORKS
    }
    named = {name: each for name, each in parts.items() if each} or {_UNNAMED: dict(found)}
    if _UNNAMED not in named and (more := sorted(key for key in found if key.partition(".")[0] not in _NETWORKS)):
        raise InputError(f"{more[0]} is of no network that is known here: {', '.join(_NETWORKS)}; leave it out")
    return {name: {key.removeprefix(_WRAPPER): tensor for key, tensor in each.items()} for name, each in named.items()}


def _read(file: Path, found: Mapping[str, Tensor], layout: str, role: str) -> Read:
    tensors = Tensors(found, layout)
    try:
        tensors.take_filters()
        known: Read = getattr(LAYOUTS[layout], role)(tensors)
        tensors.end()
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (IndexError, ValueError) as error:  # a tensor of fewer dimensions
        raise InputError(f"{file}: its tensors have other shapes than those of {layout} ({error})") from None
    return known


def _config(best: Read, judge: Read | None, name: str, file: Path) -> Config:
    """Return a config that makes these networks: everything else is at its default, or an ordinary choice."""
    if judge is not None and (judge.size, judge.channels, judge.classes) != (best.size, best.channels, best.classes):
        raise InputError(
            f"{file}: the discriminator is for {judge.size} pixels, {judge.channels} channels and {judge.classes} classes, the "
            f"generator for {best.size}, {best.channels} and {best.classes}"
        )
    same = ("kind", "channel_base", "channel_maximum", "widths", "blocks", "expansion", "group_width")
    rival = judge.network if judge else {key: value for key, value in best.network.items() if key in same}
    tree: dict[str, Any] = {
        "run": {"name": name},
        "data": {"shards": "", "resolution": best.size, "channels": best.channels},
        "game": {"kind": "generation", "latent": best.latent},
        "networks": {"generator": best.network, "discriminator": rival},
        "training": {"images": 1, "batch": 32, "micro_batch": 8},
    }
    if best.classes:
        tree["data"] |= {"labels": True, "classes": best.classes}
    return config_module.validate(tree, str(file))


@torch.no_grad()
def _fill(network: nn.Module, known: Read, file: Path) -> None:
    own = network.state_dict()
    for name in sorted(own.keys() | known.tensors.keys()):
        have, want = known.tensors.get(name), own.get(name)
        if have is None or want is None or have.shape != want.shape:
            shapes = [None if each is None else tuple(each.shape) for each in (have, want)]
            raise InputError(
                f"{file}: {name} has the shape {shapes[0]}, and the network that the file describes {shapes[1]}"
            )
    network.load_state_dict(known.tensors)


def write_run(
    game: Game, config: Config, folder: Path, more: Mapping[str, Any] | None = None, reason: str = ""
) -> None:
    """Write a run with one checkpoint, of a game as it is: whole, or not at all. `more` is recorded with its config."""
    place = Path(os.path.abspath(folder))
    files.make_directory(place.parent, "the folder of the run")
    part = files.temporary(place)
    identity = uuid.uuid4().hex[:8]
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        for name in ("checkpoints", "samples", "logs"):
            (part / name).mkdir(parents=True)
        recorded = {
            "created": created,
            "wandb_id": identity,
            "submission": "",
            "version": __version__,
            "fingerprint": config.fingerprint(),
            "data": "",
            **(more or {}),
        }
        state = {"version": __version__, "fingerprint": config.fingerprint(), "milestone": False, "loss_scales": {}}
        state |= {"skipped": {player.name: 0 for player in game.players}, "figures": {}, "processes": 1}
        writer = Writer(Store(part / "checkpoints", keep=2))
        writer.save(0, checkpoint_tensors.collect(game.players, game.state()), {**state, "wandb_id": identity})
        (outcome,) = writer.wait()
        if outcome.problem:
            raise InputError(f"{folder} was not written: {outcome.problem}")
        files.write_atomic(part / "config.yaml", config_module.to_yaml(config, recorded))
        status = {
            "state": "stopped",
            "images": 0,
            "reason": reason,
            "checkpoint": outcome.name,
        }
        files.write_json(
            part / "status.json", {**status, "processes": 1, "wandb_id": identity, "job": "", "time": created}
        )
        part.rename(place)  # over an empty folder too
        files.sync_directory(place.parent)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); nothing was written") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
