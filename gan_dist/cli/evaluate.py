"""`gan-dist evaluate`: score a run's checkpoints, or images of anybody's, against real images."""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_dist import files, units
from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.scoring.command import Scored

HELP = "score a run, or a folder or zip of images, against real images"
EXAMPLES = (
    "gan-dist evaluate runs/photos                                  against the data that it was trained on\n"
    "  gan-dist evaluate runs/photos --scores fid,prdc --n 50000 --checkpoint all\n"
    "  gan-dist evaluate samples.zip --against data/photos --weights inception.pth\n"
    "  gan-dist evaluate runs/digits --features random                no weights: a trend, no measure\n"
    "  torchrun --standalone --nproc-per-node 8 -m gan_dist.cli evaluate runs/photos --n 50000"
)
_SILENT = 10.0  # seconds between two lines of progress
_MOST_SILENT = 320.0  # where nobody watches a terminal: twice as long after each line, up to this


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", metavar="RUN|IMAGES", help="a run, a checkpoint, or a folder, zip or tar of images")
    parser.add_argument(
        "--against",
        metavar="SHARDS|IMAGES",
        help="the real images (default for a run: its evaluate.against, else the data that it was trained on)",
    )
    parser.add_argument(
        "--scores",
        default="fid,kid,prdc",
        help="kinds of scores, with commas (default fid,kid,prdc; docs/is-it-working.md)",
    )
    parser.add_argument(
        "--features",
        metavar="KIND[:FILE]",
        help="what looks at the images, for all scores: inception, vgg16, dinov2, clip (each with its weights FILE), "
        "classifier, random, pixels, or FILE.py:CLASS (default: what each score is published with)",
    )
    parser.add_argument("--weights", metavar="FILE", type=Path, help="weights of the network that looks at the images")
    parser.add_argument(
        "--classifier",
        metavar="FILE",
        type=Path,
        help="classifier of digits, for modes (default: the one that the run is scored with)",
    )
    parser.add_argument("--resize", help="pil-bicubic (default, clean-fid) or tf1-bilinear (StyleGAN, torch-fidelity)")
    parser.add_argument("--n", type=int, default=0, help="generated images (default 10,000; of IMAGES all)")
    parser.add_argument("--reals", type=int, default=0, metavar="N", help="real images at most (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated images (default 0)")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint, or all (default: the newest whole one)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--json", action="store_true", help="print as JSON, with the record of each score")


def run(options: argparse.Namespace) -> None:
    """Score, print, and append to RUN/scores.jsonl."""
    from gan_dist.engine.joined import Joined
    from gan_dist.scoring import command

    for name in ("n", "reals"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name} {getattr(options, name)}: give a number above 0")
    joined = Joined(options.device)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = command.score(options, joined, Path(scratch), Progress(joined.rank == 0))
    except InputError:
        if joined.rank:  # rank 0 says it, and a launcher ends the others as soon as one has ended
            time.sleep(2)
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(2)
        raise
    if joined.rank == 0:
        _print(found, options.json)
        sys.stdout.flush()
    joined.close()
    if problems := [each.problem for each in found if each.problem]:
        raise InputError(problems[0])


def _print(found: "list[Scored]", as_json: bool) -> None:
    if as_json:
        reports = [_report(each) for each in found]
        plain = files.plain(reports[0] if len(reports) == 1 else reports)
        print(json.dumps(plain, indent=1, default=str, allow_nan=False))
        return
    for each in found:
        print(f"{each.title}, {each.lines[0]['n_generated']:,} generated images" if each.lines else each.title)
        for line in each.lines:
            error = f" +- {line['error']:.3g}" if line["error"] is not None and math.isfinite(line["error"]) else ""
            looked = f"  {line['extractor']['kind']}, {line['n_real']:,} real" if line.get("extractor") else ""
            print(f"  {line['metric']:24s} {line['value']:<12.6g}{error}{looked}")
        for note in each.notes:
            print(f"  note: {note}")


def _report(each: "Scored") -> dict[str, Any]:
    scores = {line["metric"]: {"value": line["value"], "error": line["error"]} for line in each.lines}
    return {"what": each.title, "scores": scores, "record": each.lines, "notes": each.notes, "pictures": each.pictures}


class Progress:
    """A line now and then: what is done, how far, how long still."""

    def __init__(self, speaks: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._speaks, self._what, self._clock = speaks, "", clock
        self._silent, self._said = _SILENT, clock()
        self.begin("")

    def begin(self, what: str, blocks: int = 0, seconds: float = 0.0) -> None:
        """Say what is done from here on; then come `blocks` of pairs, of so many seconds each, about."""
        self._what, self._blocks, self._seconds = what, blocks, seconds
        self._began = self._said = self._clock()
        self._compared, self._pairs_began = -1, 0.0

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is, and no more than once in ten seconds. A call after all are done is a block of pairs."""
        now = self._clock()
        if done >= total:
            self._compared += 1
            self._pairs_began = self._pairs_began or now
        if not self._speaks or now - self._said < self._silent or not done or (done >= total and not self._blocks):
            return
        if done < total:
            left = (total - done) * (now - self._began) / done + self._blocks * self._seconds
            text = f"{done:,} of {total:,}"
        else:
            compared = min(self._compared, self._blocks)
            each = (now - self._pairs_began) / compared if compared else self._seconds
            left = (self._blocks - compared) * each
            text = f"all pairs compared, {compared:,} of {self._blocks:,} blocks"
        self._said = now
        if not sys.stderr.isatty():
            self._silent = min(2 * self._silent, _MOST_SILENT)
        print(f"{self._what}: {text}, {units.hours(left)} left", file=sys.stderr, flush=True)
