"""Statistics, optimizers, schedules and outputs of several tensors mean the same at any number of ranks and passes."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_dist import config as config_module, interfaces, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine
from gan_dist.errors import AgreedError
from gan_dist.interfaces import Batch, Field, Phase
from gan_dist.metrics import Metrics
from gan_dist.networks.statistics import BatchNorm, RunningMean, SpectralConv2d, SpectralEmbedding, SpectralLinear
from gan_dist.player import Player
from tests import making
from tests.launching import loaded_once, run_ranks

pytestmark = pytest.mark.dist

STEPS = 3


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.average = nn.Linear(4, 8), BatchNorm(8), RunningMean((8,), 0.3)
        self.last = nn.Linear(8, 64)

    def forward(self, z: Tensor) -> dict[str, Any]:
        w = self.average(self.norm(self.first(z)).tanh())
        return {"image": self.last(w).view(-1, 1, 8, 8), "styles": [w]}


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.conv, self.last = SpectralConv2d(1, 4, 3, 2, 1), SpectralLinear(64, 1)
        self.classes = SpectralEmbedding(3, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.conv(x).tanh().flatten(1)
        labels = torch.arange(len(x), device=x.device) % 3
        return self.last(features) + (features * self.classes(labels)).sum(1, keepdim=True), [features]


class Toy:
    """A game with every kind of statistics, one of them outside of its network, and two kinds of optimizers."""

    metrics: Metrics
    pools = ()
    modules = ()

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.lengths = RunningMean((), 0.2, in_penalties=True)
        self.generator = Player(
            "G",
            Generator(),
            lambda weights: torch.optim.SGD(weights, 1.0, 0.9),
            average_half_life=lambda images: 10 + images,
            clip_norm=0.5,
            settings=lambda images: {"lr": 0.1 / (1 + images / 16)},
            attached=[self.lengths],
        )
        self.discriminator = Player(
            "D", Discriminator(), lambda weights: torch.optim.Adam(weights, 1e-2, (0.5, 0.9), 1e-4)
        )
        self.players = (self.generator, self.discriminator)
        self.phases = (
            Phase(self.generator, self.fool, self.keep_lengths, twice=True),
            Phase(self.discriminator, self.tell_apart),
        )

    def latents(self, micro: Batch) -> Tensor:
        return micro["image"].flatten(1)[:, :4]

    def fool(self, micro: Batch) -> Tensor:
        logits, (features,) = self.discriminator(self.generator(self.latents(micro))["image"])
        return -logits.mean() + features.square().mean()

    def keep_lengths(self, micro: Batch) -> Tensor:
        z = self.latents(micro).requires_grad_()
        (gradient,) = torch.autograd.grad(self.generator(z)["image"].square().sum(), z, create_graph=True)
        lengths = gradient.square().sum(1).sqrt()
        self.lengths.add(lengths)
        return (lengths - self.lengths.value).square().mean()

    def tell_apart(self, micro: Batch) -> Tensor:
        with torch.no_grad():
            fake = self.generator(self.latents(micro))["image"]
        real, fake = self.discriminator(micro["image"])[0], self.discriminator(fake)[0]
        return (fake - real).mean() + (fake.square() + real.square()).mean()


def load(strategy: str, passes: int, precision: str = "fp32") -> Config:
    keys = making.tiny("unused", "unused", training__strategy=strategy, data__resolution=8, training__micro_batch=3)
    keys |= {"training.batch": 12, "training.precision": precision, "training.channels_last": False}
    if strategy != "exact":
        keys["training.micro_batches_per_pass"] = passes
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


def images_of(config: Config, step: int, slots: range) -> list[Batch]:
    """Random micro-batches in float64."""
    return trial.random_batches(config, {"image": Field("image", config.data.channels, config.data.size)}, step, slots)


def play(engine: Engine, game: Toy, config: Config, first: int, last: int) -> None:
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    for step in range(first, last):
        micros = images_of(config, step, engine.slots)
        for micro in micros:
            micro.fields["image"] = micro["image"].to(dtype)
        for phase in game.phases:
            with engine.turn(phase):
                for loss, micro in engine.share(interfaces.join(micros, engine.passes)):
                    engine.backward(loss(micro))
                engine.update(step * config.training.batch)
        for player in game.players:
            if player.average is not None:
                player.average.update(step * config.training.batch, config.training.batch)


def state(strategy: str, passes: int, alone: bool = False, precision: str = "fp32") -> dict[str, Tensor]:
    config = load(strategy, passes, precision)
    engine, game = Engine(config, alone=alone), Toy()
    engine.wrap(game)
    play(engine, game, config, 0, STEPS)
    found = numerics.gather(engine, game)  # type: ignore[arg-type]
    found["lengths"] = game.lengths.value.double()
    engine.release()
    return found


CASES = [("exact", 1), ("ddp", 1), ("ddp", 2)]
KINDS = {"norm.running_mean", "norm.running_var", "average.value", "conv.u", "conv.v", "last.v", "classes.v"}


def states(cases: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{name: tensor.numpy() for name, tensor in state(*case).items()} for case in cases]


def differ(found: dict[str, Any], expected: dict[str, Any]) -> float:
    assert found.keys() == expected.keys()
    return max(float(abs(found[name] - expected[name]).max()) for name in expected)


def test_every_statistic_is_the_same_at_1_and_2_ranks_and_passes() -> None:
    alone = run_ranks(1, states, CASES, forked=True)[0]
    pair = run_ranks(2, states, CASES, forked=True)
    fresh = {name for player in Toy().players for name in player.network.state_dict()}
    assert fresh >= KINDS
    start = {
        name: tensor.double().numpy()
        for player in Toy().players
        for name, tensor in player.network.state_dict().items()
    }
    for name in KINDS:
        player = "G" if name.startswith(("norm", "average")) else "D"
        assert abs(alone[0][f"{player}/weights/{name}"] - start[name]).max() > 1e-4, f"{name} did not move"
    assert abs(alone[0]["lengths"]) > 1e-3
    assert any("/momentum_buffer/" in name for name in alone[0])
    for rank in pair:
        assert differ(rank[0], alone[0]) == 0, "exact gives other bits at 2 ranks"
        for found in (*rank[1:], *alone[1:]):
            assert differ(found, alone[0]) < 1e-5


def cut() -> tuple[dict[str, Any], str]:
    """Under ZeRO-2, two micro-batches a pass; and what ZeRO-3 says."""
    loaded_once()
    (found,) = states([("zero2", 2)])
    with pytest.raises(AgreedError) as caught:
        state("zero3", 1)
    return found, str(caught.value)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_statistics_and_any_elementwise_optimizer_under_zero() -> None:
    (expected,) = run_ranks(1, states, [("exact", 1)], forked=True)[0]
    for found, said in run_ranks(2, cut):
        assert differ(found, expected) < 1e-5
        assert said == (
            "training.strategy = zero3 cuts the weights that SpectralConv2d of D reads between updates; set "
            "training.strategy: zero2"
        )


def by_itself() -> tuple[dict[str, Any], dict[str, Any], int]:
    """In a launch of 2 ranks: what both compute, and what an engine of one rank computes on one of them alone."""
    together = states([("exact", 1)])[0]
    engine = Engine(load("exact", 1))
    own: dict[str, Any] = {}
    if engine.rank == 1:  # the other does not take part
        own = {name: tensor.numpy() for name, tensor in state("exact", 1, alone=True).items()}
    engine.wait()
    return together, own, len(engine.slots)


def test_an_engine_of_one_rank_computes_the_same_inside_a_launch_of_two() -> None:
    (_, nothing, slots), (together, own, _) = run_ranks(2, by_itself, forked=True)
    assert not nothing
    assert slots == 6
    assert differ(own, together) == 0


def test_an_update_that_breaks_off_leaves_nothing_and_the_next_computes_as_if_it_had_not_been() -> None:
    config = load("exact", 1, "bf16")
    found = []
    for spoil in (False, True):
        engine, game = Engine(config), Toy()
        engine.wrap(game)
        play(engine, game, config, 0, 1)
        if spoil:
            for phase, breaks in ((game.phases[0], 2), (game.phases[0], 3), (game.phases[1], 1)):
                micros = images_of(config, 9, engine.slots)
                for micro in micros:
                    micro.fields["image"] = micro["image"].float()
                with contextlib.suppress(torch.OutOfMemoryError), engine.turn(phase):
                    for number, (loss, micro) in enumerate(engine.share(micros)):
                        value = loss(micro)
                        if number == breaks:
                            raise torch.OutOfMemoryError
                        engine.backward(value)
                assert engine._lowered is not None
                assert engine._lowered.on
                for player in game.players:
                    assert not player.has_turn
                    assert all(weight.grad is None for weight in phase.player.weights)
                    assert all(
                        (each.parts, each.tracking, each.gathered) == (1, False, False) for each in player.statistics
                    )
        play(engine, game, config, 1, 3)
        found.append({name: tensor.clone() for name, tensor in tensors.collect(game.players).whole.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
