"""`gan-dist export`: hand over a run's network, as a folder that loads without this package."""

import argparse
from pathlib import Path

from gan_dist.errors import InputError

HELP = "hand over a run's network, as a folder that loads without this package"
EXAMPLES = (
    "gan-dist export runs/digits shared/digits\n"
    "  gan-dist export runs/horse2zebra shared/zebra2horse --way BA --onnx\n"
    "  gan-dist export runs/digits shared/digits --replace --push OWNER/digits"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    parser.add_argument("folder", metavar="DEST", type=Path, help="a new or empty folder")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--averaged", action="store_true", help="the moving average of the weights (default)")
    weights.add_argument("--live", action="store_true", help="the weights as they are trained, not their average")
    parser.add_argument("--way", default="", metavar="AB|BA", help="the way, of a run that learnt both")
    parser.add_argument("--onnx", action="store_true", help="model.onnx too (needs gan_dist[onnx])")
    parser.add_argument("--replace", action="store_true", help="replace an earlier export in DEST")
    parser.add_argument("--push", metavar="OWNER/NAME", default="", help="upload it to the Hugging Face hub as well")
    parser.add_argument(
        "--public", action="store_true", help="with --push: everybody may see a repository that is made"
    )


def run(options: argparse.Namespace) -> None:
    """Write the folder, and upload it where asked."""
    if options.public and not options.push:
        raise InputError("--public has no effect without --push; remove it")
    from gan_dist import files, units
    from gan_dist.export import hub, writing

    if options.push:
        hub.check(options.push)
    chosen = writing.Options(options.checkpoint, options.live, options.way, options.onnx, options.replace)
    exported = writing.export(options.run, options.folder, chosen, lambda text: print(text, flush=True))
    size = units.size(files.folder_size(options.folder))
    print(f"{exported.checkpoint} of {options.run} in {options.folder} ({size}); README.md says how to load it")
    if options.push:
        print(hub.push(options.folder, options.push, private=not options.public))
