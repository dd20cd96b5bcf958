"""`gan-dist report`: write one page about a run, or several."""

import argparse
from pathlib import Path

HELP = "write one page about a run, or several, that opens without a network"
EXAMPLES = "gan-dist report runs/digits\n  gan-dist report runs/a runs/b --out compared.html\n  gan-dist report runs/digits --format md"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories; their charts are overlaid")
    parser.add_argument(
        "--out", type=Path, help="the file to write (default RUN/report.html, or report.html here for several runs)"
    )
    parser.add_argument(
        "--format", choices=("html", "md"), default="html", help="md: Markdown, printed unless --out is given"
    )


def run(options: argparse.Namespace) -> None:
    """Write, and say where and how large; or print the Markdown."""
    from gan_dist import units
    from gan_dist.report import writing

    if options.format == "md" and options.out is None:
        print(writing.make(options.runs, "md")[0])
        return
    path = writing.write(options.runs, options.out, options.format)
    print(f"{path} ({units.size(path.stat().st_size)})")
