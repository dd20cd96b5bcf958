"""The strategies side by side on this machine: images a second, bytes held, and what penalties cost.

    python benchmarks/engines.py speed       # every strategy over a bare DDP loop of the same networks
    python benchmarks/engines.py memory      # live tensors of each process against the formula
    python benchmarks/engines.py traffic     # what each process hands to collectives against the formula
    python benchmarks/engines.py precision   # tf32, bf16 and fp16 over fp32 of one strategy: images a second, memory, phases

All variants take turns within the same processes, so that a ratio compares like with like. One thread a process.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
import torch.distributed  # noqa: E402
from torch.nn.functional import softplus  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

from gan_dist import config as config_module, footprint, games, interfaces, trial  # noqa: E402
from gan_dist.doctor import play  # noqa: E402
from gan_dist.engine import Engine  # noqa: E402
from gan_dist.networks.statistics import batch_norms  # noqa: E402
from gan_dist.player import Player  # noqa: E402

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=WHAT)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--base", type=int, default=64, help="DCGAN's width")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        sys.exit(subprocess.call([sys.executable, *launcher, *sys.argv], env=environment))
    for what in options.what:
        WHAT[what](options)
    sys.stdout.flush()
    os._exit(0)  # gloo aborts where another rank is gone already


def build(options: argparse.Namespace, strategy: str, **more: object):
    keys = {
        "data.shards": "-", "data.resolution": options.resolution, "networks.generator.base_channels": options.base, "networks.discriminator.base_channels": options.base, "data.flip": "false",
        "training.batch": 2 * options.micro_batch * options.processes, "training.micro_batch": options.micro_batch,
        "training.strategy": strategy, **({} if strategy == "exact" else {"training.micro_batches_per_pass": 1}), **more,
    }  # fmt: skip
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    return config_module.load([str(HERE.parent / "configs/dcgan.yaml"), *words])


class Variant:
    """A strategy of the engine, ready to step on the same images over and over."""

    def __init__(self, options: argparse.Namespace, strategy: str, **more: object) -> None:
        self.config = build(options, strategy, **more)
        self.engine, self.game = Engine(self.config), games.build(self.config)
        self.engine.wrap(self.game)
        self.number = 0
        samples = trial.random_batches(self.config, self.game.fields, 0, self.engine.slots)
        self.images = trial.on_device(self.config, self.engine, samples)

    def step(self, began=lambda player: None, computed=lambda player: None) -> None:
        # exact's engine switches them on for the whole process, where the others take turns with it
        torch.use_deterministic_algorithms(self.config.training.strategy == "exact")
        micros = [interfaces.Batch(dict(micro.fields), micro.positions) for micro in self.images]
        images, size = self.number * self.config.training.batch, self.config.training.batch
        self.game.images = images
        for phase in self.game.due(images, size):
            with self.engine.turn(phase):
                began(phase.player)
                for loss, samples in self.engine.share(micros):
                    self.engine.backward(loss(samples))
                computed(phase.player)
                self.engine.update(images)
        self.game.average(images, size)
        self.number += 1


class Bare:
    """The same networks under torch's own DDP, as an expert writes it: no gate, no figures, no average."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        config = build(options, "ddp")
        self.device = device
        game = games.build(config)
        self.latent, self.micro = config.game.latent, options.micro_batch
        self.nets = [player.network.to(device, memory_format=torch.channels_last) for player in game.players]
        for norm in [norm for net in self.nets for norm in batch_norms(net)]:
            norm.tracking = True
        self.wrapped = [
            DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True) for net in self.nets
        ]
        self.adams = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in self.nets]
        size = options.resolution
        self.real = [
            torch.rand(self.micro, 3, size, size, device=device).contiguous(memory_format=torch.channels_last) * 2 - 1
            for _ in range(2)
        ]

    def step(self) -> None:
        torch.use_deterministic_algorithms(False)
        discriminator, fakes = self.nets[1], []
        for turn in range(2):
            for index, net in enumerate(self.nets):
                net.requires_grad_(index == turn)
            self.adams[turn].zero_grad(set_to_none=True)
            for part, real in enumerate(self.real):
                self.wrapped[turn].require_backward_grad_sync = part == 1  # what no_sync sets
                if turn == 0:
                    fakes.append(self.wrapped[0](torch.randn(self.micro, self.latent, device=self.device)))
                    loss = softplus(-discriminator(fakes[-1])).mean()
                else:
                    loss = (
                        softplus(-self.wrapped[1](real)).mean() + softplus(self.wrapped[1](fakes[part].detach())).mean()
                    )
                (loss / 2).backward()
            self.adams[turn].step()
            for norm in batch_norms(self.nets[turn]):
                norm.commit()


