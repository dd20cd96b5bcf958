"""Metrics are the means of all that was taken in since the last reading, over resumes too."""

import pytest
import torch

from gan_dist.metrics import Metrics

CPU = torch.device("cpu")


def read(figures: Metrics) -> dict[str, float]:
    names, totals = figures.totals()
    return {name: float(total / count) for name, (total, count) in zip(names, totals.tolist(), strict=True)}


def test_the_mean_since_the_last_reading_is_read() -> None:
    figures = Metrics(CPU)
    figures.add("loss/G", torch.tensor(1.0))
    figures.add("loss/D", torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    figures.add("loss/G", torch.tensor(2.0))
    assert read(figures) == {"loss/D": 3.0, "loss/G": 1.5}
    assert figures.totals()[0] == sorted(figures.totals()[0])
    figures.clear()
    assert read(figures) == {}
    figures.add("loss/G", torch.tensor(7.0))
    assert read(figures) == {"loss/G": 7.0}


def test_nothing_taken_in_reads_as_nothing() -> None:
    names, totals = Metrics(CPU).totals()
    assert names == []
    assert totals.shape == (0, 2)


def test_sums_are_taken_in_double_precision() -> None:
    figures = Metrics(CPU)
    figures.add("x", torch.tensor(2.0**25))
    for _ in range(100):
        figures.add("x", torch.tensor(1.0))
    assert read(figures)["x"] == pytest.approx((2.0**25 + 100) / 101, rel=1e-15)
    figures.clear()
    figures.add("x", torch.full((2**12,), 1 + 2.0**-20))
    assert read(figures)["x"] == 1 + 2.0**-20


def test_no_graph_is_kept() -> None:
    figures = Metrics(CPU)
    figures.add("x", torch.ones(3, requires_grad=True) * 2)
    assert not figures.totals()[1].requires_grad


def test_restored_totals_go_on_as_if_there_had_been_no_stop() -> None:
    one, first, second = Metrics(CPU), Metrics(CPU), Metrics(CPU)
    values = torch.rand(9, generator=torch.Generator().manual_seed(0))
    for number, value in enumerate(values):
        one.add("x", value)
        if number < 4:
            first.add("x", value)
        if number == 4:
            names, totals = first.totals()
            second.restore({name: (row[0], row[1]) for name, row in zip(names, totals.tolist(), strict=True)})
        if number >= 4:
            second.add("x", value)
    assert torch.equal(one.totals()[1], second.totals()[1])
