"""`gan-dist COMMAND ...`: one thin command per capability."""

import argparse
import dataclasses
import errno
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gan_dist import __version__
from gan_dist.errors import EXIT_FINISHED, EXIT_INPUT, InputError

# Commands import what they need when they run: `gan-dist --help` must not wait for torch.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options, keys = _parser().parse_known_args(arguments)
    options.keys = keys
    try:
        if keys and options.command not in (_doctor, _slurm):
            raise InputError(f"unknown argument {keys[0]}; see `gan-dist --help`")
        options.command(options)
        sys.stdout.flush()
    except InputError as error:
        if os.environ.get("GAN_DIST_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # `gan-dist ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:  # it is not the output that is full
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: the output cannot be written ({error.strerror})", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gan-dist", description="Data, samples and checkpoints of GAN runs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    pack = _add(
        commands,
        "pack",
        _pack,
        "make WebDataset shards of images",
        "gan-dist pack photos/ data/photos --resolution 64\n  gan-dist pack digits data/digits --resolution 16",
    )
    pack.add_argument(
        "source",
        metavar="SOURCE",
        help="folder (subfolders are classes), zip, tar, MNIST idx folder, CIFAR archive, or the word digits",
    )
    pack.add_argument(
        "dest", metavar="DEST", type=Path, help="folder for the shards; the same command goes on after a stop"
    )
    pack.add_argument("--resolution", type=int, help="centre-crop to a square and resize to this many pixels")
    pack.add_argument("--channels", type=int, choices=(1, 3), help="convert to grey (1) or RGB (3)")
    pack.add_argument(
        "--classes",
        choices=("none", "folder"),
        help="none: no labels. folder: the first folder below what all images share (default: labels in the source, else folder)",
    )
    pack.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a core")
    pack.add_argument("--json", action="store_true", help="print the report as JSON")

    index = _add(
        commands,
        "index",
        _index,
        "build or check the index of shards, and say what they hold",
        "gan-dist index data/photos\n  gan-dist index 'data/train-{000000..000099}.tar'",
    )
    index.add_argument("shards", nargs="+", metavar="SHARDS", help="folder, .tar file, brace pattern or URL")
    index.add_argument("--image", default="auto", help="extension of the image, where samples have several")
    index.add_argument("--allow-pipe", action="store_true", help="run the shell commands among SHARDS (pipe:COMMAND)")
    index.add_argument("--cache", default="", help="folder for what cannot lie beside the shards")
    index.add_argument("--json", action="store_true", help="print as JSON")

    generate = _add(
        commands,
        "generate",
        _generate,
        "draw samples from a run's averaged generator",
        "gan-dist generate runs/digits --n 100 --out samples\n  gan-dist generate runs/digits --n 16 --class 3 --out threes",
    )
    generate.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    generate.add_argument("--n", type=int, default=64, help="how many (default 64)")
    generate.add_argument("--out", type=Path, required=True, help="new or empty folder for PNGs and grid.png")
    generate.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    generate.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    generate.add_argument("--class", dest="label", type=int, help="this class only, where the run has labels")

    checkpoints = _add(
        commands,
        "checkpoints",
        _checkpoints,
        "list a run's checkpoints",
        "gan-dist checkpoints runs/digits --verify",
    )
    checkpoints.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a checkpoint in it")
    checkpoints.add_argument("--verify", action="store_true", help="compare every file's SHA-256, not only its size")
    checkpoints.add_argument("--json", action="store_true", help="print as JSON")

    track = _add(
        commands,
        "track",
        _track,
        "write a run's figures and grids to W&B from its own files",
        "gan-dist track runs/digits\n  gan-dist track runs/digits --wandb online",
    )
    track.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    track.add_argument(
        "--wandb", choices=("auto", "online", "offline"), default="auto", help="default: as training does"
    )
    track.add_argument("--id", default="", help="another W&B run than the run's own")

    doctor = _add(
        commands,
        "doctor",
        _doctor,
        "look at everything that a training will meet: directory, disk, devices, links, loader, memory, speed",
        "gan-dist doctor configs/digits.yaml\n  gan-dist doctor configs/dcgan.yaml --data.shards data/faces --json\n"
        "  gan-dist doctor configs/digits.yaml --processes 2 --numerics --training.strategy zero2",
    )
    doctor.add_argument("config", metavar="CONFIG", help="a config, and any of its keys as for training")
    doctor.add_argument(
        "--processes", type=int, default=0, help="training processes to try (default: one for each GPU)"
    )
    doctor.add_argument(
        "--numerics", action="store_true", help="compare a step of the config's own networks with a plain loop's"
    )
    doctor.add_argument("--json", action="store_true", help="print as JSON")

    slurm = _add(
        commands,
        "slurm",
        _slurm,
        "check a training against the cluster and print or submit its sbatch line, or say how a run stands",
        "gan-dist slurm configs/dcgan.yaml --nodes 4 --gpus-per-node 8 --time 8:00:00\n"
        "  gan-dist slurm configs/digits.yaml --nodes 2 --processes-per-node 1 --submit --training.images 500000\n"
        "  gan-dist slurm --status runs/dcgan",
    )
    slurm.add_argument("config", metavar="CONFIG", nargs="?", help="a config, and any of its keys as for training")
    slurm.add_argument("--status", metavar="RUN", type=Path, help="how a run stands, instead")
    slurm.add_argument("--nodes", type=int, default=1)
    slurm.add_argument("--gpus-per-node", type=int, default=0)
    slurm.add_argument("--processes-per-node", type=int, default=0, help="on CPUs (default: 1)")
    slurm.add_argument("--cpus-per-task", type=int, default=0, help="cores: of a node with GPUs, else of a process")
    slurm.add_argument("--time", default="", help="hours:minutes:seconds")
    slurm.add_argument("--partition", default="")
    slurm.add_argument("--account", default="")
    slurm.add_argument(
        "--save-seconds", type=float, default=0.0, help="how long a save takes (default: as the run says)"
    )
    slurm.add_argument("--submit", action="store_true", help="submit it, with a copy of the code as it is now")
    slurm.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], what: str, examples: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    return command


