"""Whatever happens to the process or the disk while a checkpoint is written, a whole one is there afterwards."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gan_dist import files
from gan_dist.checkpoint import Outcome, Store, Writer, format, store, writer as writer_module
from gan_dist.checkpoint.tensors import State
from tests.launching import REPOSITORY


def state(images: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((20_000,), float(images)), "b": torch.full((7,), float(images), dtype=torch.float64)}


def save(folder: Path, images: int, keep: int = 2, **facts: object) -> Outcome:
    writer = Writer(Store(folder, keep))
    writer.save(images, State.of(state(images)), facts)
    (outcome,) = writer.wait()
    return outcome


def check(folder: Path, images: int) -> None:
    """The newest whole checkpoint is of this position, and to the bit."""
    name, manifest, _ = Store(folder, 2).newest()
    assert name == store.name_of(images)
    found = format.read_tensors(folder / name, manifest)
    assert all(torch.equal(found[key], tensor) for key, tensor in state(images).items())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def test_kill_9_at_every_step_of_the_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "tests/fault/killed_writer.py"), str(tmp_path / "checkpoints")]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    assert deaths[-1]["survived"]
    operations = " ".join(death["operation"].split()[0] for death in deaths[:-1])
    for word in ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir"):  # it died in all of these
        assert word in operations
    assert len(deaths) > 20
    for death in deaths:
        assert death["equal"], death
        assert death["found"] in (death["before"], death["saving"]), death
        assert death["whole"] >= 2, death


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import torch\n"
        "from tests.fault import test_writer as t\n"
        "start = max([0, *(int(n[7:]) for n in t.Store(Path(sys.argv[1]), 2).names())])\n"
        "for images in itertools.count(start + 100, 100): t.save(Path(sys.argv[1]), images); print(images, flush=True)\n"
    )
    folder = tmp_path / "checkpoints"
    for number in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(REPOSITORY)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        assert first, "it died by itself"
        time.sleep(0.05 + 0.037 * number)
        child.send_signal(signal.SIGKILL)
        last = int([first, *child.stdout.read().splitlines()][-1])
        child.wait()
        _, manifest, _ = Store(folder, 2).newest()
        assert manifest["images"] >= last  # what was reported as saved is there
        check(folder, manifest["images"])


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_damage_to_any_file_is_found_and_the_older_checkpoint_taken(tmp_path: Path, how: str) -> None:
    for images in (100, 200):
        assert not save(tmp_path, images).problem
    newest = tmp_path / store.name_of(200)
    assert len(every_file(newest)) == 2
    for path in every_file(newest):
        content = path.read_bytes()
        # beginning, middle and end: header and tensors of a part
        for place in (9, len(content) // 2, len(content) - 2):
            if how == "flip":
                path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            elif how == "cut":
                path.write_bytes(content[:place])
            else:
                path.unlink()
            name, _, problems = Store(tmp_path, 2).newest()
            assert name == store.name_of(100)
            assert path.name in problems[0]
            path.write_bytes(content)
    check(tmp_path, 200)


def test_a_flipped_bit_is_reported_with_file_tensor_and_both_hashes(tmp_path: Path) -> None:
    save(tmp_path, 100)
    path = tmp_path / store.name_of(100) / "part-00000-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the last tensor
    path.write_bytes(content)
    _, _, problems = Store(tmp_path, 2).newest()
    recorded = json.loads((path.parent / "manifest.json").read_text())["files"][path.name]["sha256"]
    for words in (str(path), files.sha256_file(path), recorded, "damaged is b (SHA-256 up to its end"):
        assert words in problems[0]


def small_disk(folder: Path, size: str) -> Callable[[], None]:
    """Mount a tmpfs there; what to call to unmount it. Skips where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    return lambda: subprocess.run(["umount", "-l", str(folder)], check=True) and None


def test_a_full_disk_is_said_before_the_save_and_takes_nothing_away(tmp_path: Path) -> None:
    unmount = small_disk(tmp_path / "disk", "250k")  # room for two, not for three
    try:
        folder = tmp_path / "disk/checkpoints"
        assert not save(folder, 100).problem
        assert "no room for the next" in save(folder, 200).warning
        outcome = save(folder, 300)
        assert "free in" in outcome.problem
        assert "a checkpoint needs" in outcome.problem
        assert Store(folder, 2).names() == [store.name_of(100), store.name_of(200)]
        check(folder, 200)
        subprocess.run(["mount", "-o", "remount,size=500k", str(tmp_path / "disk")], check=True)
        assert not save(folder, 400).problem
        check(folder, 400)
    finally:
        unmount()


def test_a_disk_that_fills_up_in_the_middle_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unmount = small_disk(tmp_path / "disk", "260k")
    try:
        folder = tmp_path / "disk/checkpoints"
        save(folder, 100)
        monkeypatch.setattr(Store, "room", lambda self: 1 << 40)  # the others fill it after we looked
        with contextlib.suppress(OSError):
            (tmp_path / "disk/other").write_bytes(bytes(150_000))
        outcome = save(folder, 200)
        assert "No space left on device" in outcome.problem
        assert [path.name for path in folder.iterdir()] == [store.name_of(100)]  # and nothing half-written stays
        check(folder, 100)
    finally:
        unmount()


