"""Scores, alarms, verdicts, the choice of charts, and lines of many points."""

import datetime
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from gan_dist import cli, run_status
from gan_dist.evaluation import METRICS
from gan_dist.losses import LOSSES
from gan_dist.report import charts, drawing, events, facts, reading, sparks, table, terminal, verdict
from tests.launching import REPOSITORY
from tests.unit.report.runs import event, make_run, write


def test_every_figure_is_in_one_chart_and_a_user_s_own_by_its_group() -> None:
    names = ("score/kid", "score/real", "score/gap", "loss/G", "grad_norm/D", "grad_norm/ratio", "skipped/D")
    typical = {
        **dict.fromkeys(names, 1.0),
        "mine/a": 0.5,
        "mine/b": 1.0,
        "mine/huge": 4e5,
        "alone": 1.0,
        "skipped/D": 0,
    }
    plan = charts.plan(typical, ["skipped/D"])
    shown = [name for _, together in plan for name in together]
    assert sorted(shown) == sorted(typical.keys() - {"skipped/D"})
    titles = {chart.title: together for chart, together in plan}
    assert titles["mine 2"] == ["mine/a", "mine/b"]  # a figure a million times as large stands apart
    assert titles["alone"] == ["alone"]
    assert titles["kid"] == ["score/kid"]
    assert titles["Gap of the logits"] == ["score/gap"]


def test_every_event_of_the_package_has_words() -> None:
    said = re.compile(r'(?:\.(?:event|alert|report|note)|\bNote)\(\s*"([a-z ]+)"')
    kinds = {kind for path in (REPOSITORY / "gan_dist").rglob("*.py") for kind in said.findall(path.read_text())}
    assert len(kinds) > 20
    assert kinds <= events.WORDS.keys()


@pytest.mark.parametrize("kind", LOSSES)
def test_the_chart_of_the_gap_ends_where_the_alarm_of_the_loss_begins(kind: str) -> None:
    sure = LOSSES[kind].sure
    assert charts.gap_band({"loss.kind": kind}) == (None, None if sure == math.inf else sure)
    assert charts.gap_band({"loss.kind": kind, "control.limits.gap": 3}) == (None, 3)


def test_an_alarm_stands_until_it_is_clear_or_the_run_went_back_before_it() -> None:
    suspect = event(500, "suspect", signal="a", value=1)
    assert facts.alarms([suspect, event(600, "suspect", signal="b")]) == [suspect, event(600, "suspect", signal="b")]
    assert facts.alarms([suspect, event(600, "clear", signal="a")]) == []
    assert facts.alarms([suspect, event(600, "went back", to="images-000000400")]) == []
    assert facts.alarms([suspect, event(500, "resumed")]) == [suspect]
    assert facts.alarms([suspect, event(400, "resumed")]) == []
    cleared = [suspect, event(600, "clear", signal="a")]
    assert facts.alarms([*cleared, event(550, "resumed")]) == [suspect]  # the end of the alarm is undone
    assert facts.alarms([*cleared, event(700, "went back", to="images-000000550")]) == [suspect]


def test_the_end_of_one_alarm_leaves_another_one_of_the_same_signal() -> None:
    fades = [event(place, "suspect", signal="a", trouble=trouble) for place, trouble in ((500, "G"), (600, "D"))]
    assert facts.alarms([*fades, event(700, "clear", signal="a", trouble="G")]) == [fades[1]]
    assert facts.alarms([*fades, event(700, "clear", signal="a")]) == []  # of an older version


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([1.0, 0.5, 0.2], "learning"),
        ([0.2, 0.2, 0.2], "little change"),
        ([0.2, 0.3, 0.4], "getting worse"),
        ([0.1, 0.9, 0.5], "worse than before"),
        ([0.3], "no trend yet"),
        ([], "no score"),
    ],
)
def test_a_verdict_has_a_figure_or_says_what_was_seen_instead(tmp_path: Path, values: list[float], word: str) -> None:
    run = make_run(tmp_path / "run")
    lines: list[dict[str, object]] = [
        {"images": 90_000 * number, "score/kid": value} for number, value in enumerate(values, 1)
    ]
    write(run / "metrics.jsonl", lines or [{"images": 64, "loss/G": 1.0}])
    said = verdict.learning(reading.read(run))
    assert said.word == word
    assert not values or f"{values[-1]:.3g}" in said.text
    assert {each.word for each in verdict.of(reading.read(run))} >= {"suspect"}
    assert (
        values
        or f"alarms stand (score/gap 0.05): look at the grids below; for a score: `gan-dist evaluate {run}" in said.text
    )


