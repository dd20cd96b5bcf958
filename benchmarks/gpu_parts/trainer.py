"""Part 8: whole runs of the trainer on packed JPEGs, as a user starts them: workers, number formats, keys that are new, saves."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import stand_in
from .ceilings import ROOT
from .dcgan import TOY, named
from .measuring import Bench, read

NEEDS = ("pydantic", "accelerate", "webdataset", "yaml", "cv2", "safetensors", "psutil", "PIL")
# name in the table, micro-batch, further keys, predicted images/s. Keys that this version may not know say so.
RUNS: tuple[tuple[str, int, dict[str, Any], tuple[float, float] | None], ...] = (
    ("bf16 micro 128, trainer", 128, {}, (20e3, 45e3)),
    ("bf16 micro 128, graphs", 128, {"training.graphs": "auto"}, (60e3, 128e3)),
    ("bf16 micro 128, graphs, resident", 128, {"training.graphs": "auto", "data.resident": "device"}, (90e3, 128e3)),
    ("tf32 micro 32, trainer", 32, {"training.tf32": "true"}, (8e3, 16e3)),
    ("fp32 micro 32, exact (the recipe)", 32, {"training.strategy": "exact"}, (6e3, 12e3)),
    ("bf16 micro 128, a save every quarter", 128, {"saves": 4}, None),
    ("bf16 micro 128, labels", 128, {"data.labels": "true"}, None),
    ("bf16 micro 128, 4 workers", 128, {"data.workers": 4}, None),
    ("bf16 micro 128, resident", 128, {"data.resident": "device"}, (20e3, 45e3)),
    ("bf16 micro 128, 8 workers", 128, {"data.workers": 8}, None),
    ("tf32 micro 128, trainer", 128, {"training.tf32": "true"}, None),
)


def trainer(bench: Bench) -> None:
    if lacking := stand_in.missing(*NEEDS):
        bench.line("the trainer", f"not run: {lacking}", note="carry their wheels, and put them on PYTHONPATH")
        return
    folder = bench.options.scratch
    shards = packed(bench, folder)
    _loader_alone(bench, shards)
    best = 0.0
    for name, micro, keys, predicted in bench.size(RUNS, RUNS[:1]):
        if bench.left() < bench.size(8, 2):
            bench.line(f"DCGAN-64 {name}", "not run: no time")
            continue
        number = {"training.precision": "bf16"} if name.startswith("bf16") else {}
        rate, problem, stalls = _run(bench, folder, shards, micro, {**number, **keys})
        if problem:
            bench.line(f"DCGAN-64 {name}", problem)
            continue
        best = max(best, rate)
        step = _captured(bench, name, micro)
        share = f"{100 * rate * step / 128e3:.0f} % of the captured step" if step else ""
        bench.line(f"DCGAN-64 {name}", rate, "images/s", predicted, note="; ".join(filter(None, [share, stalls])))
    bench.line("the trainer at best", best, "images/s")


def _captured(bench: Bench, name: str, micro: int) -> float:
    """Milliseconds of part 3's captured step of the same kind; 0 where it was not measured."""
    wanted = f"{named(name[:4], micro)}, captured"
    return next((each["measured"] for each in read(bench.out) if each["name"] == wanted), 0.0)


def packed(bench: Bench, folder: Path) -> Path:
    """Shards of JPEGs with structure: smooth pictures in two classes; those of an earlier part where there are some."""
    if (folder / "shards").exists():
        return folder / "shards"
    import cv2

    count, side = bench.size((4000, 64), (16, 16))
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"photos/{number % 2}/{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))
    began = time.perf_counter()
    command = "import sys; from gan_dist.cli import main; sys.exit(main())"
    words = ["pack", str(folder / "photos"), str(folder / "shards")]
    done = subprocess.run(
        [sys.executable, "-c", command, *words], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"gan-dist pack: {_last(done)}")
    bench.line("pack", count / (time.perf_counter() - began), "images/s", note="with the start of a process")
    return folder / "shards"


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "disabled"}


def _last(done: "subprocess.CompletedProcess[str]") -> str:
    """The line that says what went wrong."""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1][:160]


