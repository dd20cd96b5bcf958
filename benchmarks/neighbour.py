"""What spinning threads cost: digits on all cores, alone and beside a busy neighbour, with threads that spin and that sleep.

    python benchmarks/neighbour.py [--rounds 4] [--neighbours 2] [--policies spin ours sleep 1000]

Trainers with the same config live at once, each in a process of its own: "spin" has the OpenMP library's default, "ours"
what gan_dist/threads.py sets, "sleep" OMP_WAIT_POLICY=PASSIVE, a number GOMP_SPINCOUNT, "one" a single thread. They take short turns. Each round measures both alone and both beside the
neighbour, which is as many busy loops as `--neighbours` says. Alone the fastest turn of a round counts, as other
programs only make turns slower; beside the neighbour the median. The fair share of a trainer with as many threads as the
machine has cores is cores / (cores + neighbours).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=10, help="of each trainer in a round, alone and beside")
    parser.add_argument("--seconds", type=float, default=0.4, help="of one turn")
    parser.add_argument("--neighbours", type=int, default=len(os.sched_getaffinity(0)), help="busy loops")
    parser.add_argument("--config", default="configs/digits.yaml")
    parser.add_argument("--policies", nargs="+", default=["spin", "ours"])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.config, options.serve)
        return
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {policy: start(policy, options.config, f"{scratch}/{policy}") for policy in options.policies}
        try:
            measure(trainers, options)
        finally:
            for trainer in trainers.values():
                trainer.kill()
                trainer.wait()


def measure(trainers: dict[str, subprocess.Popen[str]], options: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    fair = cores / (cores + options.neighbours)
    first, *others = options.policies
    found: dict[str, list[float]] = {}
    for number in range(options.rounds):
        alone = alternate(trainers, options, best=max)
        loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(options.neighbours)]
        try:
            beside = alternate(trainers, options, best=statistics.median)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        for policy in others:
            found.setdefault(f"images/s alone, {policy} over {first}", []).append(alone[policy] / alone[first])
        for policy in options.policies:
            name = f"of the fair share beside {options.neighbours} busy loops, {policy}"
            found.setdefault(name, []).append(beside[policy] / alone[policy] / fair)
        said = ", ".join(
            f"{policy} {alone[policy]:.0f} alone, {beside[policy]:.0f} beside" for policy in options.policies
        )
        print(f"round {number + 1}, images/s: {said}; load {os.getloadavg()[0]:.1f} of {cores} cores", flush=True)
    for key, ratios in found.items():
        print(f"RATIO {key}: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")


def alternate(trainers: dict[str, subprocess.Popen[str]], options: argparse.Namespace, best) -> dict[str, float]:
    """Images a second of each trainer: `best` of short turns."""
    rates: dict[str, list[float]] = {policy: [] for policy in options.policies}
    for turn in range(options.turns):
        for policy in options.policies if turn % 2 == 0 else options.policies[::-1]:
            rates[policy].append(rate(trainers[policy], options.seconds))
    return {policy: best(values) for policy, values in rates.items()}


def start(policy: str, config: str, directory: str) -> "subprocess.Popen[str]":
    """A trainer that waits for orders, on all cores."""
    dropped = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    if policy == "sleep":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif policy.isdecimal():
        environment["GOMP_SPINCOUNT"] = policy
    elif policy == "one":
        environment["OMP_NUM_THREADS"] = "1"
    words = [sys.executable, str(Path(__file__).resolve()), "--serve", f"{policy} {directory}", "--config", config]
    trainer = subprocess.Popen(
        words, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    while not (line := trainer.stdout.readline()).startswith("ready"):
        if not line:
            sys.exit(f"the trainer with threads that {policy} did not start")
    return trainer


def rate(trainer: "subprocess.Popen[str]", seconds: float) -> float:
    """Images a second over so many seconds."""
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    trainer.stdin.write(f"{seconds}\n")
    trainer.stdin.flush()
    while not (line := trainer.stdout.readline()).startswith("rate "):
        if not line:
            sys.exit("a trainer ended")
    return float(line.split()[1])


def serve(config_name: str, order: str) -> None:
    """Train for as many seconds as a line on stdin says, then print the rate."""
    policy, _, directory = order.partition(" ")
    sys.path.insert(0, str(ROOT))
    from gan_dist import threads

    if policy == "ours":
        threads.spin_briefly()
    from gan_dist import config as config_module
    from gan_dist.data import loader
    from gan_dist.engine import Engine
    from gan_dist.trainer import Trainer

    keys = ["--run.directory", directory, "--training.images", "100000000", "--track.wandb", "disabled"]
    keys += ["--training.device", "cpu", "--checkpoint.every", "100000000", "--sample.every", "100000000"]
    config = config_module.load([config_name, *keys])
    trainer = Trainer(config, Engine(config))
    batches = loader.micro_batches(trainer.index, trainer.config, 0, trainer.engine.slots, trainer.engine.device)
    trainer.advance(next(batches))
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(2):
            trainer.advance(next(batches))
        images, begin = trainer.images, time.perf_counter()
        while (passed := time.perf_counter() - begin) < float(line):
            trainer.advance(next(batches))
        print(f"rate {(trainer.images - images) / passed}", flush=True)


if __name__ == "__main__":
    main()
