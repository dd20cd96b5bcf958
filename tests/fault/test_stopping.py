"""A run that is asked to stop does so after the same step on all ranks, saved, and goes on to the same bits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests import making
from tests.launching import TRAIN, Started, digests, free_port, gan_dist, lines, start, train

IMAGES = 480


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def keys(shards: Path, directory: Path, **more: object) -> dict[str, object]:
    """30 steps with a metrics line for each, a checkpoint every 10."""
    wanted = {"training__images": IMAGES, "checkpoint__every": 160, "sample__every": 160, "training__strategy": "exact"}
    return making.tiny(shards, directory, **{**wanted, **more})


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, undisturbed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = train(keys(shards, directory))
    assert done.returncode == 0, done.stderr
    return directory


@contextlib.contextmanager
def running(started: Started) -> Iterator[Started]:
    try:
        yield started
    finally:
        started.kill()


def status(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / "status.json").read_text())
    return found


def figures(directory: Path) -> list[dict[str, object]]:
    """metrics.jsonl but for what depends on the machine."""
    return [
        {name: value for name, value in line.items() if not name.startswith(("speed/", "memory/"))}
        for line in lines(directory / "metrics.jsonl")
    ]


def check_goes_on(shards: Path, directory: Path, whole: Path, processes: int = 1) -> None:
    """The same command finishes the run, and nothing tells that it was ever stopped."""
    done = train(keys(shards, directory), processes)
    assert done.returncode == 0, done.stderr
    assert status(directory)["state"] == "finished"
    name = f"images-{IMAGES:09d}"
    assert digests(directory)[name] == digests(whole)[name]
    assert figures(directory) == figures(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_stops_saves_and_exits_75(shards: Path, whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    with running(start(keys(shards, tmp_path / "run"), fault="slow:seconds=0.1")) as run:
        run.rank(0)
        run.event("started")
        run.process.send_signal(number)
        assert run.end() == 75
    found = status(tmp_path / "run")
    assert (found["state"], found["reason"]) == ("stopped", number.name)
    assert 0 < int(str(found["images"])) < IMAGES
    assert found["checkpoint"] == f"images-{found['images']:09d}"
    check_goes_on(shards, tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_alone_stops_all_after_the_same_step(
    shards: Path, whole: Path, tmp_path: Path, rank: int
) -> None:
    with running(start(keys(shards, tmp_path / "run"), 2, fault="slow:seconds=0.1")) as run:
        run.event("started")
        os.kill(run.rank(rank), signal.SIGTERM)
        run.event("stopped")
        run.end()
    assert status(tmp_path / "run")["state"] == "stopped"
    events = [line["event"] for line in lines(tmp_path / "run/events.jsonl")]
    assert events.count("stopped") == 1
    assert "failed" not in events
    check_goes_on(shards, tmp_path / "run", whole, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("by_accelerate", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_launcher_reaches_the_run(
    shards: Path, tmp_path: Path, number: signal.Signals, by_accelerate: bool
) -> None:
    wanted = keys(shards, tmp_path / "run")
    with running(start(wanted, 2, fault="slow:seconds=0.1", by_accelerate=by_accelerate)) as run:
        run.event("started")
        run.rank(1)
        run.process.send_signal(number)
        assert run.end() != 0  # torchrun changes the code: scripts read status.json
    found = status(tmp_path / "run")
    assert (found["state"], found["reason"]) == ("stopped", number.name)
    assert found["checkpoint"] == f"images-{found['images']:09d}"


def test_the_stop_file_is_obeyed_once(shards: Path, whole: Path, tmp_path: Path) -> None:
    with running(start(keys(shards, tmp_path / "run"), fault="slow:seconds=0.1")) as run:
        run.event("started")
        (tmp_path / "run/STOP").touch()
        assert run.end() == 75
    assert status(tmp_path / "run")["reason"] == "the file STOP"
    assert not (tmp_path / "run/STOP").exists()
    check_goes_on(shards, tmp_path / "run", whole)


@pytest.mark.parametrize("kind", ["time", "duration", "slurm"])
def test_a_deadline_stops_the_run(shards: Path, tmp_path: Path, kind: str) -> None:
    end = datetime.now() + timedelta(seconds=9)
    more = {"time": {"run__deadline": end.isoformat(timespec="seconds")}, "duration": {"run__deadline": "0:09"}}
    environment = {"SLURM_JOB_END_TIME": str(int(end.timestamp()) + 100)} if kind == "slurm" else {}
    wanted = keys(shards, tmp_path / "run", control__margin_seconds=100, training__images=10**6, **more.get(kind, {}))
    with running(start(wanted, fault="slow:seconds=0.02", environment=environment)) as run:
        run.event("started")
        assert run.end(60) == 75
    # a Slurm job is started again after its own deadline, and not after a time that has passed for good
    assert status(tmp_path / "run")["reason"] == (
        "run.deadline, which has passed" if kind == "time" else "the deadline"
    )
    assert int(str(status(tmp_path / "run")["images"])) > 0


def test_a_deadline_that_is_no_time_is_wrong_input(shards: Path, tmp_path: Path) -> None:
    done = train(keys(shards, tmp_path / "run", run__deadline="soon"))
    assert done.returncode == 2
    assert "run.deadline = 'soon': write a time" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_signal_during_the_save_does_not_tear_it(shards: Path, whole: Path, tmp_path: Path) -> None:
    with running(start(keys(shards, tmp_path / "run"), fault="writing:seconds=2")) as run:
        run.event("started")
        run.process.send_signal(signal.SIGTERM)
        run.until(lambda: list((tmp_path / "run/checkpoints").glob(".*.part")), "the save begins")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            run.process.send_signal(number)
            time.sleep(0.1)
        assert run.end() == 75
    rows = json.loads(gan_dist("checkpoints", tmp_path / "run", "--verify", "--json").stdout)
    assert all(row["whole"] for row in rows)
    assert rows[-1]["images"] == status(tmp_path / "run")["images"]
    check_goes_on(shards, tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_to_the_same_bits_and_lines(shards: Path, whole: Path, tmp_path: Path) -> None:
    for number in range(3):
        with running(start(keys(shards, tmp_path / "run"), fault="slow:seconds=0.05")) as run:
            run.rank(0)
            time.sleep(0.3 + 0.37 * number)
            run.process.send_signal(signal.SIGKILL)
            run.end()
    check_goes_on(shards, tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_process_behind(shards: Path, tmp_path: Path) -> None:
    wanted = keys(shards, tmp_path / "run", training__images=10**6, data__workers=2)
    with running(start(wanted, fault="slow:seconds=0.05")) as run:
        run.event("started")
        run.until(lambda: (tmp_path / "run/metrics.jsonl").read_text(), "a step")
        family = psutil.Process(run.process.pid).children(recursive=True)
        assert len(family) >= 3  # two workers and their server
        run.process.kill()
        _, orphans = psutil.wait_procs(family, timeout=10)
        assert not orphans


def test_two_runs_in_one_directory_the_second_is_refused_and_a_dead_owner_holds_nothing(
    shards: Path, tmp_path: Path
) -> None:
    with running(start(keys(shards, tmp_path / "run", training__images=10**6), fault="slow:seconds=0.1")) as run:
        run.event("started")
        before = (tmp_path / "run/config.yaml").read_bytes()
        second = train(keys(shards, tmp_path / "run"))
        assert second.returncode == 2
        assert f"{tmp_path}/run is in use by process {run.process.pid} on " in second.stderr
        assert run.process.poll() is None
        assert (tmp_path / "run/config.yaml").read_bytes() == before
        run.process.send_signal(signal.SIGKILL)
        run.end()
    done = train(keys(shards, tmp_path / "run", training__images=10**6, run__deadline="0:03"))
    assert done.returncode == 75, done.stderr


def test_fresh_moves_the_old_run_aside_and_deletes_nothing(shards: Path, tmp_path: Path) -> None:
    short = {"training__images": 32, "checkpoint__every": 16}
    assert train(keys(shards, tmp_path / "run", **short)).returncode == 0
    old = {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*")}
    # without it: damage is never answered by a silent start from zero
    for manifest in (tmp_path / "run/checkpoints").glob("*/manifest.json"):
        manifest.write_text("{}")
    done = train(keys(shards, tmp_path / "run", **short))
    assert done.returncode == 2
    assert "--run.fresh true" in done.stderr
    done = train(keys(shards, tmp_path / "run", run__fresh=True, **short))
    assert done.returncode == 0, done.stderr
    (aside,) = tmp_path.glob("run.before-*")
    assert {path.relative_to(aside) for path in aside.rglob("*")} >= old - {Path(".lock")}
    assert status(tmp_path / "run")["images"] == 32
    # a job that is started again with the same words goes on
    os.environ["SLURM_RESTART_COUNT"] = "1"
    try:
        again = train(keys(shards, tmp_path / "run", run__fresh=True, **short))
    finally:
        del os.environ["SLURM_RESTART_COUNT"]
    assert "already finished" in again.stdout
    assert len(list(tmp_path.glob("run.before-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("by_accelerate", [False, True])
def test_ranks_whose_launcher_is_killed_save_and_stop(
    shards: Path, whole: Path, tmp_path: Path, by_accelerate: bool
) -> None:
    wanted = keys(shards, tmp_path / "run")
    with running(start(wanted, 2, fault="slow:seconds=0.2", by_accelerate=by_accelerate)) as run:
        run.event("started")
        ranks = [psutil.Process(run.rank(number)) for number in (0, 1)]
        run.process.kill()
        run.process.wait()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive
    found = status(tmp_path / "run")
    assert (found["state"], found["reason"]) == ("stopped", "the death of its launcher")
    assert 0 < int(str(found["images"])) < IMAGES
    assert found["checkpoint"] == f"images-{found['images']:09d}"
    assert "Traceback" not in run.output.read_text()
    check_goes_on(shards, tmp_path / "run", whole)  # the directory is free


@pytest.mark.slow
def test_ranks_that_have_not_joined_end_when_their_launcher_is_killed(shards: Path, tmp_path: Path) -> None:
    # the second machine never comes, so the ranks of the first one wait at the meeting point
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    launched = ["env", *(f"{name}={value}" for name, value in environment.items()), "TORCHELASTIC_RUN_ID=x"]
    words = [
        *launched,
        sys.executable,
        str(TRAIN),
        "tests/data/digits.yaml",
        *making.flags(keys(shards, tmp_path / "run")),
    ]
    parent = (
        "import subprocess, sys; child = subprocess.Popen(sys.argv[1:]); print(child.pid, flush=True); child.wait()"
    )
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", parent, *words], stdout=subprocess.PIPE, stderr=said, text=True, cwd="/"
        )
    assert process.stdout is not None
    rank = psutil.Process(int(process.stdout.readline()))
    try:
        # it waits in the store's own code by then; if not yet, that is as good
        deadline = time.monotonic() + 60
        while not any(c.laddr.port == int(environment["MASTER_PORT"]) for c in rank.net_connections()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
        process.wait()
        rank.wait(60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()
        process.kill()
    text = (tmp_path / "said.txt").read_text()
    assert "ended before the training began, because its launcher" in text
    assert "Traceback" not in text