def test_averaged_and_live_are_told_apart_and_times_name_their_zone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run / "metrics.jsonl", [{"images": 64, "collapse/diversity": 0.96, "collapse/diversity_live": 0.98}])
    write(run / "events.jsonl", [event(64, "saved", checkpoint="images-000000064")])
    read = reading.read(run)
    assert verdict.collapse(read).text == "diversity 0.96 averaged, 0.98 live (1: as real images)"
    assert verdict.learning(read).text.startswith("no alarm stands")
    zone = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).astimezone().strftime("%Z")
    assert f"{zone}  saved at 64 images" in "\n".join(run_status.lines(run_status.read(run)))


def test_more_is_better_where_the_score_says_so() -> None:
    better = ("score/precision", "score/modes/covered", "score/is")
    assert [facts.lower_is_better(name) for name in (*better, "score/kid")] == [False, False, False, True]
    assert facts.lower_is_better("score/mine", {"mine": "higher"}) is False
    assert facts.scores(["score/real", "score/modes/samples", "score/precision", "score/kid", "loss/G"]) == [
        "score/kid",
        "score/precision",
    ]


def test_every_built_in_score_is_read_in_the_direction_that_it_declares() -> None:
    for kind, metric in METRICS.items():
        for part in [""] if isinstance(metric.better, str) else metric.better:
            way = metric.better if isinstance(metric.better, str) else metric.better[part]
            name = f"score/{kind}/{part}".rstrip("/")
            assert facts.lower_is_better(name) == (way == "lower"), name


def test_a_score_of_another_name_is_read_by_its_kind() -> None:
    figures = [{"images": 64, "score/quality": 3.0, "score/p/recall": 0.5}]
    known = facts.declared([{"metric": "p/recall", "kind": "prdc"}], {"quality": "inception_score"}, figures[0])
    assert known == {"quality": "higher", "p/recall": "higher"}
    score = facts.of(figures[:1], [], kinds={"quality": "inception_score"})["score"]
    assert score == {"name": "score/p/recall", "value": 0.5, "images": 64, "better": "higher"}


