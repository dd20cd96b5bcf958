"""A watchdog waits for nothing that it watches: no disk, no board, no terminal."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_dist.control import watchdog
from gan_dist.control.peers import Progress
from gan_dist.control.watchdog import Watchdog

LONG = 60.0  # seconds; far more than anything here takes
HANG = 0.6


def nothing(*_: object, **__: object) -> None:
    """Look at nothing, and report nothing."""


class Kennel:
    """Makes watchdogs whose end does not end the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended = threading.Event()
        self.reports: list[str] = []
        self.stuck: list[Path] = []

    def report(self, reason: str, **_: object) -> None:
        self.reports.append(reason)

    def dog(self, world_size: int = 1, rank: int = 0, **settings: Any) -> Watchdog:
        wanted: dict[str, Any] = {
            "hang_seconds": HANG,
            "tick": nothing,
            "look": nothing,
            "report": self.report,
            "end": lambda code: self.ended.set(),
            **settings,
        }
        return Watchdog(self.folder, "launch", rank, world_size, **wanted)

    def never_answers(self, path: Path) -> None:
        """Make a pipe that nobody reads or writes: opening it never returns."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        self.stuck.append(path)

    def free(self) -> None:
        """Let go of threads that wait for pipes: first as a reader, then as a writer that says nothing."""
        for path in self.stuck:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.fixture
def kennel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kennel]:
    monkeypatch.setattr(watchdog, "_LAST_WORDS", 1.0)
    monkeypatch.setattr(watchdog, "_LEAVE", 0.5)
    monkeypatch.setattr(watchdog, "_AFTERMATH", 0.3)
    kennel = Kennel(tmp_path / "run")
    (kennel.folder / "logs/processes").mkdir(parents=True)
    yield kennel
    kennel.free()


@pytest.mark.parametrize(
    "name", ["processes/rank-0.part", "processes/stack-0.txt", "processes/rank-1.json", "hang-rank-0.txt"]
)
def test_a_file_that_never_answers_does_not_keep_a_hung_process_alive(kennel: Kennel, name: str) -> None:
    kennel.never_answers(kennel.folder / "logs" / name)
    with kennel.dog(world_size=2):
        assert kennel.ended.wait(LONG)


def test_a_full_disk_does_not_keep_a_hung_process_alive(kennel: Kennel) -> None:
    for name in ("processes/rank-0.part", "processes/stack-0.txt", "hang-rank-0.txt"):
        (kennel.folder / "logs" / name).symlink_to("/dev/full")
    with kennel.dog():
        assert kennel.ended.wait(LONG)
    assert "no progress for 0.6 s" in kennel.reports[0]


@pytest.mark.parametrize("what", ["look", "report"])
def test_what_never_returns_does_not_keep_a_hung_process_alive(kennel: Kennel, what: str) -> None:
    released = threading.Event()
    with kennel.dog(**{what: lambda *_, **__: released.wait(LONG)}):
        assert kennel.ended.wait(LONG / 2)
    released.set()


def test_a_terminal_that_takes_nothing_does_not_keep_a_hung_process_alive(
    kennel: Kennel, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Terminal:
        def write(self, text: str) -> None:
            released.wait(LONG)

        flush = nothing

    with kennel.dog(), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal())
        assert kennel.ended.wait(LONG / 2)
    released.set()


@pytest.mark.parametrize("target", ["/dev/full", "nowhere/file"])
@pytest.mark.parametrize("name", ["rank-0.part", "stack-0.txt"])
def test_a_disk_that_fails_does_not_make_a_finished_run_fail(kennel: Kennel, target: str, name: str) -> None:
    (kennel.folder / "logs/processes" / name).symlink_to(target)
    with kennel.dog(hang_seconds=LONG) as dog:
        dog.beat("step", 16)
    assert not kennel.ended.is_set()
    assert kennel.reports == []


def test_a_disk_that_does_not_let_the_folder_be_made_does_not_make_a_run_fail(kennel: Kennel) -> None:
    (kennel.folder / "logs/processes").rmdir()
    (kennel.folder / "logs").rmdir()
    (kennel.folder / "logs").touch()
    with kennel.dog(hang_seconds=LONG) as dog:
        dog.beat("step", 16)
    assert not kennel.ended.is_set()
    assert kennel.reports == []


@pytest.mark.parametrize("name", ["rank-0.part", "stack-0.txt", "rank-1.json"])
def test_a_disk_that_never_answers_does_not_hold_up_a_finished_run(kennel: Kennel, name: str) -> None:
    kennel.never_answers(kennel.folder / "logs/processes" / name)
    done = threading.Event()

    def run() -> None:
        with kennel.dog(hang_seconds=LONG, world_size=2) as dog:
            dog.beat("step", 16)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(LONG / 2)
    assert not kennel.ended.is_set()


def test_the_deadline_is_seen_while_the_disk_does_not_answer(kennel: Kennel) -> None:
    released, ticks = threading.Event(), threading.Event()
    with kennel.dog(hang_seconds=LONG, look=lambda: released.wait(LONG), tick=ticks.set):
        assert ticks.wait(LONG / 2)
    released.set()


def test_the_file_of_a_rank_tells_its_progress_and_its_end(kennel: Kennel) -> None:
    path = kennel.folder / "logs/processes/rank-0.json"
    with kennel.dog(hang_seconds=LONG) as dog:
        dog.beat("turn of D", 64)
        until(path.exists)
        assert json.loads(path.read_text())["state"] == "running"
    found = Progress(**json.loads(path.read_text()))
    assert (found.rank, found.pid, found.state, found.images) == (0, os.getpid(), "ended", 64)
    with pytest.raises(ValueError, match="own"), kennel.dog(hang_seconds=LONG):
        raise ValueError("own")
    found = Progress(**json.loads(path.read_text()))
    assert (found.state, found.error) == ("failed", "ValueError: own")


def test_a_hung_process_says_who_is_behind_and_shows_its_stack(kennel: Kennel) -> None:
    with kennel.dog() as dog:
        dog.beat("turn of D", 64)
        assert kennel.ended.wait(LONG)
    assert "rank 0 on " in kennel.reports[0]
    assert "is behind, in 'turn of D' at 64 images" in kennel.reports[0]
    assert "test_watchdog.py" in (kennel.folder / "logs/hang-rank-0.txt").read_text()


def test_a_process_asked_for_its_stack_writes_it_and_goes_on(kennel: Kennel) -> None:
    path = kennel.folder / "logs/processes/stack-0.txt"
    with kennel.dog(hang_seconds=LONG):
        until(lambda: (kennel.folder / "logs/processes/rank-0.json").exists())
        os.kill(os.getpid(), signal.SIGRTMIN + 5)
        until(lambda: "test_watchdog.py" in path.read_text())


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_file_of_a_rank_tells_soon_that_the_loop_has_begun(kennel: Kennel) -> None:
    path = kennel.folder / "logs/processes/rank-0.json"
    with kennel.dog(hang_seconds=LONG) as dog:
        dog._heartbeat = 10 * LONG
        until(path.exists)
        dog.beat("turn of D", 64)
        until(lambda: json.loads(path.read_text())["images"] == 64)


def test_signs_of_life_write_no_file_while_the_board_works(kennel: Kennel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts:
        gone = False
        puts = 0

        def put(self, name: str, text: str) -> None:
            if self.gone:
                raise RuntimeError("Connection reset by peer")
            self.puts += 1

        put_first = put

        def read(self, names: list[str]) -> list[str]:
            self.put("", "")
            return [""] * len(names)

    monkeypatch.setattr(watchdog, "_TICK", 0.005)
    monkeypatch.setattr(watchdog, "_PEERS", 0.005)
    monkeypatch.setattr("gan_dist.control.peers.HEARTBEAT", 0.005)
    written: list[int] = []
    monkeypatch.setattr("gan_dist.control.peers.Peers.write_file", lambda peers: written.append(peers._own.rank))
    board = Texts()
    with contextlib.ExitStack() as stack:
        dogs = [stack.enter_context(kennel.dog(4, rank, hang_seconds=LONG, board=board)) for rank in range(4)]
        for dog in dogs:
            dog._heartbeat = 0.005
            dog.beat("turn of D", 64)
        until(lambda: all(written.count(rank) >= 2 for rank in range(4)))  # that it begins, and that it has begun
        puts, before = board.puts, len(written)
        until(lambda: board.puts > puts + 200)
        assert len(written) <= before + 4
        board.gone = True
        until(lambda: all(written.count(rank) > 20 for rank in range(4)))
