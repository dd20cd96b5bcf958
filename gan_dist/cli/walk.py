"""`gan-dist walk`: draw a walk between samples of a run as an animation that loops."""

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.interfaces import LatentSpace
    from gan_dist.walk import Route

HELP = "draw a walk between samples of a run as an animation that loops"
EXAMPLES = (
    "gan-dist walk runs/digits walk.webp                     through samples 0 to 5 of seed 0\n"
    "  gan-dist walk runs/digits walk.gif --numbers 3,17,41    those of samples/ and of `generate` by their numbers\n"
    "  gan-dist walk runs/digits walk.webp --seeds 1,5,9 --grid 2x4\n"
    "  gan-dist walk runs/digits walk.mp4 --steps 1 --classes 0,1,2,3 --truncation 0.7\n"
    "  gan-dist walk runs/digits_vae walk.webp --images a.png b.png"
)
_EACH = 30  # frames from one point to the next


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("out", metavar="OUT", type=Path, help="FILE.webp, .gif, .webm or .mp4, or a folder for PNGs")
    parser.add_argument("--seeds", help="walk through a sample of each of these seeds: 1,5,9")
    parser.add_argument("--seed", type=int, default=0, help="walk through samples of this seed (default 0)")
    parser.add_argument("--steps", type=int, help="how many samples of the seed (default 6)")
    parser.add_argument("--numbers", help="these samples of the seed, as generate numbers them: 3,17,41")
    parser.add_argument(
        "--images", nargs="+", type=Path, metavar="IMAGE", help="between images, of an autoencoder's run"
    )
    parser.add_argument("--classes", help="classes of the samples, in turn: numbers or names, 0,3 or cat,dog")
    parser.add_argument("--frames", type=int, help=f"frames of the loop (default {_EACH} for each point)")
    parser.add_argument("--fps", type=float, default=30, help="frames a second (default 30)")
    parser.add_argument(
        "--truncation", type=float, help="how far from the mean: less gives more usual images; 1: no change"
    )
    parser.add_argument("--grid", default="1x1", metavar="RxC", help="several walks side by side: rows x columns")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    parser.add_argument("--live", action="store_true", help="by the weights that train, not by their moving average")
    parser.add_argument("--replace", action="store_true", help="replace what is at OUT")


def run(options: argparse.Namespace) -> None:
    """Draw the frames and write them."""
    from gan_dist import video, walk
    from gan_dist.cli import generate
    from gan_dist.generate import load

    rows, columns = _grid(options.grid)
    samples = _samples(options, rows * columns)
    _check(options)
    game, config, name = load(options.run, options.checkpoint, live=options.live)
    if game.makes_points:
        raise InputError(
            f"{options.run} draws points and no images: see how they move with `gan-dist film {options.run}`"
        )
    if game.shows_data and not game.reconstructs:
        raise InputError(
            f"{options.run} turns images into images, and has no latents to walk between: use `gan-dist apply {options.run} "
            "IMAGES --out DIR`"
        )
    space = game.latent_space()
    if options.images:
        routes = [_between(options.images, space, game.fields["image"].size, config.data.channels)]
    else:
        words = options.classes.split(",") if options.classes else []
        labels = [generate.class_of(word.strip(), config, options.run, "--classes") for word in words]
        routes = [walk.of_samples(space, each, labels) for each in samples]
    points = len(routes[0])
    count = points * _EACH if options.frames is None else options.frames
    if points < 2:
        raise InputError("a walk needs two samples or more, or two classes; give --steps 6, or --classes 0,1")
    if count < points:
        raise InputError(f"--frames {count} are fewer than the {points} points of the walk; give more")
    video.check(options.out, options.fps, options.replace)
    frames = walk.frames(space, routes, count, columns, options.truncation)
    video.write(frames, options.out, options.fps, count)
    print(f"{count} frames of {name} through {points} points in {options.out}")


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for arguments that contradict each other."""
    chosen = [name for name in ("seeds", "numbers", "images") if getattr(options, name)]
    if len(chosen) > 1 or (chosen and options.steps is not None):
        others = [*chosen, *(["steps"] if options.steps is not None else [])]
        raise InputError(f"--{others[0]} and --{others[1]} both say where the walk goes; give one of them")
    if options.images and (options.classes or options.grid != "1x1"):
        raise InputError("--images walks between images alone; remove --classes and --grid")
    if options.truncation is not None and not (0 <= options.truncation < math.inf):
        raise InputError(f"--truncation {options.truncation:g}: give a number from 0; 1 changes nothing")


def _grid(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text)
    if match is None:
        raise InputError(f"--grid {text}: give rows x columns, as 2x4")
    return int(match[1]), int(match[2])


def _samples(options: argparse.Namespace, walks: int) -> list[list[tuple[int, int]]]:
    """Return seed and number of the samples of each walk."""
    if options.seeds:
        return [[(seed, walk) for seed in _numbers("--seeds", options.seeds)] for walk in range(walks)]
    if options.numbers:
        numbers = _numbers("--numbers", options.numbers)
        if len(numbers) % walks:
            raise InputError(
                f"--numbers has {len(numbers)} numbers, which are not shared among {walks} walks; give as many to each"
            )
    else:
        steps = 6 if options.steps is None else options.steps
        if steps < 1:
            raise InputError(f"--steps {steps}: give a number above 0")
        numbers = list(range(steps * walks))
    each = len(numbers) // walks
    return [[(options.seed, number) for number in numbers[walk * each : (walk + 1) * each]] for walk in range(walks)]


def _numbers(option: str, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d{1,18}", word) for word in words):
        raise InputError(f"{option} {text}: give whole numbers with commas between, as 1,5,9")
    return [int(word) for word in words]


def _between(paths: list[Path], space: "LatentSpace", size: tuple[int, int], channels: int) -> "Route":
    """Return the route through the latents of image files. Raises InputError for what no encoder takes."""
    import torch

    from gan_dist import apply, units, walk
    from gan_dist.config.data_field import DataField

    if space.encoder is None:
        raise InputError(
            "--images: this run has no encoder that gives images their latents; an autoencoder's has (docs/drawing.md)"
        )
    images = []
    for path in paths:
        try:
            pixels = apply.read(path.read_bytes(), channels, DataField(member="")).pixels
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise InputError(f"{path} {error}; give PNGs or JPEGs") from None
        if pixels.shape[:2] != size:
            found, wanted = (units.pixels((each[0], each[1])) for each in (pixels.shape, size))
            raise InputError(f"{path} has {found} pixels, and this run takes {wanted}; resize it")
        images.append(torch.from_numpy(pixels).permute(2, 0, 1) * 2 - 1)
    return walk.of_images(space, images)
