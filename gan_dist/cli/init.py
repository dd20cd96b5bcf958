"""`gan-dist init`: look at images and at this machine, and write a config that fits them."""

import argparse
from pathlib import Path

from gan_dist import units
from gan_dist.cli.pack import resolution

HELP = "look at images and at this machine, and write a config that fits them"
EXAMPLES = (
    "gan-dist init flowers --data photos/                     writes configs/flowers.yaml\n"
    "  gan-dist init faces.yaml --data faces.zip --resolution 64\n"
    "  gan-dist init maps --data maps/ --game paired\n"
    "  gan-dist init larger --data photos/ --game restoration"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="writes configs/NAME.yaml; or a path that ends in .yaml")
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="folder, zip, tar, or any other SOURCE of `gan-dist pack`"
    )
    parser.add_argument(
        "--game",
        choices=("generation", "paired", "unpaired", "restoration"),
        default="",
        help="generation draws new images; paired and unpaired turn images of one folder into those of another; restoration "
        "makes degraded images clean, which need not be there (default: by the names of the folders: trainA and trainB, A and "
        "B, input and target; HR and LR)",
    )
    parser.add_argument(
        "--resolution", type=resolution, metavar="N|WxH", help="pixels to train at (default: by the images)"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also play a few steps and say how long training takes; for GPUs this is predicted (seconds to minutes)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the config, and print what was found and what to type next."""
    from gan_dist.recipes import expect, initialise, look

    path: Path = initialise.place(options.name)
    size = None if options.resolution is None else units.image_size(options.resolution)
    made = initialise.make(path, options.data, size, options.game)
    print("\n".join(made.lines), flush=True)
    if options.measure:
        print(expect.line(made.config, look.machine()), flush=True)
    print("\n".join([f"wrote {made.path}; next:", *(f"  {command}" for command in made.commands)]))
