"""CUT by the real commands: the same bits at 1, 2 and 4 ranks and after a resume, and both domains scored."""

import json
import shutil
from pathlib import Path

import pytest

from gan_dist import cli, config as config_module, games, trial
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, digests, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CONFIG = str(REPOSITORY / "configs/horse2zebra_cut.yaml")
KEYS: dict[str, object] = {
    "data.shards": "{A: none, B: none}",
    "data.resolution": 16,
    "data.load_size": 18,
    "data.workers": 0,
    "networks.generator.base_channels": 2,
    "networks.generator.blocks": 2,
    "networks.discriminator.base_channels": 2,
    "networks.discriminator.layers": 1,
    "game.patches": 20,
    "game.head_channels": 8,
    "training.batch": 8,
    "training.micro_batch": 2,
    "training.images": 32,
    "training.strategy": "exact",
    "training.device": "cpu",
    "checkpoint.every": 16,
    "checkpoint.keep": 4,
    "sample.every": 32,
    "sample.count": 4,
    "track.every": 16,
    "track.wandb": "disabled",
}
FAST = {"game.nce": 10, "game.identity": False, "game.flip_equivariance": True}


def played() -> list[str]:
    """Hashes of all that the players hold after steps of CUT and of FastCUT on random samples."""
    hashes = []
    for more in ({}, FAST):
        config = config_module.load([CONFIG, *making.flags({**KEYS, **more})])
        engine, game = Engine(config), games.build(config)
        engine.place(game)
        engine.wrap(game)
        for step in range(2):
            micros = trial.random_batches(config, game.fields, step, engine.slots)
            play_step(engine, game, trial.on_device(config, engine, micros), 8 * step, 8)
        hashes.append(reference.digest(engine, game))
    return hashes


def test_the_same_bits_at_1_2_and_4_ranks() -> None:
    found = {tuple(hashes) for ranks in (1, 2, 4) for hashes in run_ranks(ranks, played, forked=True)}
    assert len(found) == 1


def test_a_run_goes_on_at_2_ranks_to_the_same_bits_and_is_scored_with_its_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    making.data_set(tmp_path / "A", 18, size=20, channels=3)
    making.data_set(tmp_path / "B", 24, size=24, channels=3)
    keys = {**KEYS, "data.shards": f"{{A: {tmp_path}/A, B: {tmp_path}/B}}"}
    done = train({**keys, "run.directory": tmp_path / "run"}, config=CONFIG)
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/images-000000032")
    done = train({**keys, "run.directory": tmp_path / "again"}, 2, config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "again")["images-000000032"] == digests(tmp_path / "run")["images-000000032"]

    against = f"A={tmp_path}/B,B={tmp_path}/A"  # held-out sets go by name
    words = ["evaluate", str(tmp_path / "run"), "--scores", "kid", "--features", "random", "--json"]
    assert cli.main([*words, "--against", against]) == 0
    translated, as_is = json.loads(capsys.readouterr().out)
    assert (translated["record"][0]["n_generated"], translated["record"][0]["n_real"]) == (24, 18)
    assert translated["record"][0]["reference"]["where"] == f"{tmp_path}/A"
    assert as_is["record"][0]["metric"] == "kid_random_A"
    assert as_is["record"][0]["way"] == "A"
    assert (as_is["record"][0]["n_generated"], as_is["record"][0]["n_real"]) == (24, 18)
    assert cli.main([*words, "--against", f"C={tmp_path}/A"]) == 2
    assert "the run has no set C, but A, B" in capsys.readouterr().err
