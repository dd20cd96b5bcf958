"""`gan-dist COMMAND ...`: one file per command, with its arguments and the function that runs it.

A command imports what it needs when it runs: `gan-dist --help` must not wait for torch.
"""

import argparse
import contextlib
import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from gan_dist import __version__, threads
from gan_dist.cli import (
    apply,
    board,
    checkpoints,
    config,
    digit_classifier,
    doctor,
    evaluate,
    export,
    film,
    generate,
    import_weights,
    index,
    init,
    keys,
    pack,
    plan,
    psnr,
    report,
    runs,
    slurm,
    status,
    track,
    train,
    walk,
    watch,
)
from gan_dist.errors import EXIT_FAILED, EXIT_FINISHED, EXIT_INPUT, InputError

COMMANDS: dict[str, ModuleType] = {
    "init": init,
    "train": train,
    "status": status,
    "runs": runs,
    "watch": watch,
    "report": report,
    "generate": generate,
    "walk": walk,
    "film": film,
    "apply": apply,
    "export": export,
    "import": import_weights,
    "evaluate": evaluate,
    "psnr": psnr,
    "checkpoints": checkpoints,
    "pack": pack,
    "index": index,
    "digit-classifier": digit_classifier,
    "keys": keys,
    "config": config,
    "doctor": doctor,
    "plan": plan,
    "slurm": slurm,
    "track": track,
    "board": board,
}
"""Each module has HELP, EXAMPLES, `arguments(parser)`, which adds the command's arguments, and `run(options)`, which may
return an exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Training ends the process itself."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a stream without some letter shows its number instead
            stream.reconfigure(errors="backslashreplace")
    threads.spin_briefly()  # before a command loads torch
    try:
        if words[:1] == ["train"]:
            train.train(words[1:])  # a config's keys are its arguments: the config loader parses them
        code = _run(words)
        sys.stdout.flush()
    except InputError as error:
        if os.environ.get("GAN_DIST_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # `gan-dist ... | head`
        _close_stdout()
    except OSError as error:
        if error.filename is not None or not _stdout_fails():
            raise
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        _close_stdout()
        return EXIT_FAILED
    else:
        return code
    return EXIT_FINISHED


def _run(words: list[str]) -> int:
    parser = _parser()
    if not words:
        parser.print_help()
        return EXIT_FINISHED
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        near = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"there is no command {words[0]}; {near}`gan-dist --help` lists all commands")
    options, keys = parser.parse_known_args(words)
    if keys and not getattr(options, "takes_keys", False):
        raise InputError(f"unknown argument {keys[0]}; see `gan-dist {words[0]} --help`")
    options.keys = keys
    code: int | None = COMMANDS[words[0]].run(options)
    return code or EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gan-dist",
        description="Train GANs; look at runs, their samples, checkpoints and data.",
        epilog="first run: gan-dist train configs/digits.yaml\na command's own help: gan-dist COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            epilog=f"examples:\n  {command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(added)
    return parser


def _stdout_fails() -> bool:
    """Say whether standard output refuses one more line."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _close_stdout() -> None:
    """Send what is left nowhere: Python would fail again when it flushes at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
