"""How many micro-batches go through the networks at once: chosen by trying, once a run and launch."""

from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module, games, interfaces, penalties
from gan_dist.doctor import autotune
from gan_dist.engine import Engine
from gan_dist.evaluation.ranks import full_precision
from gan_dist.networks.statistics import batch_norms
from gan_dist.run_directory import Run
from tests import making


def test_candidates_double_up_to_all() -> None:
    assert list(autotune.candidates(1)) == [1]
    assert list(autotune.candidates(6)) == [1, 2, 4, 6]
    assert list(autotune.candidates(8)) == [1, 2, 4, 8]


def choose(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], share: float = 0.0) -> int:
    """With 8 micro-batches, these seconds a micro-batch, and `share` of the memory for each micro-batch of a pass."""
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2)
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
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


@pytest.mark.parametrize(("dense", "plain", "chosen"), [(1.0, 2.0, True), (1.04, 1.0, True), (1.5, 1.0, False)])
def test_the_faster_layout_is_taken_and_kept_and_no_number_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dense: float, plain: float, chosen: bool
) -> None:
    keys = making.tiny("unused", tmp_path, training__strategy="ddp", training__channels_last="auto", average__ramp=0)
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    assert config.fingerprint() == config.with_({"training.channels_last": False}).fingerprint()
    engine, game = Engine(config), games.build(config)
    engine.place(game)
    before = [tensor.clone() for player in game.players for tensor in player.network.state_dict().values()]
    tried = []

    def attempt(config: config_module.Config, engine: Engine, game: games.Game, size: int) -> tuple[float, float]:
        weight = next(weight for weight in game.players[0].weights if weight.dim() == 4 and weight.shape[1] > 1)
        tried.append((config.training.channels_last, weight.is_contiguous(memory_format=torch.channels_last)))
        return (dense if config.training.channels_last else plain), 0.0

    monkeypatch.setattr(autotune, "_try", attempt)
    run = Run(tmp_path, "id")
    settled, words = autotune.settle(config, engine, game, run)
    assert tried == [(True, True), (False, False)]
    assert settled.training.channels_last is chosen
    assert words == f"training.channels_last: auto: {str(chosen).lower()} on this machine"
    assert autotune.settle(config, engine, game, run)[0] == settled
    assert len(tried) == 2  # the second start does not try again
    networks = [
        network for player in game.players for network in (player.network, player.average and player.average.network)
    ]
    for network in filter(None, networks):
        for weight in (weight for weight in network.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1):
            assert weight.is_contiguous(memory_format=torch.channels_last) == chosen
    after = [tensor for player in game.players for tensor in player.network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_exact_keeps_the_layout_that_it_began_with(tmp_path: Path) -> None:
    keys = making.tiny("unused", tmp_path, training__strategy="exact", training__channels_last="auto")
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    run, game = Run(tmp_path, "id"), games.build(config)
    assert autotune.settle(config, Engine(config), game, run)[0].training.channels_last is True
    run.choose({"channels_last": False})  # what a first start with channels_last: false records
    assert autotune.settle(config, Engine(config), game, run)[0].training.channels_last is False
    assert not torch.backends.cudnn.benchmark
    assert config_module.other_bits({"device": "cpu", "channels_last": False, "threads": 1}, config) == ""


def test_cudnn_tries_its_algorithms_where_no_bits_are_promised() -> None:
    for more, wanted in (({}, True), ({"training__deterministic": True}, False)):
        keys = making.tiny("unused", "unused", training__strategy="ddp", **more)
        Engine(config_module.load(["tests/data/digits.yaml", *making.flags(keys)]))
        assert torch.backends.cudnn.benchmark is wanted
        with full_precision():
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark is wanted


def test_trying_leaves_no_trace() -> None:
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=2, penalties__r1__weight=1.0)
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
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
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
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
