"""`gan-dist config diff`: in what two configs differ, with all defaults filled in."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_dist.errors import EXIT_FAILED, EXIT_FINISHED

if TYPE_CHECKING:
    from gan_dist.config.diff import Difference

HELP = "say in what two configs differ, with all defaults filled in"
EXAMPLES = (
    "gan-dist config diff configs/digits.yaml runs/digits\n"
    "  gan-dist config diff runs/one runs/two --all\n"
    "exit code: 0 where they are the same, 1 where they differ, 2 for wrong input"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", metavar="diff", choices=["diff"], help="the only thing to do with configs yet")
    parser.add_argument("old", metavar="A", type=Path, help="a YAML file, a run directory, or a checkpoint in one")
    parser.add_argument("new", metavar="B", type=Path, help="likewise")
    parser.add_argument("--all", action="store_true", help="keys that are the same too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Compare, print, and return the exit code."""
    from gan_dist import run_directory
    from gan_dist.config import diff

    paths = [run_directory.locate(path) if path.is_dir() else path for path in (options.old, options.new)]
    old, new = (diff.read(path) for path in paths)
    found = diff.compare(old, new)
    differing = [each for each in found if not each.same]
    shown = found if options.all else differing
    if options.json:
        keys = [{"key": e.key, "a": e.old, "b": e.new, "mathematics": e.mathematics, "same": e.same} for e in shown]
        print(json.dumps({"a": str(options.old), "b": str(options.new), "keys": keys}, indent=1, default=str))
        return EXIT_FAILED if differing else EXIT_FINISHED
    for title, decides in (("mathematics", True), ("free: may change when a run goes on", False)):
        if part := [each for each in shown if each.mathematics == decides]:
            print(f"{title}\n" + "\n".join(_lines(part)))
    changed = sum(each.mathematics for each in differing)
    if not differing:
        print(f"the same in all {len(found)} keys")
    elif old.fingerprint and new.fingerprint and old.fingerprint == new.fingerprint:
        print(f"one fingerprint, {old.fingerprint}: a run of the one can go on with the other")
    else:
        values = f": {old.fingerprint or 'not known'}, {new.fingerprint or 'not known'}"
        print(f"{changed} of the {len(differing)} change the fingerprint{values}")
    return EXIT_FAILED if differing else EXIT_FINISHED


def _lines(found: Sequence["Difference"]) -> list[str]:
    wide = max(len(each.key) for each in found)
    return [
        f"  {each.key:{wide}}  {_text(each.old)}" + ("" if each.same else f" -> {_text(each.new)}") for each in found
    ]


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, default=str)
