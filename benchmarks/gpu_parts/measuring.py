"""Time, count and record: what all parts of benchmarks/gpu.py have in common."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

Run = Callable[[], object]
CEILINGS = {"copy": 3.0, "bf16": 798.0, "tf32": 400.0, "fp32": 50.0}
"""TB/s of a copy, read and written, and TFLOP/s of matrix products: an H100's, until part 1 has measured this device's."""
NOT_CAPTURED = "eager, no capture: no GPU"


@dataclasses.dataclass(frozen=True)
class Times:
    """Medians of several calls."""

    ms: float
    """From the call's first work on the device to its last."""
    host: float
    """Milliseconds until the call returned."""
    calls: int


class Bench:
    """Where one part measures, and where its lines go."""

    def __init__(self, part: str, out: Path, dry: bool = False, options: Any = None, seconds: float = 60.0) -> None:
        self.part, self.out, self.dry, self.options = part, out, dry, options
        self._ends = time.monotonic() + seconds
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # read when CUDA starts; else some products are refused
        self.on_gpu = not dry and torch.cuda.is_available()
        if not dry and not self.on_gpu:
            raise RuntimeError("torch finds no GPU here; --dry tries the script on a CPU")
        self.device = torch.device("cuda" if self.on_gpu else "cpu")
        if not self.on_gpu:
            torch.set_num_threads(1)

    def size(self, full: Any, toy: Any) -> Any:
        """What to measure with: `toy` in a dry run."""
        return toy if self.dry else full

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self._ends - time.monotonic()

    def line(self, *values: Any, **named: Any) -> None:
        """Record one measurement of this part (`record`)."""
        record(self.out, self.part, *values, **named)

    def sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def alternate(self, variants: Mapping[str, Run], calls: int = 20, seconds: float = 2.0) -> dict[str, Times]:
        """Medians of calls that take turns, A B A B, after warming up; fewer calls where one takes long."""
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        slowest = 0.0
        for run in variants.values():
            for _ in range(self.size(5, 1)):
                took = self.once(run)[0] / 1e3
                if took > seconds / 5:
                    break
            slowest += took
        rounds = self.size(max(3, min(calls, int(seconds * len(variants) / max(slowest, 1e-6)))), 1)
        for _ in range(rounds):
            for name, run in variants.items():
                found[name].append(self.once(run))
        return {
            name: Times(statistics.median(ms for ms, _ in each), statistics.median(host for _, host in each), rounds)
            for name, each in found.items()
        }

    def once(self, run: Run) -> tuple[float, float]:
        """Milliseconds of one call: between its ends on the device, and until it returned."""
        self.sync()
        began = time.perf_counter()
        if not self.on_gpu:
            run()
            took = 1e3 * (time.perf_counter() - began)
            return took, took
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        host = 1e3 * (time.perf_counter() - began)
        end.synchronize()
        return start.elapsed_time(end), host

    def capture(self, phases: Mapping[str, Run], warm: int = 3) -> dict[str, Run]:
        """Play some rounds of the phases, then capture each in a CUDA graph; returns what replays them.

        In playing order, into one pool: a phase may read what an earlier one left. Without a GPU the phases themselves.
        """
        if not self.on_gpu:
            return dict(phases)
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        # on the stream of the capture: nodes that accumulate gradients remember where they were made
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm):
                for run in phases.values():
                    run()
        torch.cuda.synchronize()
        replays: dict[str, Run] = {}
        for name, run in phases.items():
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                run()
            replays[name] = graph.replay
        torch.cuda.synchronize()
        return replays

    def profiled(self, run: Run) -> tuple[int, float]:
        """Kernels and copies that one call runs on the device, and their milliseconds; without a GPU counted calls, and 0."""
        if not self.on_gpu:
            return counted(run).kernels, 0.0
        run()
        self.sync()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            self.sync()
        events = [
            event
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ]
        return len(events), sum(event.time_range.elapsed_us() for event in events) / 1e3

    def ceilings(self) -> dict[str, float]:
        """TB/s and TFLOP/s of this device: what part 1 measured, else an H100's."""
        return CEILINGS | {
            each["name"].removeprefix("ceiling "): each["measured"]
            for each in read(self.out)
            if each["name"].startswith("ceiling ") and not self.dry
        }

    def floor(self, count: "Count", precision: str) -> tuple[float, str]:
        """Milliseconds that no unfused version is below, and which of bytes and operations says so."""
        ceilings = self.ceilings()
        precision = {"fp16": "bf16"}.get(precision, precision)
        of_bytes, of_operations = 1e-9 * count.bytes / ceilings["copy"], 1e-9 * count.flops / ceilings[precision]
        return max(of_bytes, of_operations), f"bytes {of_bytes:.2f} ms, FLOP {of_operations:.2f} ms"


