"""Part 5: R3GAN's discriminator with R1 and R2 in each update: own and torch's grouped convolution, layouts, formats."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from gan_dist.networks import grouped

from . import steps
from .measuring import Bench, counted

# (own convolution, channels_last, cudnn.benchmark, precision): milliseconds of D's update
GRID = {
    (True, True, True, "bf16"): (45.0, 60.0),
    (True, False, True, "bf16"): (45.0, 60.0),
    (True, True, False, "bf16"): (45.0, 80.0),
    (True, False, False, "bf16"): (45.0, 80.0),
    (True, False, True, "tf32"): (70.0, 100.0),
    (False, True, True, "bf16"): (60.0, 150.0),
    (False, False, True, "bf16"): (60.0, 150.0),
    (True, False, True, "fp32"): (250.0, 500.0),
}


def grid(bench: Bench) -> None:
    _errors(bench)
    step = steps.Step(bench, steps.r3gan(bench))
    step.g()
    count = counted(step.d)
    floor, why = bench.floor(count, "bf16")
    bench.line("R3GAN D, own convolution: kernels", count.kernels, "", 997.0, note="with R1 and R2")
    bench.line("R3GAN D: bytes", 1e-9 * count.bytes, "GB", 90.0, note="read and written without fusion")
    with torchs_convolution():
        bench.line("R3GAN D, torch's convolution: kernels", counted(step.d).kernels, "", 8510.0)
    step.step()
    whole = counted(step.step)
    bench.line("R3GAN step: operations", 1e-12 * whole.flops, "TFLOP", 17.0)
    del step
    best: tuple[float, steps.Recipe] | None = None
    rows = bench.size(GRID, dict([*list(GRID.items())[:2], *list(GRID.items())[5:6]]))
    for (own, channels_last, benchmark, precision), predicted in rows.items():
        recipe = steps.r3gan(bench, precision=precision, channels_last=channels_last)
        step = steps.Step(bench, recipe)
        ways = f"{'own' if own else 'torch'} conv, {'NHWC' if channels_last else 'NCHW'}"
        name = f"R3GAN D, {ways}, benchmark {'on' if benchmark else 'off'}, {precision}"
        with contextlib.nullcontext() if own else torchs_convolution(), trial(benchmark):
            step.g()
            times = bench.alternate({"D": step.d}, calls=10)["D"]
        bench.line(name, times.ms, "ms", predicted, floor if precision == "bf16" else None, f"host {times.host:.1f} ms")
        if own and benchmark and precision == "bf16" and (best is None or times.ms < best[0]):
            best = times.ms, recipe
        del step
        if bench.left() < bench.size(12, 2):
            bench.line("further rows", "not run: no time")
            break
    assert best is not None
    with trial(True):
        step = steps.Step(bench, best[1])
        step.step()
        eager = bench.alternate({"eager": step.step}, calls=10)["eager"]
        step = steps.Step(bench, best[1])  # whose nodes have not seen another stream
        replays = bench.capture({"G": step.g, "D": step.d})
        captured = bench.alternate({"captured": lambda: (replays["G"](), replays["D"]())}, calls=10)["captured"]
    floor, why = bench.floor(whole, "bf16")
    batch = best[1].batch
    for name, times in (("eager", eager), ("captured", captured)):
        rate = f"{1e3 * batch / times.ms:,.0f} images/s, floor by {why}"
        bench.line(f"R3GAN step, {name}", times.ms, "ms", (60.0, 110.0), floor, rate)


@contextlib.contextmanager
def torchs_convolution() -> Iterator[None]:
    """Let gan_dist's networks use torch's own convolution, with its loop over groups in the double backward."""
    before, grouped._is_plain = grouped._is_plain, lambda x, groups: True
    try:
        yield
    finally:
        grouped._is_plain = before


@contextlib.contextmanager
def trial(on: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms for each shape, or not."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _errors(bench: Bench) -> None:
    """Relative error of D's gradient, with its penalties, to double precision: two images."""
    small = dataclasses.replace(steps.r3gan(bench), batch=2, micro=2)
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.rand(2, 3, small.size, small.size, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2)
    ]
    gradient = functools.partial(_gradient, bench, images)
    exact = gradient(dataclasses.replace(small, precision="fp32"), torch.float64)
    for precision, predicted in (("fp32", (1e-7, 1e-5)), ("tf32", (1e-4, 1e-3)), ("bf16", (1e-3, 3e-2))):
        found = gradient(dataclasses.replace(small, precision=precision), torch.float32)
        error = ((found - exact).norm() / exact.norm()).item()
        cosine = torch.nn.functional.cosine_similarity(found, exact, dim=0).item()
        bench.line(f"R3GAN D, error of the gradient, {precision}", error, "", predicted, note=f"cosine {cosine:.6f}")
    with torchs_convolution():
        found = gradient(dataclasses.replace(small, precision="fp32"), torch.float64)
    bench.line(
        "R3GAN D, own against torch's convolution", ((found - exact).norm() / exact.norm()).item(), "", note="fp64"
    )


def _gradient(bench: Bench, images: list[Tensor], recipe: steps.Recipe, dtype: torch.dtype) -> Tensor:
    step = steps.Step(bench, recipe)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in step.weights[1]:
            if not weight.any():  # blocks begin as the identity, where most gradients are zero
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    step.networks[1].to(dtype)
    fake, real = (each.to(bench.device, dtype) for each in images)
    with step._turn(1):
        gradients = torch.autograd.grad(step.loss_of_d(fake, real), step.weights[1], allow_unused=True)
    return torch.cat([each.double().flatten() for each in gradients if each is not None])