def speed(options: argparse.Namespace) -> None:
    variants = {name: Variant(options, name) for name in options.strategies}
    variants["bare DDP loop"] = Bare(options, next(iter(variants.values())).engine.device)
    times: dict[str, list[float]] = {name: [] for name in variants}
    work: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        names = list(variants) if number % 2 else list(reversed(variants))
        for name in names:
            wait()
            began, used = time.perf_counter(), time.process_time()
            for _ in range(2):
                variants[name].step()
            wait()
            times[name].append((time.perf_counter() - began) / 2)
            work[name].append((time.process_time() - used) / 2)
    if torch.distributed.get_rank():
        return
    batch = 2 * options.micro_batch * options.processes
    rates = {name: [batch / seconds for seconds in found[1:]] for name, found in times.items()}
    for base in ("bare DDP loop", "ddp"):
        for name in variants:
            if name != base:
                ratios = sorted(mine / theirs for mine, theirs in zip(rates[name], rates[base], strict=True))
                effort = [theirs / mine for mine, theirs in zip(work[name][1:], work[base][1:], strict=True)]
                print(
                    f"RATIO {name} over {base}: {statistics.median(ratios):.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f}), "
                    f"{statistics.median(rates[name]):.1f} images/s; a second of processor time: {statistics.median(effort):.3f}"
                )


def wait() -> None:
    """Until all processes and their devices have come this far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    torch.distributed.barrier()


PRECISIONS: dict[str, dict[str, object]] = {
    "fp32": {},
    "tf32": {"training.tf32": True},
    "bf16": {"training.precision": "bf16"},
    "fp16": {"training.precision": "fp16"},
}


def precision(options: argparse.Namespace) -> None:
    """Of the first of the strategies, with an exact R1 of its own every four steps, as its phase is the largest."""
    gpu, strategy = torch.cuda.is_available(), options.strategies[0]
    lazy = {"penalties.r1.weight": 1.0, "penalties.r1.every": 4}
    worst: dict[str, str] = {}
    for name in PRECISIONS if gpu else ("fp32", "bf16"):
        variant = make(options, strategy, name, **lazy)  # alone, as its memory is looked at
        played = play.play(variant.config, variant.engine, variant.game)
        seconds, peaks = played.times, played.peaks
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        largest = max(peaks, key=lambda phase: peaks[phase])
        worst[name] = (
            f"slowest phase {play.called(variant.game.phases[slowest])} {1000 * seconds[slowest]:.1f} ms, "
            f"largest {largest} {peaks[largest] / 2**20:.0f} MiB{'' if gpu else ' with the whole process'}"
        )
        variant.engine.release()
        del variant
        gc.collect()
    variants = {name: make(options, strategy, name, **lazy) for name in worst}
    times: dict[str, list[float]] = {name: [] for name in worst}
    for number in range(options.rounds + 1):
        for name in list(worst) if number % 2 else reversed(worst):
            allow_tf32(name)
            wait()
            began = time.perf_counter()
            for _ in range(4):  # every phase is due in it
                variants[name].step()
            wait()
            times[name].append((time.perf_counter() - began) / 4)
    if torch.distributed.get_rank():
        return
    where = torch.cuda.get_device_name() if gpu else "CPU"
    for name, text in worst.items():
        ratios = sorted(theirs / mine for mine, theirs in zip(times[name][1:], times["fp32"][1:], strict=True))
        rate = variants[name].config.training.batch / statistics.median(times[name][1:])
        found = "fp32" if name == "fp32" else f"RATIO {name} over fp32"
        if name != "fp32":
            found += f": {statistics.median(ratios):.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f})"
        print(f"{found}, {strategy}, {where}: {rate:.1f} images/s; {text}")


def make(options: argparse.Namespace, strategy: str, name: str, **more: object) -> Variant:
    allow_tf32(name)
    return Variant(options, strategy, **more, **PRECISIONS[name])


def allow_tf32(name: str) -> None:
    """It is of the whole process, where variants take turns."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"


def memory(options: argparse.Namespace) -> None:
    for strategy in options.strategies:
        gc.collect()
        before = live()
        variant = Variant(options, strategy)
        found, formula = held(variant, before)
        rows = variant.engine.gather((found, formula))
        variant.engine.release()
        del variant
        if torch.distributed.get_rank():
            continue
        for number, (found, formula) in enumerate(rows):
            for what in found:
                print(
                    f"{strategy:6s} process {number} of {len(rows)}: {what} {found[what] / 2**20:.2f} MiB, formula "
                    f"{formula[what] / 2**20:.2f}, RATIO {found[what] / formula[what]:.3f}"
                )


