"""`gan-dist film`: show how a run learned: its sample grids over time."""

import argparse
import sys
from pathlib import Path

from gan_dist.errors import InputError

HELP = "show how a run learned: its sample grids over time, as an animation"
EXAMPLES = (
    "gan-dist film runs/digits film.webp\n"
    "  gan-dist film runs/digits film.mp4 --fps 10 --last-frame 5\n"
    "  gan-dist film runs/digits film.gif --every 100000 --gallery live"
)

_LONGEST = 600  # seconds: a GIF shows no frame longer than 655


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory; it may be training")
    parser.add_argument("out", metavar="OUT", type=Path, help="FILE.webp, .gif, .webm or .mp4, or a folder for PNGs")
    parser.add_argument("--fps", type=float, default=5, help="grids a second (default 5)")
    parser.add_argument(
        "--last-frame", type=float, default=2, metavar="SECONDS", help="how long the last grid stays (default 2)"
    )
    parser.add_argument(
        "--every", type=int, default=0, metavar="IMAGES", help="leave out grids that are nearer to the next one"
    )
    parser.add_argument(
        "--gallery", default="", help="pictures beside the grid: the name of a folder in samples/, as live"
    )
    parser.add_argument("--replace", action="store_true", help="replace what is at OUT")


def run(options: argparse.Namespace) -> None:
    """Read the grids and write them."""
    from gan_dist import film, run_directory, video

    if options.every < 0:
        raise InputError(f"--every {options.every}: give a number of images")
    if not 0 <= options.last_frame <= _LONGEST:
        raise InputError(f"--last-frame {options.last_frame:g}: give a number of seconds up to {_LONGEST}")
    run = run_directory.locate(options.run)
    shown = film.grids(run, options.gallery, options.every)
    video.check(options.out, options.fps, options.replace)
    hold = max(1, round(options.last_frame * options.fps))
    broken: list[str] = []
    frames = film.frames(shown, hold, broken.append)
    video.write(frames, options.out, options.fps, len(shown) + hold - 1)
    for line in broken:
        print(line, file=sys.stderr)
    print(f"{len(shown) - len(broken)} grids, up to {shown[-1][0]:,} images, in {options.out}")
