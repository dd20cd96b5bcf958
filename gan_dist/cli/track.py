"""`gan-dist track`: write a run's figures and grids to W&B from its own files."""

import argparse
from pathlib import Path

HELP = "write a run's figures and grids to W&B from its own files"
EXAMPLES = "gan-dist track runs/digits\n  gan-dist track runs/digits --wandb online"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument(
        "--wandb", choices=("auto", "online", "offline"), default="auto", help="default: as training does"
    )
    parser.add_argument("--id", default="", help="another W&B run than the run's own")


def run(options: argparse.Namespace) -> None:
    """Write, and print where to look."""
    from gan_dist.tracking.rebuild import rebuild

    count, place = rebuild(options.run, options.wandb, options.id)
    print(f"{count:,} lines of {options.run / 'metrics.jsonl'} are in W&B: {place}")
