"""Starting the real commands, and functions on several ranks, each by one call."""

import contextlib
import gc
import json
import multiprocessing
import os
import queue
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.making import flags

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = REPOSITORY / "gan_dist/train.py"
LIMIT = 300  # seconds; nothing here takes half of it


def train(
    keys: Mapping[str, object], processes: int = 1, config: str = "tests/data/digits.yaml", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python gan_dist/train.py`, or torchrun of it: a run from outside the repository, with nothing on PYTHONPATH."""
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return command([*launcher, str(TRAIN), config, *flags(keys)], cwd)


class Started:
    """A training command in the background; its output goes to `output`."""

    def __init__(self, directory: Path, words: list[str], environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.output = directory.with_name(f"{directory.name}.txt")
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                words, cwd="/", env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def rank(self, number: int) -> int:
        """The process id of a rank, once it trains."""
        progress = self.directory / f"logs/processes/rank-{number}.json"

        def own() -> int:
            found = json.loads(progress.read_text())
            return int(found["pid"]) if found["beats"] > 1 and _parent_of(found["pid"]) else 0

        return self.until(own, f"rank {number} trains")

    def until(self, found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
        """What `found` returns as soon as it is true; fails with the output if the command ends before."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := found():
                    return value
            except (OSError, ValueError, KeyError):
                pass
            assert self.process.poll() is None, f"ended before {what}:\n{self.output.read_text()}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.output.read_text()}"
            time.sleep(0.02)

    def event(self, kind: str, seconds: float = 120) -> dict[str, Any]:
        """The first event of this kind, once it is there."""

        def own() -> dict[str, Any] | None:
            return next((line for line in lines(self.directory / "events.jsonl") if line["event"] == kind), None)

        found: dict[str, Any] = self.until(own, f"the event {kind}", seconds)
        return found

    def end(self, seconds: float = 120) -> int:
        """The exit code, once the command ends."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not ended within {seconds} s:\n{self.output.read_text()}") from None

    def kill(self) -> None:
        """End the command and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for path in (self.directory / "logs/processes").glob("rank-*.json"):
            # torchrun starts its workers in groups of their own
            pid = json.loads(path.read_text())["pid"]
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if str(REPOSITORY) in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _parent_of(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def start(
    keys: Mapping[str, object],
    processes: int = 1,
    fault: str = "",
    environment: Mapping[str, str] | None = None,
    config: str = "tests/data/digits.yaml",
    by_accelerate: bool = False,
) -> Started:
    """The same as `train`, in the background; `fault` is one of tests/fault/inject.py."""
    launcher = [sys.executable]
    if by_accelerate:  # on a CPU this is the way to several processes
        launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_machines", "1"]
        launcher += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--main_process_port", "0"]
        environment = {"ACCELERATE_USE_CPU": "1", **(environment or {})}
    elif processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = [str(REPOSITORY / "tests/fault/inject.py"), fault] if fault else [str(TRAIN)]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings = {
        "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",  # as launch/env.sh
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    directory = Path(str(keys["run.directory"]))
    return Started(directory, [*launcher, *script, config, *flags(keys)], {**bare, **settings, **(environment or {})})


def gan_dist(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`gan-dist ...`, as from a checkout that is not installed."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from gan_dist.cli import main; sys.exit(main())"
    return command([sys.executable, "-c", code, *map(str, arguments)], cwd)


def command(words: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, cwd=cwd or "/", env=environment, capture_output=True, text=True, timeout=LIMIT)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(run: Path) -> dict[str, str]:
    """Checkpoint name -> digest, as `gan-dist checkpoints` says them."""
    from gan_dist.checkpoint import store

    folder = run / "checkpoints"
    return {name: str(store.describe(folder / name, hashes=False)["digest"]) for name in store.names(folder)}


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, limit: float = LIMIT, forked: bool = False
) -> list[Any]:
    """What `function(*arguments)` returns on each of `world_size` gloo ranks, in order; it must be importable.

    The first rank that fails is shown with its traceback, and all are ended. `forked` ranks come from a server that has
    imported function's module once for all of them: 7 seconds of a core less for each.
    """
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload([function.__module__, "gan_dist.trainer", "torch._dynamo"])
    results = context.Queue()
    port = free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, world_size, port, function, arguments, results))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < world_size:
            number, good, value = _next_result(results, ranks, limit)
            assert good, f"rank {number} failed:\n{value}"
            found[number] = value
    finally:
        for rank in ranks:
            rank.join(10 if len(found) == world_size else 0.1)
            rank.kill()
    return [found[rank] for rank in range(world_size)]


def _next_result(results: Any, ranks: list[Any], limit: float) -> Any:
    """Wait for a rank's result, but not for a rank that ended without one."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended = [(number, rank.exitcode) for number, rank in enumerate(ranks) if rank.exitcode]
        try:
            return results.get(timeout=1)
        except queue.Empty:
            assert not ended, f"ranks ended without a result: (rank, exit code) {ended}"
    raise AssertionError(f"no rank gave a result within {limit} s")


def loaded_once() -> None:
    """In a rank that makes many DeepSpeed engines: each collects garbage, which takes a second if all modules are searched."""
    import deepspeed  # noqa: F401
    import torch._dynamo
    import torch._inductor.lowering  # noqa: F401

    gc.collect()
    gc.freeze()


def _rank(rank: int, world_size: int, port: int, function: Any, arguments: Any, results: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    if world_size == 1:  # as without a launcher
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    try:
        import torch

        torch.set_num_threads(1)
        results.put((rank, True, function(*arguments)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
