"""What the trainer costs over a bare loop of the same networks and mathematics, the two run in turn in one process.

    python benchmarks/overhead.py --shards FOLDER                                    # DCGAN 64x64
    python benchmarks/overhead.py --shards FOLDER --recipe r3gan                     # R3GAN 32x32, narrow, without augmentation
    python benchmarks/overhead.py --shards FOLDER --recipe stylegan2 --steps 16      # StyleGAN2 64x64, narrow, without ADA
    python benchmarks/overhead.py --shards FOLDER --recipe paired --batch 16         # pix2pix, 32x32, of edges:digits
    python benchmarks/overhead.py --shards A --shards-b B --recipe unpaired --batch 4   # CycleGAN, 64x64, narrow

A bare loop is what an expert writes: same networks, batch, losses, penalties, optimizers and tricks (channels_last, the
discriminator frozen in the generator's turn, images made once, logits of a penalty shared with the loss), with its images
in memory and nothing else: no loader, no figures, no moving average, no progress. FOLDER holds shards of RGB images. A
round should have a whole number of the recipe's lazy penalties: 16 steps for StyleGAN2.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml
from torch.nn.functional import l1_loss as l1, softplus

from gan_dist import config as config_module
from gan_dist.data import loader
from gan_dist.engine import Engine
from gan_dist.games.generation import build_networks
from gan_dist.networks.statistics import batch_norms
from gan_dist.penalties.gradient import path_lengths
from gan_dist.trainer import Trainer

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--shards-b", help="of the domain B, where two are played")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of each in a round")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="dcgan")
    parser.add_argument("keys", nargs="*", help="--key.path value of the config, after --")
    options = parser.parse_args()
    settings = {
        "data.shards": f"{{A: {options.shards}, B: {options.shards_b}}}" if options.shards_b else options.shards,
        "training.batch": options.batch,
        "training.micro_batch": options.batch,
        "track.every": options.batch * options.steps,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    recipe = RECIPES[options.recipe]
    with tempfile.TemporaryDirectory() as scratch:
        keys = yaml.safe_load((CONFIGS / recipe.config).read_text())
        keys.pop("augment", None)
        for penalty in keys.get("penalties", {}).values():
            penalty.pop("full_precision", None)  # everything is fp32 here
        path = Path(scratch) / recipe.config
        path.write_text(yaml.safe_dump(keys))
        words = [str(path), *flags, *recipe.keys, "--run.directory", f"{scratch}/run", *options.keys]
        config = config_module.load(words)
        trainer = Trainer(config, Engine(config))
        batches = loader.micro_batches(trainer.index, config, 0, trainer.engine.slots, trainer.engine.device)
        some = [next(batches)[0] for _ in range(4)]
        images = {name: torch.cat([batch[name] for batch in some]) for name in trainer.game.fields}
        bare = recipe.loop(config, trainer.engine.device, images)
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
    seen = options.batch * options.steps
    ratios = [b / o for b, o in zip(theirs, ours, strict=True)]
    print(f"trainer {seen / statistics.median(ours):.1f} images/s, bare loop {seen / statistics.median(theirs):.1f}")
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


class Dcgan:
    """What an expert writes in thirty lines."""

    betas = (0.5, 0.999)

    def __init__(self, config, device, images) -> None:
        self.generator, self.discriminator = (
            network.to(device, memory_format=torch.channels_last) for network in self.networks(config)
        )
        fused = device.type == "cuda" or None
        self.adam_g, self.adam_d = (
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=self.betas, fused=fused)
            for network in (self.generator, self.discriminator)
        )
        self.images, self.device = images, device
        self.batch, self.latent, self.count = config.training.batch, getattr(config.game, "latent", 0), 0

    def networks(self, config):
        return build_networks(config)

    def real(self, *names: str):
        names = names or ("image",)
        first = self.count * self.batch % len(self.images[names[0]])
        self.count += 1
        found = [self.images[name][first : first + self.batch] for name in names]
        return found if len(found) > 1 else found[0]

    def latents(self) -> torch.Tensor:
        return torch.randn(self.batch, self.latent, device=self.device)

    def step(self) -> None:
        real = self.real()
        for norm in batch_norms(self.generator) + batch_norms(self.discriminator):
            norm.tracking = True
        self.discriminator.requires_grad_(False)
        self.adam_g.zero_grad()
        fake = self.generator(self.latents())
        softplus(-self.discriminator(fake)).mean().backward()
        self.adam_g.step()
        self.discriminator.requires_grad_(True)
        self.adam_d.zero_grad()
        loss = softplus(-self.discriminator(real)).mean() + softplus(self.discriminator(fake.detach())).mean()
        loss.backward()
        self.adam_d.step()
        for norm in batch_norms(self.generator) + batch_norms(self.discriminator):
            norm.commit()


class R3gan(Dcgan):
    """Relativistic loss, R1 and R2 in each update; a step is one player's, with images of its own."""

    betas = (0.0, 0.9)
    gamma = 0.05

    def step(self) -> None:
        real, generators = self.real(), self.count % 2 == 1
        self.generator.requires_grad_(generators)
        self.discriminator.requires_grad_(not generators)
        adam = self.adam_g if generators else self.adam_d
        adam.zero_grad()
        fake = self.generator(self.latents())
        if generators:
            softplus(self.discriminator(real) - self.discriminator(fake)).mean().backward()
        else:
            real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
            of_real, of_fake = self.discriminator(real), self.discriminator(fake)
            loss = softplus(of_fake - of_real).mean()
            for images, logits in ((real, of_real), (fake, of_fake)):
                (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
                loss = loss + self.gamma / 2 * gradient.square().sum((1, 2, 3)).mean()
            loss.backward()
        adam.step()


class Numbers:
    """StyleGAN2's noise and mixing, and dropout, from torch's generator."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.device = count, device

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        return torch.randn(self.count, *shape, device=self.device)

    def normals(self, shapes: dict[str, tuple[int, ...]]) -> list[torch.Tensor]:
        return [self.normal(name, *shape) for name, shape in shapes.items()]

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        return torch.rand(self.count, *shape, device=self.device)

    def for_micro_batch(self, name: str, parts: int) -> torch.Tensor:
        return torch.rand(parts, device=self.device)


class Stylegan2(Dcgan):
    """Non-saturating loss, lazy R1 and path length, fresh fakes for the discriminator."""

    betas = (0.0, 0.99)
    r1, r1_every, path, path_every = 0.0128, 16, 2.0, 4

    def __init__(self, config, device, images) -> None:
        super().__init__(config, device, images)
        self.length = torch.zeros((), device=device)

    def fake(self, **asked):
        return self.generator(self.latents(), None, draws=Numbers(self.batch, self.device), **asked)

    def step(self) -> None:
        real = self.real()
        self.turn(self.generator, self.discriminator, self.adam_g)
        softplus(-self.discriminator(self.fake())).mean().backward()
        self.adam_g.step()
        if self.count % self.path_every == 0:
            self.adam_g.zero_grad()
            half = self.batch // 2
            images, styles = self.generator(self.latents()[:half], None, draws=Numbers(half, self.device), styles=True)
            lengths = path_lengths(images, styles, torch.randn_like(images))
            penalty = (lengths - self.length).square().mean()
            self.length = self.length.lerp(lengths.detach().mean(), 0.01)
            (self.path_every * self.path * penalty + 0 * images.sum()).backward()
            self.adam_g.step()
        self.turn(self.discriminator, self.generator, self.adam_d)
        with torch.no_grad():
            fake = self.fake()
        (softplus(-self.discriminator(real)).mean() + softplus(self.discriminator(fake)).mean()).backward()
        self.adam_d.step()
        if self.count % self.r1_every == 0:
            self.adam_d.zero_grad()
            images = real.detach().requires_grad_()
            logits = self.discriminator(images)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            (self.r1_every * self.r1 / 2 * penalty + 0 * logits.sum()).backward()
            self.adam_d.step()

    def turn(self, playing, resting, adam) -> None:
        playing.requires_grad_(True)
        resting.requires_grad_(False)
        adam.zero_grad()


class Paired(Dcgan):
    """pix2pix: the discriminator sees pairs, and half of its loss; images made once."""

    def networks(self, config):
        game = config.game.build(config)
        return game.generator.network, game.discriminator.network

    def step(self) -> None:
        given, wanted = self.real("input", "target")
        self.discriminator.requires_grad_(False)
        self.adam_g.zero_grad()
        fake = self.generator(given, draws=Numbers(self.batch, self.device))
        loss = softplus(-self.discriminator(torch.cat([given, fake], 1))).mean()
        (loss + 100 * (wanted - fake).abs().mean()).backward()
        self.adam_g.step()
        self.discriminator.requires_grad_(True)
        self.adam_d.zero_grad()
        real = self.discriminator(torch.cat([given, wanted], 1))
        made = self.discriminator(torch.cat([given, fake.detach()], 1))
        ((softplus(-real).mean() + softplus(made).mean()) / 2).backward()
        self.adam_d.step()


class Unpaired(Paired):
    """CycleGAN with its pools, as lists of images."""

    def __init__(self, config, device, images) -> None:
        super().__init__(config, device, images)
        self.pools = {"A": [], "B": []}

    def networks(self, config):
        game = config.game.build(config)
        return game.generators.network, game.discriminators.network

    def shown(self, name: str, images: torch.Tensor) -> torch.Tensor:
        pool, chosen = self.pools[name], []
        for image in images.split(1):
            if len(pool) < 50:
                pool.append(image)
            elif random.random() < 0.5:
                place = random.randrange(50)
                image, pool[place] = pool[place], image
            chosen.append(image)
        return torch.cat(chosen)

    def step(self) -> None:
        a, b = self.real("A", "B")
        generators, judges = self.generator, self.discriminator
        judges.requires_grad_(False)
        self.adam_g.zero_grad()
        fakes = {"B": generators(a, "AB"), "A": generators(b, "BA")}
        adversarial = sum((judges(fake, name) - 1).square().mean() for name, fake in fakes.items())
        cycle = l1(generators(fakes["B"], "BA"), a) + l1(generators(fakes["A"], "AB"), b)
        identity = l1(generators(b, "AB"), b) + l1(generators(a, "BA"), a)
        (adversarial + 10 * cycle + 5 * identity).backward()
        self.adam_g.step()
        judges.requires_grad_(True)
        self.adam_d.zero_grad()
        loss = 0
        for name, real in (("A", a), ("B", b)):
            made = judges(self.shown(name, fakes[name].detach()), name)
            loss = loss + ((judges(real, name) - 1).square().mean() + made.square().mean()) / 2
        loss.backward()
        self.adam_d.step()


@dataclass(frozen=True)
class Recipe:
    config: str
    loop: type[Dcgan]
    keys: tuple[str, ...] = ()


def narrow(**keys: object) -> tuple[str, ...]:
    """Keys of both networks and of the run, in words."""
    return tuple(word for key, value in keys.items() for word in (f"--{key.replace('__', '.')}", str(value)))


RECIPES = {
    "dcgan": Recipe("dcgan.yaml", Dcgan),
    "paired": Recipe("edges_digits.yaml", Paired),
    "unpaired": Recipe(
        "horse2zebra.yaml",
        Unpaired,
        narrow(
            networks__generator__base_channels=32, networks__discriminator__base_channels=32, data__resolution=64,
            data__load_size=71, data__flip="false",
        ),
    ),
    "r3gan": Recipe(
        "cifar10_r3gan.yaml",
        R3gan,
        narrow(
            networks__generator__widths=48, networks__discriminator__widths=48, data__labels="false",
            data__classes=0, data__flip="false", training__precision="fp32",
        ),
    ),
    "stylegan2": Recipe(
        "photos_small_data.yaml",
        Stylegan2,
        narrow(
            networks__generator__channel_maximum=32, networks__discriminator__channel_maximum=32,
            data__resolution=64, data__flip="false", penalties__r1__weight=0.0128, training__precision="fp32",
        ),
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
