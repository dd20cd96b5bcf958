"""Play contrastive unpaired translation (CUT; Park et al., 2020): images of a domain A into images of a domain B, one way."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Bounds
from torch import Tensor, nn
from torch.nn import functional

from gan_dist import losses, rng
from gan_dist.config.common import Config
from gan_dist.config.section import Many, One, Positive, Section
from gan_dist.games.base import (
    Game,
    GameKeys,
    Handover,
    TranslatorAverage,
    expect,
    initial_weights,
    make_player,
    one_way,
)
from gan_dist.games.unpaired import check_domains
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.networks import NETWORKS, Network, Shape, initialisation
from gan_dist.optimizers import OPTIMIZERS, Optimizer

Weight = Annotated[float, Bounds(ge=0)]


class Contrastive(GameKeys):
    """Turn images of the set `A` into images like those of the set `B`, without pairs and without a way back.

    A patch of the output must be known among others by the patch of the input in its place. FastCUT has nce: 10, identity:
    false, flip_equivariance: true.
    """

    adversarial: Weight = 2.0
    """Weight of the generator's adversarial loss. The paper's is (D - 1)^2, and least_squares has half of that: 2."""
    nce: Weight = 1.0
    """Weight of the contrastive loss (PatchNCE): 1 in CUT, 10 in FastCUT."""
    identity: bool = True
    """Whether half of the contrastive loss is that of B's images, which should stay as they are: true in CUT, false in FastCUT."""
    flip_equivariance: bool = False
    """Whether images are translated mirrored with probability 1/2, and compared with the unmirrored ones: true in FastCUT."""
    patches: Positive = 256
    """Places in each layer of an image that are told apart; all places, where a layer has fewer."""
    temperature: Annotated[float, Bounds(gt=0)] = 0.07
    """Of the softmax over the places; 0.07 in the paper."""
    head_channels: Positive = 256
    """Numbers that a patch of a layer is projected to, by two linear layers."""

    parts: ClassVar[Mapping[str, One | Many | type[Section]]] = {
        "networks.generator": One(Network, NETWORKS, "resnet"),
        "networks.discriminator": One(Network, NETWORKS, "patchgan"),
        "loss": One(losses.Loss, losses.LOSSES, "least_squares"),
        "optimizers.generator": One(Optimizer, OPTIMIZERS, "adam"),
        "optimizers.discriminator": One(Optimizer, OPTIMIZERS, "adam"),
        "average": TranslatorAverage,
    }

    roles: ClassVar[Mapping[str, str]] = {"generator": "G/generator", "discriminator": "D"}

    def check(self, config: Config) -> None:
        check_domains(config)
        data, generator = config.data, config.networks.generator
        if data.seen("A") != data.seen("B"):
            raise ValueError(
                f"game.kind: {self.kind} puts images of A ({data.seen('A')} channels) and outputs like B ({data.seen('B')}) "
                "through one encoder; give both sets as many channels, or set game.kind: unpaired"
            )
        if not generator.gives_layers:
            raise ValueError(
                f"networks.generator.kind = {generator.kind} gives no layers of its encoder to compare; set kind: resnet, or "
                "game.kind: unpaired"
            )

    def build(self, config: Config) -> Game:
        return ContrastiveGame(config)


class Translator(nn.Module):
    """The generator, and for each layer of its encoder a head that projects patches (H_l in the paper): one player."""

    def __init__(self, generator: Any, patches: int, channels: int) -> None:
        super().__init__()
        self.generator = generator
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, channels))
            for width in generator.widths
        )
        self._patches = patches
        initialisation.xavier(self.heads)

    def forward(
        self, images: Tensor, draws: rng.Draws | None = None, mirrored: Tensor | None = None, decode: bool = True
    ) -> Any:
        """Return the translated images; with `draws`, these and of each layer the patches at the places it draws, (N, P, F).

        The layers of images that are `mirrored`, (N,) booleans, are mirrored back first. Without `decode` the patches are
        all that is returned.
        """
        if draws is None:
            return self.generator(images)
        made = self.generator(images, features=True, decode=decode)
        features: Sequence[Tensor] = made[1] if decode else made
        patches = [
            head(self._patches_of(number, layer, draws, mirrored))
            for number, (head, layer) in enumerate(zip(self.heads, features, strict=True))
        ]
        return (made[0], patches) if decode else patches

    def _patches_of(self, number: int, layer: Tensor, draws: rng.Draws, mirrored: Tensor | None) -> Tensor:
        """Return a layer (N, C, H, W) at `patches` of its places, others in each sample: (N, P, C)."""
        if mirrored is not None:
            layer = torch.where(mirrored[:, None, None, None], layer.flip(3), layer)
        flat = layer.flatten(2).transpose(1, 2)
        count = flat.shape[1]
        # a place that is drawn twice would be its own negative
        places = draws.uniform(f"places of layer {number}", count).argsort(dim=1, stable=True)[:, : self._patches]
        return flat.gather(1, places[:, :, None].expand(-1, -1, flat.shape[2]))


