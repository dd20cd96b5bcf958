"""CUT's losses, whose negatives are within an image, and that neither micro-batches nor passes change them."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from gan_dist import config as config_module, interfaces, trial
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.games.contrastive import ContrastiveGame, patch_nce
from gan_dist.interfaces import Batch
from tests import making, reference

KEYS: dict[str, object] = {
    "data.shards": "{A: nowhere/A, B: nowhere/B}",
    "data.resolution": 16,
    "data.channels": 3,
    "networks.generator.base_channels": 2,
    "networks.generator.blocks": 2,
    "networks.discriminator.base_channels": 2,
    "networks.discriminator.layers": 1,
    "game.patches": 9,
    "game.head_channels": 5,
    "training.images": 64,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.precision": "fp64",
    "training.device": "cpu",
}
FAST = {"game__nce": 10, "game__identity": False, "game__flip_equivariance": True}


def build(folder: Path, **keys: object) -> tuple[ContrastiveGame, list[Batch]]:
    path = folder / "run.yaml"
    path.write_text("game: {kind: contrastive}\n")
    chosen = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    config = config_module.load([str(path), *making.flags(chosen)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    assert isinstance(game, ContrastiveGame)
    return game, trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, range(8)))


@pytest.mark.parametrize("keys", [{}, FAST, {"loss": "relativistic_average"}])
def test_passes_of_several_micro_batches_have_the_same_losses_and_gradients(
    keys: dict[str, object], tmp_path: Path
) -> None:
    game, micros = build(tmp_path, **keys)
    alone = reference.gradients(game, [Batch(dict(each.fields), each.positions) for each in micros])
    together = reference.gradients(game, interfaces.join(micros, 4))
    assert len(alone) == len(together) == sum(len(player.weights) for player in game.players)
    # heads begin small, and what is normalised after them has large gradients
    apart = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(alone, together, strict=True)]
    assert max(apart) < 1e-9


def test_a_patch_is_told_from_the_others_of_its_own_image_alone() -> None:
    queries, keys = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = []
    for query, key in zip(queries, keys, strict=True):
        for number in range(4):
            likeness = functional.cosine_similarity(query[number : number + 1], key) / 0.07
            expected.append(-(likeness[number].exp() / likeness.exp().sum()).log())
    assert torch.allclose(patch_nce(queries, keys, 0.07), torch.stack(expected).mean())


def test_the_losses_are_those_of_the_paper(tmp_path: Path) -> None:
    game, (batch, *_) = build(tmp_path, game__nce=3)
    network = game.generator.network
    with torch.no_grad():
        total = game.translate(batch)
        judge = game.discriminator.network
        contrast = []
        for name in "AB":
            fake, found = game._contrast(name, batch)
            assert torch.equal(fake, network.generator(batch[name]))
            contrast.append(found)
        fake, real = network.generator(batch["A"]), batch["B"]
        assert torch.allclose(total, (judge(fake) - 1).square().mean() + 3 * (contrast[0] + contrast[1]) / 2)
        expected = (judge(real) - 1).square().mean() / 2 + judge(fake).square().mean() / 2
        assert torch.allclose(game.tell_apart(batch), expected)


def test_places_are_the_same_in_input_and_output_differ_between_samples_and_are_drawn_once(tmp_path: Path) -> None:
    game, (batch, *_) = build(tmp_path)
    translator = game.generator.network
    numbers = torch.arange(100.0).view(1, 1, 10, 10).expand(2, -1, -1, -1)
    first, again = (translator._patches_of(0, numbers, batch.draws(7), None)[..., 0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert all(len(set(row.tolist())) == 9 for row in first)


def test_the_layers_of_mirrored_images_are_mirrored_back(tmp_path: Path) -> None:
    game, (batch, *_) = build(tmp_path, **FAST)
    translator, draws = game.generator.network, batch.draws(7)
    numbers = torch.arange(100.0).view(1, 1, 10, 10).expand(2, -1, -1, -1)
    seen = torch.stack([numbers[0].flip(2), numbers[1]])
    back = translator._patches_of(0, seen, draws, torch.tensor([True, False]))
    assert torch.equal(back, translator._patches_of(0, numbers, draws, None))
    fake, _ = game._contrast("A", Batch(dict(batch.fields), batch.positions))
    a, best = batch["A"], translator.generator
    same = [torch.allclose(*pair) for pair in zip(fake, best(a), strict=True)]
    other = [torch.allclose(*pair) for pair in zip(fake, best(a.flip(3)), strict=True)]
    assert [x != y for x, y in zip(same, other, strict=True)] == [True] * len(a)


def test_pictures_and_ways(tmp_path: Path) -> None:
    game, (batch, *_) = build(tmp_path)
    columns = game.pictures(0, 2, batch)
    assert list(columns) == ["A", "A to B", "B", "B to B"]
    assert torch.equal(columns["A to B"], game.infer(Batch({"input": batch["A"]}, batch.positions), "AB"))
    with pytest.raises(InputError, match="goes one way, AB"):
        game.takes("BA")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data.fields": "{A: {channels: 1}, B: {channels: 3}}"}, "through one encoder"),
        ({"networks.generator.kind": "unet", "networks.generator.blocks": None}, "gives no layers of its encoder"),
        ({"data.shards": "nowhere"}, "wants a set for each domain"),
    ],
)
def test_what_it_cannot_play_is_refused(keys: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("game: {kind: contrastive}\n")
    chosen = {name: value for name, value in {**KEYS, **keys}.items() if value is not None}
    with pytest.raises(InputError, match=said):
        config_module.load([str(path), *making.flags(chosen)])
