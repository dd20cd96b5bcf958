"""The generation game: who is called how often, and which networks it takes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_dist import config as config_module, games, penalties, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import AgreedError, InputError
from gan_dist.games import generation
from gan_dist.interfaces import Batch
from tests import making


def load(**keys: object) -> Config:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", **keys)
    return config_module.load(["configs/digits.yaml", *making.flags(wanted)])


@pytest.mark.parametrize(("step", "every", "turns"), [(0, 1, 1), (1, 1, 2), (3, 4, 3), (2, 3, 2)])
def test_the_generator_makes_a_steps_images_once(step: int, every: int, turns: int) -> None:
    """With a turn of its own (steps 1 and 3) or without, for the discriminator's loss, R2 and WGAN-GP, lazy or not."""
    penalties = {
        f"penalties__{name}__{key}": value
        for name in ("r2", "wgan_gp")
        for key, value in (("weight", 1.0), ("every", every))
    }
    config = load(game__discriminator_steps=2, **penalties)
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    called: list[torch.Size] = []
    game.players[0].network.register_forward_hook(lambda network, given, made: called.append(made.shape))
    micros = trial.random_batches(config, game.fields, step, engine.slots)
    for micro in micros:
        micro.fields["image"] = micro["image"].float()
    played = 0
    for phase in game.due(step * config.training.batch, config.training.batch):
        with engine.turn(phase):
            for loss, samples in engine.share(micros):
                engine.backward(loss(samples))
        played += 1
    assert played == turns
    assert len(called) == len(micros)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, track_running_stats=True)]
)
def test_a_network_whose_statistics_the_engine_does_not_govern_is_refused(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load()
    generator, discriminator = generation.build_networks(config)
    discriminator.features.insert(1, layer)
    monkeypatch.setattr(generation, "build_networks", lambda config: (generator, discriminator))
    with pytest.raises(
        AgreedError, match=r"the network of D has features.1 \(\w+\), whose running statistics"
    ) as caught:
        games.build(config)
    assert type(layer).__name__ in str(caught.value)
    discriminator.features[1] = nn.InstanceNorm2d(4)  # of each sample by itself
    games.build(config)


def played(game: games.Game, step: int, batch: int = 8) -> list[str]:
    return [phase.player.name for phase in game.due(step * batch, batch)]


def test_who_plays_when() -> None:
    """Of a lazy penalty every second update of its player counts."""
    lazy = {"penalties__r1__weight": 1.0, "penalties__r1__every": 2}
    separate = games.build(load(game__batches="separate", **lazy))
    assert [played(separate, step) for step in range(6)] == [["D"], ["G"], ["D", "D"], ["G"], ["D"], ["G"]]
    first = games.build(load(game__first="discriminator", **lazy))
    assert [played(first, step) for step in range(2)] == [["D", "G"], ["D", "D", "G"]]


def judged(**keys: object) -> tuple[games.Game, list[tuple[str, torch.Tensor]]]:
    """Play a step; the images that the discriminator saw, with whose turn it was."""
    config = load(**keys)
    engine, game, seen = Engine(config), games.build(config), []
    engine.wrap(game)
    turn = [""]
    game.players[1].network.register_forward_pre_hook(lambda network, given: seen.append((turn[0], given[0].detach())))
    micros = trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, engine.slots)[:1])
    for phase in game.due(0, config.training.batch):
        turn[0] = phase.player.name
        with engine.turn(phase):
            phase.loss(micros[0])
    return game, seen


@pytest.mark.parametrize(
    ("keys", "same"), [({}, True), ({"fakes": "fresh"}, False), ({"first": "discriminator"}, True)]
)
def test_the_discriminator_judges_shared_or_fresh_images(keys: dict[str, str], same: bool) -> None:
    _, seen = judged(**{f"game__{name}": value for name, value in keys.items()})
    (generators,) = [images for turn, images in seen if turn == "G"]
    discriminators = [images for turn, images in seen if turn == "D"][1]  # after the real ones
    assert torch.equal(generators, discriminators) == same


def test_a_wider_generator_batch_begins_with_the_discriminators_fakes() -> None:
    _, seen = judged(game__generator_batch=3)
    (generators,) = [images for turn, images in seen if turn == "G"]
    discriminators = [images for turn, images in seen if turn == "D"][1]
    assert len(generators) == 3 * len(discriminators)
    assert torch.equal(generators[::3], discriminators)
    assert len(generators.flatten(1).unique(dim=0)) == len(generators)


