"""An evaluation gives one result, however many ranks share it."""

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS, Evaluation, Metric, Ranks, ScoreError, base, evaluate
from gan_dist.evaluation.evaluate import PASS, _merge, parts
from tests.unit.evaluation import ranking

PIXELS = {"pixels": METRICS["pixels"]()}


def images(seed: int, scale: float = 0.4, shift: float = 0.0) -> Callable[[range], Tensor]:
    """Normal pixels that depend on the number of the sample only."""

    def draw(numbers: range) -> Tensor:
        positions = torch.arange(numbers.start, numbers.stop)
        values = rng.normal(rng.key(seed, "pixels"), positions, 2 * 4 * 4).float()
        return (scale * values + shift).clamp(-1, 1).view(-1, 2, 4, 4)

    return draw


class Order(Metric):
    """A metric that shows mistakes: its sums round, and the order of its features counts."""

    def add(self, state: base.State, fake: Tensor, real: Tensor | None) -> None:
        for name, tensor in (("fake", fake), ("real", real)):
            if tensor is not None:
                rows = features(tensor)
                state[name] = torch.cat([state[name], rows]) if name in state else rows
        total = features(fake).float().sum()  # fp32 on purpose: its sums round
        state["sum"] = state.get("sum", torch.zeros(1)) + total

    def merge(self, states: Sequence[base.State]) -> base.State:
        return base.concatenated(states) | {"sum": base.added([{"sum": state["sum"]} for state in states])["sum"]}

    def value(self, state: base.State) -> dict[str, float]:
        fake, real = state["fake"].double(), state["real"].double()
        places = torch.arange(len(fake), dtype=torch.float64)
        return {
            "rows": len(fake),
            "reals": len(real),
            "order": float((fake[:, 0] * places).sum()),
            "sum": float(state["sum"]),
        }


def features(batch: Tensor) -> Tensor:
    return batch.flatten(1)[:, :3] * 1e3


def on_ranks(ranks: int, count: int, reals: int, metrics: dict[str, Metric] | None = None) -> list[Evaluation]:
    """The evaluation as each of so many ranks sees it."""
    metrics = metrics or PIXELS | {"order": Order()}
    return ranking.on_ranks(
        ranks,
        lambda each: evaluate(metrics, images(1), images(2, 0.3, 0.1), count, reals, ranks=each),
    )


@pytest.mark.parametrize(("count", "reals"), [(1_000, 700), (PASS * 64 * 2 + 5, 10_000), (3, 3)])
def test_every_number_of_ranks_gives_the_same_bits(count: int, reals: int) -> None:
    alone = on_ranks(1, count, reals)[0]
    assert set(alone.scores) == {"score/pixels", *(f"score/order/{name}" for name in ("rows", "reals", "order", "sum"))}
    assert (alone.scores["score/order/rows"], alone.scores["score/order/reals"]) == (count, min(count, reals))
    assert (alone.samples, alone.reals) == (count, min(count, reals))
    for ranks in (3, 7):
        first, *others = on_ranks(ranks, count, reals)
        assert first.scores == alone.scores
        assert all(other.scores == {} for other in others)


def test_the_order_in_which_parts_arrive_does_not_matter_but_each_must_be_there_once() -> None:
    rows: list[Any] = []

    def gather(value: Any) -> list[Any]:
        if isinstance(value, list):
            rows.extend(value)
        return [value]

    whole = evaluate(PIXELS, images(1), images(2), 500, 500, ranks=Ranks(gather=gather))
    mixed = random.Random(0).sample(rows, len(rows))
    assert _merge(PIXELS, mixed, len(rows)) == whole.scores
    for wrong in (rows[1:], [*rows, rows[0]], []):
        with pytest.raises(AssertionError, match="each must be there once"):
            _merge(PIXELS, wrong, len(rows))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 2_048, 2_049, 50_000])
def test_parts_are_whole_passes_that_cover_every_sample_once(count: int) -> None:
    cut = parts(count)
    assert [number for part in cut for number in part] == list(range(count))
    assert all(len(part) % PASS == 0 for part in cut[:-1])
    assert len(cut) <= 64


def test_progress_is_told_and_time_is_taken() -> None:
    told: list[tuple[int, int]] = []
    found = evaluate(PIXELS, images(1), images(2), 70, 70, progress=lambda done, total: told.append((done, total)))
    assert told == [(32, 70), (64, 70), (70, 70)]
    assert found.seconds > 0


def test_real_images_must_be_there_and_a_name_must_be_free() -> None:
    with pytest.raises(ScoreError, match="compares with real images"):
        evaluate(PIXELS, images(1), None, 10)
    for name in ("real", "fake", "a/b", "", "../x"):
        with pytest.raises(InputError, match=r"evaluate\.scores"):
            evaluate({name: METRICS["pixels"]()}, images(1), images(2), 10, 10)


def score(fake: Tensor, real: Tensor) -> float:
    found = evaluate(PIXELS, lambda n: fake[n.start : n.stop], lambda n: real[n.start : n.stop], len(fake), len(real))
    return found.scores["score/pixels"]


def test_pixels_is_the_distance_of_means_and_deviations() -> None:
    real = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert score(real, real) == 0.0
    assert score((real + 0.003).clamp(-1, 1), real) == 0.0  # less than half a step of 8 bits: the same saved image
    grey = torch.full((4, 1, 2, 2), 128 / 127.5 - 1)  # deviation 0 against 1
    assert score(grey, real) == pytest.approx(1 + (128 / 127.5 - 1) ** 2)
    white = torch.ones(4, 1, 2, 2)
    assert score(white, real) == pytest.approx(1 + 1)


def test_pixels_falls_as_images_come_closer_and_is_nan_for_a_diverged_generator() -> None:
    real = images(2)(range(300))
    scores = [score((images(1)(range(300)) + shift).clamp(-1, 1), real) for shift in (0.5, 0.2, 0.0)]
    assert scores[0] > scores[1] > scores[2] > 0
    broken = images(1)(range(300))
    broken[7, 0, 0, 0] = torch.nan
    assert score(broken, real) != score(broken, real)


def test_real_images_are_read_for_metrics_that_compare_only() -> None:
    def unread(numbers: range) -> Tensor:
        raise AssertionError("read")

    class Alone(Metric):
        compares: ClassVar[bool] = False

        def add(self, state: base.State, fake: Tensor, real: Tensor | None) -> None:
            assert real is None
            state["count"] = torch.tensor([len(fake)])

        def value(self, state: base.State) -> float:
            return 1.0

    assert evaluate({"alone": Alone(kind="alone")}, images(1), unread, 40, 40).reals == 0
    with pytest.raises(ScoreError, match="read"):
        evaluate({"alone": Alone(kind="alone"), **PIXELS}, images(1), unread, 40, 40)
