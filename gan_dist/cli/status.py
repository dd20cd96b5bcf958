"""`gan-dist status`: print how a run stands."""

import argparse
import json
from pathlib import Path

HELP = "print how a run stands: state, images, rate, time left, last events, checkpoints, first failure"
EXAMPLES = "gan-dist status runs/digits\n  gan-dist status runs/digits --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print the report."""
    from gan_dist import files, run_status

    report = files.plain(run_status.read(options.run))
    print(json.dumps(report, indent=1) if options.json else "\n".join(run_status.lines(report)))
