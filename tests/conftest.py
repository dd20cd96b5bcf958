"""What all tests share: no network, the same threads everywhere, quick tests first, and skips that CI can forbid."""

import importlib.util
import os
import shutil
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


def _turn(item: pytest.Item) -> tuple[bool, int]:
    parts = item.path.relative_to(REPOSITORY).parts if item.path.is_relative_to(REPOSITORY) else ()
    folder = next((FOLDERS.index(part) for part in parts if part in FOLDERS), len(FOLDERS))
    return item.get_closest_marker("slow") is not None, folder
