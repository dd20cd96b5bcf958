"""Losses and penalties that are compiled together with their gradients compute what plain ones do."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch

from gan_dist import games, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config, load
from gan_dist.engine import Engine, traced
from gan_dist.step import play_step
from tests import making

TEXT = """\
data: {shards: -, resolution: 8, channels: 1}
game: {latent: 4}
penalties: {r1: {weight: {kind: linear, start: 1, stop: 5, end: 64}}}
training: {images: 64, batch: 4, micro_batch: 2, device: cpu, micro_batches_per_pass: 2, compile: COMPILE}
"""
BASES = ["--networks.generator.base_channels", "4", "--networks.discriminator.base_channels", "4"]
CASES = {
    "exact R1 of BatchNorm": ([*BASES, "--penalties.r1.every", "2"], 2),
    "R1 and R2 of our grouped convolution": (
        [
            *BASES[:2],
            *("--networks.discriminator.kind", "r3gan", "--networks.discriminator.widths", "[16, 16]"),
            *("--networks.discriminator.blocks", "1"),
            *("--networks.discriminator.group_width", "8", "--loss", "relativistic", "--penalties.r2.weight", "1"),
        ],
        1,
    ),
}
PAIRED = {
    "data.resolution": 16,
    "networks.generator.base_channels": 4,
    "networks.generator.levels": 2,
    "networks.discriminator.base_channels": 4,
    "networks.discriminator.layers": 1,
    "training.batch": 4,
    "training.micro_batch": 2,
    "training.micro_batches_per_pass": 1,
    "training.device": "cpu",
}

UNPAIRED = {
    **PAIRED,
    "networks.generator.base_channels": 2,
    "networks.generator.blocks": 1,
    "data.shards": "{A: nowhere/A, B: nowhere/B}",
    "data.channels": 1,
    "training.images": 64,
    "game.pool": 2,
}
del UNPAIRED["networks.generator.levels"]


def read(tmp_path: Path, compile: bool, *words: str) -> Config:
    (tmp_path / "mine.yaml").write_text(TEXT.replace("COMPILE", str(compile).lower()))
    return load([str(tmp_path / "mine.yaml"), *words])


def play(config: Config, steps: int) -> dict[str, torch.Tensor]:
    """All that a checkpoint keeps, with metrics."""
    engine = Engine(config, alone=True)
    game = games.build(config)
    engine.wrap(game)
    for step in range(steps):
        batches = trial.random_batches(config, game.fields, step, engine.slots)
        play_step(engine, game, trial.on_device(config, engine, batches), step * 4, 4)
    names, totals = engine.metrics.totals()
    metrics = {f"metric {name}": row for name, row in zip(names, totals, strict=True)}
    return {name: each.clone() for name, each in tensors.collect(game.players, game.state()).whole.items()} | metrics


@pytest.mark.parametrize("case", CASES)
def test_a_graph_with_its_gradients_has_the_bits_of_autograd(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, steps = CASES[case]
    monkeypatch.setattr(traced, "BACKEND", "aot_eager")
    monkeypatch.setattr(shutil, "which", lambda name: name)  # nothing is built here
    compiled = play(read(tmp_path, True, *words), steps)
    assert not capsys.readouterr().err
    plain = play(read(tmp_path, False, *words), steps)
    assert compiled.keys() == plain.keys()
    assert not [name for name in plain if not torch.equal(compiled[name], plain[name])]


def test_a_paired_game_without_buffers_is_compiled_and_its_dropout_is_an_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    seen = []
    monkeypatch.setattr(torch, "compile", lambda graph, **_: seen.append(graph) or graph)
    states = []
    for compiles in ("true", "false"):
        words = {**PAIRED, "training.compile": compiles}
        states.append(play(load(["configs/edges_digits.yaml", *making.flags(words)]), 2))
    assert not capsys.readouterr().err
    assert len(seen) == 2
    large = [node for graph in seen for node in graph.graph.nodes for each in node.args if _is_large(each)]
    assert not large, "the products of 64-bit integers that random numbers are made of"
    assert not [name for name in states[1] if not torch.equal(states[0][name], states[1][name])]


def test_pools_of_earlier_images_are_inputs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    seen = []
    # a compiler may take what is no input for a constant: here it is one
    monkeypatch.setattr(torch, "compile", lambda graph, **_: seen.append(graph) or copy.deepcopy(graph))
    (tmp_path / "run.yaml").write_text("game: {kind: unpaired}\n")
    states = []
    for compiles in ("true", "false"):
        words = {**UNPAIRED, "training.compile": compiles}
        states.append(play(load([str(tmp_path / "run.yaml"), *making.flags(words)]), 5))
    assert not capsys.readouterr().err
    assert len(seen) == 2
    assert not [name for name in states[1] if not torch.equal(states[0][name], states[1][name])]


def _is_large(argument: object) -> bool:
    return isinstance(argument, int) and abs(argument) > 2**53


def test_what_cannot_be_compiled_is_played_and_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(traced, "BACKEND", "aot_eager")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    words = [*BASES, "--game.top_k", "{kind: linear, start: 1, stop: 0.5, end: 64}"]
    compiled = play(read(tmp_path, True, *words), 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "uncompiled from here on, as the turn of G computes on the host with the position of the step" in line
    plain = play(read(tmp_path, False, *words), 1)
    assert not [name for name in plain if not torch.equal(compiled[name], plain[name])]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on a CPU"
)
def test_compiled_exact_r1_differs_by_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*BASES, "--networks.discriminator.normalisation", "none"]
    compiled = play(read(tmp_path, True, *words), 1)
    assert "training.compile" not in capsys.readouterr().err  # torch may warn of a CUDA without a GPU
    plain = play(read(tmp_path, False, *words), 1)
    for name in plain:
        if "/exp_avg/" in name:
            difference = float((compiled[name] - plain[name]).abs().max() / plain[name].abs().max())
            assert difference < 1e-5, f"{name}: {difference:.1e}"
