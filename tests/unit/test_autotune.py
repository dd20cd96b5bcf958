"""How many micro-batches go through the networks at once: chosen by trying, once a run and launch."""

import pytest
import torch

from gan_dist import config as config_module, games, interfaces, penalties
from gan_dist.doctor import autotune
from gan_dist.engine import Engine
from gan_dist.networks.statistics import batch_norms
from tests import making


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
    seen, plain = [], penalties.gradient.squared

    def squared(images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        seen.append(engine._lowered.on)
        return plain(images, logits)

    monkeypatch.setattr(penalties.gradient, "squared", squared)
    _, share = autotune._try(config, engine, game, 2)
    assert seen == [False] * 4
    assert engine._lowered.on
    assert all(not norm.tracking for player in game.players for norm in batch_norms(player.network))
    weights = sum(weight.numel() for player in game.players for weight in player.network.parameters())
    assert autotune._later(config, engine, game) == 4 * (2 * weights + 2 * 16 * 16 * 16)  # Adam's moments, images twice
    assert 0 < share < 1
    engine.world_size = 2
    assert autotune._later(config, engine, game) == 4 * (3 * weights + 2 * 16 * 16 * 16)  # DDP's buckets


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
