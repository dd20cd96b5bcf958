"""How many micro-batches go through the networks at once: chosen by trying, once a run and launch."""

import json
from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module, games, interfaces, penalties
from gan_dist.doctor import autotune, numerics
from gan_dist.engine import Engine, memory
from gan_dist.networks.statistics import batch_norms
from tests import making
from tests.launching import lines, run_ranks, train


def test_candidates_double_up_to_all() -> None:
    assert list(autotune.candidates(1)) == [1]
    assert list(autotune.candidates(6)) == [1, 2, 4, 6]
    assert list(autotune.candidates(8)) == [1, 2, 4, 8]


def choose(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], share: float = 0.0) -> int:
    """With 8 micro-batches, these seconds a micro-batch, and `share` of the memory for each micro-batch of a pass."""
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2)
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    monkeypatch.setattr(autotune, "_try", lambda *_: (seconds[_[-1]], share * _[-1]))
    return autotune.choose(config, engine, game)


def test_a_larger_pass_must_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, {1: 1.0, 2: 0.98, 4: 0.97, 8: 0.96}) == 1
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.49}) == 4
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.7, 8: 0.1}) == 2  # not beyond where it became slower
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: float("inf"), 8: 0.1}) == 2  # what does not fit
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.1}, share=0.15) == 4
    assert choose(monkeypatch, {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.1}, share=0.45) == 1  # twice as much is not even tried
    assert choose(monkeypatch, {1: 1.0}, share=2.0) == 1  # nothing is smaller


def test_trying_leaves_no_trace() -> None:
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2, penalties__r1__weight=1.0)
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    before = [tensor.clone() for player in game.players for tensor in player.network.state_dict().values()]
    assert autotune.choose(config, engine, game) in (1, 2, 4, 8)
    after = [tensor for player in game.players for tensor in player.network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    weights = [weight for player in game.players for weight in player.network.parameters()]
    assert all(weight.requires_grad and weight.grad is None for weight in weights)
    assert engine.read_metrics() == {}


def test_a_trial_computes_penalties_as_training_does_and_counts_what_training_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = making.tiny(
        "unused", "unused", training__strategy="ddp", penalties__r1__weight=1.0, training__precision="bf16"
    )
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    seen, plain = [], penalties.squared_gradient

    def squared_gradient(logits_of: penalties.Logits, images: torch.Tensor) -> torch.Tensor:
        seen.append(engine._lowered.on)
        return plain(logits_of, images)

    monkeypatch.setattr(penalties, "squared_gradient", squared_gradient)
    _, share = autotune._try(config, engine, game, 2)
    assert seen == [False] * 4
    assert engine._lowered.on
    assert all(not norm.tracking for player in game.players for norm in batch_norms(player.network))
    weights = sum(weight.numel() for player in game.players for weight in player.network.parameters())
    assert autotune._later(config, engine, game) == 4 * (2 * weights + 2 * 16 * 16 * 16)  # Adam's moments, images twice
    assert 0 < share < 1
    engine.world_size = 2
    assert autotune._later(config, engine, game) == 4 * (3 * weights + 2 * 16 * 16 * 16)  # DDP's buckets


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
    config = config_module.load(["configs/digits.yaml", *making.flags(wanted)])
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    micros = numerics.random_batches(config, game.fields, 0, engine.slots)
    for micro in micros:
        micro.fields["image"] = micro["image"].float()
    joined = interfaces.join(micros, size)
    with memory.Peak(engine.device) as before:
        pass
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


def test_joined_micro_batches_keep_their_order() -> None:
    micros = [
        interfaces.Batch({"image": torch.full((2, 1, 1, 1), float(n))}, torch.arange(2 * n, 2 * n + 2))
        for n in range(5)
    ]
    joined = interfaces.join(micros, 2)
    assert [micro.parts for micro in joined] == [2, 2, 1]
    assert torch.cat([micro.positions for micro in joined]).tolist() == list(range(10))
    assert all(micro["image"]._base is joined[number // 2]["image"] for number, micro in enumerate(micros))
    assert interfaces.join(micros, 1) == micros


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
