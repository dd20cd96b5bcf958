"""What ranks know of each other: at a cost that does not grow with them, and never a false accusation."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gan_dist.control import peers, watchdog
from gan_dist.control.peers import Peers, Progress
from tests.unit.control.test_watchdog import Kennel


class Texts:
    """A board in this process that counts what it is asked."""

    def __init__(self, world_size: int) -> None:
        self.texts = dict.fromkeys(peers.names(world_size), "")
        self.operations: Counter[str] = Counter()
        self.read_names = 0
        self.gone = False

    def _ask(self, operation: str) -> None:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        self.operations[operation] += 1

    def put(self, name: str, text: str) -> None:
        self._ask("put")
        self.texts[name] = text

    def put_first(self, name: str, text: str) -> None:
        self._ask("put_first")
        self.texts[name] = self.texts[name] or text

    def read(self, names: list[str]) -> list[str]:
        self._ask("read")
        self.read_names += len(names)
        return [self.texts[name] for name in names]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Progress:
    """Rank 1, on another machine."""
    own = Progress.of_this_process("launch", 1)
    return dataclasses.replace(own, host="node2", machine="another boot", pid=99_999_999, born="1")


def rank(folder: Path, number: int, world_size: int, board: Texts | None, **facts: object) -> Peers:
    own = dataclasses.replace(Progress.of_this_process("launch", number), **facts)  # type: ignore[arg-type]
    return Peers(folder, own, world_size, board)


def ended_child() -> tuple[int, str]:
    """The pid of a process that is gone, and when it was born."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    facts = child.pid, peers.born(child.pid)
    child.kill()
    child.wait()
    return facts


@pytest.mark.parametrize("world_size", [2, 64, 512])
def test_a_turn_costs_a_rank_two_texts_at_any_world_size_and_opens_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    board = Texts(world_size)
    ranks = [rank(tmp_path, number, world_size, board, machine=f"node{number // 8}") for number in range(world_size)]
    for _ in range(2):  # they meet
        for one in ranks:
            one._meeting_at = 0.0
            one.tell()
            assert one.lost() is None
    board.operations.clear()
    board.read_names = 0
    monkeypatch.setattr(Path, "read_text", lambda path: pytest.fail(f"{path} was opened"))
    for turn in range(3):
        for one in ranks:
            one.tell()
            assert one.lost() is None, turn
    assert board.operations == {"put": 3 * world_size, "read": 3 * world_size}
    assert board.read_names == 3 * world_size


@pytest.mark.parametrize("with_board", [True, False])
def test_a_killed_rank_of_this_machine_is_seen_by_all(tmp_path: Path, with_board: bool) -> None:
    pid, born = ended_child()
    board = Texts(3) if with_board else None
    victim = rank(tmp_path, 1, 3, board, pid=pid, born=born, host="node1")
    near = rank(tmp_path, 0, 3, board)
    far = rank(tmp_path, 2, 3, board, machine="another boot")
    for one in (victim, near, far):
        one.tell()
        one.write_file()
    lost = near.lost()
    assert lost is not None
    assert (lost.rank, lost.error) == (1, f"was killed (process {pid} on node1)")
    if with_board:  # which the far one cannot see by itself
        assert far.lost() == lost


def test_a_process_in_another_container_or_on_another_machine_is_not_taken_for_killed(
    tmp_path: Path, elsewhere: Progress
) -> None:
    board = Texts(2)
    own, other = rank(tmp_path, 0, 2, board), Peers(tmp_path, elsewhere, 2, board)
    elsewhere.host = own._own.host  # the names are the same, as in containers
    other.tell()
    assert own.lost() is None


def test_a_machine_is_a_boot_and_a_pid_namespace() -> None:
    text = peers.machine()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in text
    assert os.readlink("/proc/self/ns/pid") in text


