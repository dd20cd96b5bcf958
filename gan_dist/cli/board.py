"""`gan-dist board`: make W&B's page of a project."""

import argparse

HELP = "make W&B's page of a project: pictures, quality, collapse, players, speed, events"
EXAMPLES = "gan-dist board gan_dist\n  gan-dist board faces --entity my-team"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", metavar="PROJECT", help="a W&B project (track.project; its default is gan_dist)")
    parser.add_argument("--entity", default="", help="user or team that has the project (default: W&B's)")
    parser.add_argument("--name", default="gan_dist", help="what the page is called (default gan_dist)")


def run(options: argparse.Namespace) -> None:
    """Make it, and say where it is."""
    from gan_dist.tracking import board

    print(f"{board.create(options.entity, options.project, options.name)}: choose it under Workspaces, once")
