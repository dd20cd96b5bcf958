"""Part 9: collectives of one process: whether they can be captured, and what DDP's wrapper costs."""

import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from . import steps
from .measuring import NOT_CAPTURED, Bench, Run


def collectives(bench: Bench) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl" if bench.on_gpu else "gloo", store=store, rank=0, world_size=1)
    note = "" if bench.on_gpu else NOT_CAPTURED
    for megabytes in bench.size((25, 190), (1,)):
        sent = torch.randn(megabytes * 250_000, device=bench.device)
        received, gathered = torch.empty_like(sent), torch.empty_like(sent)

        def of_exact(sent: Tensor = sent, received: Tensor = received, gathered: Tensor = gathered) -> None:
            torch.distributed.all_to_all_single(received, sent)
            torch.distributed.all_gather_into_tensor(gathered, received)

        ways: dict[str, Run] = {
            "all-reduce": lambda sent=sent: torch.distributed.all_reduce(sent),
            "exact's sum": of_exact,
        }
        for name, run in ways.items():
            try:
                run()
                replay = bench.capture({"captured": run})["captured"]
                found = bench.alternate({"eager": run, "captured": replay})
            except RuntimeError as error:
                bench.line(f"{name} of {megabytes} MB: captures", f"no: {str(error).splitlines()[0]}"[:120])
                continue
            text = f"eager {found['eager'].ms:.3f} ms, host {found['eager'].host:.3f} ms; {note}".rstrip("; ")
            bench.line(f"{name} of {megabytes} MB, captured", found["captured"].ms, "ms", note=text)
    _in_the_step(bench, note)
    _wrapper(bench)


def _in_the_step(bench: Bench, note: str) -> None:
    """One flat sum of the gradients inside each phase's graph, against none."""
    recipe = steps.dcgan(bench, precision="bf16")
    step, alone = steps.Step(bench, recipe), steps.Step(bench, recipe)

    def reduce(gradients: list[Tensor]) -> None:
        flat = torch.cat([each.reshape(-1) for each in gradients])
        torch.distributed.all_reduce(flat)
        parts = flat.split([each.numel() for each in gradients])
        torch._foreach_copy_(gradients, [part.view(each.shape) for part, each in zip(parts, gradients, strict=True)])

    step.reduce = reduce
    replays, without = bench.capture(step.phases), bench.capture(alone.phases)
    variants = {
        "with": lambda: (replays["G"](), replays["D"]()),
        "without": lambda: (without["G"](), without["D"]()),
    }
    found = bench.alternate(variants)
    more = found["with"].ms - found["without"].ms
    bench.line(
        "flat sum of gradients in the graphs, a step", more, "ms", (0.05, 0.3), note=note or "one process: copies alone"
    )


def _wrapper(bench: Bench) -> None:
    """The discriminator's phase through DDP and without."""
    recipe = steps.dcgan(bench, precision="bf16")
    raw, wrapped = steps.Step(bench, recipe), steps.Step(bench, recipe)
    for step in (raw, wrapped):
        step.step()
    for weight in wrapped.weights[1]:
        weight.requires_grad_(True)
    wrapped.networks[1] = DistributedDataParallel(
        wrapped.networks[1], broadcast_buffers=False, gradient_as_bucket_view=True
    )
    found = bench.alternate({"raw": raw.d, "DDP": wrapped.d})
    for way, times in found.items():
        bench.line(f"D phase, {way}", times.ms, "ms", note=f"host {times.host:.2f} ms")
    bench.line("D phase: DDP over raw", found["DDP"].ms / found["raw"].ms, "", (1.0, 1.2))
