"""Parts 11 and 12: R3GAN's and StyleGAN2-ADA's own networks, losses and updates on this card, beside ours.

They are not part of this project: a checkout of each is named on the command line, and imported from there. Their updates are
those of their training loops, without augmentation, on images that are there already.
"""

import copy
import importlib
import importlib.util
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from . import steps
from .measuring import NOT_CAPTURED, Bench, Run, tf32
from .r3gan import trial


def _from(path: Path, *modules: str) -> list[Any]:
    """Modules of a checkout."""
    if not path.is_dir():
        raise RuntimeError(f"there is no folder {path}")
    sys.path.insert(0, str(path))
    if importlib.util.find_spec("pkg_resources") is None:
        # setuptools no longer has it, and R3GAN's code wants one function of it
        from packaging import version

        sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
        sys.modules["pkg_resources"].parse_version = version.parse  # type: ignore[attr-defined]
    return [importlib.import_module(module) for module in modules]


def _extensions(bench: Bench, name: str) -> None:
    """Compile the CUDA extensions, which takes a minute or two. Without them there is nothing to compare with."""
    if not bench.on_gpu:
        return
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    began = time.perf_counter()
    made = [importlib.import_module(f"torch_utils.ops.{each}")._init() for each in ("bias_act", "upfirdn2d")]
    if not all(made):
        raise RuntimeError(f"the CUDA extensions of {name} do not compile here; see log.txt")
    bench.line(f"{name}'s extensions: compile", time.perf_counter() - began, "s")


class _Original:
    """Players of an original, updated as its training loop does."""

    def __init__(
        self, bench: Bench, generator: torch.nn.Module, discriminator: torch.nn.Module, betas: tuple[float, float]
    ) -> None:
        self.networks = [each.train().requires_grad_(False).to(bench.device) for each in (generator, discriminator)]
        self.average = copy.deepcopy(self.networks[0]).eval()
        self.optimizers = [torch.optim.Adam(each.parameters(), 2e-4, betas) for each in self.networks]

    def update(self, index: int, accumulate: Run, cleans: bool) -> None:
        network, optimizer = self.networks[index], self.optimizers[index]
        optimizer.zero_grad(set_to_none=True)
        network.requires_grad_(True)
        accumulate()
        network.requires_grad_(False)
        for weight in network.parameters() if cleans else ():
            if weight.grad is not None:
                torch.nan_to_num(weight.grad, nan=0, posinf=1e5, neginf=-1e5, out=weight.grad)
        optimizer.step()

    @torch.no_grad()
    def follow(self) -> None:
        for own, leader in zip(self.average.parameters(), self.networks[0].parameters(), strict=True):
            own.copy_(leader.lerp(own, 0.999))
        for own, leader in zip(self.average.buffers(), self.networks[0].buffers(), strict=True):
            own.copy_(leader)


