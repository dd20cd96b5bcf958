"""A file is whole or absent, whatever happens while it is written."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gan_dist import files
from gan_dist.errors import InputError


def test_written_files_hold_what_was_given_and_nothing_stays_beside_them(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", "äöü\n")
    files.write_atomic(tmp_path / "b", b"\x00\xff")
    files.write_json(tmp_path / "c", {"images": 10**15, "reason": "ä"})
    assert (tmp_path / "a").read_bytes() == "äöü\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert json.loads((tmp_path / "c").read_text()) == {"images": 10**15, "reason": "ä"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(files.write_atomic, target, str(number) * 1000) for number in range(200)]
        assert [job.exception() for job in done] == [None] * 200
    assert len(set(target.read_text())) <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_no_two_temporary_names_are_the_same(tmp_path: Path) -> None:
    names = {files.temporary(tmp_path / "a.json").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".a.json.") and name.endswith(".part") for name in names)


def test_two_folders_exchange_their_names_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    assert files.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/was-b").exists()
    assert (tmp_path / "b/was-a").exists()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    files.write_atomic(target, "old")
    with pytest.raises(TypeError):
        files.write_json(target, {"value": object()})
    script = (
        "import resource, sys; from pathlib import Path; from gan_dist import files\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # the disk is full after 1000 bytes
        "files.write_atomic(Path(sys.argv[1]), b'x' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, target], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.slow
def test_a_reader_never_sees_a_part_even_of_a_killed_writer(tmp_path: Path) -> None:
    target = tmp_path / "file"
    size = 3_000_000
    files.write_atomic(target, b"0" * size)
    script = (
        "import itertools, sys; from pathlib import Path; from gan_dist import files\n"
        f"for number in itertools.count(): files.write_atomic(Path(sys.argv[1]), str(number % 10).encode() * {size})\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script, target])
        try:
            started, reads = target.stat().st_ino, 0
            end = time.monotonic() + 20
            while reads < 30 and time.monotonic() < end:
                content = target.read_bytes()
                assert len(content) == size
                assert len(set(content)) == 1
                reads += target.stat().st_ino != started
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert reads, "the writer wrote nothing"
        assert len(target.read_bytes()) == size


def test_the_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        happened.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        real_fsync(descriptor)

    def replace(source: str, target: str) -> None:
        happened.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_atomic(tmp_path / "a", "x")
    assert happened == ["sync file", "rename", "sync folder"]


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_make_directory_makes_parents_and_proves_that_files_can_be_written(tmp_path: Path) -> None:
    assert files.make_directory(tmp_path / "a/b", "the folder") == tmp_path / "a/b"
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/below", Path("/proc/1/nothing")):
        with pytest.raises(InputError, match=f"the run directory {path} cannot be written .*; choose another one"):
            files.make_directory(path, "the run directory")
