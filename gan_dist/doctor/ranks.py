"""What a training would meet on the processes that will run it: measured in half a minute, with nothing left behind.

`gan-dist doctor` starts this module on as many processes as the training will have (torchrun), and reads the findings
that the first of them prints as JSON.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch

from gan_dist import config as config_module, footprint, games
from gan_dist.checkpoint import Store, Writer, tensors
from gan_dist.config import Config
from gan_dist.control import launcher
from gan_dist.data import loader, order
from gan_dist.data.index import Index
from gan_dist.doctor import autotune, node_reports, nodes, numerics
from gan_dist.doctor.findings import MARK, Finding
from gan_dist.doctor.play import called, play
from gan_dist.engine import Engine, launch, links, memory
from gan_dist.errors import AgreedError, InputError

_FULL = 0.9  # of a memory
_LOADED = 24  # micro-batches at least, after those that workers had ready
_SIZES = (1 << 12, 1 << 20, 1 << 26)  # bytes of an all-reduce


def examine(config: Config, with_numerics: bool) -> Iterator[Finding]:
    """The findings, the same on every process. Each step of it is taken by all."""
    engine = Engine(config)
    yield _machine(engine)
    if config.training.strategy == "exact" and engine.device.type == "cpu":
        yield Finding(
            "threads", True, f"{torch.get_num_threads()} a process; `exact` keeps to those of the run's first start"
        )
    if engine.world_size > 1:
        yield _links(engine)
    yield from _nodes(config, engine)
    if with_numerics:
        yield from numerics.findings(config, engine)
    engine.on_main(lambda: loader.prepare(config, progress=False), where="machine")
    index = loader.open_index(config)
    if config.data.labels and not config.data.classes:
        config = config.with_({"data.classes": int(index.label.max()) + 1})
    yield _overlap(config, engine, len(index))
    needed, findings = _step(config, engine)
    yield from findings
    loading = _loading(config, engine, index, needed)
    yield loading
    yield _keys(config, engine, loading.good)


def _machine(engine: Engine) -> Finding:
    gpu = torch.cuda.get_device_properties(engine.device) if engine.device.type == "cuda" else None
    own = (
        f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
        if gpu
        else f"CPU, {torch.get_num_threads()} threads a process"
    )
    hosts = sorted(set(engine.gather(platform.node())))
    kinds = sorted(set(engine.gather(own)))
    software = launch.software(on_cpu=gpu is None)
    text = (
        f"{engine.world_size} process(es) on {len(hosts)} machine(s): {'; '.join(kinds)}. "
        f"{', '.join(f'{name} {version}' for name, version in software.items())}"
    )
    return Finding("devices", len(kinds) == 1, text if len(kinds) == 1 else f"{text}: the slowest sets the pace")


def _links(engine: Engine) -> Finding:
    """All-reduce by size, as the training would do it."""
    words = []
    for size in _SIZES:
        seconds = links.time_all_reduce(engine, size)
        sent = 2 * size * (engine.world_size - 1) / engine.world_size
        words.append(f"{_bytes(size)} in {seconds * 1e3:.2f} ms ({sent / seconds / 1e9:.2f} GB/s)")
    return Finding("links", True, f"all-reduce of {', '.join(words)}")


def _nodes(config: Config, engine: Engine) -> Iterator[Finding]:
    """The looks that a job takes at its nodes before it trains (doctor/node_reports.py)."""
    own = [node_reports.of_device(engine.device, engine.rank), *node_reports.of_links(engine)]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        own += node_reports.of_node(config)
    reports = [report for found in engine.gather(own) for report in found]
    names = [report.node for report in reports if report.what == "device"]
    for verdict in nodes.judge(reports, list(dict.fromkeys(names)), len(names) // len(set(names))):
        left_out = nodes.exclude([verdict])
        text = f"{verdict.text}; leave out: {left_out}" if left_out and len(set(names)) > 1 else verdict.text
        yield Finding(verdict.what, verdict.good, text)


def _overlap(config: Config, engine: Engine, total: int) -> Finding:
    """Whether two processes would be given the same sample of a step."""
    import numpy as np

    data, training = config.data, config.training
    slots = np.arange(engine.slots.start, engine.slots.stop)
    own = order.samples(config.run.seed, total, training.batch, data.streams, 0, slots)
    everyone = [int(number) for found in engine.gather(own.tolist()) for number in found]
    twice = len(everyone) - len(set(everyone))
    text = f"the first {len(everyone)} samples are dealt over {engine.world_size} process(es), {twice} of them twice"
    return Finding("data overlap", twice == 0, text)


def _step(config: Config, engine: Engine) -> tuple[float, list[Finding]]:
    """Steps on random images: images/s over all processes, and what they took."""
    training = config.training
    game = games.build(config)
    sizes = {player.name: [weight.numel() for weight in player.network.parameters()] for player in game.players}
    averaged = {player.name: player.average_half_life is not None for player in game.players}
    engine.place(game)
    if training.micro_batches_per_pass == "auto" and training.strategy != "exact":
        engine.passes = min(engine.gather(autotune.choose(config, engine, game)))
    engine.wrap(game)
    played = play(config, engine, game)
    times = played.times
    # a phase that is played every n steps takes 1/n of its time of each
    seconds = max(engine.gather(sum(times[number] / phase.every for number, phase in enumerate(game.phases))))
    rate = training.batch / seconds
    found = [
        Finding(
            "step",
            True,
            f"{seconds * 1e3:.0f} ms, {rate:,.0f} images/s with {engine.passes} micro-batch(es) a pass: "
            f"{training.images:,} images take {_hours(training.images / rate)}; "
            + ", ".join(f"{called(phase)} {times[number] * 1e3:.0f} ms" for number, phase in enumerate(game.phases)),
        ),
        _memory(config, engine, sizes, averaged, played.peaks),
        _traffic(config, engine, sizes, played.uses),
        _saving(config, engine, game),
    ]
    engine.release()
    return rate, found


def _memory(
    config: Config, engine: Engine, sizes: dict[str, list[int]], averaged: dict[str, bool], peaks: dict[str, int]
) -> Finding:
    strategy, count = config.training.strategy, engine.world_size
    parts = [footprint.memory(strategy, sizes[name], count, averaged[name], engine.rank) for name in sizes]
    words = ", ".join(
        f"{kind} {_bytes(sum(getattr(part, kind) for part in parts))}"
        for kind in ("weights", "masters", "gradients", "moments", "average", "buffers")
        if any(getattr(part, kind, 0) for part in parts)
    )
    text = f"{strategy} on {count} process(es) holds in each: {words}"
    phase = max(peaks, key=lambda name: peaks[name])
    engine.wait()  # all look at what is free now
    found = engine.gather((phase, peaks[phase], memory.room(engine.device)))
    return fits(text, *max(found, key=lambda one: one[1] / one[2]), smaller(config, engine.passes, count))


def smaller(config: Config, passes: int, processes: int) -> str:
    """What to change where a step does not fit: first what changes its speed alone."""
    training, words = config.training, []
    if passes > 1:
        words.append(f"training.micro_batches_per_pass: {passes // 2}")
    if processes > 1 and training.strategy != "zero3":
        words.append("training.strategy: zero3")
    if training.micro_batch > 1:
        words.append(f"training.micro_batch: {training.micro_batch // 2} (another run: BatchNorm sees fewer samples)")
    return "try " + ", or ".join(words or ["more processes", "smaller networks"])


def fits(text: str, phase: str, peak: int, room: int, advice: str) -> Finding:
    """The finding on memory, of the process that comes nearest to what there is for it."""
    text += f"; the worst phase, {phase}, took {_bytes(peak)} with everything, of {_bytes(room)} that there are"
    if peak > _FULL * room:
        return Finding("memory", False, f"{text}: {advice}")
    return Finding("memory", True, text)


def _traffic(config: Config, engine: Engine, sizes: dict[str, list[int]], uses: dict[str, footprint.Uses]) -> Finding:
    strategy = config.training.strategy
    total = sum(
        footprint.traffic(strategy, sum(weights), engine.world_size, uses[name]) for name, weights in sizes.items()
    )
    others = {
        other: sum(footprint.memory(other, weights, engine.world_size, False).total for weights in sizes.values())
        for other in ("ddp", "zero2", "zero3")
    }
    compared = ", ".join(f"{name} {_bytes(held)}" for name, held in others.items())
    return Finding("traffic", True, f"each process sends {_bytes(total)} a step; held a process: {compared}")


def _saving(config: Config, engine: Engine, game: games.Game) -> Finding:
    place = config.directory
    while not place.exists():
        place = place.parent
    seconds = problem = None
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as folder:
        shared = engine.on_main(lambda: folder)
        writer = Writer(Store(Path(str(shared)), 2), engine.rank, engine.world_size, engine.channel())
        writer.save(0, tensors.collect(game.players), {})
        (outcome,) = writer.wait()
        seconds, problem = outcome.seconds, outcome.problem
        engine.wait()
    if problem:
        return Finding("checkpoint", False, f"could not be saved: {problem}")
    text = f"{_bytes(outcome.bytes)} saved and read back in {seconds:.2f} s, {outcome.stalled:.3f} s of it in the loop's way"
    margin = config.control.margin_seconds
    good = seconds < margin
    return Finding("checkpoint", good, text if good else f"{text}: raise control.margin_seconds above {margin:g}")


def _loading(config: Config, engine: Engine, index: Index, needed: float) -> Finding:
    """The loader alone against the step."""
    endless = config.with_({"training.images": 1 << 40})
    batches = loader.micro_batches(index, endless, 0, engine.slots, engine.device)
    own = len(engine.slots) // config.training.micro_batch
    for _ in islice(batches, math.ceil(loader.ahead(config) / own)):  # decoded while the first was waited for
        pass
    steps, began = math.ceil(max(_LOADED, loader.ahead(config)) / own), time.perf_counter()
    count = sum(1 for _ in islice(batches, steps))
    seconds = time.perf_counter() - began
    batches.close()  # type: ignore[attr-defined]
    rates = engine.gather(count * config.training.batch / max(seconds, 1e-9))
    rate = min(rates)
    text = f"{rate:,.0f} images/s, the step takes {needed:,.0f}"
    if rate > 1.2 * needed:
        return Finding("loader", True, text)
    return Finding(
        "loader", False, f"{text}: raise data.workers, or store smaller images (`gan-dist pack --resolution`)"
    )


def _keys(config: Config, engine: Engine, loader_keeps_up: bool) -> Finding:
    """The keys worth changing, after what was measured."""
    training, words = config.training, []
    if not loader_keeps_up:
        words.append(f"data.workers: {config.data.workers + 1} (the step waits for images)")
    if engine.device.type == "cuda" and training.precision == "fp32" and torch.cuda.is_bf16_supported():
        words.append(
            "training.precision: bf16 (less memory, and faster convolutions; another run, as its numbers differ)"
        )
    if engine.passes > 1:
        words.append(f"training.micro_batches_per_pass: {engine.passes} (saves the trying at a first start)")
    if training.strategy.startswith("zero"):
        words.append("training.strategy: ddp, if it fits (nothing is faster)")
    if engine.device.type == "cpu" and training.precision == "bf16" and not _multiplies_bf16():
        words.append("training.precision: fp32 (this CPU is slower in bf16; another run, as its numbers differ)")
    return Finding("keys", True, f"worth a try: {'; '.join(words[:3])}" if words else "none to change")


def _multiplies_bf16() -> bool:
    """Whether this CPU does (AMX, AVX-512 BF16, ARM's bf16), as far as Linux says."""
    with contextlib.suppress(OSError):
        return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    return True


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 2**10:.0f} KiB"


def collect(config: Config, with_numerics: bool, report: Callable[[Finding], None]) -> None:
    for finding in examine(config, with_numerics):
        report(finding)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gan_dist.doctor.ranks")
    parser.add_argument("--numerics", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    rank = int(os.environ.get("RANK", "0"))

    def say(finding: Finding) -> None:
        print(f"{MARK}{json.dumps(dataclasses.asdict(finding))}", flush=True)

    def report(finding: Finding) -> None:
        if rank == 0:
            say(finding)

    advice = ""
    try:
        config = config_module.load(rest)
        advice = smaller(config, passes=1, processes=int(os.environ.get("WORLD_SIZE", "1")))
        collect(config, options.numerics, report)
    except AgreedError as error:
        report(Finding("start", False, str(error)))
    except (InputError, OSError, torch.OutOfMemoryError) as error:  # perhaps of this rank alone, for which others wait
        what, text = "start", str(error)
        if isinstance(error, torch.OutOfMemoryError):
            what, text = "memory", f"a step does not fit: {error}; {advice}"
        say(Finding(what, False, f"rank {rank}: {text}"))
        return 1
    return 0


if __name__ == "__main__":
    launcher.watch()
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # not in order: gloo aborts where another rank is gone already
