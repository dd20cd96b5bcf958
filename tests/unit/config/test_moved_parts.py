"""A run keeps the users' files that it was trained with: it outlives a file that is moved, removed or edited."""

import shutil
from pathlib import Path

import pytest
import torch

from gan_dist.checkpoint import Store, Writer, tensors
from gan_dist.config import Config, differences, load, read_run
from gan_dist.errors import InputError
from gan_dist.games import build
from gan_dist.generate import generate, load as load_run
from gan_dist.run_directory import open_run
from tests import making
from tests.launching import REPOSITORY

FILES = ("my_network.py", "network.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder: a config and the network that it names."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in FILES:
        shutil.copy(REPOSITORY / "tests/growth" / name, folder)
    return folder


def config_of(folder: Path, run: Path) -> Config:
    return load([str(folder / "network.yaml"), *making.flags({"run.directory": run})])


def save(config: Config) -> None:
    """A checkpoint of the initial weights."""
    run = open_run(config, "data")
    game = build(config)
    for player in game.players:
        player.place(torch.device("cpu"), torch.float32)
    writer = Writer(Store(run.checkpoints, 2), 0, 1, lambda value: [value])
    writer.save(0, tensors.collect(game.players, game.state()), {"fingerprint": config.fingerprint()})
    (outcome,) = writer.wait()
    assert not outcome.problem


def test_a_run_goes_on_and_generates_where_the_users_file_is_gone(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = config_of(folder, run)
    save(config)
    (copy,) = (run / "parts").iterdir()
    digest = next(iter(config.sources.values()))
    assert copy.name == f"{digest[:16]}-my_network.py"
    before = list(generate(load_run(run)[0], 0, 2))

    elsewhere = folder.rename(tmp_path / "elsewhere")
    game, read, _ = load_run(run)
    assert torch.equal(torch.stack(before), torch.stack(list(generate(game, 0, 2))))
    assert read.fingerprint() == config.fingerprint()
    resumed = config_of(elsewhere, run)
    assert differences(read, resumed) == []
    open_run(resumed, "data")  # no other run for it
    assert [path.name for path in (run / "parts").iterdir()] == [copy.name]
    shutil.rmtree(elsewhere)
    moved = run.rename(tmp_path / "run elsewhere")  # the whole run is moved, too
    assert load_run(moved)[1].fingerprint() == config.fingerprint()


def test_the_file_that_trained_counts_and_not_what_became_of_it(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(config_of(folder, run))
    path = folder / "my_network.py"
    path.write_text(path.read_text().replace("0.5 * self.layers", "0.25 * self.layers"))
    read, _ = read_run(run)
    assert read.networks.generator.kind.startswith(str(run / "parts"))
    with pytest.raises(InputError, match="holds a run of another config"):
        open_run(config_of(folder, run), "data")


def test_a_copy_that_is_damaged_is_not_used(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(config_of(folder, run))
    (copy,) = (run / "parts").iterdir()
    copy.write_text("broken")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"networks\.generator\.kind: there is no file .*my_network\.py"):
        read_run(run)
