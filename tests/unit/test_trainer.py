"""The training loop around the steps waits for the device no oftener than it must."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_dist import config as config_module
from gan_dist.data import loader
from gan_dist.engine import Engine
from gan_dist.trainer import Trainer
from tests import making
from tests.kernels import Waits, as_on_a_gpu


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    """Of a run with labels, all alarms and two penalties, as if on a GPU; nothing is due in its steps."""
    shards = making.data_set(tmp_path / "data", 96, classes=3)
    keys = making.tiny(shards, tmp_path / "run", data__labels=True, training__images=16_000, track__every=10_000)
    keys |= {"checkpoint.every": 8_000, "sample.every": 10_000, "training.strategy": "ddp"}
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    with as_on_a_gpu():
        yield Trainer(config, Engine(config, alone=True))
    gc.unfreeze()


def test_the_loop_waits_for_nothing_and_a_save_that_is_put_off_asks_seldom(trainer: Trainer) -> None:
    engine, index, config = trainer.engine, trainer.index, trainer.config
    found = []
    for number, batch in enumerate(loader.micro_batches(index, config, 0, engine.slots, engine.device)):
        if number >= 3:  # updates are skipped from here on, and a save is owed
            trainer._owed = True
            batch[0].fields["image"].fill_(float("nan"))
        with Waits() as waits:
            trainer.advance(batch)
        found.append(waits.found)
        if number == 24:
            break
    assert trainer._owed
    assert [number for number, each in enumerate(found) if each] == [0, 3, 19], found
    assert found[3] == found[19] == ["tolist"]
    assert gc.get_freeze_count() > 0, "what stays is looked at in each collection of garbage"
