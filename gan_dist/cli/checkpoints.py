"""`gan-dist checkpoints`: list a run's checkpoints."""

import argparse
import json
from pathlib import Path

HELP = "list a run's checkpoints"
EXAMPLES = "gan-dist checkpoints runs/digits --verify"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("--verify", action="store_true", help="compare every file's SHA-256, not only its size")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print a line for each checkpoint."""
    from gan_dist import run_directory, units
    from gan_dist.checkpoint import store

    directory = run_directory.locate(options.run)
    names = store.names(directory / "checkpoints")
    if (options.run / "manifest.json").exists():
        names = [name for name in names if (directory / "checkpoints" / name).samefile(options.run)]
    rows = [store.describe(directory / "checkpoints" / name, options.verify) for name in names]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"{directory} has no checkpoint yet")
    for row in rows:
        state = "whole" if row["whole"] else f"damaged: {row['problem']}"
        size, digest = units.size(row["bytes"]), (row["digest"] or "-")[:16]
        print(f"{row['name']}  {row['images']:>13,} images  {size:>12s}  {digest}  {state}")
