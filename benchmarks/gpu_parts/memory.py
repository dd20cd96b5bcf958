"""Part 10: what a step holds against footprint.py, and each phase's peak against that and what autograd keeps."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from gan_dist import footprint

from . import steps
from .measuring import Bench, Run

MEBI = 2.0**20


def memory(bench: Bench) -> None:
    recipes = {
        "DCGAN-64 bf16 b128": steps.dcgan(bench, precision="bf16"),
        "R3GAN bf16 b64": steps.r3gan(bench),
        "StyleGAN2-64 bf16 b32": steps.stylegan2(bench, 64, precision="bf16"),
    }
    for name, recipe in recipes.items():
        before = torch.cuda.memory_allocated() if bench.on_gpu else 0
        step = steps.Step(bench, dataclasses.replace(recipe, penalties=recipe.penalties))
        step.step()
        formula = [footprint.memory("ddp", [w.numel() for w in step.weights[i]], 1, i == 0) for i in (0, 1)]
        inputs = sum(each.nbytes for each in (*step.real, *step.fakes))
        kept = sum(each.total for each in formula) + inputs  # gradients stay until the next turn
        held = (torch.cuda.memory_allocated() - before) if bench.on_gpu else _live(step)
        bench.line(
            f"{name}: held between steps",
            held / MEBI,
            "MiB",
            kept / MEBI,
            note="weights, moments, gradients, average, images",
        )
        for phase, run in step.phases.items():
            saved = _saved(step, run)
            if not bench.on_gpu:
                bench.line(f"{name} {phase}: kept for the backward", saved / MEBI, "MiB")
                continue
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            run()
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
            # gradients by the images and by activations, and cuDNN's workspace, come on top
            bench.line(
                f"{name} {phase}: peak",
                peak / MEBI,
                "MiB",
                (kept + saved) / MEBI,
                note=f"{saved / MEBI:.0f} MiB for the backward",
            )
        del step
        if bench.on_gpu:
            torch.cuda.empty_cache()


def _live(step: steps.Step) -> int:
    """Bytes of a step's tensors: what torch's allocator counts on a GPU."""
    tensors: list[Tensor] = [*step.real, *step.fakes, *step.average.state_dict().values()]
    for network, optimizer in zip(step.networks, step.optimizers, strict=True):
        tensors += network.state_dict().values()
        tensors += [weight.grad for weight in network.parameters() if weight.grad is not None]
        tensors += [each for state in optimizer.state.values() for each in state.values()]
    return sum(each.nbytes for each in tensors)


def _saved(step: steps.Step, run: Run) -> int:
    """Bytes of the storages that autograd keeps in one phase, but for weights."""
    weights = {weight.untyped_storage().data_ptr() for of in step.weights for weight in of}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(found.values())
