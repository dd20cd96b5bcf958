"""Play unpaired translation (CycleGAN; Zhu et al., 2017): images of a domain A into images of a domain B, and back."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from gan_dist import losses, schedules
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Section
from gan_dist.errors import InputError
from gan_dist.games.base import (
    Game,
    GameKeys,
    Handover,
    TranslatorAverage,
    check_networks,
    expect,
    initial_weights,
    make_player,
    refuse_dropout,
)
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape
from gan_dist.optimizers import OPTIMIZERS, Optimizer
from gan_dist.pool import Pool


class Unpaired(GameKeys):
    """Turn images of the set `A` into images like those of the set `B`, and those of `B` into `A`, without pairs."""

    adversarial: schedules.ScheduledNonnegative = 2.0
    """Weight of the generators' adversarial loss. The paper's is (D - 1)^2, and least_squares has half of that: 2."""
    cycle: schedules.ScheduledNonnegative = 10.0
    """Weight of mean |a - BA(AB(a))| and of mean |b - AB(BA(b))|, images in [-1, 1]; 10 in the paper."""
    identity: schedules.ScheduledNonnegative = 5.0
    """Weight of mean |AB(b) - b| and of mean |BA(a) - a|, which keeps colours (section 5.2 of the paper): half of `cycle`.
    0 in the paper's main experiments. It needs domains with as many channels."""
    pool: Annotated[int, Bounds(ge=0)] = 50
    """Earlier images of each slot of a batch that the discriminators see again. All processes together hold 2 * pool *
    training.batch images in fp32, and so does a checkpoint. 0: the discriminators see the newest images alone."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, NETWORKS, "resnet"),
        "networks.discriminator": One(Network, NETWORKS, "patchgan"),
        "loss": One(losses.Loss, losses.LOSSES, "least_squares"),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": TranslatorAverage,
    }

    def check(self, config: Config) -> None:
        check_domains(config)
        data = config.data
        if self.identity and data.seen("A") != data.seen("B"):
            raise ValueError(
                f"game.identity = {self.identity} compares images of A ({data.seen('A')} channels) with images of B "
                f"({data.seen('B')}); set game.identity: 0"
            )

    def build(self, config: Config) -> Game:
        return UnpairedGame(config)


def check_domains(config: Config) -> None:
    """Raise ValueError unless the data are a set A and a set B of images, and the networks are for these."""
    check_networks(config, of_images=True)
    data, kind = config.data, config.game.kind
    if set(data.sets) != {"A", "B"}:
        raise ValueError(
            f"game.kind: {kind} wants a set for each domain, and data.shards names "
            f"{', '.join(filter(None, data.sets)) or 'one for all'}; set data.shards: {{A: FOLDER, B: FOLDER}}"
        )
    if maps := [name for name, field in data.fields.items() if field.classes]:
        raise ValueError(
            f"data.fields.{maps[0]} is a label map, and game.kind: {kind} makes images of both domains; store its "
            "classes as colours, and remove classes"
        )


class Ways(nn.Module):
    """Networks that learn together as one player, called by name: `generators(a, "AB")`."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, images: Tensor, name: str) -> Any:
        return self.networks[name](images)


