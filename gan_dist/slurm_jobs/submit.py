"""`gan-dist slurm CONFIG`: make an sbatch line that the cluster will accept, and submit it."""

import dataclasses
import datetime
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from gan_dist import config as config_module, files, rank_counts
from gan_dist.config import Config
from gan_dist.doctor.findings import Finding
from gan_dist.errors import InputError
from gan_dist.slurm_jobs import code as copies
from gan_dist.slurm_jobs.status import ask

_ROOT = Path(__file__).resolve().parents[2]
_TEMPLATE = _ROOT / "slurm/train.sbatch"
_WARNING = 180  # seconds before the end at which slurm/train.sbatch is warned


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the job asks of the cluster."""

    nodes: int = 1
    gpus_per_node: int = 0
    processes_per_node: int = 0
    """On CPUs; with GPUs there is one process for each."""
    cpus_per_task: int = 0
    time: str = ""
    partition: str = ""
    account: str = ""
    save_seconds: float = 0.0
    """Seconds that a save takes; 0: as long as the run's events say."""

    @property
    def processes(self) -> int:
        return self.nodes * (self.gpus_per_node or self.processes_per_node or 1)


def prepare(arguments: Sequence[str], wanted: Wanted) -> tuple[list[Finding], list[str]]:
    """Return what a login node can tell before the job waits in the queue, and the words of the sbatch line.

    Raises InputError for a wrong config, and where there is no Slurm.
    """
    if shutil.which("sbatch") is None:
        raise InputError("no Slurm here (sbatch is not found); run this on a login node of the cluster")
    config = config_module.load(arguments)
    if min(wanted.nodes, 1 + wanted.gpus_per_node, 1 + wanted.processes_per_node) < 1:
        raise InputError("--nodes, --gpus-per-node and --processes-per-node are counts")
    seconds = wanted.save_seconds or _seconds_of_saves(config.directory)
    warning = max(_WARNING, int(3 * seconds) + 60)
    partitions, limit = _partition(wanted, seconds)
    findings = [_data(config), _dealt(config, wanted), *partitions, _margin(limit, seconds, warning)]
    if wanted.gpus_per_node and not wanted.cpus_per_task:
        text = "none asked for, and many sites then give a node one: --cpus-per-task takes those of a node, for all its GPUs"
        findings.append(Finding("cores", True, text))
    words = ["sbatch", f"--nodes={wanted.nodes}"]
    for name, value in (
        ("gpus-per-node", wanted.gpus_per_node),
        ("ntasks-per-node", 0 if wanted.gpus_per_node else wanted.processes_per_node),
        ("cpus-per-task", wanted.cpus_per_task),
        ("time", wanted.time),
        ("partition", wanted.partition),
        ("account", wanted.account),
        ("signal", f"B:USR2@{warning}" if warning != _WARNING else ""),
    ):
        if value:
            words.append(f"--{name}={value}")
    here = Path.cwd() == _ROOT
    words += [f"--job-name={config.run.name}", "slurm/train.sbatch" if here else str(_TEMPLATE), *arguments]
    if warning != _WARNING:
        words += ["--control.margin_seconds", str(warning - 60)]
    return findings, words


def line(words: Sequence[str]) -> str:
    """Return what a person may type here for the same job; the job then copies the code at its first start."""
    root = f"GAN_DIST_ROOT={shlex.quote(str(_ROOT))} " if str(_TEMPLATE) in words else ""
    return root + shlex.join(words)


