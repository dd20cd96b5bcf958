"""The strategies side by side on this machine: images a second, bytes held, and what penalties cost.

    python benchmarks/engines.py speed       # every strategy over a bare DDP loop of the same networks
    python benchmarks/engines.py memory      # live tensors of each process against the formula
    python benchmarks/engines.py penalty     # finite differences over exact R1: cost, bias, noise

All variants take turns within the same processes, so that a ratio compares like with like. One thread a process.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
import torch.distributed  # noqa: E402
from torch.nn.functional import softplus  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from gan_dist import config as config_module, footprint, games, numerics, penalties  # noqa: E402
from gan_dist.data import loader  # noqa: E402
from gan_dist.engine import Engine  # noqa: E402
from gan_dist.networks.normalisation import batch_norms  # noqa: E402

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "penalty"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--base", type=int, default=64, help="DCGAN's width")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    options = parser.parse_args()
    if options.what != "penalty" and "RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        sys.exit(subprocess.call([sys.executable, *launcher, *sys.argv], env=environment))
    {"speed": speed, "memory": memory, "penalty": penalty}[options.what](options)
    sys.stdout.flush()
    os._exit(0)  # gloo aborts where another rank is gone already


def build(options: argparse.Namespace, strategy: str, **more: object):
    keys = {
        "data.shards": "-", "data.resolution": options.resolution, "game.base_channels": options.base, "data.flip": "false",
        "training.batch": 2 * options.micro_batch * options.processes, "training.micro_batch": options.micro_batch,
        "training.strategy": strategy, **({} if strategy == "exact" else {"training.micro_batches_per_pass": 1}), **more,
    }  # fmt: skip
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    return config_module.load([str(HERE.parent / "configs/dcgan.yaml"), *words])


class Variant:
    """A strategy of the engine, ready to step on the same images over and over."""

    def __init__(self, options: argparse.Namespace, strategy: str) -> None:
        self.config = build(options, strategy)
        self.engine, self.game = Engine(self.config), games.build(self.config)
        self.engine.wrap(self.game)
        self.number = 0
        self.images = numerics.images_of(self.config, 0, self.engine.slots)
        for micro in self.images:
            micro.images = micro.images.float().to(self.engine.device).contiguous(memory_format=torch.channels_last)
            micro.positions = micro.positions.to(self.engine.device)

    def step(self, measure=lambda: None) -> None:
        micros = [loader.MicroBatch(micro.images, micro.labels, micro.positions) for micro in self.images]
        for phase in self.game.due(self.number):
            with self.engine.turn(phase):
                for loss, samples in self.engine.share(micros):
                    self.engine.backward(loss(samples))
                measure()
                self.engine.update()
        self.game.average(self.number * self.config.training.batch, self.config.training.batch)
        self.number += 1


class Bare:
    """The same networks under torch's own DDP, as an expert writes it: no gate, no figures, no average."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = build(options, "ddp")
        game = games.build(config)
        self.latent, self.micro = config.game.latent, options.micro_batch
        self.nets = [player.network.to(memory_format=torch.channels_last) for player in game.players]
        for norm in [norm for net in self.nets for norm in batch_norms(net)]:
            norm.tracking = True
        self.wrapped = [
            DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True) for net in self.nets
        ]
        self.adams = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in self.nets]
        size = options.resolution
        self.real = [
            torch.rand(self.micro, 3, size, size).contiguous(memory_format=torch.channels_last) * 2 - 1
            for _ in range(2)
        ]

    def step(self) -> None:
        discriminator, fakes = self.nets[1], []
        for turn in range(2):
            for index, net in enumerate(self.nets):
                net.requires_grad_(index == turn)
            self.adams[turn].zero_grad(set_to_none=True)
            for part, real in enumerate(self.real):
                self.wrapped[turn].require_backward_grad_sync = part == 1  # what no_sync sets
                if turn == 0:
                    fakes.append(self.wrapped[0](torch.randn(self.micro, self.latent)))
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
    variants["bare DDP loop"] = Bare(options)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        names = list(variants) if number % 2 else list(reversed(variants))
        for name in names:
            torch.distributed.barrier()
            began = time.perf_counter()
            for _ in range(2):
                variants[name].step()
            torch.distributed.barrier()
            times[name].append((time.perf_counter() - began) / 2)
    if torch.distributed.get_rank():
        return
    batch = 2 * options.micro_batch * options.processes
    rates = {name: [batch / seconds for seconds in found[1:]] for name, found in times.items()}
    for base in ("bare DDP loop", "ddp"):
        for name in variants:
            if name != base:
                ratios = sorted(mine / theirs for mine, theirs in zip(rates[name], rates[base], strict=True))
                print(
                    f"RATIO {name} over {base}: {statistics.median(ratios):.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f}), "
                    f"{statistics.median(rates[name]):.1f} images/s"
                )


