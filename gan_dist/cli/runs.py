"""`gan-dist runs`: print a line for each run in a folder."""

import argparse
import contextlib
import json
from pathlib import Path

from gan_dist.errors import InputError

HELP = "print a line for each run in a folder"
EXAMPLES = "gan-dist runs\n  gan-dist runs --sort score\n  gan-dist runs /scratch/me/runs --json"
SORTS = ("name", "state", "images", "rate", "score", "best", "event", "size", "age")
"""The columns; by numbers the greatest is first, by score and best the best, by age the newest."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help="where the runs are (default runs)"
    )
    parser.add_argument("--json", action="store_true", help="print a list of what `gan-dist status --json` prints")
    parser.add_argument("--sort", choices=SORTS, default="name", help="the column to sort by (default name)")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from gan_dist import files, run_directory
    from gan_dist.report import table

    if not options.folder.is_dir():
        raise InputError(f"there is no folder {options.folder}; give the folder that holds your runs")
    reports = []
    for path in run_directory.runs_in(options.folder):
        with contextlib.suppress(InputError):  # moved or deleted meanwhile
            reports.append(table.describe(path))
    reports = table.sorted_by(reports, options.sort)
    if options.json:
        print(json.dumps(files.plain(reports), indent=1))
        return
    if not reports:
        print(f"{options.folder} holds no run yet")
        return
    print("\n".join(table.lines(reports)))
