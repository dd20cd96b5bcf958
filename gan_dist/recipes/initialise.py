"""Make a config for a source of images: look, choose, write, and say what to do next."""

import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from gan_dist import config as config_module, files, rank_counts, units
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.recipes import choose, counterparts, look, pairs, restoration, text


@dataclasses.dataclass(frozen=True)
class Made:
    """What `gan-dist init` wrote, and what it has to say."""

    path: Path
    config: Config
    lines: list[str]
    commands: list[str]


def place(name: str) -> Path:
    """Return the file of a NAME: configs/NAME.yaml, or the path that is given. Raises InputError where it is there."""
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else Path("configs") / f"{name}.yaml"
    if not re.fullmatch(r"\w[\w.-]*", path.stem if is_path else name):
        raise InputError(
            f"{name!r} is no name of a config: give letters, digits, - and _, or a path that ends in .yaml".replace(
                "\n", " "
            )
        )
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists, and nothing is overwritten; give another name, or remove it")
    return path


def make(
    path: Path, source: str, resolution: tuple[int, int] | None, game: str = "", machine: look.Machine | None = None
) -> Made:
    """Write a config for a SOURCE of `gan-dist pack`. Raises InputError where nothing can be trained on it."""
    if not source.isprintable() or os.path.expandvars(source) != source or "${" in source:
        raise InputError(
            f"--data {source!r}: configs cannot hold this name, as it has letters that cannot be shown, or a variable; rename it"
        )
    restored = counterparts.find(source, game)
    if restored or game == "restoration":
        return _restoration(path, source, restored, resolution, machine)
    pair = pairs.find(source, game)
    return (
        _translation(path, source, pair, resolution, machine)
        if pair
        else _generation(path, source, resolution, machine)
    )


def _generation(path: Path, source: str, resolution: tuple[int, int] | None, machine: look.Machine | None) -> Made:
    images = look.images(source)
    choice = choose.choose(images, machine or look.machine(), resolution)
    packed = choose.shards_of_pack(source)
    if packed and (least := images.shorter(0)) < min(choice.size):
        raise InputError(
            f"{source} is packed at {least} pixels, fewer than {units.pixels(choice.size)}; pack its source again, or leave "
            "--resolution out"
        )
    shards = source if packed else _shards(path, source)
    found = [*found_lines(images), *notes(images), machine_line(choice.machine)]
    commands = [start(path, choice), f"gan-dist generate {shlex.quote(f'runs/{path.stem}')} --n 100"]
    content = text.of_generation(
        choice, shards, "" if packed else source, header(path, source, choice.why, found, commands)
    )
    return Made(path, write(path, content), found, commands)


def _translation(
    path: Path, source: str, pair: pairs.Pair, resolution: tuple[int, int] | None, machine: look.Machine | None
) -> Made:
    machine = machine or look.machine()
    sets = [look.images(str(Path(source) / folder)) for folder in pair.folders]
    for images in sets:
        choose.refuse_unreadable(images)
    sides = (32, 64, 128, 256) if machine.gpus else (32, 64)
    size, why = (resolution, "as asked") if resolution else choose.fitting_size(sets, sides)
    channels = 1 if all(images.channels == 1 for images in sets) else 3
    shards = _shards(path, source)
    found = [
        *(
            f"{folder}: {line}"
            for folder, images in zip(pair.folders, sets, strict=True)
            for line in found_lines(images)[:1]
        ),
        machine_line(machine),
    ]
    a, b = pair.folders
    what = (
        f"the files of {a} and {b} have the same names, so they are pairs: pix2pix, {a} into {b}"
        if pair.game == "paired"
        else f"{a} and {b} are two sets without pairs: CycleGAN, each into the other"
    )
    commands = [
        *pairs.commands(pair, source, shards, size, channels),
        train(path),
        f"gan-dist apply {shlex.quote(f'runs/{path.stem}')} {shlex.quote(str(Path(source) / a))} --out {shlex.quote(f'{path.stem}-{b}')}",
    ]
    top = header(path, source, f"{what}. --game generation takes them as one set", found, commands)
    count = max(images.images for images in sets)
    content = pairs.text_of(pair, shards, size, why, channels, count, bool(machine.gpus), top)
    return Made(path, write(path, content), found, commands)


def _restoration(
    path: Path,
    source: str,
    pair: counterparts.Pair | None,
    resolution: tuple[int, int] | None,
    machine: look.Machine | None,
) -> Made:
    machine = machine or look.machine()
    images = look.images(str(Path(source) / pair.target) if pair else source)
    choose.refuse_unreadable(images)
    choice = restoration.choose(source, images, pair, bool(machine.gpus), resolution)
    packed = pair is None and choose.shards_of_pack(source)
    shards = source if packed else _shards(path, source)
    found = [*found_lines(images), machine_line(machine)]
    if pair:
        found[0] = f"{pair.target}: {found[0]}"
    before, after = restoration.commands(choice, source, shards, path.stem)
    commands = [*before, train(path), *after]
    top = header(path, source, f"{choice.what}. --game generation takes all images as one set", found, commands)
    content = text.join(top, restoration.lines(choice, shards, "" if packed or pair else source))
    return Made(path, write(path, content), found, commands)