def record(
    out: Path,
    part: str,
    name: str,
    measured: float | str,
    unit: str = "",
    predicted: float | tuple[float, float] | None = None,
    floor: float | None = None,
    note: str = "",
) -> None:
    """Append a line to the results, whole at once: a part may be killed at any moment.

    `floor` is in the same unit as `measured`, and `predicted` a number or a range.
    """
    middle = math.sqrt(math.prod(predicted)) if isinstance(predicted, tuple) else predicted
    ratio = measured / middle if middle and not isinstance(measured, str) else None
    values = {"part": part, "name": name, "measured": measured, "unit": unit, "predicted": predicted, "ratio": ratio}
    with open(out / "results.jsonl", "a") as file:
        file.write(json.dumps({**values, "floor": floor, "note": note}) + "\n")


def forget(out: Path, parts: set[str]) -> None:
    """Drop the lines of parts that are to run again."""
    kept = [line for line in read(out) if line["part"] not in parts]
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def read(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclasses.dataclass
class Count:
    """What a call asks of the device, by the operations that reach it: a lower bound of its kernels."""

    kernels: int = 0
    bytes: float = 0.0
    """Read and written, as if nothing stayed in a cache."""
    flops: float = 0.0
    """Of convolutions and matrix products."""
    names: dict[str, int] = dataclasses.field(default_factory=dict)


def counted(run: Run) -> Count:
    """Count one call, on any device."""
    with _Counter() as counter:
        run()
    return counter.count


# they make or rename memory, and run nothing
_FREE = (
    "empty",
    "detach",
    "alias",
    "view",
    "new_empty",
    "_unsafe_view",
    "lift_fresh",
    "set_",
    "resize_",
    "record_stream",
)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = Count()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.removeprefix("aten::")
        is_view = any(each.alias_info and not each.alias_info.is_write for each in function._schema.returns)
        if not is_view and not name.startswith(_FREE):
            given = [each for each in tree_flatten((arguments, keywords))[0] if isinstance(each, Tensor)]
            made = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
            self.count.kernels += 1
            self.count.names[name] = self.count.names.get(name, 0) + 1
            self.count.bytes += sum(each.nbytes for each in (*given, *made))
            self.count.flops += _flops(name, arguments, result)
        return result


def _flops(name: str, arguments: Any, result: Any) -> float:
    if name in ("convolution", "cudnn_convolution"):
        x, weight, transposed = arguments[0], arguments[1], name == "convolution" and arguments[6]
        return 2.0 * (x if transposed else result).numel() * weight.numel() / weight.shape[0]
    if name == "convolution_backward":
        gradient, x, weight, transposed, mask = arguments[0], arguments[1], arguments[2], arguments[7], arguments[10]
        return 2.0 * sum(mask[:2]) * (x if transposed else gradient).numel() * weight.numel() / weight.shape[0]
    if name in ("mm", "bmm"):
        return 2.0 * result.numel() * arguments[0].shape[-1]
    if name == "addmm":
        return 2.0 * result.numel() * arguments[1].shape[-1]
    return 0.0


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let fp32 products and convolutions be computed in TF32 or not, while it lasts."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