class UnpairedGame(Game):
    """Generators AB and BA, against discriminators that tell images of A and of B from translated ones."""

    judged = "B"
    has_targets = False
    ways: ClassVar[Mapping[str, tuple[str, str]]] = {"AB": ("A", "B"), "BA": ("B", "A")}

    def __init__(self, config: Config) -> None:
        keys: Unpaired = config.game
        data, networks = config.data, config.networks
        self._config, self.keys, self.loss = config, keys, config.loss
        self.fields = {name: Field(channels=data.seen(name), size=data.size) for name in ("A", "B")}
        a, b = self.fields["A"].channels, self.fields["B"].channels
        self._generator_kind: str = networks.generator.kind
        with initial_weights(config.run.seed):
            self.shapes = {"AB": Shape(data.size, b, inputs=a), "BA": Shape(data.size, a, inputs=b)}
            generators = {way: networks.generator.generator(shape) for way, shape in self.shapes.items()}
            discriminators = {
                "A": networks.discriminator.discriminator(Shape(data.size, a)),
                "B": networks.discriminator.discriminator(Shape(data.size, b)),
            }
        average: TranslatorAverage = config.average
        optimizers = config.optimizers
        # one optimizer over two networks does to each weight what two would do
        self.generators = make_player(
            "G", Ways(generators), optimizers.generator, half_life=average.half_life, ramp=average.ramp
        )
        self.discriminators = make_player("D", Ways(discriminators), optimizers.discriminator)
        self.players = (self.generators, self.discriminators)
        # the generators first: their images are then the discriminators' fakes, and are made only once
        self.phases = (Phase(self.generators, self.translate), Phase(self.discriminators, self.tell_apart))
        self.pools = tuple(
            Pool(name, config.run.seed, keys.pool, config.training.batch, (field.channels, *field.size))
            for name, field in self.fields.items()
        )
        self.multiple = max(int(getattr(network, "multiple", 1)) for network in generators.values())
        self.least = max(int(getattr(network, "least", 1)) for network in generators.values())

    def check_start(self) -> None:
        refuse_dropout(self._config)

    def translate(self, batch: Batch) -> Tensor:
        """(D_B(AB(a)) - 1)^2 + (D_A(BA(b)) - 1)^2 + cycle * (|BA(AB(a)) - a| + |AB(BA(b)) - b|), and the identity."""
        a, b, generators = batch["A"], batch["B"], self.generators
        fake_b, fake_a = generators(a, "AB"), generators(b, "BA")
        expect(fake_b, tuple(b.shape), f"networks.generator ({self._generator_kind})")
        batch.cache["fake A"], batch.cache["fake B"] = fake_a.detach(), fake_b.detach()
        adversarial = self._fool("A", fake_a, batch) + self._fool("B", fake_b, batch)
        cycle = distance(generators(fake_b, "BA"), a) + distance(generators(fake_a, "AB"), b)
        self.metrics.add("distance/adversarial", adversarial)
        self.metrics.add("distance/cycle", cycle)
        total: Tensor = self._weight("adversarial") * adversarial + self._weight("cycle") * cycle
        if self.keys.identity:
            identity = distance(generators(b, "AB"), b) + distance(generators(a, "BA"), a)
            self.metrics.add("distance/identity", identity)
            total = total + self._weight("identity") * identity
        return total

    def _weight(self, key: str) -> "float | Tensor":
        return schedules.number_of(getattr(self.keys, key), self.images)

    def tell_apart(self, batch: Batch) -> Tensor:
        """[(D(real) - 1)^2 + D(fake)^2] / 2 in both domains, of fakes from the pools."""
        total = batch["A"].new_zeros(())
        for pool in self.pools:
            name = pool.name
            shown = pool.exchange(batch, batch.cache[f"fake {name}"])
            real, fake = self.discriminators(batch[name], name), self.discriminators(shown, name)
            self.metrics.add(f"score/real_{name}", real)
            self.metrics.add(f"score/fake_{name}", fake)
            total = total + losses.by_part(self.loss.discriminator, self._parts(batch), fake, real)
        return total

    def _fool(self, name: str, fake: Tensor, batch: Batch) -> Tensor:
        real = None
        if self.loss.uses_real:
            with torch.no_grad():
                real = self.discriminators(batch[name], name)
        return losses.by_part(self.loss.generator, self._parts(batch), self.discriminators(fake, name), real)

    def _parts(self, batch: Batch) -> int:
        return batch.parts if self.loss.couples else 1

    @torch.no_grad()
    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        a, b = shown["A"], shown["B"]
        made_b, made_a = self._best(a, "AB"), self._best(b, "BA")
        there = {"A": a, "A to B": made_b, "back to A": self._best(made_b, "BA")}
        return {**there, "B": b, "B to A": made_a, "back to B": self._best(made_a, "AB")}

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        return self._best(shown["A"], "AB")

    def takes(self, way: str) -> str:
        if way and way not in self.ways:
            raise InputError(f"--way {way}: an unpaired run goes the ways AB and BA")
        return (way or "AB")[0]

    def hand_over(self, way: str = "") -> Handover:
        self.takes(way)
        assert self.generators.average is not None
        network = self.generators.average.network.get_submodule(f"networks.{way or 'AB'}")
        return Handover(network, "generator", self.shapes[way or "AB"], "images", multiple=self.multiple)

    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return `inputs["input"]`, images of the domain `takes(way)`, as images of the other one."""
        self.takes(way)
        return self._best(inputs["input"], way or "AB")

    @torch.no_grad()
    def _best(self, images: Tensor, way: str) -> Tensor:
        assert self.generators.average is not None
        made: Tensor = self.generators.average.network(images, way)
        return made


def distance(image: Tensor, other: Tensor) -> Tensor:
    """Return the mean of |image - other|."""
    return (image - other).abs().mean()
