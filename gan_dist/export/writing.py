"""Write an export: a folder in the hub's layout, which appears whole or not at all."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from gan_dist import __version__, files, generate, run_directory, video, walk
from gan_dist.checkpoint import format, store
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.export import card, facts, model, programs
from gan_dist.export.model import Encoder, Generator
from gan_dist.games.base import Game, Handover
from gan_dist.tracking import grid, media

_HERE = Path(__file__).parent
"""draw.py and app.py of this folder lie in each export: they import nothing of the package."""
_NEEDED = "torch\nsafetensors\nnumpy\npillow\ngradio\n"
_OURS = (
    model.CONFIG, model.WEIGHTS, model.PROGRAM, model.ONNX, model.CARD, model.GRID,
    model.ENCODER, model.ENCODER_PROGRAM, model.ENCODER_ONNX,
    "walk.webp", "draw.py", "app.py", "requirements.txt", "drawn.png", "drawn.csv", "__pycache__",
)  # fmt: skip
"""What an export holds, and what using it leaves there: what --replace may remove."""
_TRIES = 10  # checkpoints that training may delete while they are read
_SHOWN = 64
_POINTS = 6
"""Samples that a walk passes."""
_FRAMES = 12
"""Frames from one to the next, and in a second."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to export, and what of it."""

    checkpoint: str = ""
    live: bool = False
    """The weights as they are trained; else their moving average."""
    way: str = ""
    onnx: bool = False
    replace: bool = False


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    checkpoint: str
    programs: Mapping[str, programs.Written]


def check_place(folder: Path, replace: bool) -> None:
    """Raise InputError unless a folder is new or empty, or an export that may be replaced."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no folder; give a new one")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not model.is_export(folder):
        raise InputError(f"{folder} holds files that are no export; give a new folder")
    if not replace:
        raise InputError(f"{folder} holds an export already; add --replace to replace it, or give a new folder")
    if others := sorted(path.name for path in folder.iterdir() if path.name not in _OURS):
        raise InputError(
            f"{folder} holds {others[0]}, which is no file of an export and would be lost; move it, or give a new folder"
        )


def export(run: Path, folder: Path, options: Options, say: Callable[[str], None] = lambda text: None) -> Exported:
    """Write a run's network and what others need to use it. Raises InputError, and leaves nothing, where that fails."""
    check_place(folder, options.replace)
    if options.onnx:
        programs.need_onnx()
    game, config, checkpoint, known = _read(run, options)
    handed, directory = game.hand_over(options.way), run_directory.locate(run)
    network = Generator(handed.network, describe(handed, config, checkpoint, options.live))
    with _appearing(folder, options.replace) as part:
        _write_weights(network, part / model.WEIGHTS, say)
        written = _write_programs(network, part, options.onnx, say)
        if handed.encoder is not None:
            encoder = Encoder(handed.encoder, describe_encoder(handed, config))
            network.config["encoder"] = encoder.config
            _write_weights(encoder, part / model.ENCODER, say)
            written |= _write_encoder(encoder, part, options.onnx, say)
        network.config["files"] = {name: _about(each) for name, each in written.items() if not each.problem}
        network.config["run"] = known
        files.write_json(part / model.CONFIG, files.plain(network.config))
        _write_grid(game, network, part / model.GRID, directory, checkpoint)
        if not (network.takes_images or game.makes_points):
            _write_walk(game, part / "walk.webp", say)
        if (part / model.PROGRAM).exists():
            shutil.copyfile(_HERE / "draw.py", part / "draw.py")
            if not game.makes_points:
                shutil.copyfile(_HERE / "app.py", part / "app.py")
                (part / "requirements.txt").write_text(_NEEDED)
        text = card.write(network, part, Path(os.path.abspath(folder)).name, known, card.licence(folder))
        (part / model.CARD).write_text(text)
    return Exported(folder, checkpoint, written)


