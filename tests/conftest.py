"""What all tests share: no network, the same threads everywhere, quick tests first, skips that CI can forbid, and no
process left behind."""

import contextlib
import importlib.util
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before anything imports torch or wandb, and inherited by every process that a test starts.
os.environ.pop("WANDB_API_KEY", None)
os.environ.update(
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    HF_HUB_OFFLINE="1",
    # sums are the same on any number of cores, and the ranks of a test do not crowd each other out
    OMP_NUM_THREADS="1",
)

MARK = "GAN_DIST_TEST_SESSION"
"""In the environment of every process that a session starts, its workers' (pytest-xdist) too."""
FIRST = MARK not in os.environ  # of the workers, and of a pytest that a test starts, it is the first that looks
SESSION = os.environ.setdefault(MARK, uuid.uuid4().hex)
PATIENCE = 30  # seconds in which what was ended has time to end

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("unit", "growth", "dist", "end_to_end", "fault", "slurm", "gpu")


def need(what: str, present: bool, reason: str) -> None:
    """Skip the test for `reason` unless `present`; fail it where GAN_DIST_REQUIRE (shared,slurm,...) names `what`."""
    if present:
        return
    if what in os.environ.get("GAN_DIST_REQUIRE", "").split(","):
        pytest.fail(f"{reason}, and GAN_DIST_REQUIRE names {what}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", name="need")
def need_fixture() -> Callable[[str, bool, str], None]:
    """need("slurm", shutil.which("slurmctld") is not None, "no Slurm here")."""
    return need


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine that knows no home of this user, and no variable that names a cache."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GAN_DIST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)


@pytest.fixture
def shared() -> Path:
    """The folder beside the repository with data sets and research, for tests on real images."""
    folder = REPOSITORY.parent / "shared"
    need("shared", folder.is_dir(), "no folder shared/ beside the repository")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        need("gpu", torch.cuda.is_available(), "no GPU here")
    if item.get_closest_marker("deepspeed"):
        there = importlib.util.find_spec("deepspeed") is not None and shutil.which("g++") is not None
        need("deepspeed", there, "DeepSpeed or g++, by which it builds a part of itself, is not here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Folder by folder, slow tests last; the sort keeps the order within a file. Exhaustive tests wait for their mark."""
    if "exhaustive" not in config.option.markexpr:
        left = [item for item in items if item.get_closest_marker("exhaustive")]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if item not in set(left)]
    items.sort(key=_turn)


def started() -> dict[int, tuple[int, str]]:
    """Process id -> parent and command of what this session started and still runs, but for what multiprocessing keeps for a
    process's whole life. Workers of pytest-xdist have ended when this is asked."""
    mark = f"{MARK}={SESSION}".encode()
    found: dict[int, tuple[int, str]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if mark not in (place / "environ").read_bytes().split(b"\0") and parent != os.getpid():
                continue
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if command:  # a zombie has none
                found[int(place.name)] = parent, command
    helpers = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    return {
        pid: (parent, command)
        for pid, (parent, command) in found.items()
        if pid != os.getpid() and not (parent == os.getpid() and any(helper in command for helper in helpers))
    }


LEFT: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session where a process is left behind."""
    if not FIRST or not Path("/proc/self/environ").exists():
        return
    end = time.monotonic() + PATIENCE
    while (left := started()) and time.monotonic() < end:
        time.sleep(0.1)
    LEFT.extend(f"process {pid}, child of {parent}: {command[:300]}" for pid, (parent, command) in left.items())
    if LEFT and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEFT:
        terminalreporter.section("processes left behind", red=True)
        for line in LEFT:
            terminalreporter.line(line)


def _turn(item: pytest.Item) -> tuple[bool, int]:
    parts = item.path.relative_to(REPOSITORY).parts if item.path.is_relative_to(REPOSITORY) else ()
    folder = next((FOLDERS.index(part) for part in parts if part in FOLDERS), len(FOLDERS))
    return item.get_closest_marker("slow") is not None, folder
