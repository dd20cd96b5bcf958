"""`gan-dist keys`: find config keys by name, by what they do, or by what other tools call them."""

import argparse
import dataclasses
import json
import shutil
import textwrap
from typing import TYPE_CHECKING

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.config.search import Found

HELP = "find config keys by name, by what they do, or by what other tools call them"
EXAMPLES = (
    "gan-dist keys lr                  what other tools call so\n"
    "  gan-dist keys learning rate       all words in a key's name, parts or description\n"
    "  gan-dist keys gamma --json"
)
_MOST = 12


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", metavar="WORD", nargs="+", help="a word, or several that a key must all have")
    parser.add_argument("--all", action="store_true", help=f"all that is found, not the likeliest {_MOST}")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Search, and print what is found."""
    from gan_dist.config import search

    known = search.everything()
    found, note = search.search(known, options.words)
    if not found:
        if note:
            raise InputError(f"no key is called {' '.join(options.words)}; {note}")
        close = search.near(known, options.words)
        near = f"did you mean {' or '.join(close)}?" if close else "try a shorter word"
        raise InputError(f"no key has {' '.join(options.words)} in its name or description; {near}")
    shown = found if options.all or options.json else found[:_MOST]
    if options.json:
        print(json.dumps({"note": note, "keys": [dataclasses.asdict(each) for each in shown]}, indent=1))
        return
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    if note:
        print(f"{' '.join(options.words)}: {note}\n")
    print("\n\n".join(_text(each, width) for each in shown))
    if len(found) > len(shown):
        print(f"\n{len(found) - len(shown)} more: add a word, or --all")


def _text(found: "Found", width: int) -> str:
    """Return the lines that describe a key."""
    default = "required" if found.default is None else f"default: {found.default}"
    change = "free: may change when a run goes on" if found.free else "mathematics: fixed for a run"
    lines = [*found.keys, f"  {found.type} [{default}] {change}"]
    lines += textwrap.wrap(found.description, width, initial_indent="  ", subsequent_indent="  ")
    has = [f"of {', '.join(found.kinds)}"] if found.kinds and found.kinds != found.games else []
    has += [f"in game.kind {', '.join(found.games)}"] if found.games else []
    return "\n".join([*lines, *textwrap.wrap("; ".join(has), width, initial_indent="  (", subsequent_indent="   ")]) + (
        ")" if has else ""
    )