def _read(run: Path, options: Options) -> tuple[Game, Config, str, dict[str, Any]]:
    """Return the game of a run, its config, the checkpoint's name, and what the card tells of it.

    Where a training deletes the checkpoint between the two, the newest is taken instead.
    """
    for _ in range(_TRIES):
        game, config, checkpoint = generate.load(run, options.checkpoint, torch.device("cpu"), options.live)
        try:
            known = facts.read(run_directory.locate(run), config, checkpoint, options.live, _labels(game, options.way))
        except format.DamagedError:
            if options.checkpoint:
                break
        else:
            return game, config, checkpoint, known
    raise InputError(f"{run}: checkpoint {checkpoint} was deleted while it was read; choose one that is kept")


def _labels(game: Game, way: str) -> tuple[str, ...]:
    """Return how the records of scores name a way, and its inputs as they are."""
    for name, (source, target) in game.ways.items():
        if name == way or (not way and target == game.judged):
            return ("" if target == game.judged else name, source)
    return ("",)


def describe(handed: Handover, config: Config, checkpoint: str, live: bool) -> dict[str, Any]:
    """Return what config.json says of a network: how to make it, and what goes in and comes out."""
    shape, section = handed.shape, getattr(config.networks, handed.place)
    scale = shape.scale
    inputs: dict[str, Any] = {}
    if handed.takes == "images":
        inputs["images"] = {"shape": ["N", shape.inputs, "H", "W"], "range": [-1, 1], "multiple": handed.multiple}
        inputs["images"]["least"] = int(getattr(handed.network, "least", 1))
        inputs["images"] |= {"size": None, "label_map": dict(handed.label_map) if handed.label_map else None}
        if handed.draws_key is not None:
            inputs["numbers"] = {"shape": ["N"], "dtype": "int64", "meaning": "keys of each image's dropout"}
    else:
        inputs["latents"] = {"shape": ["N", shape.latent], "distribution": handed.distribution}
        if shape.classes:
            inputs["labels"] = {"shape": ["N"], "dtype": "int64", "classes": shape.classes}
            inputs["labels"]["names"] = facts.class_names(config)
        if getattr(handed.network, "takes_truncation", False):
            default = float(getattr(handed.network, "truncation", 1.0))
            inputs["truncation"] = {"shape": [], "default": default, "meaning": "part of the way from the mean style"}
    enlarged = "" if scale == 1 else f"{scale}"
    sides = [f"{enlarged}H", f"{enlarged}W"] if handed.takes == "images" else shape.size
    output = ["N", shape.points] if shape.points else ["N", shape.channels, *sides]
    return {
        "library_name": "gan_dist",
        "export_format": model.FORMAT,
        "gan_dist": __version__,
        "game": config.game.kind,
        "network": facts.without_places(section.model_dump(mode="json")),
        "shape": model.shape_of(shape),
        "dtype": str(next(handed.network.parameters()).dtype).removeprefix("torch."),
        "inputs": inputs,
        "output": {"shape": output, "range": None if shape.points else [-1, 1]},
        "scale": scale,
        "fill": handed.fill,
        "draws_key": handed.draws_key,
        "checkpoint": checkpoint,
        "images": store.images_of(checkpoint),
        "weights": "live" if live else "averaged",
    }


def describe_encoder(handed: Handover, config: Config) -> dict[str, Any]:
    """Return what config.json says of an autoencoder's encoder."""
    assert handed.encoder is not None
    shape = dataclasses.replace(handed.shape, inputs=handed.shape.channels)
    images = {"shape": ["N", shape.channels, *shape.size], "range": [-1, 1], "multiple": 1, "least": 1}
    latents = {"shape": ["N", shape.latent]}
    return {
        "network": facts.without_places(config.networks.encoder.model_dump(mode="json")),
        "shape": model.shape_of(shape),
        "dtype": str(next(handed.encoder.parameters()).dtype).removeprefix("torch."),
        "inputs": {"images": {**images, "size": list(shape.size), "label_map": None}},
        "output": {"means": latents, "log_variances": latents},
        "scale": 1,
    }


