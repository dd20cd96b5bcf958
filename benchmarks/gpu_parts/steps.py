"""The step of a GAN as an expert writes it, with nothing of the trainer: networks, losses, penalties and random numbers alone.

Nothing in it waits for the device, and nothing on the host changes from step to step, so that each phase can be captured.
"""

import contextlib
import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist import losses, rng
from gan_dist.networks import NETWORKS, Shape
from gan_dist.networks.statistics import statistics_of
from gan_dist.penalties.gradient import squared, squared_gradient

from . import stand_in
from .measuring import Bench, tf32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how."""

    kind: str
    keys: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of the networks."""
    size: int = 64
    latent: int = 100
    classes: int = 0
    batch: int = 128
    micro: int = 128
    """Samples of a micro-batch."""
    joined: int = 1
    """Micro-batches in a pass."""
    loss: str = "nonsaturating"
    penalties: bool = False
    """Whether R1 and R2 are in each update of the discriminator (R3GAN), and not in one of their own."""
    gamma: float = 10.0
    precision: str = "fp32"
    channels_last: bool = True
    exact: bool = False
    """Whether gradients are summed along the tree of strategy exact."""


def dcgan(bench: Bench, **changes: Any) -> Recipe:
    """DCGAN of configs/dcgan.yaml; at toy size in a dry run."""
    toy = {"keys": {"base_channels": 4}, "size": 16, "latent": 8, "batch": 8}
    if bench.dry:
        changes["micro"] = {32: 2, 128: 8}[changes.get("micro", 128)]
    return Recipe(**{"kind": "dcgan", **(toy if bench.dry else {}), **changes})


def r3gan(bench: Bench, **changes: Any) -> Recipe:
    """R3GAN of configs/cifar10_r3gan.yaml without classes, 64 images; at toy size in a dry run."""
    full = {"keys": {"widths": 768}, "size": 32, "latent": 64, "batch": 64, "micro": 64}
    toy = {"keys": {"widths": [16, 16], "blocks": 1}, "size": 8, "latent": 8, "batch": 2, "micro": 2}
    common = {"kind": "r3gan", "loss": "relativistic", "penalties": True, "gamma": 0.05, "precision": "bf16"}
    return Recipe(**{**common, **bench.size(full, toy), **changes})


def stylegan2(bench: Bench, size: int, **changes: Any) -> Recipe:
    """StyleGAN2 of a size, 32 images; at toy size in a dry run."""
    full = {"keys": {"mixing": 0.0}, "size": size, "latent": 512, "batch": 32, "micro": 32}
    keys = {"mixing": 0.0, "style": 8, "mapping_layers": 1, "channel_base": 64, "channel_maximum": 4}
    toy = {"keys": keys, "size": 8, "latent": 8, "batch": 4, "micro": 4}
    return Recipe(**{"kind": "stylegan2", **bench.size(full, toy), **changes})


