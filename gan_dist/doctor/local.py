"""Find out without training what a training would meet: in its run directory, on its disk, and on its ranks."""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from gan_dist import config as config_module, files, games, units
from gan_dist.checkpoint import store
from gan_dist.config import Config
from gan_dist.doctor.findings import Finding, of_line
from gan_dist.errors import InputError
from gan_dist.games.check import naming
from gan_dist.run_directory import LOCK, is_foreign

RANKS = "GAN_DIST_RANKS"
"""Variable that holds what starts doctor/ranks.py on all ranks of a job, one word a line: slurm/lib.sh sets it."""
# a rank's entry in torchrun's report, where 15 (TERM) is how torchrun itself ends the other ranks
_KILLED = re.compile(
    r"host +: (\S+)\n +rank +: (\d+) .*\n +exitcode +: -.*\n +error_file: .*\n +traceback : (Signal (?!15 )\d+ \(\w+\))"
)
_ERROR = re.compile(r"(\[rank\d+\]: *)?[\w.]*(Error|Exception)\b(?!:$).*")  # with a message: a launcher's own has none
_ROOT = str(Path(__file__).resolve().parents[2])
_PROBE = 32 << 20  # bytes written to measure the disk
_SOME_CLASSES = 10  # where only the data knows how many


def examine(arguments: Sequence[str], processes: int = 0, with_numerics: bool = False) -> Iterator[Finding]:
    """Examine everything, and yield each finding as soon as it is known. Raises InputError where the config is wrong.

    The ranks come last: as many as `processes` says; 0: training.processes, or one for each GPU. In a job of
    slurm/command.sbatch they are those that the job's training would have.
    """
    config = config_module.load(arguments)
    if processes and RANKS in os.environ:
        raise InputError(f"--processes {processes}: in a Slurm job its tasks and GPUs decide that; remove it")
    yield from place(config)
    if not processes and RANKS not in os.environ:
        import torch

        on_cpu = config.training.device == "cpu"
        processes = config.training.processes or (0 if on_cpu else torch.cuda.device_count()) or 1
    yield from _processes(arguments, processes, with_numerics)


