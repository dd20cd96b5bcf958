"""`gan-dist generate`: draw samples from a run's averaged generator."""

import argparse
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.config import Config

HELP = "draw samples from a run's averaged generator"
EXAMPLES = (
    "gan-dist generate runs/digits                      64 images in runs/digits/generated/seed-0\n"
    "  gan-dist generate runs/digits --n 100 --out samples\n"
    "  gan-dist generate runs/digits --n 16 --class 3 --replace"
)
_GRID = "grid.png"
_POINTS = "points.csv"
_MOST_IN_GRID = 100  # more would be too small to look at


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("--n", type=int, default=64, help="how many (default 64)")
    parser.add_argument(
        "--out", type=Path, help="new or empty folder for PNGs and grid.png (default RUN/generated/seed-N)"
    )
    parser.add_argument("--replace", action="store_true", help="replace what an earlier generate wrote there")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    parser.add_argument(
        "--class", dest="label", help="this class only: its number, or its name in the shards' classes.json"
    )


def run(options: argparse.Namespace) -> None:
    """Write the PNGs and a grid of the first ones."""
    import torch

    from gan_dist import files, run_directory
    from gan_dist.data import labels
    from gan_dist.generate import generate, load
    from gan_dist.tracking import grid

    if options.n < 1:
        raise InputError(f"--n {options.n}: give a number above 0")
    game, config, name = load(options.run, options.checkpoint)
    if game.shows_data and not game.reconstructs:
        raise InputError(
            f"{options.run} turns images into images and draws none from latents: use `gan-dist apply {options.run} IMAGES "
            "--out DIR`"
        )
    label = None if options.label is None else class_of(options.label, config, options.run)
    folder = f"seed-{options.seed}" + ("" if label is None else f"-class-{label}")
    out: Path = options.out or run_directory.locate(options.run) / "generated" / folder
    for path in _earlier(out, options.replace):
        path.unlink()
    files.make_directory(out, "--out")
    samples = generate(game, options.seed, options.n, label)
    if game.makes_points:
        points = torch.stack(list(samples))
        lines = [",".join(f"{number:.6g}" for number in point) for point in points.tolist()]
        files.write_atomic(out / _POINTS, "\n".join(lines) + "\n")
        grid.save_png(game.chart(points), out / _GRID)
        print(f"{options.n} points of {name} in {out / _POINTS}; look at {out / _GRID}")
        return
    shown = []
    for number, image in enumerate(samples):
        grid.save_png(image, out / f"{number:06d}.png")
        if number < _MOST_IN_GRID:
            shown.append(image)
    if label is None and "classes" in game.galleries:  # samples take turns with the classes
        names = labels.names(config.data.shards, config.data.classes)
        columns = grid.columns_of_classes(len(names), len(shown))
        grid.save_grid(shown, out / _GRID, columns, below=names if columns else ())
    else:
        grid.save_grid(shown, out / _GRID)
    print(f"{options.n} images of {name} in {out}; look at {out / _GRID}")


def class_of(wanted: str, config: "Config", run: Path, option: str = "--class") -> int:
    """Return the class of a number or a name. Raises InputError where the run has no such class."""
    classes = config.data.classes
    if not classes:
        raise InputError(f"{option} {wanted}: {run} has no such class; it was trained without labels")
    from gan_dist.data import labels

    names = labels.names_beside(config.data.shards)
    if wanted in names:
        return names[wanted]
    if wanted.isdecimal() and int(wanted) < classes:
        return int(wanted)
    close = difflib.get_close_matches(wanted, names, n=3)
    near = f"; near: {', '.join(close)}" if close else ""
    raise InputError(f"{option} {wanted}: {run} has no such class; its classes are 0..{classes - 1}{near}")


def _earlier(out: Path, replace: bool) -> Iterable[Path]:
    """Return what an earlier call wrote to `out`. Raises InputError where that must stay, or where other files are there."""
    if not out.exists():
        return []
    entries = sorted(out.iterdir()) if out.is_dir() else [out]
    foreign = [
        path for path in entries if path.name not in (_GRID, _POINTS) and not re.fullmatch(r"\d{6,}\.png", path.name)
    ]
    if foreign:
        also = f", {foreign[0].name} for example" if out.is_dir() else ""
        raise InputError(f"{out} holds files already that generate did not write{also}; give --out another folder")
    if entries and not replace:
        raise InputError(f"{out} holds files already; add --replace to replace them, or give --out another folder")
    return entries