class Step:
    """Two players, static images, and the phases of a step: g, d, and r1 as an update of its own."""

    def __init__(self, bench: Bench, recipe: Recipe, seed: int = 0) -> None:
        self.recipe, self.device, self._gated = recipe, bench.device, bench.on_gpu
        shape = Shape((recipe.size, recipe.size), 3, recipe.latent, recipe.classes)
        family = NETWORKS[recipe.kind](kind=recipe.kind, **recipe.keys)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # a generator's keys are not those of a discriminator, but those that do nothing there do no harm
            networks = [family.generator(shape), family.discriminator(shape)]
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.networks = [network.to(self.device, memory_format=layout) for network in networks]
        self.average = copy.deepcopy(self.networks[0]).requires_grad_(False)
        for network in self.networks:
            self._lower(network)
        self.weights = [list(network.parameters()) for network in self.networks]
        self.statistics = [statistics_of(network) for network in self.networks]
        more = {"fused": True, "capturable": True} if bench.on_gpu else {}
        self.optimizers = [torch.optim.Adam(each, 2e-4, (0.5, 0.999), **more) for each in self.weights]
        self.loss = losses.LOSSES[recipe.loss](kind=recipe.loss)
        self.passes = recipe.batch // (recipe.micro * recipe.joined)
        self.first = torch.zeros((), dtype=torch.int64, device=self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        sizes = (recipe.micro * recipe.joined, 3, recipe.size, recipe.size)
        self.real = [
            torch.rand(sizes, generator=generator, device=self.device).mul_(2).sub_(1).contiguous(memory_format=layout)
            for _ in range(self.passes)
        ]
        self.fakes: list[Tensor] = []
        self.reduce: Callable[[list[Tensor]], None] | None = None
        """Sums gradients over processes, in place."""
        self._tree: Any = None
        self._key = rng.key(seed, "latent")

    def step(self) -> None:
        self.g()
        self.d()

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        return {"G": self.g, "D": self.d, "R1": self.r1}

    def g(self) -> None:
        """Update the generator, and its average; its images become the discriminator's."""
        self.fakes = []
        with self._turn(0):
            for number, real in enumerate(self.real):
                fake = self.generate(number)
                self.fakes.append(fake.detach())
                logits = [self.judge(fake), self.judge(real) if self.loss.uses_real else None]
                losses.by_part(self.loss.generator, 1, *logits).div(self.passes).backward()
                self._passed(0)
            self._update(0)
        pairs = zip(self.average.parameters(), self.weights[0], strict=True)
        own, leaders = zip(*((own, leader.detach()) for own, leader in pairs), strict=True)
        torch._foreach_lerp_(own, leaders, 0.001)

    def d(self) -> None:
        """Update the discriminator on the generator's images, and go on to the next positions."""
        with self._turn(1):
            for number, real in enumerate(self.real):
                fake = self.fakes[number] if self.fakes else self.generate(number).detach()
                self.loss_of_d(fake, real).div(self.passes).backward()
                self._passed(1)
            self._update(1)
        self.first += self.recipe.batch

    def loss_of_d(self, fake: Tensor, real: Tensor) -> Tensor:
        if not self.recipe.penalties:
            return self.loss.discriminator(self.judge(fake), self.judge(real))
        images = [each.detach().requires_grad_() for each in (fake, real)]
        logits = [self.judge(each) for each in images]
        penalty = sum(squared(*pair) for pair in zip(images, logits, strict=True))
        return self.loss.discriminator(*logits) + self.recipe.gamma / 2 * penalty

    def r1(self) -> None:
        """Update the discriminator by an exact R1 alone, as every 16 steps."""
        with self._turn(1, tracks=False):
            for real in self.real:
                (16 * self.recipe.gamma / 2 * squared_gradient(self.judge, real)).div(self.passes).backward()
                self._passed(1)
            self._update(1)

    def generate(self, number: int) -> Tensor:
        count = self.recipe.micro * self.recipe.joined
        positions = self.first + torch.arange(number * count, (number + 1) * count, device=self.device)
        latents = rng.normal(self._key, positions, self.recipe.latent)
        more = {}
        if getattr(self.networks[0], "takes_draws", False):
            more["draws"] = rng.Draws(self._key, positions)
        images: Tensor = self.networks[0](latents.to(self.weights[0][0].dtype), **more)
        return images

    def judge(self, images: Tensor) -> Tensor:
        logits: Tensor = self.networks[1](images)
        return logits

    def digest(self) -> str:
        return digest([*self.networks, self.average])

    def _lower(self, network: nn.Module) -> None:
        precision = stand_in.alone("engine/precision.py")
        if self.recipe.precision in precision.HALF:
            precision.Lowered(self.device, precision.HALF[self.recipe.precision]).lower(network)

    @contextlib.contextmanager
    def _turn(self, index: int, tracks: bool = True) -> Iterator[None]:
        for number, weights in enumerate(self.weights):
            for weight in weights:
                weight.requires_grad_(number == index)
            for each in self.statistics[number]:
                each.tracking, each.parts = tracks and number == index, self.recipe.joined
        self.optimizers[index].zero_grad(set_to_none=True)
        self._tree = _tree() if self.recipe.exact else None
        with tf32(self.recipe.precision == "tf32"):
            yield

    def _passed(self, index: int) -> None:
        if self._tree is not None:
            self._tree.add([weight.grad for weight in self.weights[index]])
            self.optimizers[index].zero_grad(set_to_none=True)

    def _update(self, index: int) -> None:
        optimizer, weights = self.optimizers[index], self.weights[index]
        if self._tree is not None:
            for weight, gradient in zip(weights, self._tree.total(), strict=True):
                weight.grad = gradient
        if self.reduce is not None:
            self.reduce([weight.grad for weight in weights if weight.grad is not None])
        if self._gated:  # a step that is not finite leaves no trace, and the host does not wait to know
            norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
            optimizer.found_inf = (~torch.isfinite(norm)).float()
        optimizer.step()
        for each in self.statistics[index]:
            each.commit()


def _tree() -> Any:
    from gan_dist.engine.exact import TreeSum

    return TreeSum()


def digest(networks: list[nn.Module]) -> str:
    """SHA-256 of all weights and buffers, its first digits."""
    found = hashlib.sha256()
    for network in networks:
        for tensor in network.state_dict().values():
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]