class ContrastiveGame(Game):
    """A generator AB, against a discriminator that tells images of B from translated ones."""

    judged = "B"
    has_targets = False
    ways: ClassVar[Mapping[str, tuple[str, str]]] = {"AB": ("A", "B")}

    def __init__(self, config: Config) -> None:
        keys: Contrastive = config.game
        data, networks = config.data, config.networks
        self.seed, self.keys, self.loss = config.run.seed, keys, config.loss
        self.fields = {name: Field(channels=data.seen(name), size=data.size) for name in ("A", "B")}
        channels = self.fields["A"].channels
        self._generator_kind: str = networks.generator.kind
        with initial_weights(config.run.seed):
            self.shape = Shape(data.size, channels, inputs=channels)
            generator = networks.generator.generator(self.shape)
            translator = Translator(generator, keys.patches, keys.head_channels)
            discriminator = networks.discriminator.discriminator(Shape(data.size, channels))
        average: TranslatorAverage = config.average
        optimizers = config.optimizers
        # one optimizer over generator and heads does to each weight what two would do
        self.generator = make_player(
            "G", translator, optimizers.generator, half_life=average.half_life, ramp=average.ramp
        )
        self.discriminator = make_player("D", discriminator, optimizers.discriminator)
        self.players = (self.generator, self.discriminator)
        # the generator first: its images are then the discriminator's fakes, and are made only once
        self.phases = (Phase(self.generator, self.translate), Phase(self.discriminator, self.tell_apart))
        self.multiple, self.least = int(getattr(generator, "multiple", 1)), int(getattr(generator, "least", 1))

    def translate(self, batch: Batch) -> Tensor:
        """(D(G(x)) - 1)^2 + nce * PatchNCE(x, G(x)), of which half is PatchNCE(y, G(y)) with `identity`."""
        keys, x = self.keys, batch["A"]
        fake, contrast = self._contrast("A", batch)
        expect(fake, tuple(x.shape), f"networks.generator ({self._generator_kind})")
        batch.cache["fake"] = fake.detach()
        real = None
        if self.loss.uses_real:
            with torch.no_grad():
                real = self.discriminator(batch["B"])
        parts = batch.parts if self.loss.couples else 1
        adversarial = losses.by_part(self.loss.generator, parts, self.discriminator(fake), real)
        self.metrics.add("distance/adversarial", adversarial)
        self.metrics.add("distance/nce", contrast)
        if keys.identity:
            _, identity = self._contrast("B", batch)
            self.metrics.add("distance/nce_identity", identity)
            contrast = (contrast + identity) / 2
        total: Tensor = keys.adversarial * adversarial + keys.nce * contrast
        return total

    def tell_apart(self, batch: Batch) -> Tensor:
        """[(D(y) - 1)^2 + D(G(x))^2] / 2."""
        real, fake = self.discriminator(batch["B"]), self.discriminator(batch.cache["fake"])
        self.metrics.add("score/real", real)
        self.metrics.add("score/fake", fake)
        return losses.by_part(self.loss.discriminator, batch.parts if self.loss.couples else 1, fake, real)

    def _contrast(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a domain's images as the generator makes them, and PatchNCE of these and their inputs.

        With `flip_equivariance` half of the images are made of the mirrored input: which ones is drawn by position.
        """
        x, draws = batch[name], batch.draws(rng.key(self.seed, f"contrast of {name}"))
        if self.keys.flip_equivariance:
            mirrored = draws.uniform("mirrored", 1)[:, 0] < 0.5
            fake = self.generator(torch.where(mirrored[:, None, None, None], x.flip(3), x))
            keys = self.generator(x, draws, decode=False)
            queries = self.generator(fake, draws, mirrored, decode=False)
        else:
            fake, keys = self.generator(x, draws)
            queries = self.generator(fake, draws, decode=False)
        of_layers = [
            patch_nce(query, key.detach(), self.keys.temperature) for query, key in zip(queries, keys, strict=True)
        ]
        return fake, torch.stack(of_layers).mean()

    def pictures(self, seed: int, count: int, shown: Batch) -> dict[str, Tensor]:
        a, b = shown["A"], shown["B"]
        return {"A": a, "A to B": self._best(a), "B": b, "B to B": self._best(b)}

    def generated(self, seed: int, numbers: range, shown: Batch) -> Tensor:
        return self._best(shown["A"])

    def takes(self, way: str) -> str:
        one_way("" if way in self.ways else way, "AB")
        return "A"

    def hand_over(self, way: str = "") -> Handover:
        self.takes(way)
        assert self.generator.average is not None
        network = self.generator.average.network.get_submodule("generator")
        return Handover(network, "generator", self.shape, "images", multiple=self.multiple)

    def infer(self, inputs: Batch, way: str = "") -> Tensor:
        """Return `inputs["input"]`, images of the domain A, as images of B."""
        self.takes(way)
        return self._best(inputs["input"])

    @torch.no_grad()
    def _best(self, images: Tensor) -> Tensor:
        assert self.generator.average is not None
        made: Tensor = self.generator.average.network(images)
        return made


def patch_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of finding each patch's key among the keys of its own image (eq. 3 and 4).

    Both are (N, P, F): the patches of N outputs and of their inputs, in the same places.
    """
    queries, keys = functional.normalize(queries, dim=2, eps=1e-7), functional.normalize(keys, dim=2, eps=1e-7)
    logits = queries @ keys.transpose(1, 2) / temperature
    # the key of patch p is key p
    return -logits.log_softmax(2).diagonal(dim1=1, dim2=2).mean()
