"""The paired game's losses, and that neither micro-batches nor passes change them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import apply, config as config_module, games, interfaces, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.games.paired import PairedGame, between_features
from gan_dist.interfaces import Batch
from tests import making, reference
from tests.launching import REPOSITORY

KEYS: dict[str, object] = {
    "data.resolution": 16,
    "networks.generator.base_channels": 4,
    "networks.discriminator.base_channels": 4,
    "networks.discriminator.layers": 1,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.precision": "fp64",
    "training.device": "cpu",
}


def build(**keys: object) -> tuple[Config, PairedGame, list[Batch]]:
    chosen = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    config = config_module.load([str(REPOSITORY / "configs/edges_digits.yaml"), *making.flags(chosen)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    assert isinstance(game, PairedGame)
    batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, range(8)))
    return config, game, batches


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"game__feature_matching": 10, "networks__discriminator__scales": 2, "game__conditional": False},
        {"loss": "relativistic_average"},
        {"data__fields": "{input: {member: a.png, classes: 3}, target: {member: b.png}}"},
    ],
)
def test_passes_of_several_micro_batches_have_the_same_losses_and_gradients(keys: dict[str, object]) -> None:
    _, game, batches = build(**keys)

    alone = reference.gradients(game, [Batch(dict(each.fields), each.positions) for each in batches])
    together = reference.gradients(game, interfaces.join(batches, 4))
    assert len(alone) == len(together) == sum(len(player.weights) for player in game.players)
    assert max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)) < 1e-12


def test_the_losses_are_those_of_the_paper() -> None:
    _, game, (batch, *_) = build(game__l1=7)
    with torch.no_grad():
        total = game.fool_and_match(batch)
        fake, x, y = batch.cache["fake"], batch["input"], batch["target"]
        fooled = game.discriminator(torch.cat([x, fake], 1))
        real = game.discriminator(torch.cat([x, y], 1))
        expected = -torch.sigmoid(fooled).log().mean() + 7 * (y - fake).abs().mean()
        assert torch.allclose(total, expected)
        expected = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fooled)).log().mean()) / 2
        assert torch.allclose(game.tell_apart(batch), expected)


def test_feature_matching_has_the_weights_of_pix2pixhd() -> None:
    logits = torch.zeros(1, 1, 2, 2)
    ones, twos = torch.ones(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0)
    fake, real = [[ones, ones, logits]] * 2, [[twos, ones, logits + 9]] * 2
    # of each scale 1/2, of each of 2 layers 4/2: (1/2 + 1/2) * 2 * 2
    assert float(between_features(fake, real)) == 4


def test_pictures_are_input_output_and_target_and_outputs_are_always_the_same() -> None:
    config, game, (batch, *_) = build(data__fields="{input: {member: a.png, classes: 3}, target: {member: b.png}}")
    columns = game.pictures(0, 2, batch)
    assert list(columns) == ["input", "output", "target"]
    assert columns["input"].shape == (2, 3, 16, 16)  # classes in colours
    assert torch.equal(columns["output"], game.pictures(0, 2, batch)["output"])
    one = Batch({name: each[1:] for name, each in batch.fields.items()}, batch.positions[1:])
    assert torch.allclose(game.infer(one), columns["output"][1:])
    assert games.GAMES["paired"].__name__ == "Paired"
    assert config.game.kind == "paired"


def test_label_maps_are_applied_at_their_size_and_a_number_out_of_range_is_named() -> None:
    config, game, _ = build(data__fields="{input: {member: a.png, classes: 3}, target: {member: b.png}}")
    maps = np.random.default_rng(0).integers(0, 3, (9, 21), dtype=np.uint8)
    made = apply.apply(game, config, making.encode(maps), "a.png")
    assert Image.open(io.BytesIO(made)).size == (21, 9)
    assert made == apply.apply(game, config, making.encode(maps), "a.png")
    with pytest.raises(ValueError, match="has the label 3, and classes = 3 means"):
        apply.apply(game, config, making.encode(maps + 1), "a.png")
