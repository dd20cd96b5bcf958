"""`gan-dist track --to`: TensorBoard and trackio get a run's own records, each of them once, whatever happens meanwhile."""

import contextlib
import importlib
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_dist import cli
from gan_dist.errors import InputError
from gan_dist.tracking import media, news, to_tensorboard, to_trackio
from tests.unit.report.runs import make_run, write

LINES = [{"images": 100 * number, "step": number, "loss/G": 0.1 * number, "skipped/G": 0.0} for number in (1, 2, 3)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = make_run(tmp_path / "run", lines=1, grids=2)
    write(directory / "metrics.jsonl", LINES)
    folder = directory / "media"
    media.write(folder, 100, "weights/G", media.Histogram([1, 3], [0.0, 1.0, 2.0]))
    media.write(folder, 100, "best", media.Table(["a"], [["b"]]))
    return directory


def test_what_is_new_is_told_once_and_scores_that_come_later_too(run: Path) -> None:
    first = news.read(run, {})
    assert [line["images"] for line in first.lines] == [100, 200, 300]
    assert not first.anew
    assert {name for _, name, _ in first.pictures} == {"samples/grid", "weights/G", "best"}
    assert not news.read(run, first.state)
    write(run / "metrics.jsonl", [*LINES[:2], {**LINES[2], "score/kid": 0.5}, {"images": 400, "loss/G": 0.4}])
    media.write(run / "media", 400, "best", media.Table(["a"], [["c"]]))
    second = news.read(run, json.loads(json.dumps(first.state)))
    assert second.lines == [{"images": 300, "score/kid": 0.5}, {"images": 400, "loss/G": 0.4}]
    assert [(images, name) for images, name, _ in second.pictures] == [(400, "best")]
    assert (second.events, second.anew) == ([], False)
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2026-01-02T00:00:00+00:00", "images": 400, "event": "saved"}) + "\n")
    assert news.read(run, second.state).events[-1][2] == "saved"


@pytest.mark.parametrize(
    "lines",
    [LINES[:2], [*LINES[:1], {"images": 150, "loss/G": 9.0}, LINES[2]], [*LINES[:2], {**LINES[2], "loss/G": 9.0}]],
)
def test_a_run_that_went_back_is_written_anew(run: Path, lines: list[dict[str, object]]) -> None:
    state = news.read(run, {}).state
    write(run / "metrics.jsonl", lines)
    found = news.read(run, state)
    assert found.anew
    assert len(found.lines) == len(lines)
    assert len(found.pictures) == 4


@pytest.mark.parametrize(
    "state", [{"lines": "x"}, {"lines": 2}, {"lines": 10**9, "named": []}, {"lines": 1, "named": [], "digest": 3}]
)
def test_a_state_that_fits_nothing_means_that_nothing_is_known(run: Path, state: dict[str, Any]) -> None:
    assert len(news.read(run, state).lines) == 3


def test_the_clock_runs_evenly_between_events(run: Path) -> None:
    write(
        run / "events.jsonl",
        [
            {"time": "2026-01-01T00:00:00+00:00", "images": 0, "event": "started"},
            {"time": "no time", "images": 5, "event": "edited"},
            {"time": "2026-01-01T00:01:40+00:00", "images": 100, "event": "saved"},
        ],
    )
    when = news.clock(run)
    assert when(50) - when(0) == pytest.approx(50)
    assert when(900) == when(100)
    (run / "events.jsonl").unlink()
    assert news.clock(run)(7) == (run / "metrics.jsonl").stat().st_mtime


def board(run: Path) -> Any:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def test_tensorboard_has_every_figure_once_whatever_was_killed_or_went_back(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["track", str(run), "--to", "tensorboard"]) == 0
    assert f"3 new lines and 4 new pictures of {run}; look at it with: tensorboard" in capsys.readouterr().out
    shown = board(run)
    assert [(event.step, round(event.value, 6)) for event in shown.Scalars("loss/G")] == [
        (100, 0.1),
        (200, 0.2),
        (300, 0.3),
    ]
    assert [event.step for event in shown.Images("samples/grid")] == [0, 100]
    tags = shown.Tags()
    assert tags["scalars"] == ["loss/G"]  # nothing was skipped
    assert set(tags["tensors"]) == {"config/text_summary", "events/text_summary", "best/text_summary"}
    assert tags["histograms"] == ["weights/G"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"images": 400, "loss/G": 0.4}\n')
    killed = run / "tensorboard/events.out.tfevents.1.killed"
    killed.write_bytes(next((run / "tensorboard").glob("events*")).read_bytes())
    assert cli.main(["track", str(run), "--to", "tensorboard"]) == 0
    assert not killed.exists()
    assert [event.step for event in board(run).Scalars("loss/G")] == [100, 200, 300, 400]
    assert cli.main(["track", str(run), "--to", "tensorboard"]) == 0
    assert "nothing new" in capsys.readouterr().out
    write(run / "metrics.jsonl", [LINES[0], {"images": 200, "loss/G": 7.0}])
    to_tensorboard.write(run)
    assert [(event.step, round(event.value, 6)) for event in board(run).Scalars("loss/G")] == [(100, 0.1), (200, 7.0)]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_next_call_makes_up_for_it(run: Path) -> None:
    with files_of_at_most(2000), pytest.raises(InputError, match="tensorboard cannot be written: File too large"):
        to_tensorboard.write(run)
    assert to_tensorboard.write(run)[:2] == (3, 4)
    assert len(board(run).Scalars("loss/G")) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "tensorboard", "--id", "x"], "--id has no effect with --to tensorboard"),
        (["--to", "trackio", "--wandb", "offline"], "--wandb has no effect with --to trackio"),
        (["--to", "tensorboard"], "needs the package tensorboard: pip install 'gan_dist[tensorboard]'"),
        (["--to", "trackio"], "needs the package trackio: pip install trackio"),
    ],
)
def test_wrong_words_and_missing_packages_are_one_line(
    run: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tensorboard", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["track", str(run), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_trackio_has_every_figure_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    if not str(storage.get_project_db_path("gan_dist")).startswith(str(tmp_path)):
        pytest.skip("trackio was imported before, with another folder")

    def steps() -> list[list[int]]:
        runs = trackio.Api().runs("gan_dist")
        logs = [storage.get_logs("gan_dist", each.name, run_id=each.id) for each in runs]
        return [[line["step"] for line in lines if "loss/G" in line] for lines in logs]

    assert to_trackio.write(run)[:2] == (3, 4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"images": 400, "loss/G": 0.4}\n')
    assert to_trackio.write(run)[:2] == (1, 0)
    assert to_trackio.write(run)[:2] == (0, 0)
    assert steps() == [[100, 200, 300, 400]]
    write(run / "metrics.jsonl", LINES[:2])
    to_trackio.write(run)
    assert steps() == [[100, 200]]
    (run / "trackio.json").unlink()  # as of another run with this name
    to_trackio.write(run)
    assert steps() == [[100, 200], [100, 200]]
    assert len({each.name for each in trackio.Api().runs("gan_dist")}) == 2
