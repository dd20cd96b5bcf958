"""On a GPU: steps recorded as CUDA graphs have the bits of played ones, and what cannot be recorded is played."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_dist import config as config_module, games, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.step import play_step
from tests import making
from tests.launching import digests, run_ranks, train

pytestmark = [pytest.mark.gpu, pytest.mark.dist]

STEPS = 12
LAZY = {
    "penalties.r1.weight": 1.0,
    "penalties.r1.every": 2,
    "optimizers.generator.learning_rate": "{kind: cosine, start: 1.0e-3, stop: 1.0e-5, end: 128}",
    "optimizers.generator.clip_norm": 1.0,
}


def build(graphs: str, strategy: str, precision: str, **more: Any) -> Config:
    keys = making.tiny("unused", "unused", training__strategy=strategy, training__precision=precision)
    keys |= {"training.device": "cuda", "training.batch": 8, "training.micro_batch": 2, "training.graphs": graphs}
    # without it an algorithm may differ from call to call, recorded or not
    return config_module.load(
        ["tests/data/digits.yaml", *making.flags(keys | LAZY | {"training.deterministic": True, **more})]
    )


def states(config: Config) -> tuple[list[dict[str, Tensor]], int, str]:
    """What a checkpoint keeps after each step, one of which is skipped; how many graphs there are; why there are no more."""
    engine, game = Engine(config, alone=True), games.build(config)
    engine.wrap(game)
    size, found = config.training.batch, []
    for step in range(STEPS):
        batches = trial.random_batches(config, game.fields, step, engine.slots)
        if step == 6:
            batches[0].fields["image"][0] = torch.nan
        play_step(engine, game, trial.on_device(config, engine, batches), step * size, size)
        found.append({name: each.cpu() for name, each in tensors.collect(game.players, game.state()).whole.items()})
    graphs = engine.shortcuts.graphs
    return found, len(graphs.recorded) if graphs else 0, graphs.why_not if graphs else ""


def compare(cases: list[tuple[str, str]]) -> list[str]:
    wrong = []
    for strategy, precision in cases:
        recorded, count, why_not = states(build("auto", strategy, precision))
        played, none, _ = states(build("off", strategy, precision))
        if count != 3 or none or why_not:
            wrong.append(f"{strategy} {precision}: {count} graphs: {why_not}")
        for step, (one, other) in enumerate(zip(recorded, played, strict=True)):
            different = [name for name in other if not torch.equal(one[name], other[name])]
            if different:
                wrong.append(
                    f"{strategy} {precision}: {len(different)} tensors differ after step {step}: {different[0]}"
                )
                break
    return wrong


def test_recorded_steps_have_the_bits_of_played_ones() -> None:
    cases = [(strategy, precision) for strategy in ("ddp", "exact") for precision in ("fp32", "bf16", "fp16")]
    wrong = run_ranks(1, compare, cases, limit=300)[0]
    assert not wrong, "\n".join(wrong)


def refused() -> tuple[int, str]:
    config = build("auto", "ddp", "fp32", **{"game.top_k": "{kind: linear, start: 1, stop: 0.5, end: 64}"})
    found, count, why_not = states(config)
    assert all(bool(torch.isfinite(each).all()) for each in found[-1].values() if each.is_floating_point())
    return count, why_not


def test_what_cannot_be_recorded_is_played() -> None:
    count, why_not = run_ranks(1, refused, limit=120)[0]
    assert count == 0
    assert "position of the step" in why_not


def test_a_run_with_graphs_is_cut_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    more = {"training__device": "cuda", "training__graphs": "auto", "training__deterministic": True}
    for name, ends in {"whole": (256,), "cut": (128, 256)}.items():
        for images in ends:
            done = train(making.tiny(shards, tmp_path / name, training__images=images, checkpoint__every=64, **more))
            assert done.returncode == 0, done.stderr
            assert "without CUDA graphs" not in done.stderr
    last = "images-000000256"
    assert digests(tmp_path / "cut")[last] == digests(tmp_path / "whole")[last]
