"""What a training would meet, found out without training: in its run directory, on its disk, and on its processes."""

import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from gan_dist import config as config_module, games
from gan_dist.checkpoint import store
from gan_dist.config import Config
from gan_dist.doctor.findings import MARK, Finding
from gan_dist.errors import InputError
from gan_dist.run_directory import LOCK, is_foreign

RANKS = "GAN_DIST_RANKS"
"""What starts doctor/ranks.py on all ranks of a job, a word a line: slurm/lib.sh sets it."""
# in torchrun's report; what others say of it are echoes, and 15 (TERM) is how it ends them
_KILLED = re.compile(
    r"host +: (\S+)\n +rank +: (\d+) .*\n +exitcode +: -.*\n +error_file: .*\n +traceback : (Signal (?!15 )\d+ \(\w+\))"
)
_ERROR = re.compile(r"(\[rank\d+\]: *)?[\w.]*(Error|Exception)\b(?!:$).*")  # with its words: a launcher's own has none
_ROOT = str(Path(__file__).resolve().parents[2])
_PROBE = 32 << 20  # bytes written to measure the disk
_COPIES = 3  # of a player's weights in a checkpoint, besides them: average and Adam's two moments


def examine(arguments: Sequence[str], processes: int = 0, with_numerics: bool = False) -> Iterator[Finding]:
    """Look at everything; what was found, good or bad. Raises InputError where the config itself is wrong.

    The training's processes are tried last: `processes` of them; 0: training.processes, or one for each GPU. In a job of
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
    """What gan_dist/doctor/ranks.py finds, as it finds it."""
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
        others: deque[str] = deque(maxlen=10_000)
        explained = False
        for line in running.stdout:
            _, mark, found = line.partition(MARK)
            if mark:
                finding = Finding(**json.loads(found))
                explained = explained or finding.text.startswith("rank ")
                yield finding
            else:
                others.append(line.rstrip())
    if running.returncode and not explained:
        # srun says which task of which node ended first, and how; why, the process itself
        killed = [f"rank {rank} on {host}: {how}" for host, rank, how in _KILLED.findall("\n".join(others))]
        ended = [line for line in others if line.startswith("srun: error: ")]
        own = [line for line in others if not line.startswith(("srun: ", "slurmstepd"))]
        # the first: what other ranks say of it comes later
        errors = [line for line in own if _ERROR.fullmatch(line)][:1] or [line for line in own if "error" in line][-1:]
        said = killed[:1] or [*(errors or own[-1:]), *ended[:1]]
        yield Finding("processes", False, f"ended with code {running.returncode}: {'; '.join(said)}")


def place(config: Config) -> list[Finding]:
    """What the run directory and its disk are like."""
    directory = config.directory
    findings = [_run(config), _lock(directory), *_checkpoints(directory)]
    place = directory
    while not place.exists():  # where it would be made
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as probe:
            findings += [_space(config, place), _write(Path(probe)), _rename(Path(probe)), _locks(Path(probe))]
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
    if config.data.labels and not config.data.classes:  # training takes their number from the data
        config = config.with_({"data.classes": before.data.classes})
    if changed := config_module.differences(before, config):
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
    except OSError as error:  # no locks there, or another user's run: what training would meet is said elsewhere
        return Finding("in use", True, f"cannot be told ({error.strerror})")
    return Finding("in use", True, "by nobody")


def _checkpoints(directory: Path) -> list[Finding]:
    rows = [store.describe(directory / "checkpoints" / name) for name in store.names(directory / "checkpoints")]
    if not rows:
        return []
    whole = [row["name"] for row in rows if row["whole"]]
    problems = "; ".join(str(row["problem"]) for row in rows if not row["whole"])
    text = f"{len(whole)} of {len(rows)} are whole" + (f", the newest is {whole[-1]}" if whole else "")
    return [Finding("checkpoints", bool(whole), f"{text}{'; ' if problems else ''}{problems}")]


def _space(config: Config, place: Path) -> Finding:
    size = 0
    for player in games.build(config).players:
        numbers = sum(weight.numel() for weight in player.network.parameters())
        size += numbers * 4 * (_COPIES + (player.average_half_life is not None))
    needed = size * (config.checkpoint.keep + 1)  # the new one is there before an old one goes
    state = os.statvfs(place)
    room = state.f_bavail * state.f_frsize
    text = (
        f"{_mib(room)} free in {place}; {config.checkpoint.keep} checkpoints of {_mib(size)} and one being written need "
        f"{_mib(needed)}"
    )
    return Finding(
        "disk space", room >= needed, text if room >= needed else f"{text}: make room, or lower checkpoint.keep"
    )


def _write(probe: Path) -> Finding:
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with (probe / "file").open("wb") as file:
        for _ in range(_PROBE >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = _PROBE / (time.perf_counter() - began)
    return Finding("disk speed", True, f"{_mib(int(rate))}/s for {_mib(_PROBE)} written and synced")


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
        return Finding(
            "file locks", True, f"none here ({error.strerror}): see to it that only one run uses a directory"
        )
    return Finding("file locks", True, "work")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
