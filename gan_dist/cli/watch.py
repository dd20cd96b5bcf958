"""`gan-dist watch`: show a run live in the terminal."""

import argparse
from pathlib import Path

HELP = "show a run live in the terminal: state, figures, alarms, last events"
EXAMPLES = "gan-dist watch runs/digits\n  gan-dist watch runs/digits --once\n  gan-dist watch runs/digits --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("--once", action="store_true", help="print how it stands now, and end")
    parser.add_argument("--json", action="store_true", help="print JSON, a line each time that the run's files change")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks (default 1)")


def run(options: argparse.Namespace) -> None:
    """Show until the run ends, or Ctrl-C."""
    from gan_dist.report import terminal

    terminal.watch(options.run, once=options.once, as_json=options.json, every=options.every)
