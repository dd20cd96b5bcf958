"""How many micro-batches go through the networks at once: chosen by trying, once a run and launch."""

import json
from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module, games, passes
from gan_dist.data import loader
from gan_dist.engine import Engine
from tests import making
from tests.launching import lines, train


def test_candidates_double_up_to_all() -> None:
    assert list(passes.candidates(1)) == [1]
    assert list(passes.candidates(6)) == [1, 2, 4, 6]
    assert list(passes.candidates(8)) == [1, 2, 4, 8]


def choose(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> int:
    """With 8 micro-batches and these seconds a micro-batch."""
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2)
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    engine, game = Engine(config), games.build(config)
    engine.settle(game)
    monkeypatch.setattr(passes, "_seconds", lambda *_: seconds[_[-1]])
    return passes.choose(config, engine, game)


def test_a_larger_pass_must_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, {1: 1.0, 2: 0.98, 4: 0.97, 8: 0.96}) == 1
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.49}) == 4
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.7, 8: 0.1}) == 2  # not beyond where it became slower
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: float("inf"), 8: 0.1}) == 2  # what does not fit


def test_trying_leaves_no_trace() -> None:
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2, game__penalty__r1=1.0)
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    engine, game = Engine(config), games.build(config)
    engine.settle(game)
    before = [tensor.clone() for player in game.players for tensor in player.network.state_dict().values()]
    assert passes.choose(config, engine, game) in (1, 2, 4, 8)
    after = [tensor for player in game.players for tensor in player.network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    weights = [weight for player in game.players for weight in player.network.parameters()]
    assert all(weight.requires_grad and weight.grad is None for weight in weights)
    assert engine.read_figures() == {}


def test_joined_micro_batches_keep_their_order() -> None:
    micros = [
        loader.MicroBatch(torch.full((2, 1, 1, 1), float(n)), None, torch.arange(2 * n, 2 * n + 2)) for n in range(5)
    ]
    joined = loader.join(micros, 2)
    assert [micro.parts for micro in joined] == [2, 2, 1]
    assert torch.cat([micro.positions for micro in joined]).tolist() == list(range(10))
    assert loader.join(micros, 1) == micros


def test_the_choice_is_kept_with_the_run(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    keys = making.tiny(shards, tmp_path / "run", training__strategy="ddp", training__micro_batch=2)
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
