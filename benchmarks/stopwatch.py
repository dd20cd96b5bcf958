"""Run any training script under one stopwatch: images a second between its optimizer steps.

    python benchmarks/stopwatch.py --batch 64 -- SCRIPT [ARGUMENTS]

The script is not changed. Every second Adam step ends an iteration (two networks); after the warm-up and the
timed iterations the process prints `RESULT images_per_second=...` and ends. Where DEVICE_COUNT or IMAGE_FOLDER
are set, Lightning Fabric is told to use that many CPU processes, and CelebA (which cannot be fetched
everywhere) is replaced by that folder of images.
"""

import argparse
import contextlib
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(
    command: list[str], processes: int, batch: int, steps: int, environment: dict[str, str], where: str
) -> float:
    """Images a second of a script on so many processes; ends the program with its output where it gives none."""
    start = [sys.executable]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    watch = [str(Path(__file__).resolve()), "--batch", str(batch), "--steps", str(steps)]
    # a file, not a pipe: workers of a loader hold the pipe open beyond the end of their trainer
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(
            [*start, *watch, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=where,
            start_new_session=True,
        )
        try:
            child.wait(timeout=900)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    found = re.search(r"RESULT images_per_second=([\d.]+)", text)
    if not found:
        sys.exit(f"{' '.join(command)} gave no result:\n{text[-4000:]}")
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--batch", type=int, required=True, help="images an iteration shows the discriminator, all processes"
    )
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    _watch(torch.optim.Adam, options)
    _prepare_fabric(options.batch)
    sys.argv = [options.script, *options.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(options.script)))
    runpy.run_path(options.script, run_name="__main__")


def _watch(optimizer: type, options: argparse.Namespace) -> None:
    original, state = optimizer.step, {"count": 0, "begin": 0.0}

    def step(self, *arguments, **keywords):
        result = original(self, *arguments, **keywords)
        state["count"] += 1
        if state["count"] == 2 * options.warm:
            state["begin"] = time.perf_counter()
        if state["count"] == 2 * (options.warm + options.steps):
            seconds = time.perf_counter() - state["begin"]
            if os.environ.get("RANK", "0") == "0":
                print(f"RESULT images_per_second={options.steps * options.batch / seconds:.3f}", flush=True)
            os._exit(0)
        return result

    optimizer.step = step


def _prepare_fabric(batch: int) -> None:
    folder, count = os.environ.get("IMAGE_FOLDER"), int(os.environ.get("DEVICE_COUNT", "0"))
    if not folder or not count:
        return
    import lightning.fabric
    import torch.utils.data
    import torchvision.datasets

    loader, fabric = torch.utils.data.DataLoader, lightning.fabric.Fabric

    def images(transform, **_):
        return torchvision.datasets.ImageFolder(folder, transform)

    def sized(dataset, batch_size, **keywords):
        return loader(dataset, batch_size=batch // count, **{**keywords, "num_workers": 2 // count})

    class OnCPU(fabric):
        def __init__(self, **_):
            super().__init__(accelerator="cpu", devices=count, strategy="ddp" if count > 1 else "auto")

    torchvision.datasets.CelebA = images
    torch.utils.data.DataLoader = sized
    lightning.fabric.Fabric = OnCPU


if __name__ == "__main__":
    main()