def r3gan(bench: Bench) -> None:
    """Part 11: R3GAN for CIFAR-10 without classes, 64 images, bf16 in three of four stages."""
    path = getattr(bench.options, "r3gan", None)
    if path is None:
        bench.line("R3GAN's own code", "not run: give --r3gan CHECKOUT")
        return
    networks, losses = _from(path, "training.networks", "training.loss")
    _extensions(bench, "R3GAN")
    width = bench.size(768, 16)
    stages = bench.size(4, 2)
    common = {
        "WidthPerStage": [width] * stages,
        "CardinalityPerStage": [width // 8] * stages,
        "BlocksPerStage": [bench.size(2, 1)] * stages,
    }
    common |= {"ExpansionFactor": 2, "c_dim": 0, "img_resolution": 4 << (stages - 1)}
    recipe = steps.r3gan(bench)
    halves = bench.size([-1, -2, -3], [])
    original = _Original(
        bench,
        networks.Generator(NoiseDimension=recipe.latent, FP16Stages=halves, **common),
        networks.Discriminator(FP16Stages=[each + len(halves) for each in halves], **common),
        (0.0, 0.9),
    )
    loss = losses.R3GANLoss(*original.networks)
    real = steps.Step(bench, recipe).real[0].contiguous()
    labels = torch.zeros(recipe.batch, 0, device=bench.device)

    def play() -> None:
        for index, phase in ((1, "D"), (0, "G")):
            latents = torch.randn(recipe.batch, recipe.latent, device=bench.device)
            original.update(
                index,
                lambda phase=phase, latents=latents: loss.accumulate_gradients(
                    phase=phase, real_img=real, real_c=labels, gen_z=latents, gamma=0.05, gain=1.0
                ),
                cleans=False,
            )
        original.follow()

    with trial(True):
        _beside(bench, "R3GAN CIFAR bf16 b64", play, recipe)


def stylegan2(bench: Bench) -> None:
    """Part 12: StyleGAN2-ADA's code at 64 pixels, 32 images, fp16 in its four largest sizes, without its regularisers."""
    path = getattr(bench.options, "stylegan2", None)
    if path is None:
        bench.line("StyleGAN2-ADA's own code", "not run: give --stylegan2 CHECKOUT")
        return
    networks, losses, gradfix = _from(path, "training.networks", "training.loss", "torch_utils.ops.conv2d_gradfix")
    gradfix.enabled = True
    _extensions(bench, "StyleGAN2-ADA")
    recipe = steps.stylegan2(bench, 64, precision=bench.size("fp16", "fp32"))
    size, halves = recipe.size, bench.size(4, 0)
    channels = bench.size({"channel_base": 16384, "channel_max": 512}, {"channel_base": 64, "channel_max": 4})
    style, layers = bench.size((512, 8), (8, 1))
    clamp = bench.size({"conv_clamp": 256}, {})
    shape = {"c_dim": 0, "img_resolution": size, "img_channels": 3}
    original = _Original(
        bench,
        networks.Generator(
            z_dim=recipe.latent,
            w_dim=style,
            mapping_kwargs={"num_layers": layers},
            synthesis_kwargs={**channels, "num_fp16_res": halves, **clamp},
            **shape,
        ),
        networks.Discriminator(
            num_fp16_res=halves, epilogue_kwargs={"mbstd_group_size": 4}, **channels, **clamp, **shape
        ),
        (0.0, 0.99),
    )
    generator, discriminator = original.networks
    loss = losses.StyleGAN2Loss(
        bench.device,
        generator.mapping,
        generator.synthesis,
        discriminator,
        style_mixing_prob=0,
        r1_gamma=10,
        pl_weight=0,
    )
    real = steps.Step(bench, recipe).real[0].contiguous()
    labels = torch.zeros(recipe.batch, 0, device=bench.device)

    def play(phases: tuple[tuple[int, str], ...] = ((0, "Gmain"), (1, "Dmain"))) -> None:
        for index, phase in phases:
            latents = torch.randn(recipe.batch, recipe.latent, device=bench.device)
            original.update(
                index,
                lambda phase=phase, latents=latents: loss.accumulate_gradients(
                    phase=phase, real_img=real, real_c=labels, gen_z=latents, gen_c=labels, sync=True, gain=1.0
                ),
                cleans=True,
            )
        original.follow()

    with trial(True):
        _beside(bench, f"StyleGAN2-64 {recipe.precision} b32", play, recipe)
        ours = steps.Step(bench, recipe)
        found = bench.alternate({"theirs": lambda: play(((1, "Dreg"),)), "ours": ours.r1}, calls=10)
        bench.line(
            "StyleGAN2-64 R1: theirs over ours, eager",
            found["theirs"].ms / found["ours"].ms,
            "",
            note=f"ours {found['ours'].ms:.1f} ms",
        )


def _beside(bench: Bench, name: str, theirs: Run, recipe: steps.Recipe) -> None:
    """Their step against ours, eager and captured, in turns."""
    eager, captured = steps.Step(bench, recipe), steps.Step(bench, recipe)
    replays = bench.capture({"G": captured.g, "D": captured.d})

    def without_tf32() -> None:  # as their loops, and ours in 16 bits
        with tf32(False):
            theirs()

    variants: dict[str, Run] = {"theirs": without_tf32, "ours, eager": eager.step}
    variants["ours, captured"] = lambda: (replays["G"](), replays["D"]())
    found = bench.alternate(variants, calls=10)
    note = "" if bench.on_gpu else NOT_CAPTURED
    for way, times in found.items():
        text = f"{times.ms:.1f} ms, host {times.host:.1f} ms; {note}".rstrip("; ")
        bench.line(f"{name}, {way}", 1e3 * recipe.batch / times.ms, "images/s", note=text)
    for way in ("eager", "captured"):
        bench.line(f"{name}: {way} over theirs", found["theirs"].ms / found[f"ours, {way}"].ms, "", 1.5)