def submit(words: Sequence[str], config: str) -> str:
    """Submit with a copy of the code and `config` as they are now, and return the job's number.

    An edit while the job waits in the queue changes nothing.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    code = Path(os.environ.get("GAN_DIST_JOBS") or _ROOT / ".slurm") / f"submitted-{stamp}" / "code"
    copies.copy(_ROOT, code)
    copies.keep(code, config)
    environment = {**os.environ, "GAN_DIST_CODE": str(code), "GAN_DIST_ROOT": str(_ROOT)}
    words = [words[0], "--parsable", "--export=ALL", *words[1:]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(code.parent)
        raise InputError(f"sbatch refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]


def _data(config: Config) -> Finding:
    from gan_dist.data import shards
    from gan_dist.doctor import node_reports  # these load much that --status does not need

    if config.data.drawn:
        return Finding("data", True, "none is needed: the game draws its own samples")
    if problem := node_reports.data_problem(config):
        return Finding("data", False, problem)
    try:
        expanded = shards.expand(config.data.shards, config.data.allow_pipe)
    except InputError:
        return Finding("data", True, f"{config.data.shards} will be packed from {config.data.source}")
    return Finding("data", True, f"{len(expanded)} shards, some tried: they can be read from here")


def _dealt(config: Config, wanted: Wanted) -> Finding:
    training, count = config.training, wanted.processes
    if training.processes not in (0, count):
        text = f"{count}, and training.processes = {training.processes} refuses them; remove it, or ask for as many"
        return Finding("processes", False, text)
    if problem := rank_counts.refusal(training.batch, training.micro_batch, training.strategy, count):
        return Finding("processes", False, problem)
    each = training.batch // training.micro_batch // count
    return Finding("processes", True, f"{count}, with {each} micro-batches each")


def _partition(wanted: Wanted, save_seconds: float) -> tuple[list[Finding], str]:
    """Return whether the partition accepts the job, and the time that the job will have, as Slurm writes it."""
    rows = [dict(re.findall(r"(\S+?)=(\S*)", row)) for row in ask("scontrol", "-o", "show", "partition").splitlines()]
    names = [row.get("PartitionName", "") for row in rows]
    asked = wanted.partition.split(",") if wanted.partition else []
    for name in asked:
        if name not in names:
            text = f"there is no partition {name}; --partition takes {', '.join(names)}"
            return [Finding("partition", False, text)], wanted.time
    chosen = [row for row in rows if row["PartitionName"] in asked or (not asked and row.get("Default") == "YES")]
    if not chosen:
        text = f"the cluster has no default partition; --partition takes {', '.join(names)}"
        return [Finding("partition", False, text)], wanted.time
    findings = [_fits(row, wanted, save_seconds) for row in chosen]
    good = [finding for finding in findings if finding.good]  # Slurm takes the first of several that fits
    usual = chosen[0].get("DefaultTime", "NONE")
    usual = chosen[0].get("MaxTime", "UNLIMITED") if usual == "NONE" else usual
    return good or findings, wanted.time or usual


def _fits(row: Mapping[str, str], wanted: Wanted, save_seconds: float) -> Finding:
    name, problems = row["PartitionName"], []
    if row.get("State") != "UP":
        problems.append(f"is {row.get('State')}")
    most = min(_number(row.get("MaxNodes")), _number(row.get("TotalNodes")))
    if wanted.nodes > most:
        problems.append(f"has {most:g} nodes for a job, --nodes asks for {wanted.nodes}")
    if wanted.time and seconds_of(wanted.time) > seconds_of(row.get("MaxTime", "UNLIMITED")):
        problems.append(f"ends jobs after {row['MaxTime']}, --time asks for {wanted.time}")
    if wanted.gpus_per_node:
        listed = ask("sinfo", "-h", "-N", "-p", name, "-o", "%G")
        gpus = max((int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", listed)), default=0)
        if gpus < wanted.gpus_per_node:
            problems.append(f"has {gpus} GPUs on a node, --gpus-per-node asks for {wanted.gpus_per_node}")
    grace = float(row.get("GraceTime") or 0)
    text = f"{name}: {row.get('TotalNodes')} nodes, at most {row.get('MaxTime')}"
    if row.get("PreemptMode", "OFF") not in ("OFF", "") and grace < save_seconds:  # a cost, not a fault
        text += f"; preempts after {grace:g} s, a save takes {save_seconds:.0f} s: what came since the last checkpoint may be lost"
    return Finding("partition", not problems, "; ".join([f"{name} {problem}" for problem in problems]) or text)


def _margin(time: str, seconds: float, warning: int) -> Finding:
    """Check the warning before the job's limit `time`, as Slurm writes it, against a save of `seconds`; 0: unknown."""
    if time and seconds_of(time) <= 2 * warning:
        text = f"warned {warning} s before the end of a job of {seconds_of(time):.0f} s: give a longer --time, or train by hand (slurm/interactive.md)"
        return Finding("margin", False, text)
    if not seconds:
        return Finding("margin", True, f"warned {warning} s before the end; no save was measured yet (--save-seconds)")
    return Finding("margin", True, f"warned {warning} s before the end, a save takes {seconds:.1f} s")


def seconds_of(time: str) -> float:
    """Return a time of Slurm in seconds: minutes, minutes:seconds, hours:minutes:seconds or days-hours[:minutes[:seconds]].

    Raises InputError for other text.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise InputError(f"--time {time}: give hours:minutes:seconds, as 8:00:00")
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return float(((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(numbers) == 3:
        return float((numbers[0] * 60 + numbers[1]) * 60 + numbers[2])
    return float(numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0))


def _number(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else float("inf")


def _seconds_of_saves(run: Path) -> float:
    """Return the seconds of the longest save that the run reports; 0 where there is none."""
    events = files.read_json_lines(run / "events.jsonl")
    return max((float(event.get("seconds", 0)) for event in events if event.get("event") == "saved"), default=0.0)