def held(variant: Variant, before: int) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of this process's live tensors but for `before`, and by the formula: between steps, and of gradients."""
    strategy, players, engine = variant.config.training.strategy, variant.game.players, variant.engine
    formula = {player.name: footprint.memory(strategy, sizes(player), engine.world_size, player.name == "G", engine.rank)
               for player in players}  # fmt: skip
    began: dict[str, int] = {}
    gradients: dict[str, float] = {}

    def remember(player: Player) -> None:
        gc.collect()
        began[player.name] = live()

    def compute(player: Player) -> None:
        gc.collect()
        if strategy in ("zero1", "zero2"):  # there for the update alone
            gradients[player.name] = live() - began[player.name]
        elif strategy == "zero3":  # in a buffer that stays
            parts = engine._strategy._engines[
                player.name
            ].optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
            gradients[player.name] = sum(part.nbytes for part in parts.values())
        else:
            gradients[player.name] = sum(weight.grad.nbytes for weight in player.network.parameters())

    variant.step()
    variant.step(remember, compute)
    gc.collect()
    kept = live() - before - sum(micro["image"].nbytes for micro in variant.images)
    # gradients stay between steps, until the player's next turn or in a buffer, but for those of ZeRO-1 and 2
    expected = sum(part.kept if strategy in ("zero1", "zero2") else part.total for part in formula.values())
    return (
        {"kept between steps": kept, **{f"gradients of {name}": size for name, size in gradients.items()}},
        {"kept between steps": expected, **{f"gradients of {name}": part.gradients for name, part in formula.items()}},
    )


def sizes(player: Player) -> list[int]:
    """Of a player's weights, whole."""
    whole = player.shards.shapes.values() if player.shards else (weight.shape for weight in player.network.parameters())
    return [shape.numel() for shape in whole]


PENALTIES: dict[str, dict[str, object]] = {
    "no penalty": {},
    "exact R1": {"penalties.r1.weight": 1.0},
}


def traffic(options: argparse.Namespace) -> None:
    for what, keys in PENALTIES.items():
        ways = [(strategy, True) for strategy in options.strategies]
        for strategy, prefetch in ways + [("zero3", False)] * ("zero3" in options.strategies):
            with contextlib.nullcontext() if prefetch else told(3, stage3_prefetch_bucket_size=1):
                variant = Variant(options, strategy, **keys)
            found, formula = sent(variant)
            variant.engine.release()
            if torch.distributed.get_rank() == 0:
                print(f"{strategy:6s} {what}{'' if prefetch else ', no prefetching'}: each process sends {found / 2**20:.2f} MiB a step of "
                      f"2 passes, formula {formula / 2**20:.2f}, RATIO {found / formula:.3f}")  # fmt: skip


@contextlib.contextmanager
def told(stage: int, **settings: int) -> Iterator[None]:
    """Engines that are made meanwhile take these settings of DeepSpeed, as from accelerate's launcher."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"zero_optimization": {"stage": stage, **settings}}, file)
        file.flush()
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = file.name
        try:
            yield
        finally:
            del os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"]


def sent(variant: Variant) -> tuple[float, float]:
    """Bytes that this process sends in a step, by what it hands to collectives, and by the formula."""
    config, engine = variant.config, variant.engine
    round_ = math.lcm(*(phase.every for phase in variant.game.phases))  # steps in which every phase is played
    for _ in range(2 * round_):  # DeepSpeed has seen the order of layers by then
        variant.step()
    with Sent() as counter:
        for _ in range(round_):
            variant.step()
    uses = play.play(config, engine, variant.game).uses
    return sum(counter.bytes.values()) / round_, sum(
        footprint.traffic(config.training.strategy, sum(sizes(player)), engine.world_size, uses[player.name])
        for player in variant.game.players
    )


class Sent(TorchDispatchMode):
    """Counts, while it is on, what this process hands to collectives, as bytes that it sends over a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, float] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name().removeprefix("c10d::").removesuffix("_")
        if function.namespace == "c10d" and name not in ("barrier", "monitored_barrier"):
            count = torch.distributed.get_world_size()
            ring = {"allreduce": 2 * (count - 1) / count, "broadcast": 1.0, "reduce": 1.0}.get(
                name, (count - 1) / count
            )
            # the whole is the longer of what goes in and what comes out
            whole = max(
                sum(t.nbytes for t in tree_flatten(part)[0] if isinstance(t, torch.Tensor)) for part in arguments
            )
            self.bytes[name] = self.bytes.get(name, 0.0) + ring * whole
        return function(*arguments, **(keywords or {}))


def live() -> int:
    """Bytes of all tensors of this process, every storage once."""
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type != "meta":
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


WHAT = {"speed": speed, "memory": memory, "traffic": traffic, "precision": precision}

if __name__ == "__main__":
    main()
