"""Measure in half a minute what a training would meet on its ranks, and leave nothing behind.

`gan-dist doctor` starts this module on as many ranks as the training will have (torchrun), and reads the findings that
rank 0 prints as JSON.
"""

import argparse
import contextlib
import dataclasses
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

from gan_dist import config as config_module, files, footprint, games, scoring, trial, units, warm_start
from gan_dist.checkpoint import Store, Writer, tensors
from gan_dist.config import Config
from gan_dist.control import launcher
from gan_dist.data import loader, order, resident
from gan_dist.data.index import Index
from gan_dist.doctor import autotune, node_reports, nodes, numerics
from gan_dist.doctor.findings import Finding
from gan_dist.doctor.play import called, play
from gan_dist.engine import Engine, launch, links, memory
from gan_dist.errors import AgreedError, InputError

_FULL = 0.9  # part of a memory beyond which a step does not fit
_LOADED = 24  # micro-batches that are timed at least, after those that workers had ready
_SIZES = (1 << 12, 1 << 20, 1 << 26)  # bytes of an all-reduce


def examine(config: Config, with_numerics: bool) -> Iterator[Finding]:
    """Yield the findings, the same on every rank. All ranks take every step of it."""
    engine = Engine(config)
    yield _machine(engine)
    if config.training.strategy == "exact" and engine.device.type == "cpu":
        yield Finding(
            "threads", True, f"{torch.get_num_threads()} a rank; `exact` keeps those of the run's first start"
        )
    if engine.world_size > 1:
        yield _links(engine)
    yield from _nodes(config, engine)
    yield _game(config.with_classes(lambda: 10), engine)  # any number will do, and no data is needed to know it
    if with_numerics:
        yield from numerics.findings(config, engine)
    engine.on_main(lambda: loader.prepare(config, progress=False), where="machine")
    index = loader.open_index(config)
    config = config.with_classes(lambda: index.classes)
    if (held_out := scoring.held_out.open_index(config, engine)) is not None:
        yield Finding(scoring.held_out.KEY, True, f"{len(held_out):,} samples, of which scores are made")
    if not config.data.drawn:
        yield _overlap(config, engine, len(index))
    needed, findings = _step(config, engine)
    yield from findings
    loader_keeps_up = True
    if not config.data.drawn:
        loading = _loading(config, engine, index, needed)
        if config.data.resident != "no":
            kept = resident.shared(config, index, engine, memory.left_by_limits())
            text = kept.plan.words if kept is not None else resident.absence(config, index, engine.slots)
            yield Finding("resident", True, text)
            loading = (
                loading
                if kept is None
                else Finding("loader", True, f"{loading.text.partition(':')[0]}; then from memory")
            )
        yield loading
        loader_keeps_up = loading.good
    yield _keys(config, engine, loader_keeps_up)


def _machine(engine: Engine) -> Finding:
    gpu = torch.cuda.get_device_properties(engine.device) if engine.device.type == "cuda" else None
    device = f"{gpu.name}, {units.size(gpu.total_memory)}" if gpu else f"CPU, {torch.get_num_threads()} threads a rank"
    hosts = sorted(set(engine.gather(platform.node())))
    kinds = sorted(set(engine.gather(device)))
    software = launch.software(on_cpu=gpu is None)
    text = (
        f"{engine.world_size} rank(s) on {len(hosts)} machine(s): {'; '.join(kinds)}. "
        f"{', '.join(f'{name} {version}' for name, version in software.items())}"
    )
    return Finding("devices", len(kinds) == 1, text if len(kinds) == 1 else f"{text}: the slowest sets the pace")


def _links(engine: Engine) -> Finding:
    """Time the all-reduce of several sizes."""
    words = []
    for size in _SIZES:
        seconds = links.time_all_reduce(engine, size)
        sent = 2 * size * (engine.world_size - 1) / engine.world_size
        words.append(f"{units.size(size)} in {seconds * 1e3:.2f} ms ({sent / seconds / 1e9:.2f} GB/s)")
    return Finding("links", True, f"all-reduce of {', '.join(words)}")


