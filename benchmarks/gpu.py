"""What a GAN step costs on a GPU, and what would make it cheaper: predictions, measurements and floors side by side.

    python benchmarks/gpu.py --out results                     # everything, in under eight minutes on an H100
    python benchmarks/gpu.py --out results --parts 0,1,3       # some parts; --list names them
    python benchmarks/gpu.py --out results --r3gan ../R3GAN --stylegan2 ../stylegan2-ada-pytorch    # against the originals
    python benchmarks/gpu.py --out results --dry               # every part at toy size on a CPU, in a minute

Each part is a process of its own with a time limit: one that crashes or hangs loses only what it had not yet measured. A part for
which no time is left is named. Lines are appended to OUT/results.jsonl as they are measured; OUT/table.txt is the table that is
printed last, and OUT/log.txt what the parts printed. Run again with --parts for what failed: the table then has both.

Parts 1 to 7, 9 and 10 need torch, numpy and PyYAML alone. Without pydantic they use a stand-in for the keys of networks
(gpu_parts/stand_in.py); rows of the trainer's own engine, and parts 8 and 13, then say what they need. On a machine without a network:

    pip download --no-deps -d wheels pydantic pydantic_core annotated-types typing-inspection webdataset braceexpand    # elsewhere
    pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=site python benchmarks/gpu.py --out results

A predicted figure is for an H100; a ratio is measured over predicted, or over the middle of its range. A floor is the larger of bytes
over the measured bandwidth and operations over the measured rate, of what the step asks for without fusion.
"""

import argparse
import contextlib
import dataclasses
import importlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: F401  loaded once: the parts are forks, and nothing here touches a GPU

from benchmarks.gpu_parts import measuring, stand_in, table


@dataclasses.dataclass(frozen=True)
class Part:
    """An experiment, and the seconds after which it is stopped."""

    name: str
    title: str
    limit: float
    run: str | Callable[[measuring.Bench], object]
    """module:function of gpu_parts."""
    least: float = 5.0
    """Seconds below which it is not worth a start."""


PARTS = (
    Part("0", "what is here", 60, "ceilings:here"),
    Part("1", "ceilings", 45, "ceilings:ceilings"),
    Part("2", "DCGAN-64: kernels, host and device", 70, "dcgan:formats", 15),
    Part("3", "CUDA graphs of the phases", 60, "dcgan:graphs", 15),
    Part("13", "the engine's graphs", 70, "recorded:recorded", 15),
    Part("4", "what synchronises", 60, "waits:waits", 10),
    Part("5", "R3GAN: convolutions, layouts, formats", 70, "r3gan:grid", 20),
    Part("6", "StyleGAN2: modulation, filters, batches", 75, "stylegan2:forms", 20),
    Part("8", "the trainer, end to end", 110, "trainer:trainer", 20),
    Part("9", "collectives in a graph", 40, "collectives:collectives", 10),
    Part("10", "memory", 30, "memory:memory", 10),
    Part("11", "R3GAN's own code", 150, "originals:r3gan", 20),
    Part("12", "StyleGAN2-ADA's own code", 150, "originals:stylegan2", 20),
    Part("7", "traced and compiled losses", 150, "compiled:compiled", 30),  # last, as it is dropped first
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of results; made if it is not there")
    parser.add_argument("--parts", default="", help="comma-separated; default: all")
    parser.add_argument("--seconds", type=float, help="for all parts together; default: 460, and 3,600 in a dry run")
    parser.add_argument("--dry", action="store_true", help="at toy size on a CPU")
    parser.add_argument("--r3gan", type=Path, help="a checkout of github.com/brownvc/R3GAN")
    parser.add_argument("--stylegan2", type=Path, help="a checkout of github.com/NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--list", action="store_true", help="name the parts")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{part.name:>3}  {part.title}, at most {part.limit:.0f} s" for part in PARTS))
        return
    wanted = [name for name in options.parts.split(",") if name]
    if unknown := set(wanted) - {part.name for part in PARTS}:
        parser.error(f"--parts: there is no part {', '.join(sorted(unknown))}; --list names them")
    if options.out is None:
        parser.error("--out: name a folder for the results")
    options.seconds = options.seconds or (3600.0 if options.dry else 460.0)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if not wanted or part.name in wanted]
    measuring.forget(options.out, {part.name for part in parts})
    with tempfile.TemporaryDirectory(prefix="gan_dist-gpu-", ignore_cleanup_errors=True) as scratch:
        options.scratch = Path(scratch)
        play(parts, options)
    text = table.text(measuring.read(options.out), {part.name: part.title for part in PARTS}, options.dry)
    (options.out / "table.txt").write_text(text)
    print(text, flush=True)


def play(parts: Sequence[Part], options: argparse.Namespace) -> None:
    """Run each part in a process of its own while there is time; every part leaves a line."""
    began = time.monotonic()
    for part in parts:
        left = options.seconds - (time.monotonic() - began)
        if left < part.least:
            measuring.record(options.out, part.name, part.title, "not run: no time")
            continue
        # a dry run may share two cores with many others
        limit, before = min(part.limit * (10 if options.dry else 1), left), len(measuring.read(options.out))
        process = multiprocessing.get_context("fork").Process(target=_child, args=(part, options, limit))
        started, used = time.monotonic(), _processor()
        process.start()
        ready = multiprocessing.connection.wait([process.sentinel], limit)
        # all that it started goes with it; its number is not given to another before join
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
        code = process.exitcode or 0
        if not ready:
            ended = f"stopped after {limit:.0f} s, its time limit"
        else:
            ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}" if code else ""
        lines = measuring.read(options.out)[before:]
        if ended and not any(line["name"] == "failed" for line in lines):
            measuring.record(options.out, part.name, "failed", ended)
        elif not lines:
            measuring.record(options.out, part.name, part.title, "gave no line")
        took = f"{time.monotonic() - started:.0f} s, {_processor() - used:.0f} of a processor"
        print(f"part {part.name}, {part.title}: {took}{', ' * bool(ended)}{ended}", flush=True)


def _processor() -> float:
    """Seconds of processor time of the parts that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _child(part: Part, options: argparse.Namespace, limit: float) -> None:
    os.setsid()
    log = os.open(options.out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    print(f"--- part {part.name}, {part.title}", flush=True)
    code = 0
    try:
        stand_in.install()
        bench = measuring.Bench(part.name, options.out, options.dry, options, limit)
        _function(part)(bench)
    except BaseException as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        measuring.record(options.out, part.name, "failed", f"{type(error).__name__}: {first}"[:200])
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # clean-up of NCCL or of compile workers may hang


def _function(part: Part) -> Callable[[measuring.Bench], object]:
    if callable(part.run):
        return part.run
    module, _, function = part.run.partition(":")
    found: Callable[[measuring.Bench], object] = getattr(
        importlib.import_module(f"benchmarks.gpu_parts.{module}"), function
    )
    return found


if __name__ == "__main__":
    main()
