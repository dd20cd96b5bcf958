"""Starting the real commands, and functions on several ranks, each by one call."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.making import flags

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = REPOSITORY / "gan_dist/train.py"
LIMIT = 300  # seconds; nothing here takes half of it


def train(
    keys: Mapping[str, object], processes: int = 1, config: str = "configs/digits.yaml", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python gan_dist/train.py`, or torchrun of it: a run from outside the repository, with nothing on PYTHONPATH."""
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return command([*launcher, str(TRAIN), config, *flags(keys)], cwd)


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
    """Checkpoint name -> digest, by the command."""
    return {row["name"]: row["digest"] for row in json.loads(gan_dist("checkpoints", run, "--json").stdout)}


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns on each of `world_size` gloo ranks, in order; it must be importable.

    The first rank that fails is shown with its traceback, and all are ended.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    port = _free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, world_size, port, function, arguments, results))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < world_size:
            number, good, value = results.get(timeout=LIMIT)
            assert good, f"rank {number} failed:\n{value}"
            found[number] = value
    finally:
        for rank in ranks:
            rank.join(10 if len(found) == world_size else 0.1)
            rank.kill()
    return [found[rank] for rank in range(world_size)]


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
