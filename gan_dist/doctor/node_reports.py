"""Measure each node of a job, and each rank on it, before the job trains.

slurm/lib.sh starts `python -m gan_dist.doctor.node_reports CONFIG ...` once a node. It examines the node, starts the
node's ranks, and prints reports, which `gan_dist.slurm_jobs.batch nodes` judges (nodes.py). `gan-dist doctor` measures the
same on the ranks that it tries.
"""

import contextlib
import hashlib
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gan_dist import config as config_module, files, units
from gan_dist.config import Config
from gan_dist.data import shards
from gan_dist.data.names import redact
from gan_dist.doctor.nodes import NodeReport
from gan_dist.errors import InputError
from gan_dist.run_directory import is_foreign
from gan_dist.slurm_jobs import records

if TYPE_CHECKING:
    import torch

    from gan_dist.engine import Engine

_PATIENCE = 10.0  # seconds until what one node wrote must be seen by another
_ROOM = 256 << 20  # bytes that must be free, where no checkpoint says how many
_PROBED = 8  # shards that a node opens
_SIZE = 1 << 25  # bytes of a message that is timed
_REACH = 2 / 3  # of the check's time, for a rank to reach the first one: it may still be loading torch from a cold disk


def node_name() -> str:
    """Return the node's name as Slurm knows it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def of_node(config: Config, job: str = "") -> Iterator[NodeReport]:
    """Report on what a node has without its ranks: run directory, room on disks, data. `job` is the one whose start is recorded."""
    node, run = node_name(), config.directory
    yield NodeReport(node, "run directory", problem=_run_directory(run, job))
    yield _disk(node, run)
    yield NodeReport(node, "data", problem=data_problem(config, int(os.environ.get("SLURM_NODEID", "0"))))


def _run_directory(run: Path, job: str) -> str:
    """Return why the run directory is not the one that the job's first node wrote to, or cannot be written; empty if it is."""
    if is_foreign(run):  # no start is recorded there: training refuses it
        return ""
    end = time.monotonic() + _PATIENCE  # network file systems show what others wrote after a while
    while job and not any(start.job == job for start in records.read_starts(run)):
        if time.monotonic() > end:
            return f"{run} is not the folder that the first node sees: it must lie on a shared disk"
        time.sleep(0.2)
    place = files.existing(run)
    try:
        with tempfile.NamedTemporaryFile(prefix=".check-", dir=place) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{place} cannot be written ({error.strerror})"
    return ""