def _nodes(config: Config, engine: Engine) -> Iterator[Finding]:
    """Check the nodes as a job does before it trains (doctor/node_reports.py)."""
    own_reports = [node_reports.of_device(engine.device, engine.rank), *node_reports.of_links(engine)]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        own_reports += node_reports.of_node(config)
    reports = [report for of_rank in engine.gather(own_reports) for report in of_rank]
    names = [report.node for report in reports if report.what == "device"]
    for finding in nodes.judge(reports, list(dict.fromkeys(names)), len(names) // len(set(names))):
        left_out = nodes.exclude([finding]) if len(set(names)) > 1 else ""
        yield dataclasses.replace(finding, text=f"{finding.text}; leave out: {left_out}") if left_out else finding


def _game(config: Config, engine: Engine) -> Finding:
    """Try the game on a few random samples, as training does before it begins. Raises AgreedError for a part that fails."""
    config = warm_start.with_contents(config, engine)
    game = trial.build(config, engine)
    beginning = warm_start.find(config, engine, game)
    if not (config.directory / "config.yaml").exists():
        engine.on_main(game.check_start)
    players = ", ".join(
        f"{player.name} has {sum(weight.numel() for weight in player.weights):,} weights ({type(player.optimizer).__name__})"
        for player in game.players
    )
    phases = ", ".join(called(phase) for phase in game.phases)
    fields = ", ".join(game.fields) or "samples that it draws itself"
    begun = f"; it begins with {beginning.facts['tensors']} of {beginning.directory}" if beginning is not None else ""
    return Finding("game", True, f"{config.game.kind} of {fields}: {players}; in a step: {phases}{begun}")


def _overlap(config: Config, engine: Engine, total: int) -> Finding:
    """Find out whether two ranks would be given the same sample of a step."""
    import numpy as np

    data, training = config.data, config.training
    slots = np.arange(engine.slots.start, engine.slots.stop)
    blocks = order.blocks_of(config)
    samples = order.samples(config.run.seed, total, training.batch, data.streams, 0, slots, blocks=blocks)
    everyone = [int(number) for of_rank in engine.gather(samples.tolist()) for number in of_rank]
    twice = len(everyone) - len(set(everyone))
    text = f"the first {len(everyone)} samples are dealt over {engine.world_size} rank(s), {twice} of them twice"
    return Finding("data overlap", twice == 0, text)


def _step(config: Config, engine: Engine) -> tuple[float, list[Finding]]:
    """Play steps on random samples. Returns the images/s of all ranks together, and the findings."""
    training = config.training
    game = games.build(config)
    engine.place(game)
    weights = {
        player.name: _Weights(
            [weight.numel() for weight in player.weights],
            len(player.kept.tensors),
            player.average is not None,
            footprint.word(training.precision),
        )
        for player in game.players
    }
    if training.micro_batches_per_pass == "auto" and training.strategy != "exact":
        engine.passes = min(engine.gather(autotune.choose(config, engine, game)))
    engine.wrap(game)
    played = play(config, engine, game)
    times = played.times
    # a phase that is played every n steps takes 1/n of its time of each
    seconds = max(engine.gather(sum(times[number] / phase.every for number, phase in enumerate(game.phases))))
    rate = training.batch / seconds
    findings = [
        Finding(
            "step",
            True,
            f"{seconds * 1e3:.0f} ms, {rate:,.0f} images/s with {engine.passes} micro-batch(es) a pass: "
            f"{training.images:,} images take {units.hours(training.images / rate)}; "
            + ", ".join(f"{called(phase)} {times[number] * 1e3:.0f} ms" for number, phase in enumerate(game.phases)),
        ),
        _memory(config, engine, weights, played.peaks),
        _traffic(config, engine, weights, played.uses),
        _saving(config, engine, game),
    ]
    engine.release()
    return rate, findings


@dataclasses.dataclass(frozen=True)
class _Weights:
    """What decides how much memory a player takes."""

    sizes: list[int]
    """Elements of each weight."""
    moments: int
    """Tensors that its optimizer keeps of each weight."""
    averaged: bool
    word: int = 4
    """Bytes of a number."""

    def memory(self, strategy: str, world_size: int, rank: int = 0) -> footprint.Memory:
        return footprint.memory(strategy, self.sizes, world_size, self.averaged, rank, self.moments, self.word)


def _memory(config: Config, engine: Engine, weights: dict[str, _Weights], peaks: dict[str, int]) -> Finding:
    strategy, count = config.training.strategy, engine.world_size
    parts = [of_player.memory(strategy, count, engine.rank) for of_player in weights.values()]
    words = ", ".join(
        f"{kind} {units.size(sum(getattr(part, kind) for part in parts))}"
        for kind in ("weights", "masters", "gradients", "moments", "average", "buffers")
        if any(getattr(part, kind, 0) for part in parts)
    )
    text = f"{strategy} on {count} rank(s) holds in each: {words}"
    phase = max(peaks, key=lambda name: peaks[name])
    engine.wait()  # so that all ranks measure the free memory at one time
    of_ranks = engine.gather((phase, peaks[phase], memory.room(engine.device)))
    phase, peak, room = max(of_ranks, key=lambda row: row[1] / row[2])
    return fits(text, phase, peak, room, smaller(config, engine.passes, count))


def smaller(config: Config, passes: int, processes: int) -> str:
    """Return what to change where a step does not fit: first what changes only its speed."""
    training, words = config.training, []
    if passes > 1:
        words.append(f"training.micro_batches_per_pass: {passes // 2}")
    if processes > 1 and training.strategy != "zero3":
        words.append("training.strategy: zero3")
    if training.micro_batch > 1:
        words.append(f"training.micro_batch: {training.micro_batch // 2} (another run: BatchNorm sees fewer samples)")
    return "try " + ", or ".join(words or ["more processes", "smaller networks"])


def fits(text: str, phase: str, peak: int, room: int, advice: str) -> Finding:
    """Return the finding on memory, of the rank that comes nearest to the memory that it has."""
    text += f"; the worst phase, {phase}, took {units.size(peak)} with everything, of {units.size(room)} that there are"
    if peak > _FULL * room:
        return Finding("memory", False, f"{text}: {advice}")
    return Finding("memory", True, text)


def _traffic(config: Config, engine: Engine, weights: dict[str, _Weights], uses: dict[str, footprint.Uses]) -> Finding:
    strategy, count = config.training.strategy, engine.world_size
    total = sum(
        footprint.traffic(strategy, sum(of_player.sizes), count, uses[name], of_player.word)
        for name, of_player in weights.items()
    )
    others = {
        other: sum(of_player.memory(other, count).total for of_player in weights.values())
        for other in ("ddp", "zero2", "zero3")
    }
    compared = ", ".join(f"{name} {units.size(held)}" for name, held in others.items())
    return Finding("traffic", True, f"each rank sends {units.size(total)} a step; it holds: {compared}")


def _saving(config: Config, engine: Engine, game: games.Game) -> Finding:
    place = files.existing(config.directory)
    seconds = problem = None
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as folder:
        shared = engine.on_main(lambda: folder)
        writer = Writer(Store(Path(str(shared)), 2), engine.rank, engine.world_size, engine.channel())
        writer.save(0, tensors.collect(game.players, game.state(), game.pools), {})
        (outcome,) = writer.wait()
        seconds, problem = outcome.seconds, outcome.problem
        engine.wait()
    if problem:
        return Finding("checkpoint", False, f"could not be saved: {problem}")
    text = f"{units.size(outcome.bytes)} saved and read back in {seconds:.2f} s, training waits for {outcome.stalled:.3f} s of it"
    margin = config.control.margin_seconds
    good = seconds < margin
    return Finding("checkpoint", good, text if good else f"{text}: raise control.margin_seconds above {margin:g}")


def _loading(config: Config, engine: Engine, index: Index, needed: float) -> Finding:
    """Time the loader alone, and compare it with the step."""
    endless = config.with_({"training.images": 1 << 40})
    batches = loader.micro_batches(index, endless, 0, engine.slots, engine.device)
    each_step = len(engine.slots) // config.training.micro_batch
    for _ in islice(batches, math.ceil(loader.ahead(config) / each_step)):  # decoded while the first one was awaited
        pass
    steps, began = math.ceil(max(_LOADED, loader.ahead(config)) / each_step), time.perf_counter()
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
    """Name the keys worth changing, by what was measured."""
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
    """Say whether this CPU multiplies in bf16 (AMX, AVX-512 BF16, ARM's bf16), as far as Linux knows."""
    with contextlib.suppress(OSError):
        return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    return True


def collect(config: Config, with_numerics: bool, report: Callable[[Finding], None]) -> None:
    for finding in examine(config, with_numerics):
        report(finding)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gan_dist.doctor.ranks")
    parser.add_argument("--numerics", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    rank = int(os.environ.get("RANK", "0"))

    def say(finding: Finding) -> None:
        print(finding.line(), flush=True)

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
    except (
        InputError,
        OSError,
        torch.OutOfMemoryError,
    ) as error:  # perhaps of this rank only, for which the others wait
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
    os._exit(code)  # without Python's clean-up: gloo aborts where another rank has ended
