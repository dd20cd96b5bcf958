"""Parts 0 and 1: what is here, and how fast it can be."""

import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from . import stand_in
from .measuring import Bench, tf32

ROOT = Path(__file__).resolve().parents[2]


def here(bench: Bench) -> None:
    """Part 0: versions, what can be imported, and the quick tests that need a GPU."""
    name, memory = "CPU", 0.0
    if bench.on_gpu:
        facts = torch.cuda.get_device_properties(0)
        name, memory = f"{facts.name}, {facts.multi_processor_count} SMs", facts.total_memory / 2**30
    triton = importlib.util.find_spec("triton")
    versions = f"torch {torch.__version__} CUDA {torch.version.cuda} cuDNN {torch.backends.cudnn.version()}"
    bench.line("device", name, note=f"{memory:.0f} GiB, {os.cpu_count()} cores")
    bench.line("versions", f"{versions}, Python {sys.version.split()[0]}, triton {'yes' if triton else 'no'}")
    dynamo = importlib.import_module("torch._dynamo.config")
    bench.line("trace_autograd_ops", _yes(hasattr(dynamo, "trace_autograd_ops")))
    override = hasattr(torch.autograd.graph, "set_override_stale_capture_stream")
    bench.line("set_override_stale_capture_stream", _yes(override))
    lacking = stand_in.missing("pydantic", "accelerate", "webdataset", "wandb", "cv2", "yaml", "deepspeed", "pytest")
    bench.line(
        "imports",
        lacking or "all",
        note="wanted by parts 8 and 13, and by the engine's rows of 2 and 4; wandb and deepspeed by none",
    )
    for module in ("gan_dist.networks", "gan_dist.penalties", "gan_dist.losses", "gan_dist.engine.exact"):
        try:
            __import__(module)
            bench.line(f"import {module}", "yes", note="with a stand-in for pydantic" * stand_in.is_installed())
        except ImportError as error:
            bench.line(f"import {module}", "no", note=str(error))
    bench.line("gan_dist.engine.graphs", _yes((stand_in.PACKAGE / "engine/graphs.py").exists()))
    bench.line("gan_dist.engine.traced", _yes((stand_in.PACKAGE / "engine/traced.py").exists()))
    _tests(bench)


def _yes(found: bool) -> str:
    return "yes" if found else "no"


def _tests(bench: Bench) -> None:
    """Tests of tests/gpu that take under five seconds, those of captured steps first."""
    files = [*sorted((ROOT / "tests/gpu").glob("test_*graph*.py")), ROOT / "tests/gpu/test_update.py"]
    if problem := "no GPU" if bench.dry else stand_in.missing("pydantic", "pytest", "accelerate"):
        bench.line("tests/gpu", f"not run: {problem}")
        return
    for path in files:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(path)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=bench.left() - 2)
            print(done.stdout, done.stderr)
            last = (done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            last = "stopped: no time"
        bench.line(f"tests/gpu/{path.name}", re.sub(r"=+", "", last).strip())


def ceilings(bench: Bench) -> None:
    """Part 1: copies, products, launches, and copies from the host."""
    _copy(bench)
    _products(bench)
    _launches(bench)
    _from_host(bench)


def _copy(bench: Bench) -> None:
    count = bench.size(2**29, 2**18)
    source = torch.randn(count, device=bench.device)
    target = torch.empty_like(source)
    took = bench.alternate({"copy": lambda: target.copy_(source)})["copy"].ms
    bench.line("ceiling copy", 2e-9 * source.nbytes / took, "TB/s", predicted=3.0, note="read and written")


def _products(bench: Bench) -> None:
    side = bench.size(8192, 64)
    for name, dtype, predicted in (
        ("bf16", torch.bfloat16, 798.0),
        ("tf32", torch.float32, 400.0),
        ("fp32", torch.float32, 50.0),
    ):
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        with tf32(name == "tf32"):
            took = bench.alternate({name: lambda a=a, b=b: a @ b})[name].ms
        bench.line(f"ceiling {name}", 2e-9 * side**3 / took, "TFLOP/s", predicted=predicted, note=f"product of {side}")
    batch, channels, side = bench.size((64, 512, 32), (2, 8, 8))
    for name, dtype, predicted in (("bf16", torch.bfloat16, 400.0), ("tf32", torch.float32, 200.0)):
        for layout in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(batch, channels, side, side, device=bench.device, dtype=dtype).to(memory_format=layout)
            weight = torch.randn(channels, channels, 3, 3, device=bench.device, dtype=dtype).to(memory_format=layout)
            with tf32(name == "tf32"):
                took = bench.alternate(
                    {name: lambda x=x, weight=weight: torch.nn.functional.conv2d(x, weight, padding=1)}
                )[name].ms
            rate = 2e-9 * x.numel() * channels * 9 / took
            order = "NHWC" if layout == torch.channels_last else "NCHW"
            bench.line(f"convolution {name} {order}", rate, "TFLOP/s", predicted=predicted, note=f"3x3 of {channels}")


def _launches(bench: Bench) -> None:
    count = bench.size(1000, 50)
    one = torch.zeros(1, device=bench.device)

    def launches() -> None:
        for _ in range(count):
            one.zero_()

    eager = bench.alternate({"eager": launches})["eager"]
    bench.line(
        "launch, eager", 1e3 * eager.ms / count, "us", predicted=(5.0, 10.0), note="a call that fills one number"
    )
    if not bench.on_gpu:
        bench.line("launch, in a graph", "not run: no GPU")
        return
    replay = bench.capture({"launches": launches}, warm=1)["launches"]
    took = bench.alternate({"graph": replay})["graph"].ms
    bench.line("launch, in a graph", 1e3 * took / count, "us", predicted=(1.0, 2.0))


def _from_host(bench: Bench) -> None:
    pixels = torch.randint(0, 255, (bench.size(128, 2), 64, 64, 3), dtype=torch.uint8)
    target = torch.empty_like(pixels, device=bench.device)
    variants = {"pageable": lambda: target.copy_(pixels)}
    if bench.on_gpu:
        pinned = pixels.pin_memory()
        variants["pinned"] = lambda: target.copy_(pinned, non_blocking=True)
        variants["pinned again"] = lambda: target.copy_(pixels.pin_memory(), non_blocking=True)
        registered = pixels.clone()
        with contextlib.suppress(Exception):
            if int(torch.cuda.cudart().cudaHostRegister(registered.data_ptr(), registered.nbytes, 0)) == 0:
                variants["registered"] = lambda: target.copy_(registered, non_blocking=True)
    for name, found in bench.alternate(variants).items():
        predicted = {"pinned": (20.0, 60.0), "pinned again": (200.0, 400.0)}.get(name)
        note = f"host waits {1e3 * found.host:.0f} us"
        bench.line(f"copy of {1e-6 * pixels.nbytes:.1f} MB, {name}", 1e3 * found.ms, "us", predicted, note=note)
