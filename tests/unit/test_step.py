"""A step means the same however many micro-batches share a pass, also with losses that couple samples and seldom phases."""

from pathlib import Path

import pytest
import torch

from gan_dist import games, interfaces, rng
from gan_dist.config import Config, load
from gan_dist.doctor.numerics import by_engine, difference
from gan_dist.games.base import Game

TEXT = """\
data: {shards: -, resolution: 16, channels: 1, labels: true, classes: 3}
networks: {generator: {base_channels: 4}, discriminator: {base_channels: 4}}
training: {images: 64, batch: 8, micro_batch: 2, device: cpu, precision: fp64}
"""


def read(tmp_path: Path, *words: str) -> Config:
    (tmp_path / "mine.yaml").write_text(TEXT)
    return load([str(tmp_path / "mine.yaml"), *words])


@pytest.mark.parametrize(
    "words",
    [
        ("--loss", "relativistic_average"),
        (
            "--loss",
            "relativistic",
            "--penalties.r1.weight",
            "1",
            "--penalties.wgan_gp.weight",
            "1",
            "--penalties.wgan_gp.every",
            "2",
        ),
    ],
)
def test_micro_batches_that_share_a_pass_count_each_by_itself(tmp_path: Path, words: tuple[str, ...]) -> None:
    alone = by_engine(read(tmp_path, *words, "--training.micro_batches_per_pass", "1"), 2)
    joined = by_engine(read(tmp_path, *words, "--training.micro_batches_per_pass", "4"), 2)
    for kind in ("gradient", "weights"):
        assert difference(joined[1], alone[1], kind)[0] < 1e-9


def test_micro_batches_draw_at_once_what_each_draws_by_itself() -> None:
    batches = [interfaces.Batch({}, torch.arange(first, first + 3)) for first in (7, 1000, 2**33)]
    alone = [interfaces.Batch({}, batch.positions) for batch in batches]
    together = interfaces.draw_together(batches)
    calls: list[int] = []

    def normal(stream: int, positions: torch.Tensor, count: int) -> torch.Tensor:
        calls.append(len(positions))
        return rng.normal(stream, positions, count)

    for stream, count, drawn in ((5, 4, [9]), (6, 1, [9]), (5, 4, []), (5, 400_000, [3, 3, 3])):
        calls.clear()
        found = [batch.draw(normal, stream, count) for batch in batches]
        assert calls == drawn, "a large draw is not made for all at once"
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other.draw(rng.normal, stream, count))
    shifts = [batch.draws(3).uniform("shift", 2) for batch in batches]
    assert all(torch.equal(one, other.draws(3).uniform("shift", 2)) for one, other in zip(shifts, alone, strict=True))
    together.forget()
    batches[0].draw(normal, 5, 4)
    assert calls[-1] == 9


def due(game: Game, steps: int, batch: int) -> list[str]:
    return [
        "".join(phase.player.name + ("" if phase.loss else "'") for phase in game.due(step * batch, batch))
        for step in range(steps)
    ]


def test_phases_are_due_by_their_period_and_between_begin_and_end(tmp_path: Path) -> None:
    words = ["--game.discriminator_steps", "2", "--penalties.r1.weight", "1", "--penalties.r1.every", "3"]
    game = games.build(read(tmp_path, *words))
    assert due(game, 6, 8) == ["D", "GD", "DD'", "GD", "D", "GDD'"]
    generator, _discriminator, penalty = game.phases
    object.__setattr__(generator, "begin", 16)
    object.__setattr__(penalty, "end", 40)
    assert due(game, 6, 8) == ["D", "D", "DD'", "GD", "D", "GD"]


def test_a_scheduled_rate_is_that_of_the_position(tmp_path: Path) -> None:
    ramp = "--optimizers.generator.learning_rate"
    words = [f"{ramp}.kind=linear", f"{ramp}.start=1e-2", f"{ramp}.stop=0", f"{ramp}.end=8"]
    one, two = by_engine(read(tmp_path, *words), 1)[1], by_engine(read(tmp_path, *words), 2)[1]
    weights = {name for name in one if "/weights/" in name and "running" not in name}
    moved = {name[0] for name in weights if (one[name] != two[name]).any()}
    assert moved == {"D"}, "from 8 images on the generator stands still"
