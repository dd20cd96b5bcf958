"""`gan-dist apply`: put images through a run that turns images into images."""

import argparse
import sys
from pathlib import Path

from gan_dist.errors import InputError

HELP = "put images through a run that turns images into images"
EXAMPLES = (
    "gan-dist apply runs/edges_digits drawings/ --out digits\n"
    "  gan-dist apply runs/camvid map.png --out photos --replace\n"
    "  gan-dist apply runs/horse2zebra PHOTOS --out NEW --way BA --tile 1024 --overlap 64"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder of images of any size, or one image")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for a PNG of each image, of the same name and size, in the same subfolders",
    )
    parser.add_argument("--replace", action="store_true", help="replace files of these names in --out")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    parser.add_argument("--way", default="", metavar="AB|BA", help="the way, of a run that learnt both")
    parser.add_argument(
        "--tile",
        type=int,
        default=0,
        metavar="N",
        help="put images through the network in tiles of N pixels (default: whole)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="pixels at each edge of a tile that are seen and not kept (default 32); as many as the network sees around "
        "leave no seam",
    )


def run(options: argparse.Namespace) -> None:
    """Write an image for each image."""
    import torch
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from gan_dist import apply, files, generate, tiles

    if options.tile < 0 or (options.overlap or 0) < 0:
        raise InputError(f"--tile {options.tile} --overlap {options.overlap or 0}: give numbers from 0 on")
    if options.overlap is not None and not options.tile:
        raise InputError(f"--overlap {options.overlap} has no effect without --tile N; add it")
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
    game.takes(options.way)
    overlap = tiles.OVERLAP if options.overlap is None else options.overlap
    tile = tiles.tiling(game, options.tile, overlap) if options.tile else None
    problems, said = [], set[str]()
    console = Console(stderr=True)
    bar = Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("applying", total=len(found))
        for number, (path, target) in enumerate(found.items()):
            relative = str(target.relative_to(options.out))

            def say(remark: str, path: Path = path) -> None:
                if remark not in said:  # of the first image that it is true of
                    print(f"note: {path}: {remark}", file=sys.stderr, flush=True)
                said.add(remark)

            def progress(part: float, number: int = number) -> None:
                bar.update(task, completed=number + part)

            try:
                made = apply.apply(game, config, path.read_bytes(), relative, options.way, tile, say, progress)
            except (InputError, ValueError, OSError) as error:
                problems.append(f"{path}{':' if isinstance(error, InputError) else ''} {error}")
                continue
            except (RuntimeError, MemoryError) as error:
                on_gpu = isinstance(error, torch.OutOfMemoryError)
                if not (on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
                    raise
                advice = "give a smaller --tile" if tile else "add --tile 512"
                problems.append(
                    f"{path} is too large for {'the memory of the GPU' if on_gpu else 'the free memory'} ({advice})"
                )
                continue
            files.make_directory(target.parent, "--out")
            try:
                files.write_atomic(target, made)
            except OSError as error:
                raise InputError(
                    f"{target} cannot be written ({error.strerror or error}); make room, and start again with --replace"
                ) from None
    print(f"{len(found) - len(problems)} images of {name} in {options.out}")
    if problems:
        for problem in problems[1:]:
            print(f"note: {problem}", file=sys.stderr)
        more = f", and {len(problems) - 1} more failed" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}; the other images are written")
