"""What ranks save in an evaluation: seconds of one and of two, in turn, with Inception's network and one core each.

    python benchmarks/evaluation.py --images 256 --rounds 2

As many real and generated images, 64x64, are resized, looked at by a network of Inception's shape (seeded random weights,
in the file format of the published ones) and scored by kid and prdc. Nothing is cached. Starts are not timed. As many
evaluations beside each other, which know nothing of each other, tell what the machine's cores can give at most.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # the words of an evaluation, in a rank of it
    options = parser.parse_args()
    if options.rank:
        evaluate(shlex.split(options.rank))
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for seed, name in enumerate(("real", "made")):
            pictures(place / name, options.images, seed)
        weights(place / "inception.pth")
        words = f"made --against real --scores kid,prdc --features inception:{place}/inception.pth --device cpu"
        seconds: dict[int, list[float]] = {count: [] for count in options.processes}
        beside: dict[int, list[float]] = {count: [] for count in options.processes if count > 1}
        for number in range(options.rounds):
            for count, times in seconds.items():
                times.append(measure(place, words, count))
                rate = 2 * options.images / times[-1]
                print(f"round {number + 1}: {count} ranks {times[-1]:.1f} s, {rate:.1f} images/s", flush=True)
            for count, times in beside.items():
                with ThreadPoolExecutor(count) as pool:
                    times.append(max(pool.map(lambda _: measure(place, words, 1), range(count))))
                print(f"round {number + 1}: {count} evaluations beside each other {times[-1]:.1f} s", flush=True)
    first = seconds[options.processes[0]]
    for count, times in list(seconds.items())[1:]:
        report(
            f"speed of {count} ranks over {options.processes[0]}", [a / b for a, b in zip(first, times, strict=True)]
        )
        if count in beside:
            bound = [count * a / b for a, b in zip(first, beside[count], strict=True)]
            report(f"work of {count} evaluations beside each other over one", bound)


def report(what: str, ratios: list[float]) -> None:
    print(f"RATIO {what}: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")


def measure(place: Path, words: str, count: int) -> float:
    """Seconds of an evaluation by `count` ranks, once all have joined, which finds no features of an earlier one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [*launcher, str(Path(__file__).resolve()), "--rank", words],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GAN_DIST_CACHE": cache},
            cwd=place,
            text=True,
            capture_output=True,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not found:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[0].split("=")[1])


def evaluate(words: list[str]) -> None:
    """Be a rank of `gan-dist evaluate`; the first one prints its seconds."""
    from gan_dist.cli import evaluate as command
    from gan_dist.engine.joined import Joined
    from gan_dist.scoring.command import score

    parser = argparse.ArgumentParser()
    command.arguments(parser)
    joined = Joined("cpu")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        (found,) = score(parser.parse_args(words), joined, Path(scratch), command.Progress(False))
    assert not found.problem, found.problem
    if joined.rank == 0:
        print(f"RESULT seconds={time.perf_counter() - began:.3f}", flush=True)
    joined.close()


def pictures(folder: Path, count: int, seed: int) -> None:
    from PIL import Image

    folder.mkdir()
    numbers = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:06}.png")


def weights(path: Path) -> None:
    """Seeded random weights. BatchNorm's statistics come from noise, or features die over 90 layers."""
    import torch
    from torch import nn

    from gan_dist.evaluation.inception import InceptionNetwork

    generator = torch.Generator().manual_seed(0)
    network = InceptionNetwork().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            scale = (2 / module.weight[0].numel()) ** 0.5
            module.weight.copy_(scale * torch.randn(module.weight.shape, generator=generator))
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(255 * torch.rand(2, 3, 299, 299, generator=generator))
    torch.save(network.state_dict(), path)


if __name__ == "__main__":
    main()
