"""A rate that falls far below its own median is noticed once, with what the time goes to."""

import time

import pytest

from gan_dist.control.pace import Pace, Slow


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def minute(pace: Pace, clock: Clock, images: int, loader: float = 1.0, **spent: float) -> Slow | None:
    """A report after 60 s, of which so many went to the loader and to other work."""
    for name, seconds in {"loader": loader, **spent}.items():
        with pace.spending(name):
            clock.now += seconds
    figures, slow = pace.report(images, 60.0)
    assert figures == {"speed/loader_share": loader / 60, "speed/save_share": spent.get("save", 0.0) / 60}
    return slow


def test_a_rate_under_half_of_the_median_for_ten_minutes_is_told_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, clock = Pace(), Clock(monkeypatch)
    assert [minute(pace, clock, 6_000) for _ in range(200)] == [None] * 200
    low = [minute(pace, clock, 1_800, loader=48.0, save=6.0) for _ in range(75)]
    told = [number for number, slow in enumerate(low, 1) if slow]
    assert told == [10, 70]
    slow = low[9]
    assert slow is not None
    assert (slow.rate, slow.median, round(slow.minutes)) == (30.0, 100.0, 10)
    assert list(slow.shares) == ["loader", "save", "step"]
    assert slow.words.startswith(
        "30 images/s for 10 minutes, the median of this start is 100; the time goes to loader 80%, save 10%"
    )
    assert "data.workers" in slow.words


def test_nine_minutes_a_recovery_and_seldom_work_are_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, clock = Pace(), Clock(monkeypatch)
    for _ in range(20):
        minute(pace, clock, 6_000)
    for _ in range(5):
        assert [minute(pace, clock, 1_800) for _ in range(9)] == [None] * 9
        assert minute(pace, clock, 6_000) is None
    pace = Pace()
    for _ in range(20):
        minute(pace, clock, 6_000)
    # an evaluation at each report, which takes most of the time
    assert [minute(pace, clock, 1_400, evaluation=46.0) for _ in range(20)] == [None] * 20


def test_what_is_waited_for_is_counted_and_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, clock = Pace(), Clock(monkeypatch)

    def slow_items() -> object:
        for item in range(3):
            clock.now += 2.0
            yield item

    got = []
    for item in pace.waiting(slow_items()):  # type: ignore[var-annotated,arg-type]
        clock.now += 3.0
        got.append(item)
    assert got == [0, 1, 2]
    assert pace.report(3, 15.0)[0]["speed/loader_share"] == pytest.approx(6 / 15)