def start(path: Path, choice: choose.Choice) -> str:
    """Return the command that trains on all GPUs that can share the batch."""
    counts = rank_counts.fitting(choice.batch // choice.micro_batch, "ddp")
    processes = max((count for count in counts if count <= len(choice.machine.gpus)), default=1)
    if processes == 1:
        return train(path)
    return f"torchrun --standalone --nproc-per-node {processes} -m gan_dist.train {shlex.quote(str(path))}"


def train(path: Path) -> str:
    return f"gan-dist train {shlex.quote(str(path))}"


def header(path: Path, source: str, why: str, found: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the comments that stand above all keys."""
    return [
        f"{path.stem}: written by `gan-dist init` for {shlex.quote(source)}.",
        *(f"  {command}" for command in commands),
        f"Recipe: {why}.",
        f"Found: {'; '.join(found)}.",
        "Change first: training.images (how long), data.resolution (how large), run.name (a new run).",
        f"All keys: {train(path)} --help",
    ]


def _shards(path: Path, source: str) -> str:
    """Return the folder to pack into. Raises InputError where it holds something."""
    shards = Path("data") / path.stem
    if os.path.exists(source) and shards.resolve().is_relative_to(Path(source).resolve()):
        shards = Path("data") / f"{path.stem}-packed"
        if shards.resolve().is_relative_to(Path(source).resolve()):
            raise InputError(f"{shards}, the folder for the shards, lies within {source}; start from another folder")
    if shards.is_file() or (shards.is_dir() and any(shards.iterdir())):
        raise InputError(f"{shards}, the folder for the shards of {path.stem}, is there already; give another name")
    return str(shards)


def write(path: Path, content: str) -> Config:
    """Write the config, unless it does not load, and return it. Raises InputError where the file is there."""
    if path.parent != Path("."):
        files.make_directory(path.parent, "the folder for the config")
    part = files.temporary(path)
    try:
        part.write_text(content, encoding="utf-8")
        with contextlib.suppress(PermissionError, NotImplementedError):  # a file system without links
            os.link(part, path)  # unlike a rename it replaces nothing
        if not path.exists():
            part.replace(path)
    except FileExistsError:
        raise InputError(f"{path} exists, and nothing is overwritten; give another name, or remove it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); make room, or give another path") from None
    finally:
        part.unlink(missing_ok=True)
    try:
        return config_module.load([str(path)])
    except BaseException:
        path.unlink()
        raise


def found_lines(images: look.Images) -> list[str]:
    """Return what was seen of the images, for a person."""
    some = "" if images.looked == images.images else f" ({images.looked:,} of them were looked at)"
    first = f"{units.count(images.images, 'image')}, {units.size(images.bytes)}{some}"
    heights = sorted(picture.size[0] for picture in images.pictures)
    widths = sorted(picture.size[1] for picture in images.pictures)
    if images.resolution:
        first += f", all of {images.resolution[1]}x{images.resolution[0]} pixels"
    else:
        first += f", {widths[0]}..{widths[-1]} x {heights[0]}..{heights[-1]} pixels"
    lines = [first + {1: ", grey", 3: "", 4: ", transparent"}[images.channels]]
    if len(images.classes) > 1:
        named = [f"{name} {count:,}" for name, count in list(images.classes.items())[:10]]
        lines.append(f"{len(images.classes)} classes: {', '.join(named)}{' ...' if len(images.classes) > 10 else ''}")
    if images.broken:
        name, why = images.broken[0]
        lines.append(f"{len(images.broken):,} broken, which packing leaves out, first {name}: {why}")
    if images.others:
        lines.append(f"{units.count(images.others, 'other file')}")
    if images.twice:
        name, like = images.twice[0]
        lines.append(f"{units.count(len(images.twice), 'near-duplicate')}, first {name} of {like}")
    return [printable(line) for line in lines]


def notes(images: look.Images) -> list[str]:
    """Return what packing would say of the labels."""
    return [printable(f"note: {note}") for note in images.notes]


def machine_line(machine: look.Machine) -> str:
    """Return what there is to train on, for a person."""
    gpus = ", ".join(f"{name} with {units.size(memory)}" for name, memory in machine.gpus) or "no GPU"
    return f"this machine: {units.count(machine.cores, 'core')}, {units.size(machine.memory)} of memory, {gpus}"


def printable(line: str) -> str:
    """Return a line without what a terminal or a comment cannot hold: names may be no UTF-8, and have line breaks."""
    return "".join(
        letter if letter.isprintable() else "?" for letter in line.encode(errors="backslashreplace").decode()
    )
