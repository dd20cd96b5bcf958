"""`gan-dist plan`: say beforehand what a training takes on 1, 8 or 512 processes."""

import argparse
import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.planning.plan import Row

HELP = (
    "predict step time, memory, traffic, hours and efficiency on several numbers of processes, and say what limits them"
)
EXAMPLES = (
    "gan-dist plan configs/dcgan.yaml --processes 1,2,4\n"
    "  gan-dist plan configs/stylegan2_ffhq256.yaml --processes 1,8,64 --card a100 --training.batch 512\n"
    "  gan-dist plan configs/dcgan.yaml --processes 1,2,4 --step 41.5@1,24.0@2 --link 40,200\n"
    "  gan-dist plan configs/digits.yaml --processes 1,2 --measure"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(takes_keys=True)
    parser.add_argument("config", metavar="CONFIG", help="a config, and any of its keys as for training")
    parser.add_argument("--processes", default="1,8,64,512", metavar="N,N", help="default: 1,8,64,512")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--step", metavar="MS[@N],...", help="measured steps in ms, each with its processes (default: 1)"
    )
    source.add_argument("--measure", action="store_true", help="play a few steps on this device, on random samples")
    parser.add_argument("--card", default="", help="what to predict for: h100 (default), a100, v100")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a card")
    parser.add_argument("--host", type=float, metavar="MS", help="of the host to start a step's kernels (H)")
    parser.add_argument("--fixed", type=float, metavar="MS", help="of the device, whatever the images (F)")
    parser.add_argument("--image", type=float, metavar="MS", help="of the device for each image (c)")
    parser.add_argument("--link", metavar="US,GB/S", help="of a collective on a node: alpha, and what a process sends")
    parser.add_argument("--node-link", metavar="US,GB/S", help="the same between nodes")
    parser.add_argument("--node-gpus", type=int, default=8, metavar="N", help="processes on a node (default: 8)")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print what a step is made of, and a line for each number of processes. Refuses those that cannot run at the end."""
    counts = _counts(options.processes)
    steps = _steps(options.step)
    link, node_link = _link("--link", options.link), _link("--node-link", options.node_link)
    if options.node_gpus < 1:
        raise InputError(f"--node-gpus {options.node_gpus}: a node has at least one")
    for name in ("host", "fixed", "image", "memory"):
        if (value := getattr(options, name)) is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"--{name} {value:g}: give a number that is not negative")

    from gan_dist import config as config_module
    from gan_dist.planning import report

    config = config_module.load([options.config, *options.keys])
    flags = {name: getattr(options, name) for name in ("host", "fixed", "image")}
    if sys.stderr.isatty():
        print("playing a step: seconds for DCGAN, about a minute for StyleGAN2", file=sys.stderr, flush=True)
    plan, sources = report.prepare(
        config,
        counts,
        options.card,
        steps,
        options.measure,
        (link, node_link, options.node_gpus),
        flags,
        options.memory,
    )
    rows = [plan.row(count) for count in counts]
    if options.json:
        print(json.dumps({**report.facts(plan, sources), "rows": [_as_json(row) for row in rows]}, indent=1))
    else:
        print("\n".join(report.lines(plan, sources, rows)))
    if refused := [row for row in rows if row.problem]:
        raise InputError(
            f"{', '.join(str(row.processes) for row in refused)} processes cannot run: {refused[0].problem}"
        )


def _as_json(row: "Row") -> dict[str, Any]:
    return dataclasses.asdict(row)


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--processes {text}: give numbers of processes, for example 1,8,64")
    return sorted({int(word) for word in words})


def _steps(text: str | None) -> list[tuple[int, float]]:
    """Read 41.5@1,24@2: (processes, seconds)."""
    steps = []
    for word in text.split(",") if text else []:
        milliseconds, _, processes = word.partition("@")
        try:
            steps.append((int(processes or 1), float(milliseconds) / 1e3))
        except ValueError:
            raise InputError(
                f"--step {text}: give milliseconds, and the processes after @, as in 41.5@1,24@2"
            ) from None
    if any(processes < 1 or not (math.isfinite(seconds) and seconds > 0) for processes, seconds in steps):
        raise InputError(f"--step {text}: a step takes more than 0 ms, and has at least one process")
    return steps


def _link(name: str, text: str | None) -> tuple[float, float] | None:
    """Read 30,350: seconds, and bytes a second."""
    if text is None:
        return None
    try:
        alpha, beta = (float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{name} {text}: give microseconds and GB/s, as in 30,350") from None
    if not (math.isfinite(alpha) and math.isfinite(beta)) or alpha < 0 or beta <= 0:
        raise InputError(f"{name} {text}: microseconds are not negative, and GB/s are above 0")
    return alpha * 1e-6, beta * 1e9
