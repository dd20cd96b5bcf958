"""`gan-dist track`: write a run's figures and grids to a dashboard from its own files."""

import argparse
from pathlib import Path

from gan_dist.errors import InputError

HELP = "write a run's figures and grids to W&B, TensorBoard or trackio from its own files"
EXAMPLES = (
    "gan-dist track runs/digits\n"
    "  gan-dist track runs/digits --wandb online\n"
    "  gan-dist track runs/digits --to tensorboard       again while it trains: only what is new is written"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory; it may be training")
    parser.add_argument("--to", choices=("wandb", "tensorboard", "trackio"), default="wandb", help="default wandb")
    parser.add_argument(
        "--wandb", choices=("auto", "online", "offline"), default="auto", help="default: as training does"
    )
    parser.add_argument("--id", default="", help="another W&B run than the run's own")


def run(options: argparse.Namespace) -> None:
    """Write, and print where to look."""
    if options.to == "wandb":
        from gan_dist.tracking.rebuild import rebuild

        count, place = rebuild(options.run, options.wandb, options.id)
        print(f"{count:,} lines of {options.run / 'metrics.jsonl'} are in W&B: {place}")
        return
    if options.wandb != "auto" or options.id:
        raise InputError(f"--{'id' if options.id else 'wandb'} has no effect with --to {options.to}; remove it")
    from gan_dist import run_directory
    from gan_dist.tracking import to_tensorboard, to_trackio

    write = to_tensorboard.write if options.to == "tensorboard" else to_trackio.write
    lines, pictures, place = write(run_directory.locate(options.run))
    new = f"{lines:,} new lines and {pictures:,} new pictures" if lines or pictures else "nothing new"
    print(f"{new} of {options.run}; look at it with: {place}")
