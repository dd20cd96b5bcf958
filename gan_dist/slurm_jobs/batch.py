"""Answers to slurm/lib.sh: `python -m gan_dist.slurm_jobs.batch look|begin|nodes|after|why ...`.

Every answer is one line that begins with the decision. This module loads no torch, so that a batch shell waits only a moment.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gan_dist import config as config_module
from gan_dist.doctor import nodes
from gan_dist.errors import EXIT_INPUT, InputError
from gan_dist.run_directory import is_foreign, starts_fresh
from gan_dist.slurm_jobs import code as copies, records, requeue
from gan_dist.slurm_jobs.records import Start
from gan_dist.slurm_jobs.requeue import Decision, End

_QUOTED = 10  # lines of nodes that reported nothing


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "look":
        return _look(arguments[1:])
    parser = argparse.ArgumentParser(prog="gan_dist.slurm_jobs.batch")
    parser.add_argument("when", choices=("begin", "nodes", "after", "why"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--code-folder", type=Path, default=Path(), help="the copy of the code that runs")
    parser.add_argument("--wanted", type=int, default=0, help="images at which the run is finished")
    parser.add_argument("--fresh", action="store_true", help="the run directory's content will be moved aside")
    parser.add_argument("--told", action="store_true", help="the job was warned, or told to end")
    parser.add_argument("--facts", default="", help="what scontrol prints about the job")
    parser.add_argument("--instead", default="", help="why training was not started")
    parser.add_argument("--reasons", type=Path, help="why ranks ended before the run had a log")
    parser.add_argument("--reports", type=Path, help="what the nodes printed (doctor/node_reports.py)")
    parser.add_argument("--names", default="", help="the job's nodes, one on each line")
    parser.add_argument("--processes", type=int, default=1, help="processes on each node")
    parser.add_argument("--max-restarts", type=int, default=100)
    options = parser.parse_args(arguments)
    answers: dict[str, Callable[[argparse.Namespace], object]] = {
        "begin": _begin, "nodes": _nodes, "after": _after, "why": _why,
    }  # fmt: skip
    print(answers[options.when](options))
    return 0


def _look(arguments: Sequence[str]) -> int:
    """Print three lines: the config's images and whether the run starts fresh; the copy of the config; the run directory."""
    kept = copies.keep(Path(__file__).resolve().parents[2], arguments[0])
    try:
        config = config_module.load([kept, *arguments[1:]], "train.sbatch")
        fresh = starts_fresh(config)
    except InputError as error:
        print(f"error: {str(error).replace(kept, arguments[0])}", file=sys.stderr)
        return EXIT_INPUT
    print(config.training.images, int(fresh))
    print(kept, config.directory, sep="\n")
    return 0


def _own_starts(run: Path) -> list[Start]:
    """Return the starts of this submission. Tries count within it: another submission follows a change that a person made."""
    submission = os.environ.get("GAN_DIST_SUBMISSION", "")
    return [start for start in records.read_starts(run) if start.submission == submission]


def _begin(options: argparse.Namespace) -> Decision:
    """Decide whether to train, and record the start."""
    run: Path = options.run
    status = None if options.fresh else records.read_status(run)
    decision = requeue.begin(status, _own_starts(run), options.max_restarts, options.wanted)
    if decision.action != "go" or is_foreign(run):  # training refuses foreign files; record no start among them
        return decision
    environment, folder = os.environ, options.code_folder
    job = environment.get("SLURM_JOB_ID", "")
    start = Start(
        job=job,
        restart=int(environment.get("SLURM_RESTART_COUNT", "0") or 0),
        images=records.images_of(status),
        time=time.time(),
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        commit=copies.commit(folder),
        code=str(folder),
        submission=environment.get("GAN_DIST_SUBMISSION", ""),
    )
    try:
        records.record(run, start)
    except OSError as error:
        words = (
            f"error: {run} cannot be written ({error.strerror}); make it writable, or choose another --run.directory"
        )
        return Decision("stop", words)
    return decision


def _nodes(options: argparse.Namespace) -> Decision:
    """Decide after the check of the nodes whether to train on them. The findings go to the job's log."""
    reports, names = options.reports.read_text(errors="replace").splitlines(), options.names.split()
    parsed = nodes.parse(reports)
    findings = nodes.judge(parsed, names, options.processes)
    if not parsed:  # no python on the nodes, a wrong GAN_DIST_WRAP, a step that Slurm does not start: quote the output
        print("\n".join(reports[-_QUOTED:]), file=sys.stderr)
    for finding in findings:
        print(finding.row(13), file=sys.stderr)
    left_out, fatal = nodes.exclude(findings), [finding for finding in findings if finding.fatal]
    if not fatal:
        return Decision("go", "the nodes are fit" + (f"; better without them: {left_out}" if left_out else ""))
    what = "; ".join(f"{finding.what}: {finding.text}" for finding in fatal)
    what += f". Better without: {left_out}" if left_out else ""
    if all(finding.passing for finding in fatal):
        return Decision("again", f"the nodes could not be checked: {what}")
    return Decision("stop", f"not fit to train: {what.replace('Better without:', 'Submit again with')}")


def _after(options: argparse.Namespace) -> Decision:
    """Decide what to do after training."""
    run: Path = options.run
    status, starts = records.read_status(run), _own_starts(run)
    facts = requeue.facts_of(options.facts, os.environ.get("SLURM_JOB_ID", ""))
    end = End(options.code, options.told, "", _reasons(options.reasons), options.instead)
    if starts:
        done = requeue.by_slurm(facts, starts[-1])
        told = options.told or bool(done) or requeue.preempted(facts, starts[-1])
        end = dataclasses.replace(end, told=told, done=done)
    decision = requeue.after(status, starts, options.max_restarts, end)
    if starts and end.told and status != {} and not requeue.began(status, starts[-1]):
        with contextlib.suppress(OSError):
            records.record(run, dataclasses.replace(starts[-1], told=True))
    return decision


def _why(options: argparse.Namespace) -> str:
    """Return the first failure of the last start."""
    return "\n".join(records.first_failure(options.run, _reasons(options.reasons)))


def _reasons(path: Path | None) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines() if path else []
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
