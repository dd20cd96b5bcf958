"""Start ranks by torchrun or accelerate, and end the way the training ended.

    python launch/ranks.py torchrun --standalone --nproc-per-node 2 gan_dist/train.py CONFIG ...
    python launch/ranks.py accelerate --multi_gpu --num_processes 2 gan_dist/train.py CONFIG ...

Both launchers turn every exit code into 1 and print a table and a traceback of their own. Here wrong input ends with 2 and
its one line, and a run that stopped early and saved with 75. After a failure the launchers' report stays.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

INPUT, STOPPED = 2, 75
LOGGERS = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.errors.error_handler",
    "torch.distributed.run",
)


def main(words: list[str]) -> int:
    """Launch, and return the exit code."""
    launch = LAUNCHERS[words[0]]
    with tempfile.TemporaryDirectory(prefix="gan_dist-") as folder:
        codes = Path(folder) / "exit-codes"
        os.environ["GAN_DIST_EXIT_CODES"] = str(codes)  # each rank adds its own (gan_dist/train.py)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(lambda record: known(codes) is None)
        try:
            launch(words[1:])
        except Exception:  # a rank's failure, or a signal to this process
            code = known(codes)
            if code is None:
                raise
            return code
    return 0


def known(codes: Path) -> int | None:
    """Return the exit code on which the ranks agree: wrong input, or stopped and saved. None for anything else."""
    said = set(codes.read_text().split()) if codes.exists() else set()
    if str(INPUT) in said:  # the others are killed while they wait for it
        return INPUT
    return STOPPED if said == {str(STOPPED)} else None


def torchrun(words: list[str]) -> None:
    """Run torchrun in this process."""
    from torch.distributed.run import parse_args, run

    run(parse_args(words))


def accelerate(words: list[str]) -> None:
    """Run `accelerate launch` in this process."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    launch_command(launch_command_parser().parse_args(words))


LAUNCHERS: dict[str, Callable[[list[str]], None]] = {"torchrun": torchrun, "accelerate": accelerate}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
