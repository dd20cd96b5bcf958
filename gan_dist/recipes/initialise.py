"""Make a config for a source of images: look, choose, write, and say what to do next."""

import dataclasses
import re
import shlex
from pathlib import Path

from gan_dist import config as config_module, files, units
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.recipes import choose, look, text
from gan_dist.recipes.choose import Choice


@dataclasses.dataclass(frozen=True)
class Made:
    """What `gan-dist init` wrote, and what it has to say."""

    path: Path
    config: Config
    lines: list[str]
    commands: list[str]


def place(name: str) -> Path:
    """Return the file of a NAME: configs/NAME.yaml, or the path that is given. Raises InputError where it is there."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path("configs") / f"{name}.yaml"
    if not re.fullmatch(r"[\w][\w.-]*", path.stem) or (
        path.parent == Path("configs") and "/" in name.strip("/") and not name.endswith((".yaml", ".yml"))
    ):
        raise InputError(f"{name} is no name of a config: give letters, digits, - and _, or a path that ends in .yaml")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists, and nothing is overwritten; give another name, or remove it")
    return path


def make(path: Path, source: str, resolution: tuple[int, int] | None, machine: look.Machine | None = None) -> Made:
    """Write a config for a SOURCE of `gan-dist pack`. Raises InputError where nothing can be trained on it."""
    images = look.images(source)
    machine = machine or look.machine()
    choice = choose.choose(images, machine, resolution)
    packed = choose.shards_of_pack(source)
    shards = source if packed else str(Path("data") / path.stem)
    if not packed and Path(source).exists() and Path(shards).resolve().is_relative_to(Path(source).resolve()):
        shards = f"{shards}-{units.pixels(choice.size)}"
    if not packed and Path(shards).exists() and any(Path(shards).iterdir()):
        raise InputError(f"{shards}, the folder for the shards of {path.stem}, holds files already; give another name")
    found = found_lines(choice)
    train, draw = f"gan-dist train {shlex.quote(str(path))}", f"gan-dist generate runs/{path.stem} --n 100"
    header = [
        f"{path.stem}: written by `gan-dist init` for {shlex.quote(source)}.",
        f"  {train}",
        f"  {draw}",
        f"Recipe: {choice.why}.",
        f"Found: {'; '.join(found)}.",
        "Change first: training.images (how long), data.resolution (how large), run.name (a new run).",
        f"All keys: gan-dist train {shlex.quote(str(path))} --help",
    ]
    content = text.of_generation(choice, path.stem, shards, "" if packed else source, header)
    return Made(path, write(path, content), found, [train, draw])


def write(path: Path, content: str) -> Config:
    """Write the config, unless it does not load, and return it. Raises InputError where the file is there."""
    if path.parent != Path("."):
        files.make_directory(path.parent, "the folder for the config")
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        raise InputError(f"{path} exists, and nothing is overwritten; give another name, or remove it") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error.strerror}); make room, or give another path") from None
    try:
        return config_module.load([str(path)])
    except BaseException:
        path.unlink()
        raise


def found_lines(choice: Choice) -> list[str]:
    """Return what was seen of the images and of the machine, for a person."""
    images, machine = choice.images, choice.machine
    some = "" if images.looked == images.images else f" ({images.looked:,} of them were looked at)"
    lines = [f"{units.count(images.images, 'image')}, {units.size(images.bytes)}{some}"]
    heights = sorted(picture.size[0] for picture in images.pictures)
    widths = sorted(picture.size[1] for picture in images.pictures)
    if images.resolution:
        lines[0] += f", all of {images.resolution[1]}x{images.resolution[0]} pixels"
    else:
        lines[0] += f", {widths[0]}..{widths[-1]} x {heights[0]}..{heights[-1]} pixels"
    lines[0] += {1: ", grey", 3: "", 4: ", transparent"}[choice.channels]
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
        lines.append(
            f"{len(images.twice):,} near-duplicates, first {name} of {like}; `gan-dist pack --drop-duplicates` leaves them out"
        )
    gpus = ", ".join(f"{name} with {units.size(memory)}" for name, memory in machine.gpus) or "no GPU"
    lines.append(f"this machine: {units.count(machine.cores, 'core')}, {units.size(machine.memory)} of memory, {gpus}")
    return [line.encode(errors="backslashreplace").decode().replace("\n", " ") for line in lines]