def test_packed_images_are_judged_together() -> None:
    game, seen = judged(game__pack=2)
    (generators,) = [images for turn, images in seen if turn == "G"]
    fakes = [images for turn, images in seen if turn == "D"][1]
    assert fakes.shape[1] == 2 * game.fields["image"].channels
    assert torch.equal(generators, fakes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"game__batches": "separate", "game__discriminator_steps": 2}, "game.batches: separate takes"),
        ({"game__batches": "separate", "game__fakes": "fresh"}, "game.fakes has no effect"),
        (
            {"augment": "{a: {kind: ada}}", "penalties__a": "{kind: lecam, weight: 1}"},
            "augment.a and penalties.a have one",
        ),
        ({"penalties__cr": "{weight: 1, flip: false, shift: 0.05}"}, "penalties.cr has no effect with flip: false"),
        ({"game__pack": 3}, "game.pack = 3 does not divide"),
        ({"game__top_k": 1.5}, "game.top_k"),
        ({"loss__kind": "relativistic", "game__top_k": 0.5}, "which game.top_k does not have"),
        ({"loss__kind": "relativistic", "game__generator_batch": 2}, "which game.generator_batch does not have"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(**keys)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_penalties_on_the_logits_of_the_loss_are_those_on_logits_of_their_own(
    batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {f"penalties__{name}__weight": weight for name, weight in (("r1", 2.0), ("r2", 3.0), ("wgan_gp", 1.0))}
    norm = "batch" if batch_norm else "none"
    config = load(training__precision="fp64", networks__discriminator__normalisation=norm, **keys)
    found = []
    for shares in (True, False):
        if not shares:
            for kind in (penalties.R1, penalties.R2):
                monkeypatch.setattr(kind, "shares", "")
                monkeypatch.setattr(kind, "value", alone(kind.__name__))
        engine, game = Engine(config), games.build(config)
        engine.wrap(game)
        calls: list[object] = []
        game.discriminator.network.register_forward_hook(lambda *given, calls=calls: calls.append(given))
        micros = trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, engine.slots))
        game.images = 0
        phase = game.phases[1]
        with engine.turn(phase):
            for loss, micro in engine.share(micros):
                engine.backward(loss(micro))
            gradients = [weight.grad.clone() for weight in game.discriminator.network.parameters()]
            statistics = [each.clone() for each in game.discriminator.network.buffers()]
        assert len(calls) == (3 if shares else 5) * len(micros)
        found.append((gradients, statistics, engine.read_metrics()))
    for ours, theirs in zip(found[0][0] + found[0][1], found[1][0] + found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert found[0][2].keys() == found[1][2].keys()
    for name, (total, count) in found[0][2].items():
        assert total / count == pytest.approx(found[1][2][name][0] / found[1][2][name][1], rel=1e-9), name


def alone(kind: str) -> Callable[..., torch.Tensor]:
    """The value of R1 or R2 on logits of its own."""

    def value(self: object, game: games.Game, batch: Batch, kept: object) -> torch.Tensor:
        images = game.real(batch) if kind == "R1" else game.fakes(batch)
        return penalties.squared_gradient(game.logits_of(batch), images)

    return value


def test_a_network_of_fixed_channels_judges_no_packs() -> None:
    words = ["configs/mnist.yaml", "--game.pack", "2", "--data.labels", "false"]
    with pytest.raises(InputError, match=r"article judges one grey image at a time, and game\.pack = 2; set"):
        config_module.load(words)


def test_a_second_augmentation_of_a_kind_has_random_numbers_of_its_own() -> None:
    shifts = "{kind: diffaugment, color: false, cutout: false}"
    game = games.build(load(augment=f"{{a: {shifts}, b: {shifts}}}"))
    images, batch = torch.rand(8, 1, 16, 16), Batch({}, torch.arange(8))
    first, second = (augment(images, batch, "real") for augment in game.augments.values())
    assert not torch.equal(first, second)
    alone = games.build(load(augment=f"{{b: {shifts}}}")).augments["b"]
    assert torch.equal(first, alone(images, batch, "real")), "a first one has the numbers that it always had"
