"""What the trainer costs over a bare loop: DCGAN 64x64, the two run in turn in one process.

    python benchmarks/overhead.py --shards FOLDER

The bare loop has the same networks, batch, losses, optimizers and tricks (channels_last, the discriminator
frozen in the generator's turn, images made once), with its images in memory and nothing else: no loader, no
figures, no moving average, no progress. FOLDER holds shards of RGB images of 64x64 or more.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn.functional import softplus

from gan_dist import config as config_module
from gan_dist.data import loader
from gan_dist.engine import Engine
from gan_dist.games.generation import build_networks
from gan_dist.networks.statistics import batch_norms
from gan_dist.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of each in a round")
    parser.add_argument("--config", default="dcgan")
    parser.add_argument("keys", nargs="*", help="--key.path value of the config, after --")
    options = parser.parse_args()
    settings = {
        "data.shards": options.shards,
        "training.batch": options.batch,
        "training.micro_batch": options.batch,
        "track.every": options.batch * options.steps,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    path = Path(__file__).resolve().parent.parent / "configs" / f"{options.config}.yaml"
    with tempfile.TemporaryDirectory() as scratch:
        config = config_module.load([str(path), *flags, "--run.directory", f"{scratch}/run", *options.keys])
        trainer = Trainer(config, Engine(config))
        batches = loader.micro_batches(trainer.index, config, 0, trainer.engine.slots, trainer.engine.device)
        bare = BareLoop(config, trainer.engine.device, torch.cat([next(batches)[0]["image"] for _ in range(4)]))
        ours, theirs = [], []
        with trainer.tracker:
            trainer.advance(next(batches))
            bare.step()
            for number in range(options.rounds):
                ours.append(seconds(lambda: [trainer.advance(batch) for batch in islice(batches, options.steps)]))
                theirs.append(seconds(lambda: [bare.step() for _ in range(options.steps)]))
                rates = [options.batch * options.steps / times[-1] for times in (ours, theirs)]
                print(f"round {number + 1}: trainer {rates[0]:.1f} images/s, bare loop {rates[1]:.1f}", flush=True)
        batches.close()
    images = options.batch * options.steps
    ratios = [b / o for b, o in zip(theirs, ours, strict=True)]
    print(
        f"trainer {images / statistics.median(ours):.1f} images/s, bare loop {images / statistics.median(theirs):.1f}"
    )
    print(
        f"RATIO images/s, trainer over bare loop: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
    )


def seconds(work) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


class BareLoop:
    """What an expert writes in thirty lines."""

    def __init__(self, config, device, images) -> None:
        self.generator, self.discriminator = (
            network.to(device, memory_format=torch.channels_last) for network in build_networks(config)
        )
        fused = device.type == "cuda" or None
        self.adam_g, self.adam_d = (
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=fused)
            for network in (self.generator, self.discriminator)
        )
        self.images, self.device = images, device
        self.batch, self.latent, self.count = config.training.batch, config.game.latent, 0

    def step(self) -> None:
        first = self.count * self.batch % len(self.images)
        real = self.images[first : first + self.batch]
        self.count += 1
        for norm in batch_norms(self.generator) + batch_norms(self.discriminator):
            norm.tracking = True
        self.discriminator.requires_grad_(False)
        self.adam_g.zero_grad()
        fake = self.generator(torch.randn(self.batch, self.latent, device=self.device))
        softplus(-self.discriminator(fake)).mean().backward()
        self.adam_g.step()
        self.discriminator.requires_grad_(True)
        self.adam_d.zero_grad()
        loss = softplus(-self.discriminator(real)).mean() + softplus(self.discriminator(fake.detach())).mean()
        loss.backward()
        self.adam_d.step()
        for norm in batch_norms(self.generator) + batch_norms(self.discriminator):
            norm.commit()


if __name__ == "__main__":
    main()
