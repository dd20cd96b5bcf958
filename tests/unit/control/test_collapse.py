"""Alarms are a function of the recorded readings: silent in healthy runs, early in broken ones, the same after a stop."""

from collections.abc import Iterable

import pytest

from gan_dist.config.control import Limits
from gan_dist.control import collapse
from gan_dist.control.collapse import Change, Judge

RULES = collapse.rules(Limits(), half_life=10_000, sure=12.0)

# of configs/digits.yaml, its averaged generator: images, diversity, duplicates, gap, log10 of grad D : G
HEALTHY = [
    (5_056, 0.10, 1.000, 2.5, -0.19),
    (10_048, 0.16, 0.977, 3.2, -0.33),
    (15_040, 0.56, 0.005, 2.9, 0.11),
    (20_032, 0.67, 0.001, 2.4, 0.28),
    (50_048, 0.77, 0.001, 3.2, -0.41),
    (100_032, 0.76, 0.000, 4.0, -0.11),
    (200_000, 0.82, 0.001, 4.9, -0.62),
    (240_000, 0.83, 0.000, 4.5, -0.25),
]
# the same with 100 times the learning rate of the generator
BROKEN = [(2_048, 0.22, 0.667, -0.8, 1.82), (4_032, 0.32, 0.136, -0.4, 1.63), (6_016, 0.30, 0.316, 0.0, 1.52)]


def values(row: tuple[int, float, float, float, float]) -> dict[str, float | None]:
    names = ("images", "collapse/diversity", "collapse/duplicates", "score/gap", "grad_norm/ratio")
    return dict(zip(names, row, strict=True))


def told(judge: Judge, rows: Iterable[tuple[int, float, float, float, float]]) -> list[Change]:
    return [change for row in rows for change in judge.feed(row[0], values(row))]


def series(
    of: list[tuple[int, float, float, float, float]], times: int
) -> list[tuple[int, float, float, float, float]]:
    """Each reading several times, 1,000 images apart, from where the last one was on."""
    return [(row[0] + 1000 * number, *row[1:]) for row in of for number in range(times)]


def test_a_healthy_run_is_not_suspect_though_its_average_is_one_picture_at_first() -> None:
    judge = Judge(RULES, 5)
    assert told(judge, series(HEALTHY, 5)) == []
    assert judge.good_positions() == (244_000,)


def test_a_broken_run_is_suspect_by_gap_and_gradients_before_its_average_is_judged() -> None:
    changes = told(Judge(RULES, 5), [(5_000 + 1_000 * n, *BROKEN[2][1:]) for n in range(10)])
    assert [(each.rule.signal, each.rule.trouble, each.images) for each in changes] == [
        ("score/gap", "unsure", 9_000),
        ("grad_norm/ratio", "generator fades", 9_000),
    ]
    assert (changes[0].since, changes[0].good, changes[0].value, changes[0].threshold) == (5_000, None, 0.0, 0.1)


def test_diversity_is_judged_after_the_warm_up_and_against_its_own_best() -> None:
    judge = Judge(RULES, 2)
    feed = lambda images, value: judge.feed(images, {"collapse/diversity": value})  # noqa: E731
    assert not any(feed(images, 0.1) for images in range(0, 40_000, 1_000))
    assert not feed(40_000, 0.9)
    assert not feed(41_000, 0.53)
    (change,) = feed(42_000, 0.53)
    assert (change.kind, change.good) == ("suspect", 40_000)
    assert change.threshold == pytest.approx(0.54)


def test_one_reading_beyond_a_limit_is_none() -> None:
    judge = Judge(RULES, 5)
    for n in range(40):
        assert not judge.feed(10_000 + 1_000 * n, {"score/gap": 20.0 if n % 5 else 3.0})


def test_an_alarm_is_raised_once_and_ends_after_as_many_good_readings() -> None:
    judge = Judge(RULES, 3)
    gaps = [3, 20, 20, 20, 20, 20, 3, 20, 3, 3, 3, 3, 20, 20, 20]
    found = [(n, each.kind) for n, gap in enumerate(gaps) for each in judge.feed(10_000 + n, {"score/gap": gap})]
    assert found == [(3, "suspect"), (10, "clear"), (14, "suspect")]
    assert judge.standing == ["score/gap"]


def test_what_lasts_is_measured_in_images() -> None:
    judge = Judge(RULES, 5)
    changes = [each for n in range(50) for each in judge.feed(10_000 * n, {"score/sign_real": 0.95})]
    assert [change.images for change in changes] == [110_000]


def test_a_missing_or_infinite_figure_is_not_judged() -> None:
    judge = Judge(RULES, 1)
    assert not judge.feed(50_000, {"score/gap": None, "grad_norm/ratio": float("nan"), "loss/G": 3.0})


@pytest.mark.parametrize("stop", [0, 7, 12, 19])
def test_a_run_that_goes_on_has_the_same_alarms_and_guards(stop: int) -> None:
    bad = [(60_000 + 1_000 * n, 0.2, 0.5, 13.0, 0.3) for n in range(8)]
    rows = [*[(50_000 + 1_000 * n, *HEALTHY[4][1:]) for n in range(8)], *bad]
    rows += [(80_000 + 1_000 * n, *HEALTHY[5][1:]) for n in range(8)]
    whole = Judge(RULES, 5)
    expected = told(whole, rows)
    assert {(each.rule.signal, each.kind) for each in expected} >= {("score/gap", "suspect"), ("score/gap", "clear")}
    again = Judge(RULES, 5)
    collapse.replay(again, map(values, rows), rows[stop][0])
    assert told(again, rows[stop + 1 :]) == [each for each in expected if each.images > rows[stop][0]]
    assert again.good_positions() == whole.good_positions()
