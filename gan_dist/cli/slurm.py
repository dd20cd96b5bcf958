"""`gan-dist slurm`: check a training against the cluster and print or submit its sbatch line."""

import argparse
import dataclasses
import json
from pathlib import Path

from gan_dist.errors import InputError

HELP = "check a training against the cluster and print or submit its sbatch line, or print how a run stands"
EXAMPLES = (
    "gan-dist slurm configs/dcgan.yaml --nodes 4 --gpus-per-node 8 --time 8:00:00\n"
    "  gan-dist slurm configs/digits.yaml --nodes 2 --processes-per-node 1 --submit --training.images 500000\n"
    "  gan-dist slurm --status runs/dcgan"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(takes_keys=True)
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a config, and any of its keys as for training")
    parser.add_argument("--status", metavar="RUN", type=Path, help="print how a run and its job stand instead")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--processes-per-node", type=int, default=0, help="on CPUs (default: 1)")
    parser.add_argument("--cpus-per-task", type=int, default=0, help="cores: of a node with GPUs, else of a process")
    parser.add_argument("--time", default="", help="hours:minutes:seconds")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument(
        "--save-seconds", type=float, default=0.0, help="how long a save takes (default: what the run's events say)"
    )
    parser.add_argument("--submit", action="store_true", help="submit it, with a copy of the code as it is now")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print the findings and the sbatch line, and submit where that was asked for."""
    from gan_dist.slurm_jobs import status, submit

    if options.status:
        report = status.read(options.status)
        print(json.dumps(report, indent=1) if options.json else "\n".join(status.lines(report)))
        return
    if not options.config:
        raise InputError("give a CONFIG to submit, or --status RUN")
    names = [field.name for field in dataclasses.fields(submit.Wanted)]
    wanted = submit.Wanted(**{name: getattr(options, name) for name in names})
    findings, words = submit.prepare([options.config, *options.keys], wanted)
    bad = [finding.what for finding in findings if not finding.good]
    job = submit.submit(words, options.config) if options.submit and not bad else ""
    line = submit.line(words)
    if options.json:
        print(
            json.dumps({"findings": [dataclasses.asdict(row) for row in findings], "line": line, "job": job}, indent=1)
        )
    else:
        for finding in findings:
            print(finding.row(10))
        print(line)
        if job:
            print(f"submitted as job {job}; `gan-dist slurm --status RUN` prints how it stands")
    if bad:
        raise InputError(f"{len(bad)} problem(s): {', '.join(bad)}; nothing was submitted")
