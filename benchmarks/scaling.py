"""Images a second of the trainer at several process counts on this machine, one thread a process, run in turn.

    python benchmarks/scaling.py --shards FOLDER --processes 1 2

The global batch is the same at every count. The bare DDP loop of the same networks beside it shows what the
machine allows.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from stopwatch import measure

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    # the work of a start (W&B, the loader's queues) is in the first few
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument(
        "--per-pass", type=int, default=1, help="micro-batches in one pass, in the trainer and the bare loop alike"
    )
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)  # a rank of the bare loop
    options = parser.parse_args()
    if options.bare:
        bare_loop(options)
        return
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for count in options.processes:
                for what in ("trainer", "bare")[:: 1 - number % 2 * 2]:  # who is first takes turns
                    rate = run(what, count, options, f"{scratch}/{what}-{count}-{number}")
                    rates.setdefault((what, count), []).append(rate)
                    print(f"round {number + 1}  {what:8s} {count} processes  {rate:8.2f} images/s", flush=True)
    first = options.processes[0]
    for what in ("trainer", "bare"):
        for count in options.processes:
            speedups = [now / then for now, then in zip(rates[what, count], rates[what, first], strict=True)]
            overs = [mine / bare for mine, bare in zip(rates["trainer", count], rates["bare", count], strict=True)]
            line = f"{what:8s} {count} processes: {statistics.median(rates[what, count]):8.2f} images/s, RATIO over {first}: {statistics.median(speedups):.3f}"
            print(line + (f", over the bare loop: {statistics.median(overs):.3f}" if what == "trainer" else ""))


def run(what: str, count: int, options: argparse.Namespace, directory: str) -> float:
    settings = {
        "data.shards": os.path.abspath(options.shards),
        "data.flip": "false",
        "data.workers": 1,
        "training.batch": options.batch,
        "training.micro_batch": options.batch // max(options.processes),
        "training.micro_batches_per_pass": options.per_pass,
        "training.device": "cpu",
        "training.strategy": options.strategy,
        "run.directory": directory,
    }
    script = [str(HERE.parent / "gan_dist/train.py"), str(HERE.parent / "configs/dcgan.yaml")]
    script += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    if what == "bare":
        script = [str(HERE / "scaling.py"), "--bare", "--shards", "-", "--batch", str(options.batch)]
        script += ["--processes", str(max(options.processes)), "--per-pass", str(options.per_pass)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(HERE.parent)}
    return measure(script, count, options.batch, options.steps, environment, tempfile.gettempdir())


def bare_loop(options: argparse.Namespace) -> None:
    """DCGAN under torch's own DDP, as an expert writes it: frozen players, channels_last, images in memory."""
    import torch
    from torch.nn.functional import softplus
    from torch.nn.parallel import DistributedDataParallel

    from gan_dist.networks import dcgan
    from gan_dist.networks.statistics import batch_norms

    world = int(os.environ.get("WORLD_SIZE", "1"))
    parts = options.processes[0] // world
    parts //= min(parts, options.per_pass)
    size = options.batch // world // parts
    generator = dcgan.Generator(64, 3, 100, 64).to(memory_format=torch.channels_last)
    discriminator = dcgan.Discriminator(64, 3, 64).to(memory_format=torch.channels_last)
    wrapped = generator, discriminator
    if world > 1:
        torch.distributed.init_process_group("gloo")
        wrapped = tuple(
            DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
            for network in wrapped
        )
    for norm in batch_norms(generator) + batch_norms(discriminator):
        norm.tracking = True
    adam_g, adam_d = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (generator, discriminator)
    )
    real = torch.rand(size, 3, 64, 64).to(memory_format=torch.channels_last) * 2 - 1

    def turn(index, loss_of):
        for part in range(parts):
            last = part == parts - 1
            with torch.enable_grad() if last or world == 1 else wrapped[index].no_sync():
                (loss_of(part) / parts).backward()

    fakes = {}

    def fool(part):
        fake = wrapped[0](torch.randn(size, 100))
        fakes[part] = fake.detach()
        return softplus(-discriminator(fake)).mean()

    def tell_apart(part):
        return softplus(-wrapped[1](real)).mean() + softplus(wrapped[1](fakes[part])).mean()

    while True:  # the stopwatch ends it
        discriminator.requires_grad_(False)
        adam_g.zero_grad()
        turn(0, fool)
        adam_g.step()
        discriminator.requires_grad_(True)
        adam_d.zero_grad()
        turn(1, tell_apart)
        adam_d.step()


if __name__ == "__main__":
    main()
