"""`gan-dist runs`: print a line for each run in a folder."""

import argparse
import json
from pathlib import Path

from gan_dist.errors import InputError

HELP = "print a line for each run in a folder"
EXAMPLES = "gan-dist runs\n  gan-dist runs /scratch/me/runs --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help="where the runs are (default runs)"
    )
    parser.add_argument("--json", action="store_true", help="print a list of what `gan-dist status --json` prints")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from gan_dist import run_directory, run_status

    if not options.folder.is_dir():
        raise InputError(f"there is no folder {options.folder}; give the folder that holds your runs")
    reports = [run_status.read(path) for path in run_directory.runs_in(options.folder)]
    if options.json:
        print(json.dumps(reports, indent=1))
        return
    if not reports:
        print(f"{options.folder} holds no run yet")
        return
    rows = [("run", "state", "images", "rate", "last event"), *(run_status.row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
