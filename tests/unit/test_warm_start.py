"""A run begins with another run's networks, and goes on without it."""

import functools
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games
from gan_dist.checkpoint import format, store, tensors
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import EXIT_FINISHED, InputError
from gan_dist.games import start
from gan_dist.networks.statistics import SpectralLinear
from gan_dist.player import Player
from gan_dist.trainer import Trainer
from tests import making


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with shards in `data` and a trained run in `source`."""
    folder = tmp_path_factory.mktemp("runs")
    making.data_set(folder / "data", 48)
    assert (
        Trainer(load(folder, "source", images=32), engine(load(folder, "source", images=32))).train() == EXIT_FINISHED
    )
    yield folder
    gc.unfreeze()


def load(folder: Path, run: str, images: int = 16, **keys: object) -> Config:
    own = making.tiny(folder / "data", folder / run, training__images=images, training__strategy="exact", **keys)
    return config_module.load(
        ["tests/data/digits.yaml", *making.flags(own | {"average.half_life": 100, "checkpoint.every": 16})]
    )


def engine(config: Config) -> Engine:
    return Engine(config, alone=True)


def begin(config: Config) -> Trainer:
    return Trainer(config, engine(config))


def saved(run: Path, name: str = "") -> dict[str, torch.Tensor]:
    directory = run / "checkpoints" / (name or store.names(run / "checkpoints")[-1])
    return format.read_tensors(directory, format.read_manifest(directory))


def test_it_begins_with_the_weights_and_averages_and_goes_on_when_the_source_is_gone(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "source", source := tmp_path / "source")
    shutil.copytree(runs / "data", tmp_path / "data")
    there = saved(source)
    trainer = begin(load(tmp_path, "run", images=16, start__from=source))
    assert trainer.images == 0
    for player in trainer.game.players:
        assert not player.optimizer.state
        for kind, network in (("weights", player.network), ("average", player.average and player.average.network)):
            for name, tensor in network.state_dict().items() if network else ():
                assert torch.equal(tensor, there[f"{player.name}/{kind}/{name}"]), name
    assert trainer.game.players[0].average_ramp == 0, "the average would forget what it began with"
    assert trainer.train() == EXIT_FINISHED
    first = trainer.config.fingerprint()
    shutil.rmtree(source)
    again = begin(load(tmp_path, "run", images=32, start__from=source))
    assert (again.images, again.config.fingerprint()) == (16, first)
    assert again.train() == EXIT_FINISHED
    with pytest.raises(InputError, match=r"start.from: the run has 'content with SHA-256 .*', asked for is ''"):
        begin(load(tmp_path, "run", images=32))


def test_another_source_is_refused_and_the_same_at_another_place_is_not(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    begin(load(tmp_path, "run", start__from=runs / "source")).train()
    begin(load(tmp_path, "run", start__from=shutil.copytree(runs / "source", tmp_path / "moved"), images=32)).train()
    earlier = runs / "source/checkpoints/images-000000016"
    with pytest.raises(InputError, match=r"start.from: the run has 'content with SHA-256"):
        begin(load(tmp_path, "run", start__from=earlier, images=48))


def test_a_start_that_was_killed_before_its_first_checkpoint_begins_with_the_same_though_the_source_went_on(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    shutil.copytree(runs / "source", source := tmp_path / "source")
    begin(load(tmp_path, "run", start__from=source))
    before = saved(source)
    source_config = load(tmp_path, "source", images=48)
    begin(source_config).train()
    trainer = begin(load(tmp_path, "run", start__from=source))
    weight = trainer.game.players[0].network.state_dict()
    assert all(torch.equal(tensor, before[f"G/weights/{name}"]) for name, tensor in weight.items())
    for name in store.names(source / "checkpoints")[:-1]:
        shutil.rmtree(source / "checkpoints" / name)
    with pytest.raises(InputError, match="is gone"):
        begin(load(tmp_path, "run", start__from=source))


def test_some_networks_some_tensors_and_the_optimizers(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    there = saved(runs / "source")
    keys: dict[str, Any] = {"start__from": runs / "source", "start__networks": "generator", "start__averaged": True}
    generator, discriminator = begin(load(tmp_path, "a", **keys)).game.players
    assert all(torch.equal(each, there[f"G/average/{name}"]) for name, each in generator.network.state_dict().items())
    fresh = games.build(load(tmp_path, "b")).players[1].network.state_dict()
    assert all(torch.equal(each, fresh[name]) for name, each in discriminator.network.state_dict().items())

    keys = {"start__from": runs / "source", "start__networks": "discriminator", "start__optimizers": True}
    _, discriminator = begin(load(tmp_path, "c", **keys)).game.players
    for name, weight in discriminator.network.named_parameters():
        assert torch.equal(discriminator.optimizer.state[weight]["exp_avg"], there[f"D/exp_avg/{name}"])
        assert discriminator.optimizer.state[weight]["step"] == 2

    wide = {"start__from": runs / "source", "networks__generator__base_channels": 8}
    with pytest.raises(InputError, match=r"generator\.\S+ is 8x.* there and 8x.* here .*start.strict: false"):
        begin(load(tmp_path, "d", **wide))
    assert not (tmp_path / "d").exists(), "a refused start leaves a run behind"
    generator, _ = begin(load(tmp_path, "d", **wide, start__strict=False)).game.players
    own = games.build(load(tmp_path, "e", networks__generator__base_channels=8)).players[0].network.state_dict()
    for name, tensor in generator.network.state_dict().items():
        fits = there[f"G/weights/{name}"].shape == tensor.shape
        assert torch.equal(tensor, there[f"G/weights/{name}"] if fits else own[name])


def test_a_source_without_a_network_says_which_it_has(runs: Path) -> None:
    config = load(runs, "other", start__from=runs / "source")
    directory = runs / "source/checkpoints/images-000000032"
    manifest = format.read_manifest(directory)
    manifest["tensors"] = {name: each for name, each in manifest["tensors"].items() if name.startswith("G/")}
    game = games.build(config)
    with pytest.raises(
        InputError, match=r"has no network discriminator, but generator; .* start.networks: \[generator\]"
    ):
        start.match(game, {}, config, load(runs, "source"), manifest)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"start__from": "nowhere"}, "start.from: there is no run directory nowhere"),
        ({"start__networks": "generator"}, "start.networks has no effect without start.from"),
        ({"start__from": "source", "start__networks": "encoder"}, "has no network encoder, it has generator, discr"),
        ({"start__from": "source", "start__networks": "{generator: encoder}"}, "has no network encoder, but generator"),
        ({"start__from": "source", "start__skip": "generator.nothing"}, "start.skip: no tensor is called generator.no"),
        ({"start__freeze": "layers.0"}, "start.freeze: layers.0 begins with no network of this run"),
        ({"start__freeze": "discriminator.nothing"}, "start.freeze: no weight is called discriminator.nothing; there "),
        ({"start__freeze": "discriminator"}, "start.freeze fixes all weights of D"),
        (
            {"start__from": "source", "start__optimizers": True, "optimizers__generator__kind": "sgd"},
            "the optimizer of generator in .* keeps no momentum_buffer",
        ),
        (
            {"start__from": "source", "networks__generator__kind": "autoencoder"},
            "networks.generator.kind is dcgan there, and networks.generator.kind is autoencoder here",
        ),
        ({"start__from": "run"}, "is this run itself"),
        ({"start__from": "empty"}, "empty has no whole checkpoint"),
        ({"start__from": "damaged"}, "SHA-256"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_run(
    runs: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    source = str(keys.get("start__from", ""))
    if source in ("empty", "damaged"):
        shutil.copytree(runs / "source", tmp_path / source)
        for part in (tmp_path / source / "checkpoints").glob("*/part-*"):
            part.unlink() if source == "empty" else part.write_bytes(bytes(part.stat().st_size))
    if source == "run":
        begin(load(tmp_path, "run")).train()
    if source and source != "nowhere":
        keys = keys | {"start__from": (runs if source == "source" else tmp_path) / source}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        begin(load(tmp_path, "run", **keys))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_frozen_weights_stay_and_the_others_move(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    there = saved(runs / "source")
    first = next(name for name in there if name.startswith("D/weights/") and name.endswith("weight"))
    pattern = f"discriminator.{first.removeprefix('D/weights/')}"
    config = load(tmp_path, "run", images=32, start__from=runs / "source", start__freeze=f"[{pattern}]")
    assert begin(config).train() == EXIT_FINISHED
    now = saved(tmp_path / "run")
    moved = {name for name in there if "/weights/" in name and not torch.equal(now[name], there[name])}
    assert first not in moved
    assert f"D/exp_avg/{first.removeprefix('D/weights/')}" not in now
    assert {name for name in there if "/weights/" in name and name.endswith("weight")} - moved == {first}


def test_singular_vectors_of_an_average_are_as_long_as_1() -> None:
    network = SpectralLinear(3, 2)
    player = Player("D", torch.nn.Sequential(network), functools.partial(torch.optim.SGD, lr=0.1))
    player.place(torch.device("cpu"), torch.float32)
    read = {"D/average/0.u": torch.tensor([0.6, 0.0]), "D/average/0.v": torch.tensor([0.0, 0.7, 0.0])}
    names = {name.replace("average", "weights"): name for name in read}
    tensors.take_over([player], read.__getitem__, names, {})
    assert network.u.tolist() == [1, 0]
    assert network.v.tolist() == [0, 1, 0], "the weight would be divided by too small a number"