@pytest.mark.parametrize("record", [{}, {"better": "higher"}])
def test_scores_of_gan_dist_evaluate_are_shown_and_the_better_run_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: dict[str, object]
) -> None:
    name = "mine" if record else "inception_score"
    for run, value in (("a", 2.0), ("b", 9.0)):
        directory = make_run(tmp_path / run)
        write(directory / "metrics.jsonl", [{"images": 6400, "step": 1, "loss/G": 1.0}])
        line = {"metric": name, "value": value, "error": 0.5, "images": 6400, "by": "gan-dist evaluate"}
        write(directory / "scores.jsonl", [{**line, "value": 1.0}, {**line, **record}])
    assert f"score   {name} 9 at 6,400 images" in run_status.lines(run_status.read(tmp_path / "b"))
    assert cli.main(["runs", str(tmp_path), "--sort", "score"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        str(tmp_path / run) for run in ("b", "a")
    ]
    assert cli.main(["watch", str(tmp_path / "b"), "--once"]) == 0
    assert f"score/{name}" in capsys.readouterr().out
    read = reading.read(tmp_path / "b")
    assert f"{name} 9 at 6,400 images (higher is better)" in verdict.learning(read).text
    assert read.errors[f"score/{name}", 6400] == 0.5


def test_a_score_of_another_protocol_is_no_point_of_the_training_s_line() -> None:
    line = {"metric": "fid", "value": 4.0, "images": 100, "by": "gan-dist evaluate"}
    lines = facts.with_evaluations([{"images": 100, "score/fid": 9.0}], [line, {**line, "by": "training"}])
    assert lines == [{"images": 100, "score/fid": 9.0}, {"images": 100, "score/fid/evaluated": 4.0}]
    assert facts.scores(["score/modes/samples/evaluated"]) == []


def test_a_line_of_many_points_keeps_its_extremes() -> None:
    positions = np.arange(100_000.0)
    values = np.random.default_rng(0).normal(size=100_000)
    values[[777, 50_001]] = 99, -99
    chosen = drawing.thinned((positions, values))
    assert len(chosen) <= 1000
    assert {0, 777, 50_001} <= {0, *chosen.tolist()}
    assert (np.diff(chosen) > 0).all()
    means = drawing.of_columns((positions, values))[1]
    assert len(means) == 500
    assert abs(means.mean() - values.mean()) < 1e-6


def test_block_characters_stand_where_the_run_was() -> None:
    assert sparks.sparkline(np.array([50.0, 100.0]), np.array([0.0, 1.0]), 100, 8) == "    ▁▁▁█"


def test_status_and_runs_show_score_alarm_and_best_and_sort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 0.5), ("b", 0.1)):
        write(make_run(tmp_path / name) / "metrics.jsonl", [{"images": 6400, "step": 1, "score/kid": value}])
    said = "\n".join(run_status.lines(run_status.read(tmp_path / "b")))
    for words in ("kid 0.1 at 6,400 images", "images-000003200 (kid 0.04)", "ALARM   score/gap is 0.05"):
        assert words in said
    assert cli.main(["runs", str(tmp_path), "--sort", "score"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert [first.startswith(str(tmp_path / "b")), second.startswith(str(tmp_path / "a"))] == [True, True]
    assert head.split()[:5] == ["run", "state", "images", "rate", "score"]
    assert "score/gap 0.05" in first
    assert cli.main(["runs", str(tmp_path), "--json", "--sort", "score"]) == 0
    report = json.loads(capsys.readouterr().out)[0]
    assert (report["best"]["checkpoint"], report["alarms"][0]["signal"]) == ("images-000003200", "score/gap")


@pytest.mark.parametrize("column", ["name", "state", "images", "rate", "score", "best", "event", "size", "age"])
def test_runs_sort_by_every_column_also_where_files_are_missing(tmp_path: Path, column: str) -> None:
    for name in ("full", "empty"):
        make_run(tmp_path / name)
    for name in ("events.jsonl", "status.json", "metrics.jsonl"):
        (tmp_path / "empty" / name).unlink()
    reports = [table.describe(tmp_path / name) for name in ("full", "empty")]
    assert len(table.lines(table.sorted_by(reports, column))) == 3


def test_watch_prints_once_and_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    assert cli.main(["watch", str(run), "--once"]) == 0
    said = capsys.readouterr().out
    for words in ("finished", "6,400 of 6,400", "score/kid", "loss/G", "▁", "ALARM  score/gap", "finished at 6,400"):
        assert words in said
    monkeypatch.setattr(terminal.time, "sleep", lambda seconds: 1 / 0)  # it has ended: no wait
    assert cli.main(["watch", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["name"] == "score/kid"
    (run / "metrics.jsonl").unlink()
    assert cli.main(["watch", str(run), "--once"]) == 0
    assert "no figures yet" in capsys.readouterr().out
    assert cli.main(["watch", str(tmp_path / "samples")]) == 2


def test_watch_ends_when_its_run_was_moved_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    (run / "status.json").write_text('{"state": "running", "host": "elsewhere"}')
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 50, "it still waits"
        if len(looks) == 1:
            run.rename(tmp_path / "moved")

    monkeypatch.setattr(terminal.time, "sleep", sleep)
    assert cli.main(["watch", str(run), "--json"]) == 2
    assert f"error: {run} is gone" in capsys.readouterr().err


def test_a_run_of_another_version_is_finished_at_as_many_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "of_a_later_version: 1\n")
    read = reading.read(run)
    assert not read.defaults
    assert read.status["of"] == 6400
