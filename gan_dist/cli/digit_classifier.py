"""`gan-dist digit-classifier`: train the classifier by which the score `modes` counts digits."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gan_dist import units
from gan_dist.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

HELP = "train the classifier of digits that the score `modes` needs, in some minutes on a CPU"
EXAMPLES = "gan-dist digit-classifier mnist/ data/digit-classifier.pt"
_SILENT = 5  # seconds between two lines of progress


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("mnist", metavar="MNIST", help="MNIST's training digits, as `gan-dist pack` takes them")
    parser.add_argument("file", metavar="FILE", type=Path, help="the classifier's file")
    parser.add_argument("--test", metavar="SOURCE", help="the test digits (default: those of MNIST's idx folder)")
    parser.add_argument("--epochs", type=int, default=4, help="times that each digit is seen (default: 4)")


def run(options: argparse.Namespace) -> None:
    """Train, measure on the test digits, and write the file."""
    from gan_dist.evaluation import digits

    if options.epochs < 1:
        raise InputError(f"--epochs {options.epochs}: give a number above 0")
    if not options.file.parent.is_dir():
        raise InputError(f"there is no folder {options.file.parent} for {options.file.name}; make it first")
    if options.file.exists():
        try:
            digits.load(options.file)
        except InputError:
            raise InputError(
                f"{options.file} is there already, and is no whole digit classifier; remove it, or give another FILE"
            ) from None
    images, labels = _digits(options.mnist, None if options.test else "train")
    try:
        tests = _digits(options.test or options.mnist, None if options.test else "test")
    except InputError as error:
        raise InputError(str(error) if options.test else f"{error}, or give the test digits by --test SOURCE") from None
    began = time.monotonic()
    network = digits.train(images, labels, options.epochs, _Progress())
    accuracy = digits.accuracy(network, *tests)
    digits.save(digits.Classifier(network, accuracy, len(tests[0])), options.file)
    seconds = time.monotonic() - began
    print(f"{options.file}: {accuracy:.2%} of {len(tests[0]):,} test digits right, after {units.hours(seconds)}")
    if accuracy < digits.WANTED_ACCURACY:
        print(
            f"note: {digits.WANTED_ACCURACY:.1%} is wanted, as wrong digits add modes; try --epochs {2 * options.epochs}"
        )


def _digits(source: str, split: str | None) -> tuple["Tensor", "Tensor"]:
    """Return the digits (N, 28, 28) uint8 of a source and their labels (N,) int64."""
    import numpy as np
    import torch

    from gan_dist.data.pack import sources, stacked

    with tempfile.TemporaryDirectory() as scratch:
        found = sources.open_source(source, Path(scratch), split=split)
        stacked.check_digits(found, source)
        try:
            pixels = np.stack([stacked.digit(item.place) for item in found.items])
        except OSError as error:
            raise InputError(f"a digit of {source} cannot be used: it is {error}") from None
    return torch.from_numpy(pixels), torch.tensor([item.label for item in found.items])


class _Progress:
    """A line now and then: how far, how fast, how long still."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < _SILENT:
            return
        self._said = now
        rate = done / (now - self._began)
        left = units.hours((total - done) / rate)
        print(f"training {done:,}/{total:,}  {rate:,.0f} digits/s  {left} left", file=sys.stderr, flush=True)
