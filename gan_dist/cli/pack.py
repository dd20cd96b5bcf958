"""`gan-dist pack`: make shards of images."""

import argparse
import os
from pathlib import Path

from gan_dist import units
from gan_dist.errors import InputError

HELP = "make WebDataset shards of images"
EXAMPLES = (
    "gan-dist pack photos/ data/photos --resolution 64\n  gan-dist pack digits data/digits --resolution 16\n"
    "  gan-dist pack stacked-mnist data/stacked --from mnist/"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder (subfolders are classes), zip, tar, folder of shards, MNIST idx folder, CIFAR archive, or the words "
        "digits or stacked-mnist",
    )
    parser.add_argument(
        "dest", metavar="DEST", type=Path, help="folder for the shards; the same command continues after a stop"
    )
    parser.add_argument(
        "--resolution",
        type=_resolution,
        metavar="N|WxH",
        help="centre-crop and resize: 64 to a square, 96x64 to width x height",
    )
    parser.add_argument(
        "--channels", type=int, choices=(1, 3, 4), help="convert to grey (1), RGB (3) or RGB with transparency (4)"
    )
    parser.add_argument(
        "--classes",
        choices=("none", "folder"),
        help="none: no labels. folder: the first folder below what all images share (default: labels in the source, else folder)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "all"),
        help="images of MNIST's idx files or of a CIFAR archive (default: train)",
    )
    parser.add_argument("--from", dest="origin", metavar="MNIST", help="SOURCE of the digits of stacked-mnist")
    parser.add_argument("--count", type=int, metavar="N", help="triples of stacked-mnist (default: 128000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _resolution(text: str) -> int | str:
    """Read a size as data.resolution does: squares as a number."""
    try:
        size = units.image_size(text)
        if min(size) < 1:
            raise ValueError("give numbers above 0")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return size[0] if size[0] == size[1] else units.pixels(size)


def run(options: argparse.Namespace) -> None:
    """Pack, and print what was packed."""
    from gan_dist.data.pack import packing, sources

    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: give a number above 0")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count {options.count}: give a number above 0")
    if options.origin and options.source != sources.STACKED:
        raise InputError(f"--from has no effect on {options.source}: it is for {sources.STACKED}; remove it")
    report = packing.pack(
        f"{options.source}:{options.origin}" if options.origin else options.source,
        options.dest,
        resolution=options.resolution,
        channels=options.channels,
        processes=options.processes,
        classes=options.classes,
        split=options.split,
        count=options.count,
        progress=not options.json,
    )
    if options.json:
        print((options.dest / "pack.json").read_text())
    else:
        print("\n".join(report.lines()))
