"""Part 7: losses traced together with the gradients of the weights, compiled, and captured: exact R1 too."""

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from gan_dist.penalties.gradient import squared_gradient

from . import steps
from .dcgan import named
from .measuring import NOT_CAPTURED, Bench, Run, read


def compiled(bench: Bench) -> None:
    """The discriminator's loss and R1 of DCGAN-64, the generator's loss, then a whole step; and a block of R3GAN."""
    if bench.on_gpu:
        importlib.import_module("torch._inductor.config").fx_graph_cache = True
    recipe = steps.dcgan(bench, precision="bf16", micro=128)
    step = steps.Step(bench, recipe)
    step.step()
    real, fake = step.real[0], step.fakes[0]
    latents = torch.randn(len(real), recipe.latent, device=bench.device)
    generator, discriminator = step.networks
    weights, weights_of_g = step.weights[1], step.weights[0]
    for each in (*step.statistics[0], *step.statistics[1]):
        each.tracking = False
    for weight in (*weights, *weights_of_g):
        weight.requires_grad_(True)

    def loss_of_d(given: list[Tensor], images: Tensor) -> Tensor:
        judge = _called(discriminator, given)
        return step.loss.discriminator(judge(images[: len(real)]), judge(images[len(real) :]))

    def r1(given: list[Tensor], images: Tensor) -> Tensor:
        return squared_gradient(_called(discriminator, given), images)

    def loss_of_g(given: list[Tensor], numbers: Tensor) -> Tensor:
        return step.loss.generator(discriminator(_called(generator, given)(numbers)), None)

    made: dict[str, Run] = {}
    cases = (
        ("D loss", loss_of_d, weights, torch.cat([fake, real]), (1.5, 2.5)),
        ("G loss", loss_of_g, weights_of_g, latents, (1.5, 2.5)),
        ("R1", r1, weights, real, (2.0, 3.0)),
    )
    for name, loss, of, given, gain in cases:
        found = _compare(bench, f"DCGAN-64 {name}, bf16", loss, of, given, gain)
        if found is None:
            return
        made[name] = found
    _whole_step(bench, step, made)
    if not bench.dry:  # which has traced enough
        _block(bench)


def _called(network: nn.Module, weights: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """The network as a function of its inputs, with these weights."""
    named_weights = dict(zip((name for name, _ in network.named_parameters()), weights, strict=True))
    return lambda inputs: functional_call(network, named_weights, (inputs,))


def _compare(
    bench: Bench,
    name: str,
    loss: Callable[[list[Tensor], Tensor], Tensor],
    weights: Sequence[nn.Parameter],
    given: Tensor,
    predicted: tuple[float, float],
) -> Run | None:
    """Eager, compiled, and compiled and captured; returns the compiled function. None where no time is left."""

    def with_gradients(weights: list[Tensor], images: Tensor) -> list[Tensor]:
        weights = [weight.detach().requires_grad_() for weight in weights]
        value = loss(weights, images)
        return [value.detach(), *torch.autograd.grad(value, weights)]

    if bench.left() < bench.size(25, 2):
        bench.line(name, "not run: no time")
        return None
    held = [weight.detach() for weight in weights]
    eager = functools.partial(with_gradients, held, given)
    began = time.perf_counter()
    graph = make_fx(with_gradients)(held, given)
    bench.line(f"{name}: trace", time.perf_counter() - began, "s", note=f"{len(graph.graph.nodes)} nodes, make_fx")
    fast = torch.compile(graph, fullgraph=True, dynamic=False, backend=bench.size("inductor", "aot_eager"))

    @torch.no_grad()
    def compiled_call() -> list[Tensor]:
        return fast(held, given)

    began = time.perf_counter()
    result = compiled_call()
    bench.sync()
    bench.line(
        f"{name}: compile",
        time.perf_counter() - began,
        "s",
        (10.0, 45.0),
        note=bench.size("inductor", "aot_eager, no inductor"),
    )
    expected = eager()
    bench.line(
        f"{name}: compiled against eager",
        max(_difference(*pair) for pair in zip(result, expected, strict=True)),
        "",
        note="largest of the value's and each gradient's",
    )
    kept: list[Any] = []

    def play(run: Run) -> None:
        kept[:] = [run()]

    captured = bench.capture({"captured": functools.partial(play, compiled_call)})["captured"]
    eager_captured = bench.capture({"captured": functools.partial(play, eager)})["captured"]
    variants = {"eager": eager, "compiled": compiled_call, "captured": eager_captured, "compiled+captured": captured}
    note = "" if bench.on_gpu else NOT_CAPTURED
    found = bench.alternate(variants)
    for way, times in found.items():
        bench.line(f"{name}: {way}", times.ms, "ms", note=note if "captured" in way else f"host {times.host:.2f} ms")
    gain = found["captured"].ms / found["compiled+captured"].ms
    bench.line(f"{name}: gain of compiling, both captured", gain, "", predicted)
    if bench.on_gpu:
        launched = [bench.profiled(run)[0] for run in (eager, compiled_call)]
        bench.line(f"{name}: kernels, compiled", launched[1], "", note=f"eager {launched[0]}")
    return compiled_call


def _difference(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / (expected.double().norm() + 1e-12)).item()


def _whole_step(bench: Bench, step: steps.Step, made: dict[str, Run]) -> None:
    """G's and D's traced losses with their updates: a step without running statistics and without new images."""
    name = named("bf16", 128)

    def play(loss: str, index: int) -> None:
        _, *gradients = made[loss]()
        for weight, gradient in zip(step.weights[index], gradients, strict=True):
            weight.grad = gradient
        step._tree = None
        step._update(index)

    phases = {"G": lambda: play("G loss", 0), "D": lambda: play("D loss", 1)}
    replays = bench.capture(phases)
    ways: dict[str, Run] = {
        "compiled": lambda: (phases["G"](), phases["D"]()),
        "compiled+captured": lambda: (replays["G"](), replays["D"]()),
    }
    eager = next((each for each in read(bench.out) if each["name"] == f"{name}, eager"), {})
    for way, times in bench.alternate(ways).items():
        predicted = (0.8, 1.0) if way == "compiled+captured" else None
        bench.line(f"{name}, {way}", times.ms, "ms", predicted, eager.get("floor"), "without running statistics")


def _block(bench: Bench) -> None:
    """R1 of one block of R3GAN between two convolutions, in bf16."""
    from gan_dist.networks.r3gan import Block

    width, side, count = bench.size((768, 16, 64), (16, 4, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, width, 1), Block(width, 2, 2 * width // 16, 8), nn.Conv2d(width, 1, side))
    network.to(bench.device, memory_format=torch.channels_last)
    with torch.no_grad():
        network[1].narrow.weight.normal_(0.0, 0.02)
    images = torch.randn(count, 3, side, side, device=bench.device).to(memory_format=torch.channels_last)

    def penalty(weights: list[Tensor], given: Tensor) -> Tensor:
        def judge(x: Tensor) -> Tensor:
            with torch.autocast(bench.device.type, torch.bfloat16, cache_enabled=False):
                return _called(network, weights)(x).flatten().float()

        return squared_gradient(judge, given)

    _compare(bench, "R3GAN block R1, bf16", penalty, list(network.parameters()), images, (1.3, 2.0))
