"""Alarms are a function of the recorded readings: silent in healthy runs, early in broken ones, the same after a stop."""

from collections.abc import Iterable

import pytest

from gan_dist.config.control import Limits
from gan_dist.control import collapse
from gan_dist.control.collapse import Change, Judge

RULES = collapse.rules(Limits(), half_life=10_000, batch=64, sure=12.0)

NAMES = ("images", "collapse/diversity", "collapse/duplicates", "score/gap", "grad_norm/ratio")
Row = tuple[float, ...]

# of configs/digits.yaml and its averaged generator
HEALTHY: list[Row] = [
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
BROKEN: list[Row] = [(6_016, 0.30, 0.316, 0.0, 1.52)]


def values(row: Row) -> dict[str, float | None]:
    return dict(zip(NAMES, row, strict=True))


def told(judge: Judge, rows: Iterable[Row]) -> list[Change]:
    return [change for row in rows for change in judge.feed(int(row[0]), values(row))]


def series(of: list[Row], times: int) -> list[Row]:
    """Each reading several times, 1,000 images apart."""
    return [(row[0] + 1000 * number, *row[1:]) for row in of for number in range(times)]


def test_a_healthy_run_is_not_suspect_though_its_average_is_one_picture_at_first() -> None:
    judge = Judge(RULES, 5)
    assert told(judge, series(HEALTHY, 5)) == []
    assert judge.good_positions() == (244_000,)


def test_a_broken_run_is_suspect_by_its_gradients_before_its_average_is_judged() -> None:
    (change,) = told(Judge(RULES, 5), [(5_000 + 1_000 * n, *BROKEN[0][1:]) for n in range(15)])
    assert (change.rule.signal, change.rule.trouble) == ("grad_norm/ratio", "generator fades")
    # 150 steps of 64 images are the warm-up
    assert (change.images, change.since, change.good) == (14_000, 10_000, None)
    assert (change.value, change.threshold) == (1.52, 1.2)


@pytest.mark.parametrize(("diversity", "alarms"), [(0.3, 1), (1.0, 0), (None, 0)])
def test_an_unsure_discriminator_is_suspect_only_beside_few_pictures(diversity: float | None, alarms: int) -> None:
    judge = Judge([rule for rule in RULES if rule.signal == "score/accuracy"], 5)
    judge.feed(10_000, {"collapse/diversity_live": diversity})
    found = [each for n in range(8) for each in judge.feed(10_064 + n, {"score/accuracy": 0.5})]
    assert [each.rule.trouble for each in found] == ["unsure"] * alarms


def test_a_large_gap_is_suspect_sooner_beside_pictures_of_another_kind() -> None:
    for diversity, expected in ((1.0, []), (1.6, ["suspect"]), (0.4, ["suspect"])):
        judge = Judge([rule for rule in RULES if rule.signal == "score/gap"], 5)
        judge.feed(10_000, {"collapse/diversity_live": diversity})
        found = [each for n in range(8) for each in judge.feed(10_064 + n, {"score/gap": 9.0})]
        assert [each.kind for each in found] == expected


def test_the_warm_up_is_also_of_steps() -> None:
    assert min(rule.begin for rule in collapse.rules(Limits(), 0, 2048, 12.0)) == 150 * 2048


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
    judge = Judge([rule for rule in RULES if rule.signal == "score/sign_real"], 5)
    few = {"score/sign_real": 0.99, "collapse/diversity_live": 0.5}
    changes = [each for n in range(50) for each in judge.feed(10_000 * n, few)]
    assert [change.images for change in changes] == [110_000]
    good = Judge([rule for rule in RULES if rule.signal == "score/sign_real"], 5)
    assert not any(good.feed(10_000 * n, {**few, "collapse/diversity_live": 0.8}) for n in range(50))


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
