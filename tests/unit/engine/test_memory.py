"""What a process may still hold: the machine's memory, or less where a container or a batch job has a limit."""

import math
from pathlib import Path

import pytest
import torch

from gan_dist.engine import memory


def group(place: Path, version: int, limit: str, used: int, files: int) -> None:
    place.mkdir(parents=True)
    most, now, kept = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (place / most).write_text(f"{limit}\n")
    (place / now).write_text(f"{used}\n")
    (place / "memory.stat").write_text(f"anon 5\n{kept} {files}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_limit_above_a_process_counts_and_files_in_memory_do_not(tmp_path: Path, version: int) -> None:
    root = tmp_path / "groups" / ("memory" if version == 1 else "")
    group(root / "slurm/job_7", version, "1000", 700, 100)  # of the job: 400 are left
    group(root / "slurm/job_7/step_0", version, "max" if version == 2 else str(2**63 - 4096), 600, 50)
    own = tmp_path / "cgroup"
    own.write_text(f"3:cpu,cpuacct:/elsewhere\n{'4:memory' if version == 1 else '0:'}:/slurm/job_7/step_0\n")
    assert memory.left_by_limits(tmp_path / "groups", own) == 400
    own.write_text("0::/not/seen/from/here\n")
    assert memory.left_by_limits(tmp_path / "groups", own) == math.inf
    assert memory.left_by_limits(tmp_path / "groups", tmp_path / "no Linux") == math.inf


def test_a_limit_is_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(memory, "left_by_limits", lambda: 2**20)
    own = memory.psutil.Process().memory_info().rss
    assert memory.room(torch.device("cpu")) == pytest.approx(own + 2**18, rel=0.05)
