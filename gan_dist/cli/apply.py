"""`gan-dist apply`: put images through a run that turns images into images."""

import argparse
import sys
from pathlib import Path

from gan_dist.errors import InputError

HELP = "put images through a run that turns images into images"
EXAMPLES = "gan-dist apply runs/edges_digits drawings/ --out digits\n  gan-dist apply runs/camvid map.png --out photos --replace"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder of images of any size, or one image")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for a PNG of each image, of the same name and size"
    )
    parser.add_argument("--replace", action="store_true", help="replace files of these names in --out")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    parser.add_argument("--way", default="", metavar="AB|BA", help="the way, of a run that learnt both")


def run(options: argparse.Namespace) -> None:
    """Write an image for each image."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from gan_dist import apply, files, generate

    found = apply.images_in(options.images, options.out)
    if (there := [path for path in found.values() if path.exists()]) and not options.replace:
        raise InputError(
            f"{there[0]} is there already; add --replace to replace such files, or give --out another folder"
        )
    game, config, name = generate.load(options.run, options.checkpoint)
    if not game.shows_data:
        raise InputError(
            f"{options.run} draws images from latents and takes none: use `gan-dist generate {options.run}`"
        )
    problems = []
    console = Console(stderr=True)
    listed = track(found.items(), "applying", console=console, transient=True, disable=not sys.stderr.isatty())
    for path, target in listed:
        relative = str(target.relative_to(options.out))
        try:
            made = apply.apply(game, config, path.read_bytes(), relative, options.way)
        except (ValueError, OSError) as error:
            problems.append(f"{path} {error}")
            continue
        except (RuntimeError, MemoryError) as error:
            on_gpu = isinstance(error, torch.OutOfMemoryError)
            if not (on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
                raise
            problems.append(f"{path} is too large for {'the memory of the GPU' if on_gpu else 'the free memory'}")
            continue
        files.make_directory(target.parent, "--out")
        files.write_atomic(target, made)
    print(f"{len(found) - len(problems)} images of {name} in {options.out}")
    if problems:
        more = f", and {len(problems) - 1} more failed" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}; the other images are written")
