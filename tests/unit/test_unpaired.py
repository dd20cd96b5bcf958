"""The unpaired game's losses, and that neither micro-batches nor passes change them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import apply, config as config_module, interfaces, step, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation.paired import Psnr
from gan_dist.games.unpaired import UnpairedGame
from gan_dist.interfaces import Batch
from tests import making, reference

KEYS: dict[str, object] = {
    "data.shards": "{A: nowhere/A, B: nowhere/B}",
    "data.resolution": 16,
    "data.channels": 3,
    "networks.generator.base_channels": 2,
    "networks.generator.blocks": 1,
    "networks.discriminator.base_channels": 2,
    "networks.discriminator.layers": 1,
    "training.images": 64,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.precision": "fp64",
    "training.device": "cpu",
    "game.pool": 2,
}


def build(folder: Path, **keys: object) -> tuple[Config, UnpairedGame, Engine]:
    path = folder / "run.yaml"
    path.write_text("game: {kind: unpaired}\n")
    chosen = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    config = config_module.load([str(path), *making.flags(chosen)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    assert isinstance(game, UnpairedGame)
    return config, game, engine


def batches(config: Config, game: UnpairedGame, engine: Engine, number: int = 0) -> list[Batch]:
    return trial.on_device(config, engine, trial.random_batches(config, game.fields, number, range(8)))


def play(config: Config, game: UnpairedGame, engine: Engine, number: int) -> None:
    step.play_step(engine, game, batches(config, game, engine, number), 8 * number, 8)


@pytest.mark.parametrize("keys", [{}, {"loss": "relativistic_average", "game__identity": 0}])
def test_passes_of_several_micro_batches_have_the_same_losses_and_gradients(
    keys: dict[str, object], tmp_path: Path
) -> None:
    config, game, engine = build(tmp_path, **keys)
    for number in range(3):  # the pools are full
        play(config, game, engine, number)
    micros = batches(config, game, engine, 3)

    alone = reference.gradients(game, [Batch(dict(each.fields), each.positions) for each in micros])
    together = reference.gradients(game, interfaces.join(micros, 4))
    assert len(alone) == len(together) == sum(len(player.weights) for player in game.players)
    assert max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)) < 1e-12


def test_the_losses_are_those_of_the_paper(tmp_path: Path) -> None:
    config, game, engine = build(tmp_path, game__cycle=7, game__identity=3)
    batch = batches(config, game, engine)[0]
    with torch.no_grad():
        total = game.translate(batch)
        a, b = batch["A"], batch["B"]
        to_b, to_a = (game.generators.network.networks[way] for way in ("AB", "BA"))
        judge_a, judge_b = (game.discriminators.network.networks[name] for name in "AB")
        fake_b, fake_a = to_b(a), to_a(b)
        fooled = (judge_b(fake_b) - 1).square().mean() + (judge_a(fake_a) - 1).square().mean()
        cycle = (to_a(fake_b) - a).abs().mean() + (to_b(fake_a) - b).abs().mean()
        identity = (to_b(b) - b).abs().mean() + (to_a(a) - a).abs().mean()
        assert torch.allclose(total, fooled + 7 * cycle + 3 * identity)
        # the pools are empty: the newest are shown
        expected = sum(
            (judge(real) - 1).square().mean() / 2 + judge(fake).square().mean() / 2
            for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b))
        )
        assert torch.allclose(game.tell_apart(batch), torch.as_tensor(expected))


def test_discriminators_see_what_the_pools_show_and_trials_do_not_fill_them(tmp_path: Path) -> None:
    config, game, engine = build(tmp_path)  # which tried the game
    play(config, game, engine, 0)
    held = game.pools[0].held().held.view(game.pools[0].shape)
    assert held[:, 0].flatten(1).any(1).all()
    assert not held[:, 1].any()
    first = held[:, 0].clone()
    play(config, game, engine, 1)
    assert torch.equal(held[:, 0], first)
    assert held[:, 1].flatten(1).any(1).all()


def test_pictures_go_there_and_back_both_ways(tmp_path: Path) -> None:
    config, game, engine = build(tmp_path)
    batch = batches(config, game, engine)[0]
    columns = game.pictures(0, 2, batch)
    assert list(columns) == ["A", "A to B", "back to A", "B", "B to A", "back to B"]
    assert torch.equal(columns["A to B"], game.generated(0, range(2), batch))
    assert torch.equal(columns["B to A"], game.infer(Batch({"input": batch["B"]}, batch.positions), "BA"))


def test_images_are_applied_both_ways_at_their_size_and_channels(tmp_path: Path) -> None:
    fields = "{A: {channels: 1}, B: {channels: 3}}"
    config, game, _ = build(tmp_path, data__fields=fields, game__identity=0)
    grey, colours = making.picture(0, (21, 37)), making.picture(1, (18, 30), channels=3)

    def made(pixels: np.ndarray, way: str) -> Image.Image:
        return Image.open(io.BytesIO(apply.apply(game, config, making.encode(pixels), "x.png", way)))

    assert (made(grey, "").size, made(grey, "").mode) == ((37, 21), "RGB")
    assert (made(colours, "BA").size, made(colours, "BA").mode) == ((30, 18), "L")
    with pytest.raises(InputError, match="goes the ways AB and BA"):
        made(grey, "BC")


def test_scores_against_targets_are_refused(tmp_path: Path) -> None:
    _, game, _ = build(tmp_path)
    with pytest.raises(InputError, match="has no targets"):
        Psnr(kind="psnr").for_game(game)


def test_dropout_that_nobody_would_draw_is_refused_at_a_new_start(tmp_path: Path) -> None:
    keys = {"networks__generator__kind": "unet", "networks__generator__blocks": None}
    _, game, _ = build(tmp_path, **keys)
    with pytest.raises(InputError, match=r"networks\.generator\.dropout = 0\.5 has no effect: game\.kind: unpaired"):
        game.check_start()
    build(tmp_path, **keys, networks__generator__dropout=0)[1].check_start()
