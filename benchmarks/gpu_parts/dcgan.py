"""Parts 2 and 3: DCGAN-64 with 128 images in number formats and micro-batches, eager and as CUDA graphs."""

import functools

import torch

from . import stand_in, steps
from .measuring import NOT_CAPTURED, Bench, counted

# (precision, micro-batch, micro-batches a pass): kernels of the engine's step, host ms, device ms of an H100
ENGINE = {
    ("bf16", 128, 1): (565, (3.0, 6.0), (0.75, 0.84)),
    ("bf16", 32, 1): (1827, (9.0, 18.0), (0.75, 1.1)),
    ("tf32", 128, 1): (501, (2.5, 5.0), (1.4, 1.5)),
    ("tf32", 32, 1): (1635, (8.0, 16.0), (1.5, 1.6)),
    ("fp32", 32, 4): (1083, (5.0, 11.0), (1.6, 6.0)),
    ("fp32", 32, 1): (1635, (8.0, 16.0), (1.6, 6.0)),
    ("fp32", 128, 1): (501, (2.5, 5.0), (1.5, 6.0)),
}
CAPTURED = {32: (2.4, 3.0), 128: (1.4, 1.6)}
TOY = {
    "data.resolution": 16, "game.latent": 8, "training.batch": 8, "networks.generator.base_channels": 4,
    "networks.discriminator.base_channels": 4,
}  # fmt: skip
"""Keys of configs/dcgan.yaml in a dry run."""
NEEDS = ("pydantic", "accelerate", "yaml")


def named(precision: str, micro: int) -> str:
    return f"DCGAN-64 {precision} micro {micro}"


def formats(bench: Bench) -> None:
    """Part 2: the engine's step beside the bare one: kernels, host, device, images a second."""
    lacking = stand_in.missing(*NEEDS)
    if lacking:
        bench.line("rows of the engine", f"not run: {lacking}")
    for (precision, micro, joined), (kernels, host, device) in bench.size(
        ENGINE, dict(list(ENGINE.items())[:1])
    ).items():
        name = named(precision, micro) + (f", {joined} a pass" if joined > 1 else "")
        bare = steps.Step(bench, steps.dcgan(bench, precision=precision, micro=micro, joined=joined))
        bare.step()
        count = counted(bare.step)
        floor, why = bench.floor(count, precision)
        variants = {"bare": bare.step}
        if not lacking:
            from . import engines

            engine = engines.EngineStep(bench, "ddp", precision, micro, joined)
            variants["engine"] = engine.step
            engine.step()
            bench.line(f"{name}, kernels counted", counted(engine.step).kernels, "", kernels, note="engine, ATen calls")
        found = bench.alternate(variants)
        for way, times in found.items():
            predicted = (max(host[0], device[0]), max(host[1], device[1])) if way == "engine" else None
            called = "eager" if way == "engine" or lacking else way
            bench.line(
                f"{name}, {called}", times.ms, "ms", predicted, floor, f"{128e3 / times.ms:,.0f} images/s, {way}"
            )
            bench.line(f"{name}, {called}, host", times.host, "ms", host if way == "engine" else None)
        if "engine" in found:
            bench.line(f"{name}, bare over engine", found["bare"].ms / found["engine"].ms, "", 0.97)
        launched, busy = bench.profiled(variants.get("engine", bare.step))
        bench.line(f"{name}, kernels run", launched, "", None if lacking else kernels, note="by the profiler")
        bench.line(f"{name}, device busy", busy, "ms", device, floor, why)
        if bench.left() < bench.size(8, 1):
            break


def graphs(bench: Bench) -> None:
    """Part 3: each phase as a CUDA graph: milliseconds, the same bits, memory; and the trees of strategy exact."""
    note = "" if bench.on_gpu else NOT_CAPTURED
    every = [("bf16", 128, False), ("fp32", 32, True), ("bf16", 32, False), ("tf32", 128, False), ("tf32", 32, False)]
    for precision, micro, exact in bench.size(every, every[:2]):
        if exact and (lacking := stand_in.missing("accelerate")):
            bench.line("graph of exact", f"not run: {lacking}")
            continue
        recipe = steps.dcgan(bench, precision=precision, micro=micro, exact=exact)
        name = named(precision, micro) + (", exact" if exact else "")
        same, why = _same_bits(bench, recipe)
        bench.line(f"{name}: eager and captured", same, note=why or note)
        eager, step = steps.Step(bench, recipe), steps.Step(bench, recipe)
        eager.step()
        floor, _ = bench.floor(counted(eager.step), precision)
        before = torch.cuda.memory_reserved() if bench.on_gpu else 0
        replays = bench.capture(step.phases)
        pool = (torch.cuda.memory_reserved() if bench.on_gpu else 0) - before
        variants = {
            "eager": eager.step,
            "captured": functools.partial(_play, replays, ("G", "D")),
            "R1, eager": eager.r1,
            "R1, captured": replays["R1"],
        }
        found = bench.alternate(variants)
        ms = found["captured"].ms
        text = f"{128e3 / ms:,.0f} images/s; host {found['captured'].host:.2f} ms; {note}".rstrip("; ")
        bench.line(f"{name}, captured", ms, "ms", None if exact else CAPTURED[micro], floor, text)
        gain = found["eager"].ms / ms
        bench.line(
            f"{name}: eager over captured",
            gain,
            "",
            4.0 if micro == 32 else 2.0,
            note=f"bare step, {found['eager'].ms:.2f} ms eager",
        )
        bench.line(f"{name}: R1 captured", found["R1, captured"].ms, "ms", note=f"eager {found['R1, eager'].ms:.2f} ms")
        bench.line(f"{name}: memory of the graphs", pool / 2**20, "MiB")
        if bench.left() < bench.size(10, 1):
            break


def _play(replays, names) -> None:
    for name in names:
        replays[name]()


def _same_bits(bench: Bench, recipe: steps.Recipe) -> tuple[str, str]:
    """Whether three steps and eight more give the same weights eagerly and as graphs; and what else is known."""
    rounds = bench.size(8, 2)
    digests = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for captured in (False, False, True):
            step = steps.Step(bench, recipe)
            phases = {"G": step.g, "D": step.d, "R1": step.r1}
            if captured:
                phases = bench.capture(phases)  # after as many steps as are played here first
            if not captured or not bench.on_gpu:
                for _ in range(3):
                    _play(phases, tuple(phases))
            for _ in range(rounds):
                _play(phases, tuple(phases))
            bench.sync()
            digests.append(step.digest())
    finally:
        torch.use_deterministic_algorithms(False)
    first, again, replayed = digests
    if first != again:
        return "not comparable", f"two eager runs differ: {first}, {again}"
    return ("the same bits" if first == replayed else "DIFFERENT bits"), f"{rounds} steps, {first}, {replayed}"
