"""Players are trained from a position on and up to one, and a run goes on exactly there."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games
from gan_dist.checkpoint import format
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine
from gan_dist.errors import EXIT_FINISHED, InputError
from gan_dist.interfaces import Batch
from gan_dist.pool import Pool
from gan_dist.trainer import Trainer
from tests import making
from tests.launching import digests


def load(folder: Path, run: str, images: int, phases: str, *words: str) -> Config:
    keys = making.tiny(folder / "data", folder / run, training__images=images, training__strategy="exact")
    keys |= {"phases": phases, "checkpoint.keep": 9, "checkpoint.every": 16}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys), *words])


def train(config: Config) -> Trainer:
    trainer = Trainer(config, Engine(config, alone=True))
    assert trainer.train() == EXIT_FINISHED
    gc.unfreeze()
    return trainer


def test_a_player_waits_rests_and_a_run_goes_on_at_both_borders(tmp_path: Path) -> None:
    making.data_set(tmp_path / "data", 48)
    phases = "{discriminator: {begin: 32}, generator: {end: 48}}"
    train(load(tmp_path, "whole", 64, phases))
    for images in (32, 48, 64):
        train(load(tmp_path, "pieces", images, phases))
    assert digests(tmp_path / "pieces") == digests(tmp_path / "whole")
    folder = tmp_path / "whole/checkpoints"
    fresh = games.build(load(tmp_path, "whole", 64, phases)).players[1].network.state_dict()
    names = ["images-000000032", "images-000000048", "images-000000064"]
    manifests = {name: format.read_manifest(folder / name) for name in names}
    assert [manifests[name]["steps"] for name in names] == [{"G": 2, "D": 0}, {"G": 3, "D": 1}, {"G": 3, "D": 2}]
    waiting = format.read_tensors(folder / names[0], manifests[names[0]], "D/weights/")
    assert all(torch.equal(each, fresh[name.removeprefix("D/weights/")]) for name, each in waiting.items())
    rested = [format.read_tensors(folder / name, manifests[name], "G/weights/") for name in names[1:]]
    assert all(torch.equal(each, rested[1][name]) for name, each in rested[0].items())


def test_a_pool_that_begins_later_shows_nothing_that_was_never_put_in() -> None:
    pool = Pool("B", 5, 3, 4, (1, 1, 1))
    pool.begin = 6 * 4 - 1
    pool.place(range(4), torch.device("cpu"), torch.float32)
    for step in range(6, 20):
        batch = Batch({}, torch.arange(4) + 4 * step)
        shown = pool.exchange(batch, torch.full((4, 1, 1, 1), float(step)))
        pool.commit([batch])
        assert shown.min() >= 6
        assert step >= 9 or bool((shown == step).all())


def test_a_phase_that_is_never_played_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making.data_set(tmp_path / "data", 48)
    train(load(tmp_path, "run", 16, "{discriminator: {begin: 16}}"))
    assert "a phase of D is never played: it begins at 16 images and ends at 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "phases", "message"),
    [
        ("digits", "{encoder: {begin: 5}}", "phases.encoder: the players of this run are generator, discriminator"),
        ("digits", "{discriminator: {begin: 5, end: 5}}", "must end after it begins"),
        ("digits", "{discriminator: {until: 5}}", "unknown key phases.discriminator.until|unknown argument"),
        ("digits_vae", "{encoder: {begin: 5}}", "phases.encoder: this run has one player"),
        ("digits_vae_gan", "{encoder: {end: 5}}", "the turn of decoder uses what the turn of encoder makes"),
        ("edges_digits", "{generator: {begin: 5}}", "the turn of discriminator uses what the turn of generator makes"),
    ],
)
def test_what_makes_no_sense_is_one_line(recipe: str, phases: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        games.build(config_module.load([f"configs/{recipe}.yaml", "--phases", phases]))
    assert "\n" not in str(caught.value)


def test_a_warm_up_trains_the_generator_alone(tmp_path: Path) -> None:
    words = ["--game.warm_up", "64", "--phases", "{generator: {end: 200}, discriminator: {begin: 100, end: 200}}"]
    game = games.build(config_module.load(["configs/edges_digits.yaml", *words]))

    def due(images: int) -> list[Any]:
        return [(phase.player.name, phase.loss.__name__) for phase in game.due(images, 16) if phase.loss]

    assert due(48) == [("G", "match")]
    assert due(64) == [("G", "fool_and_match")]
    assert due(112) == [("G", "fool_and_match"), ("D", "tell_apart")]
    assert due(208) == []
    numerics.from_the_start(game)
    assert due(0) == [("G", "fool_and_match"), ("D", "tell_apart")], "the doctor would play both losses of G in a step"
