"""`gan-dist evaluate`: score a run's checkpoints, or images of anybody's, against real images."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_dist import units
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


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", metavar="RUN|IMAGES", help="a run, a checkpoint, or a folder, zip or tar of images")
    parser.add_argument(
        "--against",
        metavar="SHARDS|IMAGES",
        help="the real images (default for a run: the data that it was trained on)",
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
    joined.close()


def _print(found: "list[Scored]", as_json: bool) -> None:
    if as_json:
        reports = [_report(each) for each in found]
        print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=1, default=str))
        return
    for each in found:
        print(f"{each.title}, {each.lines[0]['n_generated']:,} generated images" if each.lines else each.title)
        for line in each.lines:
            error = "" if line["error"] is None else f" +- {line['error']:.3g}"
            looked = f"  {line['extractor']['kind']}, {line['n_real']:,} real" if line.get("extractor") else ""
            print(f"  {line['metric']:24s} {line['value']:<12.6g}{error}{looked}")
        for note in each.notes:
            print(f"  note: {note}")


def _report(each: "Scored") -> dict[str, Any]:
    scores = {line["metric"]: {"value": line["value"], "error": line["error"]} for line in each.lines}
    return {"what": each.title, "scores": scores, "record": each.lines, "notes": each.notes, "pictures": each.pictures}


class Progress:
    """A line now and then: what is done, how far, how long still."""

    def __init__(self, speaks: bool) -> None:
        self._speaks, self._what = speaks, ""
        self._began = self._said = time.monotonic()

    def begin(self, what: str) -> None:
        """Say what is done from here on."""
        self._what, self._began = what, time.monotonic()
        self._said = self._began

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is, and no more than once in ten seconds."""
        now = time.monotonic()
        if not self._speaks or now - self._said < _SILENT or not done:
            return
        self._said = now
        left = units.hours((total - done) * (now - self._began) / done)
        text = "comparing all pairs" if done >= total else f"{done:,} of {total:,}, {left} left"
        print(f"{self._what}: {text}", file=sys.stderr, flush=True)
