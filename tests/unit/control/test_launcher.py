"""A rank notices that its launcher is gone. A process that no launcher started goes on without its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gan_dist.control import launcher
from gan_dist.errors import EXIT_STOPPED

LONG = 60.0
WAITING = """
import os, threading, time
from gan_dist.control import launcher
watched = launcher.watch()
{then}
print(os.getpid(), watched._pid, flush=True)
for thread in threading.enumerate():
    if thread is not threading.current_thread():  # the one that watches
        thread.join()
print("goes on", flush=True)
time.sleep(1000)
"""
PARENT = """
import os, subprocess, sys
environment = {**os.environ, **eval(sys.argv[2])}
subprocess.Popen([*eval(sys.argv[3]), sys.executable, "-c", sys.argv[1]], env=environment).wait()
"""
ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}


class Family:
    """A process, and one that it started; both end with the test."""

    def __init__(self, environment: Mapping[str, str], then: str = "", wrapper: tuple[str, ...] = ()) -> None:
        script = WAITING.format(then=then)
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, script, repr(dict(environment)), repr(wrapper)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.parent.stdout is not None
        self.output = self.parent.stdout
        self.child, self.watched = map(int, self.output.readline().split())
        self.pidfd = os.pidfd_open(self.child)

    def kill_parent(self) -> None:
        self.parent.kill()
        self.parent.wait()

    def close(self) -> None:
        self.kill_parent()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)


@pytest.fixture
def families() -> Iterator[list[Family]]:
    made: list[Family] = []
    yield made
    for family in made:
        family.close()


def test_a_rank_that_has_not_joined_ends_with_one_line_when_its_launcher_is_killed(families: list[Family]) -> None:
    families.append(family := Family(ELASTIC))
    family.kill_parent()
    lines = family.output.read().splitlines()  # until the child is gone, too
    assert lines == [
        "rank 1: ended before the training began, because its launcher (process "
        f"{family.parent.pid}) is gone; start the same command again"
    ]


def test_a_rank_that_trains_is_told_and_goes_on(families: list[Family]) -> None:
    families.append(family := Family(ELASTIC, then="watched.then(lambda: print('told', flush=True))"))
    family.kill_parent()
    assert family.output.readline() == "told\n"
    assert family.output.readline() == "goes on\n"
    assert Path(f"/proc/{family.child}").exists()


def test_the_launcher_is_found_behind_a_wrapper(families: list[Family]) -> None:
    families.append(family := Family(ELASTIC, wrapper=("sh", "-c", '"$@"; exit', "sh")))
    assert family.watched == family.parent.pid
    assert int(Path(f"/proc/{family.child}/stat").read_text().split()[3]) != family.parent.pid


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "2", "RANK": "1"}])
def test_a_process_that_no_launcher_started_outlives_its_parent(
    families: list[Family], environment: dict[str, str]
) -> None:
    families.append(family := Family(environment))
    assert family.watched == 0
    assert family.output.readline() == "goes on\n"  # no thread watches
    family.kill_parent()
    assert Path(f"/proc/{family.child}").exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["/usr/bin/python3", "/usr/bin/torchrun", "x"], True),
        (["python", "-u", "-m", "deepspeed.launcher.launch"], True),
        (["mpirun", "-n", "2"], True),
        (["bash", "-c", "cd torchrun; python train.py"], False),
        (["slurmstepd: [7.0]"], False),
        (["tmux"], False),
    ],
)
def test_other_launchers_are_known_by_their_command_line(
    monkeypatch: pytest.MonkeyPatch, words: list[str], found: bool
) -> None:
    monkeypatch.setattr(launcher, "_read", lambda pid, name: [word.encode() for word in words])
    assert launcher.find({"WORLD_SIZE": "2"}) == (os.getppid() if found else 0)
    assert launcher.find({"WORLD_SIZE": "1"}) == 0


def test_a_launcher_that_died_before_it_was_watched_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: code == EXIT_STOPPED and ended.set())
    launcher.LauncherWatch(child.pid)
    assert ended.wait(LONG)


def test_watching_loads_neither_torch_nor_the_config() -> None:
    code = "import sys; from gan_dist.control import launcher; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
