"""`gan-dist doctor`: examine everything that a training needs, before it starts."""

import argparse
import dataclasses
import json

from gan_dist.errors import InputError

HELP = "examine everything that a training needs: directory, disk, devices, links, loader, memory, speed"
EXAMPLES = (
    "gan-dist doctor configs/digits.yaml\n  gan-dist doctor configs/dcgan.yaml --data.shards data/faces --json\n"
    "  gan-dist doctor configs/digits.yaml --processes 2 --numerics --training.strategy zero2"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(takes_keys=True)
    parser.add_argument("config", metavar="CONFIG", help="a config, and any of its keys as for training")
    parser.add_argument(
        "--processes", type=int, default=0, help="training processes to try (default: one for each GPU)"
    )
    parser.add_argument(
        "--numerics", action="store_true", help="compare a step of the config's own networks with a plain loop's"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print a line for each finding, as soon as it is known."""
    from gan_dist.doctor import local

    findings = []
    for finding in local.examine([options.config, *options.keys], options.processes, options.numerics):
        findings.append(finding)
        if not options.json:
            print(finding.row(), flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    if bad := [finding for finding in findings if not finding.good]:
        raise InputError(f"{len(bad)} problem(s): {', '.join(finding.what for finding in bad)}")
