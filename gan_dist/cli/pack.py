"""`gan-dist pack`: make shards of images."""

import argparse
import os
from pathlib import Path

from gan_dist import units
from gan_dist.errors import InputError

HELP = "make WebDataset shards of images"
EXAMPLES = (
    "gan-dist pack photos/ data/photos --resolution 64\n  gan-dist pack digits data/digits --resolution 16\n"
    "  gan-dist pack stacked-mnist data/stacked --from mnist/\n"
    "  gan-dist pack facades/ data/facades --fields input=trainB,target=trainA\n"
    "  gan-dist pack maps/train data/maps --halves target,input"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder (subfolders are classes), zip, tar, folder of shards, MNIST idx folder, CIFAR archive, or the words "
        "digits, stacked-mnist or edges",
    )
    parser.add_argument(
        "dest", metavar="DEST", type=Path, help="folder for the shards; the same command continues after a stop"
    )
    parser.add_argument(
        "--resolution",
        type=resolution,
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
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="SOURCE",
        help="SOURCE of the digits of stacked-mnist, or of the images of edges",
    )
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--fields",
        metavar="a=FOLDER,b=FOLDER",
        help="several images a sample: files of the same name in folders below SOURCE; b=LR:{}x4 where names differ",
    )
    several.add_argument(
        "--halves", metavar="a,b", help="two images a sample: the left and the right half of each image"
    )
    several.add_argument(
        "--list",
        metavar="a,b",
        help="several images a sample: SOURCE is a text file, a line for each sample: a.png, b.png",
    )
    parser.add_argument(
        "--labels", metavar="a", default="", help="which of these are label maps: their numbers are kept"
    )
    parser.add_argument("--count", type=int, metavar="N", help="triples of stacked-mnist (default: 128000)")
    parser.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="leave out images that show nearly what an earlier one shows (default: they are counted, and listed)",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def resolution(text: str) -> int | str:
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
    from gan_dist.data.pack import packing, pairs, sources

    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: give a number above 0")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count {options.count}: give a number above 0")
    if options.origin and options.source not in (sources.STACKED, sources.EDGES):
        raise InputError(
            f"--from has no effect on {options.source}: it is for {sources.STACKED} and {sources.EDGES}; remove it"
        )
    ways = {"folders": options.fields, "halves": options.halves, "list": options.list}
    layouts = [pairs.layout(kind, text, options.labels) for kind, text in ways.items() if text is not None]
    if layouts and (options.classes or options.split or options.origin):
        raise InputError("--classes, --split and --from have no effect on samples of several images; remove them")
    if options.labels and not layouts:
        raise InputError(f"--labels {options.labels} has no effect without --fields, --halves or --list; remove it")
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
        layout=layouts[0] if layouts else None,
        drop_duplicates=options.drop_duplicates,
    )
    if options.json:
        print((options.dest / "pack.json").read_text())
    else:
        print("\n".join(report.lines()))
