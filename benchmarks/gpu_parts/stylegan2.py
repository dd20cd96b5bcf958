"""Part 6: StyleGAN2 at 32, 64 and 128 pixels: modulation by scales or by weights of each sample, filters, batches."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from gan_dist.networks import grouped, stylegan2_layers

from . import steps
from .measuring import NOT_CAPTURED, Bench, Run, counted

# pixels: kernels of G and D, milliseconds of a step of 32 images in bf16
SIZES = {32: (1055, (6.0, 14.0)), 64: (1307, (7.0, 15.0)), 128: (1869, (20.0, 30.0))}


def forms(bench: Bench) -> None:
    _filters(bench)
    for size, (kernels, predicted) in bench.size(SIZES, {8: (1000, (5.0, 10.0))}).items():
        _batches(bench, size, kernels, predicted)
        if bench.left() < bench.size(15, 2):
            break
    _modulation(bench, 64)


def _batches(bench: Bench, size: int, kernels: int, predicted: tuple[float, float]) -> None:
    """A step of 32 and of 4 images, eager and captured, and the batch below which the host is what takes the time."""
    note = "" if bench.on_gpu else NOT_CAPTURED
    found = {}
    for batch in (32, 4):
        recipe = steps.stylegan2(bench, size, precision="bf16")
        if not bench.dry:
            recipe = dataclasses.replace(recipe, batch=batch, micro=batch)
        eager, step = steps.Step(bench, recipe), steps.Step(bench, recipe)
        eager.step()
        count = counted(eager.step)
        floor, why = bench.floor(count, "bf16")
        replays = bench.capture(step.phases)
        variants: dict[str, Run] = {
            "eager": eager.step,
            "captured": lambda replays=replays: (replays["G"](), replays["D"]()),
            "R1, captured": replays["R1"],
        }
        found[batch] = times = bench.alternate(variants, calls=10, seconds=1.0)
        name = f"StyleGAN2-{size} bf16 b{batch}"
        if batch == 32:
            bench.line(f"{name}, kernels of G and D", count.kernels, "", kernels, note=f"{1e-9 * count.bytes:.1f} GB")
        for way, each in times.items():
            wanted = predicted if batch == 32 and way == "captured" else None
            of_step = floor if way != "R1, captured" else None
            text = f"{1e3 * batch / each.ms:,.0f} images/s, host {each.host:.1f} ms; {note}".rstrip("; ")
            bench.line(f"{name}, {way}", each.ms, "ms", wanted, of_step, text)
        gain = times["eager"].ms / times["captured"].ms
        bench.line(f"{name}: eager over captured", gain, "", 4.0 if batch == 4 else 1.2, note=f"floor by {why}")
        del step, eager, replays
    image = (found[32]["captured"].ms - found[4]["captured"].ms) / 28
    if image > 0:
        bench.line(f"StyleGAN2-{size}: host-bound below", found[4]["eager"].ms / image, "images", note="eager, bf16")


def _modulation(bench: Bench, size: int) -> None:
    """Scaled activations against a weight for each sample, the same function."""
    recipe = steps.stylegan2(bench, size, precision="tf32")
    step, other = steps.Step(bench, recipe), steps.Step(bench, recipe)
    with weight_per_sample():
        other.step()
    step.step()

    def grouped_step() -> None:
        with weight_per_sample():
            other.g()

    with torch.no_grad():
        scaled = step.generate(0)
        with weight_per_sample():
            difference = (step.generate(0) - scaled).norm() / scaled.norm()
    found = bench.alternate({"scaled": step.g, "grouped": grouped_step}, calls=10)
    bytes_of = {"scaled": counted(step.g).bytes, "grouped": counted(grouped_step).bytes}
    for way, times in found.items():
        bench.line(f"StyleGAN2-{size} G, tf32, {way}", times.ms, "ms", note=f"{1e-9 * bytes_of[way]:.1f} GB")
    ratio = found["grouped"].ms / found["scaled"].ms
    bench.line(
        f"StyleGAN2-{size} G: grouped over scaled", ratio, "", 2.0, note=f"images differ by {difference.item():.1e}"
    )


@contextlib.contextmanager
def weight_per_sample() -> Iterator[None]:
    """Let StyledConv convolve with a modulated weight for each sample, in as many groups as there are samples."""
    before = stylegan2_layers.StyledConv.forward

    def forward(self: stylegan2_layers.StyledConv, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        count, style = len(x), self.affine(w)
        weight = self.weight[None] * style[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        joined = x.reshape(1, -1, *x.shape[2:])
        if self.blur is None:
            y = functional.conv2d(joined, weight.flatten(0, 1).to(x.dtype), padding=1, groups=count)
            y = y.view(count, -1, *y.shape[2:])
        else:
            turned = weight.transpose(1, 2).flatten(0, 1).to(x.dtype)
            y = functional.conv_transpose2d(joined, turned, stride=2, groups=count)
            y = self.blur(y.view(count, -1, *y.shape[2:]), padding=1, gain=4.0)
        noise = self.strength * (self.fixed_noise if noise is None else noise)
        return stylegan2_layers.activate(y + noise.to(y.dtype) + self.bias.to(y.dtype)[:, None, None])

    stylegan2_layers.StyledConv.forward = forward
    try:
        yield
    finally:
        stylegan2_layers.StyledConv.forward = before


def _filters(bench: Bench) -> None:
    """The filter [1, 3, 3, 1] in four forms, with the second derivative that a penalty needs of it."""
    batch, channels, side = bench.size((32, 256, 64), (2, 4, 8))
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], device=bench.device) / 8
    taps = torch.outer(row, row)

    def depthwise(x: Tensor) -> Tensor:
        return functional.conv2d(x, taps.to(x.dtype).expand(channels, 1, 4, 4), padding=2, groups=channels)

    def own(x: Tensor) -> Tensor:
        return grouped.conv2d(x, taps.to(x.dtype).expand(channels, 1, 4, 4), padding=2, groups=channels)

    def one_channel(x: Tensor) -> Tensor:
        y = functional.conv2d(x.reshape(-1, 1, side, side), taps.to(x.dtype)[None, None], padding=2)
        return y.view(batch, channels, *y.shape[2:])

    def slices(x: Tensor) -> Tensor:  # [1, 3, 3, 1] / 8 is three averages of neighbours along each axis
        x = functional.pad(x, (2, 2, 2, 2))
        for axis in (-1, -2):
            for _ in range(3):
                length = x.shape[axis] - 1
                x = (x.narrow(axis, 0, length) + x.narrow(axis, 1, length)) * 0.5
        return x

    ways: dict[str, Callable[[Tensor], Tensor]] = {"depthwise": depthwise, "own function": own}
    ways |= {"one channel": one_channel, "slices": slices}
    x = torch.randn(batch, channels, side, side, device=bench.device)
    expected = depthwise(x)
    for dtype, layout in bench.size(
        [(torch.bfloat16, torch.channels_last), (torch.bfloat16, torch.contiguous_format)],
        [(torch.float32, torch.channels_last)],
    ):
        given = x.to(dtype).to(memory_format=layout)
        runs = {name: lambda way=way, given=given: _twice(way, given) for name, way in ways.items()}
        order = f"{'NHWC' if layout == torch.channels_last else 'NCHW'} {str(dtype).removeprefix('torch.')}"
        for name, times in bench.alternate(runs, calls=5, seconds=0.5).items():
            error = ((ways[name](x) - expected).norm() / expected.norm()).item()
            kernels = counted(runs[name]).kernels
            bench.line(f"filter {order}, {name}", times.ms, "ms", note=f"{kernels} kernels; error {error:.0e}")


def _twice(way: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(way(x).square().sum(), x, create_graph=True)
    torch.autograd.grad(slope.square().sum(), x)