def _processes(arguments: Sequence[str], processes: int, with_numerics: bool) -> Iterator[Finding]:
    """Start gan_dist/doctor/ranks.py on the ranks, and yield what it finds."""
    words = [sys.executable, "-m", "gan_dist.doctor.ranks"]
    if processes > 1:
        launcher = "torch.distributed.run"
        words = [sys.executable, "-m", launcher, "--standalone", "--nproc-per-node", str(processes), *words[1:]]
    if RANKS in os.environ:
        words = os.environ[RANKS].splitlines()
    words += [*(["--numerics"] if with_numerics else []), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        output: deque[str] = deque(maxlen=10_000)
        explained = False
        for line in running.stdout:
            if finding := of_line(line):
                explained = explained or finding.text.startswith("rank ")
                yield finding
            else:
                output.append(line.rstrip())
    if running.returncode and not explained:
        yield Finding("processes", False, f"ended with code {running.returncode}: {_cause(output)}")


def _cause(output: Sequence[str]) -> str:
    """Return the line of the ranks' output that says why they ended."""
    # srun says which task of which node ended first, and how; the rank itself says why
    killed = [f"rank {rank} on {host}: {how}" for host, rank, how in _KILLED.findall("\n".join(output))]
    ended = [line for line in output if line.startswith("srun: error: ")]
    of_ranks = [line for line in output if not line.startswith(("srun: ", "slurmstepd"))]
    # the first: other ranks report its consequences later
    errors = [line for line in of_ranks if _ERROR.fullmatch(line)][:1] or [
        line for line in of_ranks if "error" in line
    ][-1:]
    return "; ".join(killed[:1] or [*(errors or of_ranks[-1:]), *ended[:1]])


def place(config: Config) -> list[Finding]:
    """Examine the run directory and its disk."""
    directory = config.directory
    findings = [_run(config), _lock(directory), *_checkpoints(directory)]
    place = files.existing(directory)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as probe:
            findings += [_space(config), _write(Path(probe)), _rename(Path(probe)), _locks(Path(probe))]
    except OSError as error:
        findings.append(Finding("run directory", False, f"{place} cannot be written ({error.strerror})"))
    return findings


def _run(config: Config) -> Finding:
    directory = config.directory
    if not directory.exists():
        return Finding("run directory", True, f"{directory} will be made")
    if not (directory / "config.yaml").exists():
        empty = directory.is_dir() and not is_foreign(directory)
        text = "is empty" if empty else "holds files that are no run; give --run.directory another folder"
        return Finding("run directory", empty, f"{directory} {text}")
    try:
        before, _ = config_module.read_run(directory)
    except InputError as error:
        return Finding("run directory", False, str(error))
    if changed := config_module.differences(before, config.with_classes(lambda: before.data.classes)):
        return Finding("run directory", False, f"{directory} holds a run of another config: {'; '.join(changed)}")
    return Finding("run directory", True, f"{directory} holds this run, which would go on")


def _lock(directory: Path) -> Finding:
    try:
        with (directory / LOCK).open("r+") as file:  # to write, as an exclusive lock on a network disk takes that
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = file.read().strip() or "another process"
                return Finding("in use", False, f"by {owner}; stop it: touch {directory}/STOP")
    except FileNotFoundError:
        pass
    except OSError as error:  # no locks there, or another user's run, which the other findings report
        return Finding("in use", True, f"cannot be found out ({error.strerror})")
    return Finding("in use", True, "by nobody")


def _checkpoints(directory: Path) -> list[Finding]:
    rows = [store.describe(directory / "checkpoints" / name) for name in store.names(directory / "checkpoints")]
    if not rows:
        return []
    whole = [str(row["name"]) for row in rows if row["whole"]]
    problems = "; ".join(str(row["problem"]) for row in rows if not row["whole"])
    text = f"{len(whole)} of {len(rows)} are whole" + (f", the newest is {whole[-1]}" if whole else "")
    return [Finding("checkpoints", bool(whole), f"{text}{'; ' if problems else ''}{problems}")]


def _space(config: Config) -> Finding:
    try:
        size = checkpoint_bytes(config)
    except InputError as error:
        return Finding("game", False, str(error))
    keep, place = config.checkpoint.keep, files.existing(config.directory)
    needed, room = size * (keep + 1), files.room(place)  # the new one is written before an old one is deleted
    text = (
        f"{units.size(room)} free in {place}; {keep} checkpoints of {units.size(size)} and one that is being written need "
        f"{units.size(needed)}"
    )
    good = room >= needed
    return Finding("disk space", good, text if good else f"{text}: make room, or lower checkpoint.keep")


def checkpoint_bytes(config: Config) -> int:
    """Return the bytes of the tensors in a checkpoint. Raises InputError where the game cannot be built."""
    import torch

    with naming(config):
        game = games.build(config.with_classes(lambda: _SOME_CLASSES))
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    saved = list(game.state().values())
    total = sum(pool.bytes for pool in game.pools)
    for player in game.players:
        player.place(torch.device("cpu"), dtype)
        saved += player.network.state_dict().values()
        saved += player.average.network.state_dict().values() if player.average else ()
        for kind in player.kept.tensors.values():
            total += sum(weight.numel() for weight in player.weights) * kind.itemsize
    return total + sum(tensor.numel() * tensor.element_size() for tensor in saved)


def _write(probe: Path) -> Finding:
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with (probe / "file").open("wb") as file:
        for _ in range(_PROBE >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = _PROBE / (time.perf_counter() - began)
    return Finding("disk speed", True, f"{units.size(rate)}/s for {units.size(_PROBE)} written and synced")


def _rename(probe: Path) -> Finding:
    (probe / "new").mkdir()
    (probe / "new/file").write_text("")
    (probe / "new").rename(probe / "name")
    good = (probe / "name/file").exists() and not (probe / "new").exists()
    return Finding("rename", good, "of folders works" if good else "of folders does not work here: use another disk")


def _locks(probe: Path) -> Finding:
    try:
        with (probe / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("file locks", True, f"none here ({error.strerror}): start only one run in a directory")
    return Finding("file locks", True, "work")
