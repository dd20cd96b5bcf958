"""Train: `accelerate launch gan_dist/train.py CONFIG [--key.path value ...]`; torchrun and python do as well.

Exit codes: 0 finished, 2 wrong input, 75 stopped early and saved (start it again), 1 failed.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    # run as a script: Python put this folder first, where `gan_dist` is not found and our modules shadow others'
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(arguments: list[str]) -> int:
    from gan_dist.control import launcher

    launcher_watch = launcher.watch()  # before anything that takes time
    from gan_dist import config as config_module
    from gan_dist.errors import EXIT_FAILED, EXIT_INPUT, InputError, RunError

    speaks = int(os.environ.get("RANK", "0")) == 0
    config, problem = None, ""
    try:
        config = config_module.load(arguments)
    except InputError as error:
        problem = str(error)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # at once, without loading torch
            report(error)
            return EXIT_INPUT

    from gan_dist.control.stop import Reason
    from gan_dist.engine import AgreedError, Engine, refuse
    from gan_dist.trainer import Trainer

    try:
        if config is None:
            refuse(problem)
        engine = Engine(config)
        speaks = engine.is_main
        trainer = Trainer(config, engine)
        launcher_watch.then(lambda: trainer.requests.ask(Reason.LAUNCHER))
        with trainer.tracker:
            code = trainer.train()
        engine.close()
    except InputError as error:
        report(error) if speaks or not isinstance(error, AgreedError) else give_way()
        return EXIT_INPUT
    except RunError as error:
        report(error)
        return EXIT_FAILED
    return code


def give_way() -> None:
    """Another rank says what is wrong. A launcher kills it as soon as this one has ended, so it goes first."""
    time.sleep(2)


def report(error: Exception) -> None:
    """The one line that says what is wrong; the way there with GAN_DIST_TRACEBACK=1."""
    from gan_dist.errors import InputError

    if os.environ.get("GAN_DIST_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr, flush=True)
    # a job that ended by "error:" is not started again (slurm_jobs/requeue.py)
    note(f"error: {error}" if isinstance(error, InputError) else str(error))


def note(text: str) -> None:
    """Tell slurm/lib.sh too, which says it again as a job's last word: launchers print long tables after it."""
    if path := os.environ.get("GAN_DIST_REASONS"):
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"rank {os.environ.get('RANK', '0')} on {node}: {text}\n")


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except SystemExit as error:  # --help, or an option without its value
        code = error.code if isinstance(error.code, int) else 2
    except BaseException:
        import traceback

        traceback.print_exc()
        note("\n".join(traceback.format_exc().splitlines()[-8:]))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # not in order: gloo aborts where another rank is gone already, and a W&B that hangs would hang here
    os._exit(code)
