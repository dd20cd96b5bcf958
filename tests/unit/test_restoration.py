"""The restoration game: its losses, phases, pictures and scores, and images of any size through it."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import apply, cli, config as config_module, interfaces, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation.paired import Psnr
from gan_dist.games.restoration import RestorationGame
from gan_dist.interfaces import Batch
from gan_dist.networks.msrresnet import as_channels
from tests import making, reference
from tests.launching import REPOSITORY

GAN = {"game__adversarial": 0.1, "loss": "relativistic_average", "networks__discriminator__base_channels": 2}
KEYS: dict[str, object] = {
    "data.resolution": 16,
    "data.channels": 3,
    "networks.generator.base_channels": 4,
    "networks.generator.blocks": 1,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.precision": "fp64",
    "training.device": "cpu",
}


def build(**keys: object) -> tuple[Config, RestorationGame, list[Batch]]:
    chosen = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    config = config_module.load([str(REPOSITORY / "configs/digits_denoise.yaml"), *making.flags(chosen)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    assert isinstance(game, RestorationGame)
    batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, range(8)))
    return config, game, batches


@pytest.mark.parametrize("discriminator", ["unet_discriminator", "vgg_discriminator"])
def test_passes_of_several_micro_batches_have_the_same_losses_and_gradients(discriminator: str) -> None:
    keys = {**GAN, "networks__discriminator__kind": discriminator, "data__degrade": "[{kind: downscale, factor: 2}]"}
    _, game, batches = build(**keys)
    alone = reference.gradients(game, [Batch(dict(each.fields), each.positions) for each in batches])
    for each in (each for player in game.players for each in player.statistics):
        each.parts = 4  # as the engine says it
    together = reference.gradients(game, interfaces.join(batches, 4))
    assert len(alone) == len(together) == sum(len(player.weights) for player in game.players)
    assert max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)) < 1e-12


@pytest.mark.parametrize("distance", ["l1", "l2", "charbonnier"])
def test_the_losses_are_those_of_the_paper(distance: str) -> None:
    _, game, (batch, *_) = build(**GAN, game__pixel=3, game__distance=distance)
    with torch.no_grad():
        total = game.restore(batch)
        fake, y = batch.cache["fake"], batch["target"]
        apart = {"l1": (y - fake).abs(), "l2": (y - fake) ** 2, "charbonnier": ((y - fake) ** 2 + 1e-6).sqrt()}[
            distance
        ]
        fooled, real = game.discriminator(fake), game.discriminator(y)
        # ESRGAN, eq. 1 and 2: D(a, b) = sigmoid(C(a) - E[C(b)])
        for_fake, for_real = torch.sigmoid(fooled - real.mean()), torch.sigmoid(real - fooled.mean())
        expected = 3 * apart.mean() + 0.1 * (-(1 - for_real).log().mean() - for_fake.log().mean())
        assert torch.allclose(total, expected)
        assert torch.allclose(game.tell_apart(batch), -for_real.log().mean() - (1 - for_fake).log().mean())


def test_without_an_adversarial_weight_there_is_no_discriminator() -> None:
    _, game, (batch, *_) = build()
    assert [player.name for player in game.players] == ["G"]
    assert [phase.player.name for phase in game.phases] == ["G"]
    assert torch.allclose(game.restore(batch), (game.generator(batch["input"]) - batch["target"]).abs().mean())


def test_weights_may_be_schedules() -> None:
    ramp = "{kind: linear, start: 0, stop: 1, begin: 100, end: 200}"
    _, game, micros = build(**(GAN | {"game__adversarial": ramp, "game__pixel": 0}))
    for images, learns in ((50, False), (200, True)):
        game.images = images
        assert bool(game.restore(micros[0]).item()) is learns


def test_a_generator_s_dropout_and_least_size_are_those_of_the_game(tmp_path: Path) -> None:
    from gan_dist import games

    text = (REPOSITORY / "configs/digits_denoise.yaml").read_text()
    path = tmp_path / "unet.yaml"
    path.write_text(text.replace("{kind: msrresnet, base_channels: 16, blocks: 4}", "{kind: unet, base_channels: 4}"))
    with pytest.raises(InputError, match=r"networks\.generator\.dropout = 0\.5 has no effect: game\.kind: restoration"):
        games.build(config_module.load([str(path)])).check_start()
    games.build(config_module.load([str(path), "--networks.generator.dropout", "0"])).check_start()
    config, game, _ = build(networks__generator__kind="resnet")
    assert game.least == 8
    assert Image.open(io.BytesIO(apply.apply(game, config, making.encode(making.picture(0, 5)), "a.png"))).size == (
        5,
        5,
    )


def test_a_loss_without_its_weight_is_refused_at_a_new_start() -> None:
    with pytest.raises(InputError, match=r"loss\.kind = hinge has no effect without game\.adversarial"):
        build(loss="hinge")[1].check_start()
    build(loss="hinge", game__adversarial=0.1)[1].check_start()


def test_pictures_are_input_output_and_target_of_one_size() -> None:
    steps = "[{kind: downscale, factor: 4}, grey]"
    _, game, (batch, *_) = build(data__degrade=steps)
    assert batch["input"].shape == (2, 1, 4, 4)
    columns = game.pictures(0, 2, batch)
    assert {name: tuple(column.shape) for name, column in columns.items()} == dict.fromkeys(
        ("input", "output", "target"), (2, 3, 16, 16)
    )


def test_images_become_as_much_larger_and_keep_transparency_and_16_bits() -> None:
    config, game, _ = build(data__degrade="[{kind: downscale, factor: 2}]", networks__generator__kind="rrdb")
    clear = np.dstack([making.picture(0, (9, 15), channels=3), making.picture(1, (9, 15))])
    made = Image.open(io.BytesIO(apply.apply(game, config, making.encode(clear), "a.png")))
    assert (made.size, made.mode) == ((30, 18), "RGBA")
    deep = io.BytesIO()
    Image.fromarray(making.picture(2, (8, 8)).astype(np.uint16) * 257).save(deep, "PNG")
    assert Image.open(io.BytesIO(apply.apply(game, config, deep.getvalue(), "b.png"))).size == (16, 16)


def test_what_lies_in_transparent_holes_has_no_effect() -> None:
    config, game, _ = build(data__degrade="[mask]")
    holes = np.dstack([making.picture(0, channels=3), 255 * (making.picture(1) > 128).astype(np.uint8)])
    other = np.where(holes[..., 3:] == 0, 255 - holes, holes)
    other[..., 3] = holes[..., 3]
    one, another = (apply.apply(game, config, making.encode(each), "a.png") for each in (holes, other))
    assert one == another
    assert Image.open(io.BytesIO(one)).mode == "RGB"


def test_a_mask_is_no_colour_of_the_input() -> None:
    seen = torch.tensor([-0.5, 1.0]).view(1, 2, 1, 1)
    assert as_channels(seen, 3).flatten().tolist() == [-0.5] * 3
    assert as_channels(torch.tensor([0.0, 0.3, 0.6]).view(1, 3, 1, 1), 1).item() == pytest.approx(0.3)
    assert as_channels(torch.tensor([0.0, 0.3, 0.6, 1.0]).view(1, 4, 1, 1), 3).flatten().tolist() == pytest.approx(
        [0, 0.3, 0.6]
    )


def test_scores_stand_beside_those_of_the_inputs() -> None:
    _, game, _ = build()
    metric = Psnr(kind="psnr", border=1).for_game(game)
    real = torch.zeros(3, 3, 16, 16)
    state: dict[str, torch.Tensor] = {}
    metric.add(state, real + 2 / 255, real[:2])  # the third is beyond the data set, and there a second time
    metric.add_shown(state, real, Batch({"input": real + 20 / 255, "target": real}, torch.arange(3)))
    assert state["input count"] == 2
    found = metric.value(state)
    assert isinstance(found, dict)
    assert found[""] - found["input"] == pytest.approx(20, abs=0.01)
    assert set(found) == set(metric.parts())


def test_whole_images_are_scored_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gan_dist import generate

    config, game, _ = build(data__degrade="[{kind: downscale, factor: 2}]", training__precision="fp32")
    monkeypatch.setattr(generate, "load", lambda run, checkpoint: (game, config, "images-1"))
    for number, size in enumerate([(40, 33), (28, 36)]):
        path = tmp_path / f"clean/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(making.encode(making.picture(number, size, channels=3)))
    words = ["psnr", "run", str(tmp_path / "clean"), "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"psnr", "psnr/input", "ssim", "ssim/input"}
    assert found["record"] == {"run": "run", "checkpoint": "images-1", "channels": "y", "border": 2, "scale": 2}
    assert Image.open(tmp_path / "out/input/0.png").size == (16, 20)
    assert Image.open(tmp_path / "out/output/0.png").size == (32, 40)
    # stored inputs give the same
    (tmp_path / "out/input").rename(tmp_path / "low")
    (tmp_path / "low/0.png").rename(tmp_path / "low/0x2.png")
    (tmp_path / "low/1.png").rename(tmp_path / "low/1x2.png")
    cut = tmp_path / "cut"
    cut.mkdir()
    for number in range(2):
        image = Image.open(tmp_path / f"clean/{number}.png")
        image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2)).save(cut / f"{number}.png")
    assert cli.main(["psnr", "run", str(cut), "--inputs", f"{tmp_path}/low:{{}}x2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == found["images"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"none")
    # an archive may call its images what it likes
    (kept := tmp_path / "kept.png").write_bytes(b"mine")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        (member := tarfile.TarInfo(str(kept))).size = len(content := (cut / "0.png").read_bytes())
        archive.addfile(member, io.BytesIO(content))
    assert cli.main(["psnr", "run", str(tmp_path / "evil.tar"), "--out", str(tmp_path / "here")]) == 0
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "here/output").rglob("*.png")] == ["kept.png"]
    capsys.readouterr()
    for refused, said in (
        (["psnr", "run", str(tmp_path / "bad")], "x.png cannot be decoded"),
        (["psnr", "run", str(cut), "--border", "9"], "SSIM needs 11 within the border of 9"),
        (words, "is there already, and is no empty folder"),
        ([*words[:4], str(tmp_path / "bad/x.png")], "is there already, and is no empty folder"),
        (["psnr", "run", str(cut), "--border", "-1"], "--border -1: give a number of pixels"),
        (
            ["psnr", "run", str(tmp_path / "clean"), "--inputs", f"{tmp_path}/low:{{}}x2"],
            "0.png has 33x40 pixels and its input",
        ),
        (["psnr", "run", str(cut), "--inputs", f"{tmp_path}/low:{{}}x3"], "0x2.png is not named as {}x3"),
    ):
        assert cli.main(refused) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