def _write_weights(network: Generator | Encoder, path: Path, say: Callable[[str], None]) -> None:
    say(f"{path.name}: {sum(weight.numel() for weight in network.parameters()):,} weights")
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()}
    path.write_bytes(save(plain))


def _write_programs(
    network: Generator, part: Path, onnx: bool, say: Callable[[str], None]
) -> dict[str, programs.Written]:
    written = {model.PROGRAM: programs.write_pt2(network, part / model.PROGRAM)}
    any_size = written[model.PROGRAM].any_size
    if network.takes_images and not any_size:
        sides = network.config["shape"]["size"]
        network.config["inputs"]["images"]["size"] = [side // network.config["scale"] for side in sides]
    if onnx:
        written[model.ONNX] = programs.write_onnx(network, part / model.ONNX, any_size)
    _say_of(written, say)
    return written


def _write_encoder(encoder: Encoder, part: Path, onnx: bool, say: Callable[[str], None]) -> dict[str, programs.Written]:
    written = {model.ENCODER_PROGRAM: programs.write_pt2(encoder, part / model.ENCODER_PROGRAM)}
    if onnx:
        written[model.ENCODER_ONNX] = programs.write_onnx(encoder, part / model.ENCODER_ONNX, any_size=False)
    _say_of(written, say)
    return written


def _say_of(written: Mapping[str, programs.Written], say: Callable[[str], None]) -> None:
    for name, each in written.items():
        say(f"{name}: left out, {each.problem}" if each.problem else f"{name}: differs by {each.difference:.2g}")


def _about(written: programs.Written) -> dict[str, Any]:
    return {"largest_difference": written.difference, "any_size": written.any_size}


def _write_grid(game: Game, network: Generator, path: Path, directory: Path, checkpoint: str) -> None:
    """Draw samples as `gan-dist generate` does; of a game that shows data, take the run's newest picture up to here."""
    if network.takes_images:
        pictures = sorted((images, found) for images, name, found in media.listed(directory / "samples") if name == ".")
        earlier = [each for each in pictures if each[0] <= store.images_of(checkpoint)] or pictures[:1]
        if earlier:
            shutil.copyfile(earlier[-1][1], path)
        return
    samples = game.samples(0, 0, _SHOWN).cpu()
    if game.makes_points:
        grid.save_png(game.chart(samples), path)
    else:
        grid.save_grid(samples, path)


def _write_walk(game: Game, path: Path, say: Callable[[str], None]) -> None:
    """Draw a closed walk through samples of seed 0. A picture that fails ends no export."""
    try:
        space = game.latent_space()
        route = walk.of_samples(space, [(0, number) for number in range(_POINTS)])
        count = _POINTS * _FRAMES
        video.write(walk.frames(space, [route], count), path, _FRAMES, count)
    except Exception as error:
        path.unlink(missing_ok=True)
        say(f"{path.name}: left out, {type(error).__name__}: {error}")
    else:
        say(f"{path.name}: {count} frames through {_POINTS} samples")


@contextlib.contextmanager
def _appearing(folder: Path, replace: bool) -> Iterator[Path]:
    """Give a folder to write into, which takes its name, on the disk, when the block has ended well."""
    place = Path(os.path.abspath(folder))
    files.make_directory(place.parent, "the folder of the export")
    part = files.temporary(place)
    part.mkdir()
    try:
        yield part
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        files.sync_directory(part)
        check_place(place, replace)  # somebody may have written there meanwhile
        if place.exists() and any(place.iterdir()):
            _replace(place, part)
        else:
            part.rename(place)  # over an empty folder too
        files.sync_directory(place.parent)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); nothing was written") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(place: Path, part: Path) -> None:
    if files.exchange(part, place):
        return  # the old one has the temporary name, and is removed
    old = place.rename(files.temporary(place, "replaced"))
    part.rename(place)
    shutil.rmtree(old, ignore_errors=True)