def _loader_alone(bench: Bench, shards: Path) -> None:
    """Images a second that arrive on the device, normalised and mirrored, with nothing computed from them."""
    from gan_dist import config as config_module
    from gan_dist.data import loader

    count = bench.size(60_000, 16)
    for workers in bench.size((4, 8, 14), (0,)):
        toy = TOY if bench.dry else {}
        micro, batch = bench.size((128, 128), (8, 8))
        keys = {
            **toy,
            "data.shards": shards,
            "data.workers": workers,
            "data.flip": "true",
            "data.cache": shards.parent / "cache",
        }
        keys |= {"training.images": 1 << 30, "training.batch": batch, "training.micro_batch": micro}
        flags = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
        config = config_module.load([str(ROOT / "configs/dcgan.yaml"), *flags])
        loader.prepare(config, progress=False)
        batches = loader.micro_batches(loader.open_index(config), config, 0, range(batch), bench.device)
        for _ in range(bench.size(loader.ahead(config) + 1, 1)):  # what was decoded ahead
            next(batches)
        began, seen = time.perf_counter(), 0
        while seen < count and time.perf_counter() - began < 2.0:
            seen += len(next(batches)[0])
        bench.sync()
        rate = seen / (time.perf_counter() - began)
        batches.close()
        predicted = {14: (60e3, 120e3)}.get(workers)
        bench.line(f"loader alone, {workers} workers", rate, "images/s", predicted, note="64x64 JPEG to the device")


def words(
    bench: Bench, folder: Path, shards: Path, micro: int, keys: dict[str, Any], steps: int, saves: int = 0
) -> list[str]:
    """The command line of a run of so many steps, in a new folder: no pictures, and no saves but those asked for."""
    batch = bench.size(128, 8)
    images = steps * batch
    given: dict[str, Any] = {
        **(TOY if bench.dry else {}), "data.shards": shards, "data.cache": folder / "cache",
        "data.workers": bench.size(max(1, min(14, (os.cpu_count() or 2) - 1)), 0),
        "run.directory": Path(tempfile.mkdtemp(dir=folder)) / "run", "training.images": images, "training.batch": batch,
        "training.micro_batch": bench.size(micro, 8), "training.strategy": "ddp", "training.device": bench.device.type,
        "track.every": max(1, images // 16), "track.wandb": "disabled", "sample.every": 10 * images,
        "checkpoint.every": images // saves if saves else 10 * images, **keys,
    }  # fmt: skip
    return [
        str(ROOT / "configs/dcgan.yaml"),
        *(word for key, value in given.items() for word in (f"--{key}", str(value))),
    ]


def _run(bench: Bench, folder: Path, shards: Path, micro: int, keys: dict[str, Any]) -> tuple[float, str, str]:
    """Train once; returns images a second of its last two thirds, what went wrong, and how long saves made it wait."""
    count, saves = bench.size(1000 if micro == 128 else 400, 2), keys.pop("saves", 0)
    given = words(bench, folder, shards, micro, keys, count, saves)
    metrics = Path(given[given.index("--run.directory") + 1]) / "metrics.jsonl"
    command, left = [sys.executable, str(ROOT / "gan_dist/train.py"), *given], max(5.0, bench.left() - 2)
    problem = "gave no figure in time"
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=left)
        print(done.stdout[-2000:], done.stderr[-4000:])
        if done.returncode:
            return 0.0, _last(done), ""
        problem = "gave no figure"
    except subprocess.TimeoutExpired:
        pass
    rate = _rate(metrics)
    return rate, "" if rate else problem, _stalls(metrics.parent / "events.jsonl")


def _stalls(path: Path) -> str:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    times = [1e3 * line["stalled"] for line in lines if line.get("stalled") is not None]
    return f"{len(times)} saves, which stall {max(times):.0f} ms at most" if len(times) > 1 else ""


def _rate(path: Path) -> float:
    """Images over seconds of the last two thirds of a run, saves in them included."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rates = [line["speed/images_per_second"] for line in lines if line.get("speed/images_per_second")]
    kept = rates[len(rates) // 3 :]
    return len(kept) / sum(1 / rate for rate in kept) if kept else 0.0
