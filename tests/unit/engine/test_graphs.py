"""A step that was recorded and is replayed is the step that was played, to the bit."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_dist import games, schedules, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config, load
from gan_dist.doctor import play as doctor_play
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
        if step == 5:
            engine.read_metrics()
        states.append(state(engine, game))
    return states


def at(kept: dict[str, Tensor], name: str) -> Tensor:
    return kept[name]


def test_the_doctor_sees_uses_of_players_whose_phases_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for words in ([], ["--training.graphs", "off"]):
        monkeypatch.setattr(graphs, "recorder_for", lambda device: TapeRecorder())
        config = read(tmp_path, "ddp", *words)
        engine, game = Engine(config, alone=True), games.build(config)
        engine.wrap(game)
        found.append(doctor_play.play(config, engine, game).uses)
        assert (engine.shortcuts.graphs is None) or engine.shortcuts.graphs.recorded
    assert found[0] == found[1]
    assert all(uses.passes for uses in found[0].values())


def differing(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> list[str]:
    assert len(one) == len(other)
    return [
        f"step {number}: {name}"
        for number, (left, right) in enumerate(zip(one, other, strict=True))
        for name in left.keys() | right.keys()
        if name not in left or name not in right or not torch.equal(left[name].nan_to_num(7), right[name].nan_to_num(7))
    ]


@pytest.mark.parametrize("strategy", ["ddp", "exact"])
def test_recorded_steps_have_the_bits_of_played_ones(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scheduled rates and weights, a penalty every 2 steps, a ramp of the average, a skipped step, a way back, a reading."""
    config, recorder = read(tmp_path, strategy), TapeRecorder()
    recorded = play(config, recorder, monkeypatch)
    assert not capsys.readouterr().err
    assert recorder.replays >= 10, "little was replayed"
    assert len(recorder.tapes) == 6, "G, D and D's penalty, and again after going back"
    played = play(config, None, monkeypatch)
    assert not differing(recorded, played)
    assert played[6]["skipped D"].tolist() == [1, 1, 24]
    assert "metric loss/D" not in played[4]


def test_what_one_phase_makes_for_a_later_one_is_that_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """D's fakes are its own in one step and G's in the next; one penalty shares them, and one shares D's logits."""
    words = ["--game.discriminator_steps", "2", "--penalties.r2.weight", "1", "--augment", "diffaugment"]
    words += [
        "--penalties.wgan_gp.weight",
        "1",
        "--penalties.wgan_gp.every",
        "3",
        "--training.micro_batches_per_pass",
        "2",
    ]
    words += ["--networks.discriminator.normalisation", "none"]
    config, recorder = read(tmp_path, "ddp", *words), TapeRecorder()
    recorded = play(config, recorder, monkeypatch, steps=14, back_at=-1)
    assert not capsys.readouterr().err
    assert len(recorder.tapes) == 6, "G, D and wgan_gp with either fakes, and r1"
    assert not differing(recorded, play(config, None, monkeypatch, steps=14, back_at=-1))


@pytest.mark.slow
def test_compiled_terms_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gan_dist.engine import traced

    monkeypatch.setattr(traced, "BACKEND", "aot_eager")
    monkeypatch.setattr(shutil, "which", lambda name: name)  # nothing is built here
    recorder = TapeRecorder()
    recorded = play(read(tmp_path, "ddp", "--training.compile", "true"), recorder, monkeypatch, 8, back_at=-1)
    assert not capsys.readouterr().err
    assert len(recorder.tapes) == 3
    assert not differing(recorded, play(read(tmp_path, "ddp"), None, monkeypatch, 8, back_at=-1))


def test_a_number_that_is_frozen_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is about the tests above: they would fail."""

    def frozen(function: Callable[[int], float], images: int) -> float:
        return function(20 if isinstance(images, schedules.Moving) else images)

    monkeypatch.setattr(schedules, "number", frozen)
    config = read(tmp_path, "ddp")
    wrong = differing(*(play(config, each, monkeypatch, back_at=-1) for each in (TapeRecorder(), None)))
    assert "step 3: D/weights/logit.weight" in wrong
    assert not [each for each in wrong if each.startswith(("step 0:", "step 1:", "step 2:"))]


def waits(game: Game) -> None:
    """Let D's loss ask the device for a number."""
    phase = next(phase for phase in game.phases if phase.player.name == "D")
    loss = phase.loss
    assert loss is not None
    object.__setattr__(phase, "loss", lambda batch: loss(batch) * (1.0 if loss(batch) < 1e9 else 2.0))


@pytest.mark.parametrize(
    ("words", "change", "why"),
    [
        (
            ["--game.top_k", "{kind: linear, start: 1, stop: 0.5, end: 64}"],
            None,
            "the turn of G computes on the host with the position of the step, which would be frozen (generation.py",
        ),
        (
            ["--optimizers.discriminator.beta1", "{kind: linear, start: 0.5, stop: 0, end: 64}"],
            None,
            "betas of the optimizer of D changes over the run",
        ),
        ([], waits, "the turn of D cannot be recorded: RuntimeError: operation not permitted"),
    ],
)
def test_what_cannot_be_recorded_is_played_and_one_line_says_why(
    words: list[str],
    change: Change | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, changed = read(tmp_path, "ddp", *words), change or (lambda game: None)
    recorded = play(config, TapeRecorder(), monkeypatch, 6, changed)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training.graphs: the steps run without CUDA graphs from here on, as {why}")
    assert not differing(recorded, play(config, None, monkeypatch, 6, changed))