def _disk(node: str, run: Path) -> NodeReport:
    needed = 2 * max((files.folder_size(path) for path in (run / "checkpoints").glob("images-*")), default=_ROOM // 2)
    for place, wanted in ((run, needed), (Path(tempfile.gettempdir()), _ROOM)):
        if (room := files.room(place)) < wanted:
            problem = f"{files.existing(place)} has {units.size(room)} free, {units.size(wanted)} are needed"
            return NodeReport(node, "disk", problem=problem, value=room)
    return NodeReport(node, "disk", value=files.room(run))


def data_problem(config: Config, number: int = 0) -> str:
    """Return why this machine, the `number`th, cannot read the shards; empty if it can. Each machine tries a few others."""
    if config.data.drawn:
        return ""
    try:
        expanded = shards.expand(config.data.shards, config.data.allow_pipe)
    except InputError as error:
        return "" if config.data.source else str(error)  # the first rank will pack the source
    step = max(1, len(expanded) // _PROBED)
    for shard in expanded[number % step :: step][:_PROBED]:
        try:
            shards.probe(shard)
        except (OSError, ValueError) as error:
            return f"data.shards: {redact(shard)} cannot be read: {error}"
    return ""


def of_device(device: "torch.device", rank: int) -> NodeReport:
    """Compute on a device, and report whether the result is right and the same twice. Devices of one kind have one digest."""
    import torch

    node = node_name()
    try:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(512, 512, generator=generator)
        images = torch.randn(8, 16, 32, 32, generator=generator)
        kernel = torch.randn(32, 16, 3, 3, generator=generator)
        results = []
        for _ in range(2):
            product = matrix.to(device) @ matrix.to(device)
            convolved = torch.nn.functional.conv2d(images.to(device), kernel.to(device))
            results.append((product.cpu(), convolved.cpu()))
        exact = (matrix.double() @ matrix.double()).float()
        if not torch.allclose(results[0][0], exact, rtol=1e-2, atol=0.5):  # room for TF32
            return NodeReport(node, "device", rank, f"{device} multiplies wrongly")
        if not all(torch.equal(first, second) for first, second in zip(*results, strict=True)):
            return NodeReport(node, "device", rank, f"{device} computes another result each time")
        digest = hashlib.sha256(b"".join(numbers.numpy().tobytes() for numbers in results[0])).hexdigest()
    except (RuntimeError, AssertionError) as error:  # torch's, CUDA's and out of memory
        return NodeReport(node, "device", rank, f"{device}: {str(error).splitlines()[0]}")
    return NodeReport(node, "device", rank, kind=_kind(device), digest=digest)


def _kind(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    return f"{name} ({torch.get_num_threads()} threads)"


def of_links(engine: "Engine") -> Iterator[NodeReport]:
    """Report whether all ranks agree on a sum, its rate, this rank's clock, and the better of a node's two links."""
    from gan_dist.engine import links

    node, rank = node_name(), engine.rank
    engine.wait()
    clock = time.time()
    right = engine.world_size == 1 or links.sum_is_right(engine)
    problem = "" if right else "a sum over all ranks came out wrong here"
    rate = links.rate_of_all_reduce(engine, _SIZE) if engine.world_size > 1 else 0.0
    yield NodeReport(node, "network", rank, problem, rate if rank == 0 else 0.0)
    yield NodeReport(node, "clock", rank, value=clock)
    names = engine.gather(node)
    leaders = [names.index(name) for name in dict.fromkeys(names)]  # one rank of each node
    if len(leaders) > 1:
        rates = links.rates_in_a_ring(engine, leaders, _SIZE)
        if rank in leaders:
            yield NodeReport(node, "link", rank, value=rates[leaders.index(rank)])


def _rank(config: Config) -> None:
    """Print a rank's reports: of its device, then of how it reaches the others."""
    import torch

    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpu = config.training.device != "cpu" and torch.cuda.is_available()
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    _print(of_device(torch.device("cuda", local) if on_gpu else torch.device("cpu"), rank))
    if rank and (problem := _unreachable(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))):
        _print(NodeReport(node_name(), "network", rank, problem))
        return
    from gan_dist.engine import Engine

    try:
        engine = Engine(config)
    except InputError as error:  # training reports it, where a person looks for it
        _print(NodeReport(node_name(), "input", rank, str(error)))
        return
    for report in of_links(engine):
        _print(report)
    engine.wait()


def _unreachable(host: str, port: int) -> str:
    """Return why the first rank cannot be reached; empty if it can."""
    end = time.monotonic() + _REACH * float(os.environ.get("GAN_DIST_CHECK") or 120)
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return ""
        except OSError as error:
            if time.monotonic() > end:
                return f"cannot reach {host}:{port} ({error})"
            time.sleep(0.2)


def _print(report: NodeReport) -> None:
    sys.stdout.write(report.line() + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    warnings.simplefilter("ignore")
    try:
        config = config_module.load(arguments)
    except InputError as error:
        _print(NodeReport(node_name(), "input", problem=str(error)))
        return 0
    if "RANK" in os.environ:
        try:
            _rank(config)
        except Exception as error:
            _print(NodeReport(node_name(), "network", int(os.environ["RANK"]), f"{type(error).__name__}: {error}"))
        return 0
    recorded = (
        "GAN_DIST_UNRECORDED" not in os.environ
    )  # whether slurm/lib.sh recorded the job's start in the run directory
    for report in of_node(config, os.environ.get("SLURM_JOB_ID", "") if recorded else ""):
        _print(report)
    number, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["GAN_DIST_NODES"])
    each = int(os.environ["PROCESSES"])
    ranks = []
    for local in range(each):
        facts = {
            "RANK": number * each + local,
            "WORLD_SIZE": nodes * each,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": each,
            "MASTER_ADDR": os.environ["GAN_DIST_HEAD"],
            "MASTER_PORT": os.environ["GAN_DIST_PORT"],
        }
        environment = {**os.environ, **{name: str(value) for name, value in facts.items()}}
        words = [sys.executable, "-P", "-m", "gan_dist.doctor.node_reports", *arguments]
        ranks.append(subprocess.Popen(words, env=environment))
    for rank in ranks:
        rank.wait()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # without Python's clean-up: gloo aborts where another rank has ended
