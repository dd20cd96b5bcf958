"""Train: `gan-dist train CONFIG [--key.path value ...]`, or this file under accelerate launch, torchrun or python.

Exit codes: 0 finished, 2 wrong input, 75 stopped early and saved (start it again), 1 failed, or stopped by control.collapse.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    # run as a script: Python put this folder first, where `gan_dist` is not found and our modules shadow others'
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def run(arguments: list[str], program: str = "train.py") -> NoReturn:
    """Train, and end this process with the exit code."""
    from gan_dist import threads

    threads.spin_briefly()  # before torch is loaded
    try:
        code = main(arguments, program)
    except SystemExit as error:  # --help, or an option without its value
        code = error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:  # before the training listens to signals
        print("interrupted before the training began; nothing was changed", file=sys.stderr)
        code = 75
    except BaseException:
        import traceback

        traceback.print_exc()
        note("\n".join(traceback.format_exc().splitlines()[-8:]))
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk changes no exit code
            stream.flush()
    if path := os.environ.get("GAN_DIST_EXIT_CODES"):  # launch/ranks.py, as launchers turn every code into 1
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"{code}\n")
    # without Python's clean-up: gloo aborts where another rank is gone already, and a W&B that hangs would hang here
    os._exit(code)


def main(arguments: list[str], program: str = "train.py") -> int:
    """Train, and return the exit code."""
    from gan_dist.control import launcher
    from gan_dist.errors import EXIT_FAILED, EXIT_INPUT, InputError, RunError

    if problem := leftover(os.environ):
        report(InputError(problem))
        return EXIT_INPUT
    launcher_watch = launcher.watch()  # before anything that takes time
    if int(os.environ.get("RANK", "0")) == 0 and sys.stderr.isatty():
        print("loading torch", file=sys.stderr, flush=True)  # a busy machine takes a minute for it
    from gan_dist import config as config_module

    speaks = int(os.environ.get("RANK", "0")) == 0
    config = None
    try:
        config = config_module.load(arguments, program)
    except InputError as error:
        problem = str(error)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # at once, without loading torch
            report(error)
            return EXIT_INPUT

    from gan_dist.control.stop import Reason
    from gan_dist.engine import AgreedError, Engine, refuse
    from gan_dist.report import writing
    from gan_dist.trainer import Trainer

    try:
        if config is None:
            refuse(problem)
        engine = Engine(config)
        speaks = engine.is_main
        trainer = Trainer(config, engine)
        launcher_watch.then(lambda: trainer.requests.ask(Reason.LAUNCHER))
        with writing.at_the_end(trainer.run_directory.directory, trainer.tracker.say, engine.is_main), trainer.tracker:
            code = trainer.train()
        engine.close()
    except InputError as error:
        report(error) if speaks or not isinstance(error, AgreedError) else give_way()
        return EXIT_INPUT
    except RunError as error:
        report(error)
        return EXIT_FAILED
    return code


def leftover(environment: Mapping[str, str]) -> str:
    """Say what is wrong with a launcher's variables that no launcher of this process can have set; empty if nothing."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        value = environment.get(name, "0")
        if not value.isdecimal():
            return (
                f'{name} is "{value}" in the environment, but must be a number: `unset {name}`, or start the training by '
                "torchrun, which sets it"
            )
    if "RANK" in environment and int(environment.get("WORLD_SIZE", "1")) > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        if missing:
            return (
                f"RANK={environment['RANK']} and WORLD_SIZE={environment['WORLD_SIZE']} are in the environment without "
                f"{' and '.join(missing)}: `unset RANK WORLD_SIZE` to train in one process, or start the training by torchrun"
            )
    return ""


def give_way() -> None:
    """Let another rank say what is wrong: a launcher kills it as soon as this one has ended."""
    time.sleep(2)


def report(error: Exception) -> None:
    """Print the one line that says what is wrong, and the traceback with GAN_DIST_TRACEBACK=1."""
    from gan_dist.errors import InputError

    if os.environ.get("GAN_DIST_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr, flush=True)
    # a job that ended by "error:" is not started again (slurm_jobs/requeue.py)
    note(f"error: {error}" if isinstance(error, InputError) else str(error))


def note(text: str) -> None:
    """Tell slurm/lib.sh too, which repeats it at the end of a job's log: launchers print long tables after it."""
    if path := os.environ.get("GAN_DIST_REASONS"):
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"rank {os.environ.get('RANK', '0')} on {node}: {text}\n")


if __name__ == "__main__":
    run(sys.argv[1:])
