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
    figures.forget()
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


def test_values_of_all_shapes_types_and_weights_are_added_in_their_order() -> None:
    one, by_hand = Metrics(CPU), dict[str, list[float]]()
    numbers = torch.randn(70, 6, generator=torch.Generator().manual_seed(1))
    for number, row in enumerate(numbers):
        one.weight = 1.0 + number % 2
        for name, value in (("a", row[0]), (f"b{number}", row[1].double()), ("c", row[2:5]), ("a", row[5]), ("c", row)):
            one.add(name, value)
            by_hand.setdefault(name, []).append(float(value.mean(dtype=torch.float64)) * one.weight)
        if number % 3 == 0:
            one.flush()
    names, totals = one.totals()
    assert names == sorted(by_hand)
    for name, row in zip(names, totals.tolist(), strict=True):
        assert row[0] == pytest.approx(sum(by_hand[name]), rel=1e-12)
        assert row[1] == (
            sum(1.0 + number % 2 for number in range(70)) * 2 if name in "ac" else 1.0 + int(name[1:]) % 2
        )


def test_what_counts_on_the_device_is_counted_there_and_a_broken_update_leaves_nothing() -> None:
    figures = Metrics(CPU)
    figures.restore({"norm": (4.0, 2.0)})
    for norm, counts in ((3.0, 1.0), (5.0, 0.0), (8.0, 1.0)):
        figures.add("norm", torch.tensor(norm), weight=torch.tensor(counts))
    figures.flush()
    figures.add("norm", torch.tensor(9.0), weight=torch.tensor(1.0))
    figures.add("x", torch.ones(3))
    figures.forget()
    assert figures.totals()[0] == ["norm"]
    assert figures.totals()[1].tolist() == [[15.0, 4.0]]


def test_what_a_leaf_takes_is_given_whole() -> None:
    leaf, root = Metrics(CPU), Metrics(CPU)
    for _ in range(2):
        leaf.add("b", torch.tensor([1.0, 2.0]))
        leaf.add("a", torch.tensor(3.0, dtype=torch.float64))
        leaf.add("b", torch.tensor([5.0, 6.0]))
        counts, sums = leaf.take()
        root.give(counts, sums.float())
    assert read(root) == {"a": 3.0, "b": 3.5}
    assert leaf.take()[0] == {}


def test_a_leaf_s_counts_on_the_device_are_given_too() -> None:
    leaf, root = Metrics(CPU), Metrics(CPU)
    for value, counts in ((3.0, 1.0), (5.0, 0.0), (8.0, 1.0)):
        leaf.add("norm", torch.tensor(value), weight=torch.tensor(counts))
        leaf.add("x", torch.tensor(value))
        root.give(*leaf.take())
    assert root.totals()[0] == ["norm", "x"]
    assert root.totals()[1].tolist() == [[11.0, 2.0], [16.0, 3.0]]