def memory(options: argparse.Namespace) -> None:
    for strategy in options.strategies:
        gc.collect()
        before = live()
        variant = Variant(options, strategy)
        players = variant.game.players
        sizes = {
            player.name: [
                shape.numel()
                for shape in (
                    player.shards.shapes.values() if player.shards else (w.shape for w in player.network.parameters())
                )
            ]
            for player in players
        }
        images = sum(micro.images.nbytes for micro in variant.images)
        variant.step()
        peaks: list[float] = []
        variant.step(lambda peaks=peaks, before=before: peaks.append(live() - before))
        gc.collect()
        kept = live() - before
        torch.distributed.barrier()
        sent = loopback()
        for _ in range(4):
            variant.step()
        torch.distributed.barrier()
        sent = (loopback() - sent) / 4 / variant.engine.world_size
        rank, count = variant.engine.rank, variant.engine.world_size
        held = [footprint.memory(strategy, sizes[name], count, name == "G", rank) for name in sizes]
        if strategy not in ("zero1", "zero2"):  # gradients stay, until the player's next turn or in a buffer
            expected = sum(part.total for part in held)
        else:
            expected = sum(part.kept for part in held)
        rows = variant.engine.gather((kept - images, expected, max(peaks) - kept, max(part.gradients for part in held)))
        variant.engine.release()
        del variant, players
        if rank == 0 and strategy in ("ddp", "exact"):  # DeepSpeed sends by shared memory on one machine
            formula = sum(footprint.traffic(strategy, sum(numbers), count, 2, 2) for numbers in sizes.values())
            print(f"{strategy:6s} each process sends {sent / 2**20:.2f} MiB a step, formula {formula / 2**20:.2f}, "
                  f"RATIO {sent / formula:.3f}")  # fmt: skip
        if rank == 0:
            for number, (found, formula, more, gradients) in enumerate(rows):
                print(
                    f"{strategy:6s} process {number} of {count}: kept between steps {found / 2**20:8.2f} MiB, formula "
                    f"{formula / 2**20:8.2f}, RATIO {found / formula:.3f}; more before an update {more / 2**20:8.2f} MiB "
                    f"(gradients of a player by formula {gradients / 2**20:.2f})"
                )


def loopback() -> int:
    """Bytes sent over the machine's loopback so far: what gloo's processes send each other."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def live() -> int:
    """Bytes of all tensors of this process, every storage once."""
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type != "meta":
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def penalty(options: argparse.Namespace) -> None:
    """On a discriminator trained a little against noise, images of smooth blobs."""
    torch.set_num_threads(1)
    config = build(options, "ddp")
    discriminator = games.build(config).players[1].network
    size, count = options.resolution, options.micro_batch
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    real = torch.nn.functional.interpolate(coarse, size, mode="bilinear").contiguous(memory_format=torch.channels_last)
    adam = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    for _ in range(30):
        adam.zero_grad()
        (softplus(-discriminator(real)).mean() + softplus(discriminator(torch.randn_like(real))).mean()).backward()
        adam.step()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
        weights = discriminator.parameters()
        return torch.cat(
            [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)]
        )

    exact = gradient(penalties.squared_gradient(discriminator, real))
    value = penalties.squared_gradient(discriminator, real).item()
    for step in (0.001, 0.003, 0.01, 0.03, 0.1):
        draws, values = [], []
        for seed in range(64):
            noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
            found = penalties.squared_difference(discriminator, real, noise, step)
            values.append(found.item())
            draws.append(gradient(found))
        mean = torch.stack(draws).mean(0)
        spread = torch.stack([(draw - mean).norm() for draw in draws]).mean() / exact.norm()
        cosine = torch.nn.functional.cosine_similarity(mean, exact, dim=0).item()
        print(
            f"step {step}: value {statistics.mean(values) / value - 1:+.1%} of exact R1's, cosine of the mean gradient of 64 "
            f"draws with its gradient {cosine:.2f}, norm {mean.norm() / exact.norm():.2f}, noise of one draw {spread:.1f}"
        )
    ratios = []
    for number in range(options.rounds + 1):
        seconds = {}
        noise = torch.randn_like(real)
        for name in ("exact", "finite difference") if number % 2 else ("finite difference", "exact"):
            began = time.perf_counter()
            if name == "exact":
                gradient(penalties.squared_gradient(discriminator, real))
            else:
                gradient(penalties.squared_difference(discriminator, real, noise, 0.03))
            seconds[name] = time.perf_counter() - began
        ratios.append(seconds["finite difference"] / seconds["exact"])
    ratios = sorted(ratios[1:])
    print(
        f"RATIO time of a finite-difference penalty over exact R1: {statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
