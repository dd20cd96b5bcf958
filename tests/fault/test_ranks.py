"""Ranks that hang, die, compute nonsense or differ: found, named, and nothing of it becomes a checkpoint."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import making
from tests.launching import Started, digests, lines, start, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def keys(shards: Path, directory: Path, **more: object) -> dict[str, object]:
    wanted = {"training__images": 320, "checkpoint__every": 64, "sample__every": 320, "training__strategy": "ddp"}
    return making.tiny(shards, directory, **{**wanted, **more})


@contextlib.contextmanager
def running(started: Started) -> Iterator[Started]:
    try:
        yield started
    finally:
        started.kill()


def events(directory: Path, kind: str) -> list[dict[str, object]]:
    return [line for line in lines(directory / "events.jsonl") if line["event"] == kind]


def status(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / "status.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_ends_the_job_with_its_name(shards: Path, tmp_path: Path, rank: int) -> None:
    wanted = keys(shards, tmp_path / "run", training__images=10**6, control__hang_seconds=6)
    with running(start(wanted, 2, fault="slow:seconds=0.05")) as run:
        run.event("saved")  # the first step is long past
        stopped, other = run.rank(rank), run.rank(1 - rank)
        os.kill(stopped, signal.SIGSTOP)
        run.end()  # gloo would wait half an hour for it
    told = [event for event in events(tmp_path / "run", "failed") if event["rank"] == 1 - rank]
    assert f"rank {rank} on " in str(told[0]["reason"])
    assert "no progress for 6 s" in str(told[0]["reason"])
    text = (tmp_path / f"run/logs/hang-rank-{1 - rank}.txt").read_text()
    for number, pid in ((rank, stopped), (1 - rank, other)):
        assert re.search(rf"rank {number} on \S+ \(process {pid}\): [\d,]+ images, ", text)
    for number in (0, 1):  # the stopped one's too
        assert "trainer.py" in text.split(f"stacks of rank {number}:")[1]
    assert f"rank {rank} on " in run.output.read_text()


@pytest.mark.slow
def test_a_rank_that_stands_still_in_python_shows_its_stack(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", control__hang_seconds=4)
    with running(start(wanted, 2, fault="sleep:rank=1:from=64")) as run:
        run.end(60)
    assert "counted_step" in (tmp_path / "run/logs/hang-rank-1.txt").read_text()
    assert "rank 1 on " in str(events(tmp_path / "run", "failed")[0]["reason"])


@pytest.mark.slow
def test_a_killed_rank_takes_the_other_down_and_is_named(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", training__images=10**6)
    with running(start(wanted, 2, fault="slow:seconds=0.05")) as run:
        run.event("started")
        victim = run.rank(1)
        os.kill(victim, signal.SIGKILL)
        run.end()  # the watch would wait ten minutes, gloo half an hour
    assert f"rank 1 was killed (process {victim} on " in run.output.read_text()
    assert status(tmp_path / "run")["state"] == "failed"


@pytest.mark.slow
def test_the_error_of_the_rank_that_failed_is_shown_and_not_the_echo(shards: Path, tmp_path: Path) -> None:
    with running(start(keys(shards, tmp_path / "run"), 2, fault="error:rank=1:from=96")) as run:
        run.end(120)
    text = run.output.read_text()
    own, _, _ = text.partition("ChildFailedError")
    assert "ValueError: a planted error" in own
    assert "ended because rank 1 failed: ValueError: a planted error" in own
    assert own.count("Traceback (most recent call last)") <= 2  # the rank's and the launcher's, no echo between
    assert own.index("ValueError: a planted error") < own.index("ended because rank 1")
    assert "planted error" in str(status(tmp_path / "run")["reason"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    ["ddp", "exact", *(pytest.param(f"zero{stage}", marks=pytest.mark.deepspeed) for stage in (2, 3))],
)
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(shards: Path, tmp_path: Path, strategy: str) -> None:
    faults = {"nan:rank=1:player=G": 96, "nan:rank=0:player=D": 144, "loss:rank=1": 192}  # from where on, for two steps
    planted = "+".join(f"{fault}:from={begin}:to={begin + 32}" for fault, begin in faults.items())
    wanted = keys(shards, tmp_path / "run", training__strategy=strategy)
    with running(start(wanted, 2, fault=planted)) as run:
        assert run.end(240) == 0, run.output.read_text()
    found = lines(tmp_path / "run/metrics.jsonl")
    for player, begins in (("G", (96, 192)), ("D", (144, 192))):
        skipped = [images + 16 for begin in begins for images in (begin, begin + 16)]  # a line is after its step
        assert [line[f"skipped/{player}"] for line in found] == [
            sum(images <= line["images"] for images in skipped) for line in found
        ]
        told = [event for event in events(tmp_path / "run", "skipped a step") if event["player"] == player]
        assert told[-1]["total"] == 4
    clean = [line for line in found if line["images"] in (144, 192) or line["images"] > 240]
    assert len(clean) == 7
    assert all(line["loss/G"] is not None for line in clean)  # weights, moments and averages stayed clean


@pytest.mark.slow
def test_too_many_bad_steps_go_back_once_then_stop_with_the_layer(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", control__max_bad_steps=3, training__images=10**6)
    with running(start(wanted, 2, fault="nan:rank=1:player=D:from=160")) as run:
        run.end(90)
    (back,) = events(tmp_path / "run", "went back")
    assert str(back["to"]).startswith("images-000000")
    reason = str(status(tmp_path / "run")["reason"])
    for words in (
        "updates of D in a row were skipped",
        f"again after going back to {back['to']}",
        "gradient of D.features.0.weight, in tell_apart (the turn of D), on rank 1",
    ):
        assert words in reason
    positions = [line["images"] for line in lines(tmp_path / "run/metrics.jsonl")]
    assert positions == sorted(set(positions))  # going back leaves no line twice


@pytest.mark.slow
def test_trouble_that_passes_is_survived_by_going_back(shards: Path, tmp_path: Path) -> None:
    # bad in the first pass only: the fault is over by the time it comes by again
    wanted = keys(shards, tmp_path / "run", control__max_bad_steps=2, training__images=640)
    with running(start(wanted, 1, fault="slow:seconds=0.02")) as run:
        assert run.end() == 0
    once = keys(shards, tmp_path / "again", control__max_bad_steps=2, training__images=640)
    with running(start(once, 1, fault="nan:rank=0:player=G:from=96:to=640:passes=1")) as run:
        assert run.end() == 0, run.output.read_text()
    assert len(events(tmp_path / "again", "went back")) == 1
    assert digests(tmp_path / "again")["images-000000640"] == digests(tmp_path / "run")["images-000000640"]


@pytest.mark.slow
def test_ranks_that_hold_different_weights_are_named_and_not_saved(shards: Path, tmp_path: Path) -> None:
    with running(start(keys(shards, tmp_path / "run"), 2, fault="weight:rank=1:from=80")) as run:
        assert run.end() == 1
    (event,) = events(tmp_path / "run", "desync")
    assert event["problem"] == "D/weights/logit.weight differs between rank 0 and rank 1"
    assert list(digests(tmp_path / "run")) == ["images-000000064"]
    assert status(tmp_path / "run")["state"] == "failed"
    # the same command goes on from before it happened
    assert train(keys(shards, tmp_path / "run"), 2).returncode == 0


@pytest.mark.slow
def test_the_comparison_may_come_more_often_than_the_saves(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", checkpoint__every=320, control__desync_every=32)
    with running(start(wanted, 2, fault="weight:rank=1:from=80")) as run:
        run.end(60)
    (event,) = events(tmp_path / "run", "desync")
    assert event["images"] == 96


@pytest.mark.slow
def test_saves_that_fail_stop_nothing_until_too_many_were_missed(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", checkpoint__max_missed=2)
    with running(start(wanted, 1, fault="full:after=1")) as run:
        assert run.end() == 1
    failed = events(tmp_path / "run", "save failed")
    assert [event["images"] for event in failed] == [128, 192]
    assert "No space left on device" in str(failed[0]["reason"])
    assert list(digests(tmp_path / "run")) == ["images-000000064"]
    assert "2 saves in a row failed" in str(status(tmp_path / "run")["reason"])
    assert train(keys(shards, tmp_path / "run")).returncode == 0
    assert "images-000000320" in digests(tmp_path / "run")


@pytest.mark.slow
def test_a_shard_that_vanishes_under_the_run_stops_it_with_its_name(shards: Path, tmp_path: Path) -> None:
    data = making.data_set(tmp_path / "data", 96)
    wanted = keys(data, tmp_path / "run", training__images=10**6, data__max_bad_fraction=0.1)
    with running(start(wanted, 2, fault="slow:seconds=0.05")) as run:
        run.event("started")
        run.rank(0)
        (data / "1.tar").write_bytes((data / "0.tar").read_bytes())  # rewritten
        run.end(60)
    bad = events(tmp_path / "run", "quarantined")
    assert {event["shard"] for event in bad} == {str(data / "1.tar")}
    assert {event["reason"] for event in bad} == {"the shard changed since the run began"}
    text = run.output.read_text()
    assert "more than 0.1 of the samples are unusable" in text
    assert f"{data}/1.tar" in str(status(tmp_path / "run")["reason"])
    assert events(tmp_path / "run", "saved")[-1]["images"] == status(tmp_path / "run")["images"]
