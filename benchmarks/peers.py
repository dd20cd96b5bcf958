"""Images a second of DCGAN 64x64 against pytorch/examples and Lightning Fabric, run in turn under one stopwatch.

    python benchmarks/peers.py --images FOLDER --examples examples/dcgan/main.py --fabric train_fabric.py

FOLDER is a tree of 64x64 JPEGs with one subfolder at least (an ImageFolder). The peers' scripts come from
their own repositories and are not changed: pytorch/examples dcgan/main.py, and Lightning's
examples/fabric/dcgan/train_fabric.py (needs `pip install lightning`). Batch 64 over all processes, as many threads
for each. Ours runs with the other settings of launch/env.sh, as our launcher starts it; --plain leaves them away.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from stopwatch import measure

HERE = Path(__file__).resolve().parent
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--examples", type=Path)
    parser.add_argument("--fabric", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plain", action="store_true", help="the peers' environment for ours too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shards = Path(scratch) / "shards"
        subprocess.run(
            [sys.executable, "-m", "gan_dist.cli", "pack", options.images, shards], check=True, env=_environment(1)
        )
        contestants = {}
        for count in options.processes:
            contestants[f"gan_dist, {count} process(es)"] = (_ours(options, shards, count), count)
            if options.examples and count == 1:
                contestants["pytorch/examples, 1 process"] = (_examples(options, scratch), 1)
            if options.fabric:
                contestants[f"Lightning Fabric, {count} process(es)"] = ([str(options.fabric.resolve())], count)
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for round_number in range(options.rounds):
            for name, (command, count) in contestants.items():
                if name.startswith("gan_dist"):
                    command = [*command, "--run.directory", f"{scratch}/run-{count}-{round_number}"]
                rates[name].append(_run(command, count, options, scratch))
                print(f"round {round_number + 1}  {name:32s} {rates[name][-1]:8.2f} images/s", flush=True)
    print(f"\n{'median of ' + str(options.rounds):34s} images/s   gan_dist over it")
    for name, values in rates.items():
        count = contestants[name][1]
        ours = rates[f"gan_dist, {count} process(es)"]
        ratios = [mine / theirs for mine, theirs in zip(ours, values, strict=True)]
        print(
            f"{name:34s} {statistics.median(values):8.2f}   {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
        )


def _ours(options: argparse.Namespace, shards: Path, count: int) -> list[str]:
    settings = {
        "data.shards": shards,
        "data.flip": "false",  # neither peer mirrors
        "data.workers": 2 // count,
        "training.batch": options.batch,
        "training.micro_batch": options.batch // count,
        "training.device": "cpu",
        "training.strategy": "ddp",  # as the peers
        "track.every": options.batch * 4,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return [str(HERE.parent / "gan_dist/train.py"), str(HERE.parent / "configs/dcgan.yaml"), *flags]


def _examples(options: argparse.Namespace, scratch: str) -> list[str]:
    flags = ["--dataset", "folder", "--dataroot", str(options.images.resolve()), "--outf", f"{scratch}/examples"]
    return [str(options.examples.resolve()), *flags, "--workers", "2", "--batchSize", str(options.batch)]


def _run(command: list[str], count: int, options: argparse.Namespace, scratch: str) -> float:
    ours = command[0] == str(HERE.parent / "gan_dist/train.py")
    environment = _environment(count, launcher=ours and not options.plain)
    if command[0] == str(options.fabric and options.fabric.resolve()):
        environment.update(DEVICE_COUNT=str(count), IMAGE_FOLDER=str(options.images.resolve()))
    return measure(command, count, options.batch, options.steps, environment, scratch)


def _environment(count: int, launcher: bool = False) -> dict[str, str]:
    settings = dict(os.environ)
    if launcher:
        script = f"PROCESSES={count}; source {HERE.parent}/launch/env.sh; env -0"
        output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
        settings = dict(entry.split("=", 1) for entry in output.split("\0") if "=" in entry)
    path = f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    threads = str(max(1, CORES // count))
    return {
        **settings,
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": path,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }


if __name__ == "__main__":
    main()
