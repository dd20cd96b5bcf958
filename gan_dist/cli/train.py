"""`gan-dist train`: train in this process; the same as `python gan_dist/train.py`."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

HELP = "train a GAN, or continue a run: the same command again goes on where it stopped"
EXAMPLES = (
    "gan-dist train configs/digits.yaml\n"
    "  gan-dist train configs/digits.yaml --training.images 200000 --run.name longer\n"
    "  gan-dist train configs/digits.yaml --help          all keys of a config\n"
    "  gan-dist train runs/digits                         goes on with a run, by its own config\n"
    "  ./launch/run.sh configs/dcgan.yaml                 the same in one process for each GPU\n"
    "exit codes: 0 finished, 2 wrong input, 75 stopped early and saved (start it again), 1 failed"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments. They serve the list of commands only: `train` has the config loader parse them."""
    parser.add_argument("config", metavar="CONFIG", help="a config, and any of its keys: --key.path value")


def run(options: argparse.Namespace) -> None:
    """Train with the config of parsed arguments."""
    train([options.config, *options.keys])


def train(words: Sequence[str]) -> NoReturn:
    """Train, and end this process with the exit code of training."""
    from gan_dist import train as training

    training.run(list(words), "gan-dist train")
