"""A step that was recorded and is replayed is the step that was played, to the bit."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_dist import games, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config, load
from gan_dist.engine import Engine, graphs, update
from gan_dist.games.base import Game
from gan_dist.optimizers import Adam
from gan_dist.step import play_step
from tests.taping import TapeRecorder

TEXT = """\
data: {shards: -, resolution: 8, channels: 1}
game: {latent: 4}
networks: {generator: {base_channels: 4}, discriminator: {base_channels: 4}}
penalties: {r1: {weight: {kind: linear, start: 1, stop: 5, end: 64}, every: 2}}
optimizers:
  generator: {learning_rate: {kind: cosine, start: 1.0e-2, stop: 1.0e-4, end: 64}, clip_norm: 1.0}
  discriminator: {learning_rate: {kind: warm_up, stop: 1.0e-2, end: 40}}
average: {half_life: 100, ramp: 0.5}
training: {images: 64, batch: 4, micro_batch: 2, device: cpu, strategy: STRATEGY, micro_batches_per_pass: 1, graphs: auto}
"""
Change = Callable[[Game], None]


def read(tmp_path: Path, strategy: str, *words: str) -> Config:
    (tmp_path / "mine.yaml").write_text(TEXT.replace("STRATEGY", strategy))
    return load([str(tmp_path / "mine.yaml"), *words])


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the device decide about updates, by torch's fused optimizers."""
    monkeypatch.setattr(update, "on_device", lambda good: True)
    build = Adam.build

    def fused(self: Adam, parameters: Any, slow: float = 1.0) -> torch.optim.Optimizer:
        optimizer = build(self, parameters, slow)
        return type(optimizer)(parameters, fused=True, eps=self.epsilon, **self.settings(0, slow))

    monkeypatch.setattr(Adam, "build", fused)
    yield
    torch.use_deterministic_algorithms(False)


def state(engine: Engine, game: Game) -> dict[str, Tensor]:
    """All that a checkpoint keeps."""
    collected = tensors.collect(game.players, game.state())
    found = {name: tensor.clone() for name, tensor in collected.whole.items()}
    names, totals = engine.metrics.totals()
    found |= {f"metric {name}": row for name, row in zip(names, totals, strict=True)}
    found |= {f"steps {name}": torch.tensor(count) for name, count in collected.steps.items()}
    return found | {
        f"skipped {name}": torch.tensor([s.total, s.streak, s.last]) for name, s in engine.skipped().items()
    }


def play(
    config: Config,
    recorder: TapeRecorder | None,
    monkeypatch: pytest.MonkeyPatch,
    steps: int = 12,
    change: Change = lambda game: None,
    back_at: int = 9,
) -> list[dict[str, Tensor]]:
    """The states after each step, of which one has a sample that is not finite; in step `back_at` the run goes back by 2."""
    monkeypatch.setattr(graphs, "recorder_for", lambda device: recorder)
    engine = Engine(config, alone=True)
    with games.check.naming(config):
        game = games.build(config)
    engine.wrap(game)
    change(game)
    size, states, step, went_back = config.training.batch, [], 0, False
    while step < steps:
        if step == back_at and not went_back:
            kept, step, went_back = states[step - 3], step - 2, True
            counts = {player.name: int(kept[f"steps {player.name}"]) for player in game.players}
            tensors.restore(game.players, functools.partial(at, kept), counts, game.state())
            engine.shortcuts.reset()
            engine.metrics.clear()
            engine.restore_skipped(dict.fromkeys(counts, 0))
            states = states[:step]
        batches = trial.random_batches(config, game.fields, step, engine.slots)
        if step == 6:
            batches[0].fields["image"][0] = torch.nan
        play_step(engine, game, trial.on_device(config, engine, batches), step * size, size)
        step += 1
        states.append(state(engine, game))
    return states


def at(kept: dict[str, Tensor], name: str) -> Tensor:
    return kept[name]


def differing(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> list[str]:
    assert len(one) == len(other)
    return [
        f"step {number}: {name}"
        for number, (left, right) in enumerate(zip(one, other, strict=True))
        for name in left.keys() | right.keys()
        if name not in left or name not in right or not torch.equal(left[name], right[name])
    ]


@pytest.mark.parametrize("strategy", ["ddp", "exact"])
def test_recorded_steps_have_the_bits_of_played_ones(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, recorder = read(tmp_path, strategy), TapeRecorder()
    recorded = play(config, recorder, monkeypatch)
    assert recorder.replays >= 10, "little was replayed"
    assert len(recorder.tapes) == 6, "G, D and D's penalty, and again after going back"
    played = play(config, None, monkeypatch)
    assert not differing(recorded, played)
    assert played[7]["skipped D"].tolist() == [1, 0, 24]