def _pack(options: argparse.Namespace) -> None:
    from gan_dist.data.pack import packing

    for name in ("resolution", "processes"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name} {value}: give a number above 0")
    report = packing.pack(
        options.source,
        options.dest,
        resolution=options.resolution,
        channels=options.channels,
        processes=options.processes,
        classes=options.classes,
        progress=not options.json,
    )
    if options.json:
        print((options.dest / "pack.json").read_text())
    else:
        print("\n".join(report.lines()))


def _index(options: argparse.Namespace) -> None:
    from gan_dist.config import default_cache
    from gan_dist.data import index, shards

    cache = Path(options.cache) if options.cache else default_cache()
    local = [str(path) for path in shards.fetch(shards.expand(options.shards, options.allow_pipe), cache)]
    index.build(local, cache, options.image, progress=not options.json)
    found = index.load(local, cache, options.image)
    labels = {str(label): count for label, count in sorted(Counter(found.label.tolist()).items()) if label >= 0}
    facts = {
        "samples": len(found),
        "shards": len(found.shards),
        "classes": labels,
        "width": [int(found.width.min()), int(found.width.max())] if len(found) else [],
        "height": [int(found.height.min()), int(found.height.max())] if len(found) else [],
        "kinds": found.channels,
        "bad": list(found.bad),
        "left_out": found.left_out,
        "digest": found.digest,
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return
    names = {"1": "grey", "3": "RGB", "4": "with transparency or CMYK"}
    print(f"samples  {facts['samples']:,} in {facts['shards']} shards")
    if len(found):
        print("size     {}..{} x {}..{} pixels".format(*facts["width"], *facts["height"]))  # type: ignore[misc]
        print("kind     " + ", ".join(names[kind] for kind in sorted(found.channels)))
    print("classes  " + (", ".join(f"{label}: {count:,}" for label, count in labels.items()) or "none"))
    print(f"bad      {len(found.bad)}" + "".join(f"\n  {bad}" for bad in found.bad))
    if left_out := found.left_out:
        reasons = ", ".join(f"{why} {count:,}" for why, count in left_out.items())
        print(f"unused   {sum(left_out.values()):,} members that belong to no image: {reasons}")
    print(f"digest   {found.digest}")


def _generate(options: argparse.Namespace) -> None:
    from gan_dist import files
    from gan_dist.generate import generate, load
    from gan_dist.tracking import grid

    if options.n < 1:
        raise InputError(f"--n {options.n}: give a number above 0")
    game, config, name = load(options.run, options.checkpoint)
    if options.label is not None and not 0 <= options.label < config.data.classes:
        have = (
            f"its classes are 0..{config.data.classes - 1}" if config.data.classes else "it was trained without labels"
        )
        raise InputError(f"--class {options.label}: {options.run} has no such class; {have}")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise InputError(f"--out {options.out} holds files already; give a new or an empty folder")
    files.make_directory(options.out, "--out")
    shown = []
    for number, image in enumerate(generate(game, options.seed, options.n, options.label)):
        grid.save_png(image, options.out / f"{number:06d}.png")
        if number < 100:  # more would be too small to look at
            shown.append(image)
    grid.save_grid(shown, options.out / "grid.png")
    print(f"{options.n} images of {name} in {options.out}; look at {options.out / 'grid.png'}")


def _checkpoints(options: argparse.Namespace) -> None:
    from gan_dist.checkpoint import store

    run = options.run.parent.parent if (options.run / "manifest.json").exists() else options.run
    if not (run / "config.yaml").exists():
        raise InputError(f"{run} is no run directory (no config.yaml in it); give a folder that training made")
    rows = [store.describe(run / "checkpoints" / name, options.verify) for name in store.names(run / "checkpoints")]
    if run != options.run:
        rows = [row for row in rows if row["name"] == options.run.name]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"{run} has no checkpoint yet")
    for row in rows:
        state = "whole" if row["whole"] else f"damaged: {row['problem']}"
        print(
            f"{row['name']}  {row['images']:>13,} images  {row['bytes'] / 2**20:8.1f} MiB  {(row['digest'] or '-')[:16]}  {state}"
        )


def _track(options: argparse.Namespace) -> None:
    from gan_dist.tracking.rebuild import rebuild

    count, place = rebuild(options.run, options.wandb, options.id)
    print(f"{count:,} lines of {options.run / 'metrics.jsonl'} are in W&B: {place}")


def _slurm(options: argparse.Namespace) -> None:
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
            print(f"{'ok     ' if finding.good else 'PROBLEM'}  {finding.what:10s}  {finding.text}")
        print(line)
        if job:
            print(f"submitted as job {job}; `gan-dist slurm --status RUN` says how it stands")
    if bad:
        raise InputError(f"{len(bad)} problem(s): {', '.join(bad)}; nothing was submitted")


def _doctor(options: argparse.Namespace) -> None:
    from gan_dist.doctor import local

    findings = []
    for finding in local.examine([options.config, *options.keys], options.processes, options.numerics):
        findings.append(finding)
        if not options.json:
            print(f"{'ok     ' if finding.good else 'PROBLEM'}  {finding.what:14s}  {finding.text}", flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    if bad := [finding for finding in findings if not finding.good]:
        raise InputError(f"{len(bad)} problem(s): {', '.join(finding.what for finding in bad)}")


if __name__ == "__main__":
    sys.exit(main())
