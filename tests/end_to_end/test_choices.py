"""What a run chooses for its machine: kept with the run, and as cheap in memory as promised."""

import json
from pathlib import Path

import pytest

from gan_dist import config as config_module, games, interfaces, trial
from gan_dist.engine import Engine, memory
from tests import making
from tests.launching import lines, run_ranks, train

pytestmark = pytest.mark.slow


def peak(micro_batches: int, size: int) -> int:
    """Bytes that a step of so many micro-batches, `size` in a pass, takes on top of what was there."""
    more = {
        "data__resolution": 32,
        "networks__generator__base_channels": 32,
        "networks__discriminator__base_channels": 32,
        "training__micro_batch": 32,
    }
    wanted = making.tiny("unused", "unused", training__strategy="ddp", training__batch=32 * micro_batches, **more)
    wanted |= {"penalties.r1.weight": 1.0, "training.micro_batches_per_pass": size}
    config = config_module.load(["tests/data/digits.yaml", *making.flags(wanted)])
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    micros = trial.random_batches(config, game.fields, 0, engine.slots)
    for micro in micros:
        micro.fields["image"] = micro["image"].float()
    joined = interfaces.join(micros, size)
    with memory.Peak(engine.device) as before:
        pass  # nothing: what is there before the step
    with memory.Peak(engine.device) as found:
        for phase in game.due(0, config.training.batch):
            with engine.turn(phase):
                for loss, samples in engine.share(joined):
                    engine.backward(loss(samples))
                engine.update()
    return found.bytes - before.bytes


def peaks() -> list[int]:
    peak(1, 1)  # what is loaded once
    return [peak(*split) for split in ((1, 1), (12, 1), (4, 4))]


def test_memory_is_bounded_by_one_pass() -> None:
    one, many, wide = run_ranks(1, peaks)[0]
    images = 2 * 12 * 32 * 32 * 32 * 4  # of 12 micro-batches, real ones and the generator's
    assert many < 1.5 * one + images, (one, many, wide)
    assert wide > 2 * one  # it is the pass that takes memory


def test_the_choice_is_kept_with_the_run(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    keys = making.tiny(shards, tmp_path / "run", training__strategy="ddp", training__micro_batch=2)
    keys["training.micro_batches_per_pass"] = "auto"
    assert train(keys).returncode == 0
    path = tmp_path / "run/choices.json"
    (name,) = known = json.loads(path.read_text())
    assert name == "micro_batches_per_pass: cpu, 1 processes, ddp"
    path.write_text(json.dumps({name: 8}))
    assert train({**keys, "training.images": 128}).returncode == 0
    assert json.loads(path.read_text()) == {name: 8}
    assert [line["images"] for line in lines(tmp_path / "run/metrics.jsonl")] == list(range(16, 129, 16))
    assert known[name] in (1, 2, 4, 8)


def test_exact_keeps_the_threads_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    keys = making.tiny(shards, tmp_path / "run", training__strategy="exact")
    assert train(keys).returncode == 0
    first = json.loads((tmp_path / "run/choices.json").read_text())
    assert (first["threads"], first["device"], first["channels_last"]) == (1, "cpu", True)  # OMP_NUM_THREADS of tests
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train({**keys, "training.images": 128}).returncode == 0
    assert json.loads((tmp_path / "run/choices.json").read_text()) == first
    assert [line["torch"]["threads"] for line in lines(tmp_path / "run/environment.jsonl")] == [1, 1]
