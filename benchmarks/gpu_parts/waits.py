"""Part 4: which lines let the host wait for the device, in the bare step, in the engine's, and in the whole trainer."""

import collections
import contextlib
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import stand_in, steps, trainer
from .measuring import Bench

SYNCHRONISES = "called a synchronizing CUDA operation"


def waits(bench: Bench) -> None:
    """Print the lines; there should be none but on a CPU, where a branch on a number costs nothing and is taken."""
    step = steps.Step(bench, steps.dcgan(bench))
    step.step()
    with watching(bench) as lines:
        for _ in range(bench.size(5, 1)):
            step.step()
    _report(bench, "bare step", lines, 0)
    _copies(bench)
    if lacking := stand_in.missing("pydantic", "accelerate", "yaml"):
        bench.line("the engine's step", f"not run: {lacking}")
        return
    from .engines import EngineStep

    for strategy, precision in bench.size([("ddp", "bf16"), ("ddp", "fp16"), ("exact", "fp32")], [("ddp", "fp32")]):
        more = {"data__labels": "true", "data__classes": 10, "penalties__r1__weight": 1, "penalties__r1__every": 2}
        if precision == "fp16":
            more["training__precision"] = "fp16"
        engine = EngineStep(bench, strategy, precision, 32, **more)
        for _ in range(2):
            engine.step()
        with watching(bench) as lines:
            for _ in range(bench.size(5, 1)):
                engine.step()
        _report(bench, f"engine, {strategy} {precision}, labels and R1", lines, 0)
    if lacking := stand_in.missing(*trainer.NEEDS):
        bench.line("the trainer", f"not run: {lacking}")
        return
    _trainer(bench)


def _trainer(bench: Bench) -> None:
    """The whole loop with its loader and labels, metrics, and saves that are owed: an interval of each is in it."""
    from gan_dist import train, trainer as module

    folder = bench.options.scratch
    shards = trainer.packed(bench, folder)
    keys = {"data.labels": "true", "data.workers": bench.size(4, 0)}
    words = trainer.words(bench, folder, shards, 32, keys, bench.size(40, 4), saves=2)
    lines, seen, stack = collections.Counter[str](), 0, contextlib.ExitStack()
    plain = module.play_step

    def watched(*arguments: Any, **named: Any) -> None:
        nonlocal seen, lines
        seen += 1
        if seen == bench.size(11, 1):
            lines = stack.enter_context(watching(bench))
        elif seen == bench.size(31, 2):
            stack.close()
        plain(*arguments, **named)

    module.play_step = watched
    code = train.main(words)
    stack.close()
    if code:
        bench.line("the trainer", f"ended with code {code}; see log.txt")
    else:
        _report(bench, f"the trainer, {bench.size(20, 1)} steps with labels and saves", lines, 0)


def _report(bench: Bench, name: str, lines: "collections.Counter[str]", predicted: float) -> None:
    shown = "; ".join(f"{line} x{count}" for line, count in lines.most_common(6))
    bench.line(f"{name}: waits", sum(lines.values()), "", note=shown or f"none; predicted {predicted:.0f}")


def _copies(bench: Bench) -> None:
    """What of the loader's copies of labels waits: a known property of torch, shown on this version."""
    if not bench.on_gpu:
        bench.line("copies of labels", "not run: no GPU")
        return
    labels = torch.randint(0, 10, (32,)).numpy()
    pinned = torch.from_numpy(labels).pin_memory()
    ways = {
        "from_numpy(labels).to(device)": lambda: torch.from_numpy(labels).to(bench.device),
        "the same, non_blocking": lambda: torch.from_numpy(labels).to(bench.device, non_blocking=True),
        "pinned, non_blocking": lambda: pinned.to(bench.device, non_blocking=True),
        "pin_memory() in the step": lambda: torch.from_numpy(labels).pin_memory().to(bench.device, non_blocking=True),
    }
    for name, run in ways.items():
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)  # about 10 ms of work that a wait would wait for
        host = _host(run)
        with watching(bench) as lines:
            run()
        bench.line(f"{name}: host", host, "ms", note="waits" if host > 2 or lines else "does not wait")


def _host(run: Any) -> float:
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


@contextlib.contextmanager
def watching(bench: Bench) -> Iterator["collections.Counter[str]"]:
    """Collect the lines that synchronise while it lasts: by torch's own debug mode, on a CPU by what reads a number."""
    lines: collections.Counter[str] = collections.Counter()
    if not bench.on_gpu:
        with _Reads(lines):
            yield lines
        return
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for each in caught:
        if SYNCHRONISES in str(each.message):
            lines[f"{each.filename.rpartition('gan_dist/')[2]}:{each.lineno}"] += 1


class _Reads(TorchDispatchMode):
    def __init__(self, lines: "collections.Counter[str]") -> None:
        super().__init__()
        self.lines = lines

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function._schema.name == "aten::_local_scalar_dense":
            own = [
                frame
                for frame in traceback.extract_stack()
                if "gan_dist/" in frame.filename or "benchmarks/" in frame.filename
            ]
            frame = [each for each in own if each.filename != __file__][-1]
            self.lines[f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"] += 1
        return function(*arguments, **(keywords or {}))