def test_a_rank_that_ended_well_is_not_lost(tmp_path: Path) -> None:
    pid, born = ended_child()
    board = Texts(2)
    own, other = rank(tmp_path, 0, 2, board), rank(tmp_path, 1, 2, board, pid=pid, born=born)
    other.tell()
    other._own.state = "ended"
    own._meet()
    other.tell()
    assert own.lost() is None


def test_the_first_failure_is_kept_and_not_its_echoes(tmp_path: Path) -> None:
    board = Texts(3)
    ranks = [rank(tmp_path, number, 3, board) for number in range(3)]
    for number, error in ((1, "ValueError: own"), (2, "RuntimeError: ended because rank 1 failed")):
        ranks[number]._own.state, ranks[number]._own.error = "failed", error
        ranks[number].tell_failure()
    lost = ranks[0].lost()
    assert lost is not None
    assert (lost.rank, lost.error) == (1, "failed: ValueError: own")
    assert ranks[1].lost() is None  # itself


def test_files_take_over_where_the_board_is_gone(tmp_path: Path) -> None:
    board = Texts(2)
    own, other = rank(tmp_path, 0, 2, board), rank(tmp_path, 1, 2, board, machine="another boot")
    for one in (own, other):
        one.tell()
    assert own.lost() is None
    board.gone = True
    other._own.state, other._own.error = "failed", "ValueError: own"
    other.tell()
    other.tell_failure()
    other.write_file()
    lost = own.lost()
    assert lost is not None
    assert lost.error == "failed: ValueError: own"


def test_without_a_board_many_ranks_look_more_seldom(tmp_path: Path) -> None:
    assert rank(tmp_path, 0, 512, Texts(512)).patience == 1
    assert rank(tmp_path, 0, 512, None).patience == 32
    assert rank(tmp_path, 0, 2, None).patience == 1


def test_files_of_an_earlier_launch_are_nobody(tmp_path: Path) -> None:
    other = rank(tmp_path, 1, 2, None, launch="earlier")
    other._own.state = "failed"
    other.write_file()
    own = rank(tmp_path, 0, 2, None)
    assert own.others() == []
    assert own.lost() is None


class Chatty(Texts):
    """A board on which rank 1 gives a sign of life before each read."""

    def __init__(self, other: Progress) -> None:
        super().__init__(2)
        self.other = Peers(Path("none"), other, 2, self)

    def read(self, names: list[str]) -> list[str]:
        self.other.tell()
        return super().read(names)


def test_an_own_error_blames_no_rank_that_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "HEARTBEAT", 0.1)
    dog = Kennel(tmp_path).dog(world_size=2, board=Chatty(elsewhere))
    assert dog.out_of_reach(RuntimeError("NCCL error: unhandled cuda error")) == []
    assert "rank 0: RuntimeError: NCCL error: unhandled cuda error" in capsys.readouterr().err


@pytest.mark.parametrize("with_board", [True, False])
def test_a_rank_that_is_not_heard_of_for_several_heartbeats_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Progress, with_board: bool
) -> None:
    monkeypatch.setattr(peers, "HEARTBEAT", 0.1)
    board = Texts(2) if with_board else None
    other = Peers(tmp_path / "logs/processes", elsewhere, 2, board)
    other.tell()
    other.write_file()
    dog = Kennel(tmp_path).dog(world_size=2, board=board)
    dog._heartbeat = 0.1
    assert dog.out_of_reach(RuntimeError("Connection closed by peer")) == ["rank 1 on node2"]


def test_a_hung_process_blames_the_rank_behind_by_what_the_board_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Progress
) -> None:
    monkeypatch.setattr(watchdog, "_LAST_WORDS", 2.0)
    kennel, board = Kennel(tmp_path), Texts(2)
    Peers(tmp_path, elsewhere, 2, board).tell()
    with kennel.dog(world_size=2, board=board) as dog:
        for _ in range(3):
            dog.beat("turn of G", 32)
        assert kennel.ended.wait(60)
    assert "rank 1 on node2 is behind" in kennel.reports[0]