def test_a_file_size_limit_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """The same without a mount: the kernel refuses to let a file grow."""
    code = (
        "import sys, resource, signal; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from tests.fault import test_writer as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "t.save(Path(sys.argv[1]), 100)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "print(t.save(Path(sys.argv[1]), 200).problem)\n"
    )
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(REPOSITORY)], capture_output=True, text=True)
    assert "File too large" in done.stdout, done.stderr
    assert [path.name for path in folder.iterdir()] == [store.name_of(100)]
    check(folder, 100)


def failing(name: str, number: int, error: int) -> Callable[..., object]:
    """`os.<name>` that fails from its `number`-th call on."""
    original, calls = getattr(os, name), [0]

    def operation(*arguments: object, **keywords: object) -> object:
        calls[0] += 1
        if calls[0] >= number:
            raise OSError(error, os.strerror(error), str(arguments[0]))
        return original(*arguments, **keywords)

    return operation


@pytest.mark.parametrize(
    ("name", "number", "error"),
    [("rename", 1, 5), ("write", 2, 28), ("fsync", 1, 5), ("fsync", 3, 5), ("mkdir", 1, 30), ("open", 1, 30)],
)
def test_an_operation_that_fails_is_reported_and_the_next_save_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, error: int
) -> None:
    save(tmp_path, 100)
    save(tmp_path, 200)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(name, number, error))
        outcome = save(tmp_path, 300)
    assert os.strerror(error) in outcome.problem
    assert len(Store(tmp_path, 2).names()) >= 2
    check(tmp_path, Store(tmp_path, 2).newest()[1]["images"])
    assert not save(tmp_path, 400).problem
    check(tmp_path, 400)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_does_not_read_back_is_not_counted_and_lets_no_old_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for images in (100, 200):
        save(tmp_path, images)
    write_new = files.write_new

    def flipping(path: Path, buffers: list[memoryview]) -> None:
        write_new(path, buffers)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_new", flipping)
        assert "does not read back" in save(tmp_path, 300).problem
    assert {store.name_of(100), store.name_of(200)} <= set(Store(tmp_path, 2).names())
    check(tmp_path, 200)


def test_a_deletion_that_fails_is_said_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (100, 200):
        save(tmp_path, images)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", failing_tree)
        outcome = save(tmp_path, 300)
    assert not outcome.problem
    assert "could not be deleted" in outcome.warning
    assert store.names(tmp_path) == [store.name_of(200), store.name_of(300)]  # its name went first
    assert len(list(tmp_path.glob(f".{store.name_of(100)}.*.old"))) == 1
    save(tmp_path, 400)
    assert sorted(path.name for path in tmp_path.iterdir()) == [store.name_of(300), store.name_of(400)]


def failing_tree(path: Path, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        raise OSError(5, "Input/output error", str(path))


def test_milestones_stay(tmp_path: Path) -> None:
    for images in (100, 200, 300, 400, 500):
        save(tmp_path, images, milestone=images in (200, 300))
    assert store.names(tmp_path) == [store.name_of(images) for images in (200, 300, 400, 500)]


def test_the_next_save_waits_for_the_one_in_flight_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_new, may_write, in_second = files.write_new, threading.Event(), threading.Event()
    clock = [0.0]  # each file takes a second, and nothing else takes any time

    def slow(*arguments: object) -> object:
        assert may_write.wait(60)
        clock[0] += 1
        return write_new(*arguments)

    def perf_counter() -> float:
        """Let the first save go on once the second one has looked at the clock, which is before it waits."""
        seconds = clock[0]
        if in_second.is_set() and threading.current_thread() is threading.main_thread():
            may_write.set()
        return seconds

    monkeypatch.setattr(files, "write_new", slow)
    monkeypatch.setattr(writer_module, "time", types.SimpleNamespace(perf_counter=perf_counter))
    writer = Writer(Store(tmp_path, 2))
    writer.save(100, State.of(state(100)), {})  # the loop goes on although no file can be written
    tensors = state(200)
    in_second.set()
    writer.save(200, State.of(tensors), {})
    tensors["a"].zero_()  # the loop trains on: what is saved is the state at the call
    first, second = writer.wait()
    assert (first.images, second.images) == (100, 200)
    assert first.stalled == 0
    assert second.stalled == clock[0] / 2 > 0  # the files of the first save, half of all
    check(tmp_path, 200)


def test_an_error_of_another_process_is_raised_in_the_loop(tmp_path: Path) -> None:
    def gone(value: object) -> list[object]:
        raise RuntimeError("Connection closed by peer")

    writer = Writer(Store(tmp_path, 2), gather=gone)
    writer.save(100, State.of(state(100)), {})
    with pytest.raises(RuntimeError, match="Connection closed"):
        writer.wait()
