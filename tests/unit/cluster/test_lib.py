"""What slurm/lib.sh makes of an allocation: processes a node, the tasks that srun starts, and when a job is told to end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launching import REPOSITORY


def shell(line: str, **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-c", f"lscpu() {{ echo 'Thread(s) per core:  {variables.pop('threads', '1')}'; }}; source slurm/lib.sh; {line}"],
        env={"PATH": "/usr/bin:/bin", **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, "1"),
        ({"SLURM_GPUS_ON_NODE": "8"}, "8"),
        ({"SLURM_GPUS_ON_NODE": "8", "GAN_DIST_PROCESSES": "2"}, "2"),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, "4"),  # the shell of salloc
        ({"SLURM_NTASKS_PER_NODE": "2"}, "2"),
        ({"SLURM_NTASKS_PER_NODE": "2(x4)"}, "2"),
    ],
)
def test_processes_a_node(variables: dict[str, str], processes: str) -> None:
    assert shell("processes_per_node", **variables) == processes


@pytest.mark.parametrize(
    ("cores", "threads", "processes", "last"),
    [
        ("32(x2)", "1", 8, "--cpus-per-task=4"),
        ("32(x2),16", "1", 8, "--cpus-per-task=2"),  # the smallest node decides
        ("24(x4)", "1", 8, "--cpus-per-task=3"),
        ("28", "2", 4, "--cpus-per-task=6"),  # Slurm gives whole cores: 7 would become 8
        ("1(x2)", "2", 1, "--cpus-per-task=1"),
        ("2(x2)", "1", 8, "--overcommit"),
    ],
)
def test_a_rank_gets_its_share_of_the_cores(cores: str, threads: str, processes: int, last: str) -> None:
    told = shell(
        f'tasks_of srun 2 {processes}; echo "${{tasks[*]}}" "${{SLURM_CPUS_PER_TASK:-unset}}"',
        SLURM_JOB_CPUS_PER_NODE=cores,
        SLURM_CPUS_PER_TASK="32",
        threads=threads,
    )
    assert told == f"--ntasks={2 * processes} --ntasks-per-node={processes} {last} unset"


def test_a_launcher_is_one_task_a_node() -> None:
    told = shell('tasks_of torchrun 4 8; echo "${tasks[*]}"', SLURM_JOB_CPUS_PER_NODE="32(x4)", SLURM_GPUS_ON_NODE="8")
    assert told == "--ntasks=4 --ntasks-per-node=1 --gpus-per-node=8"  # all of them, though it is one task


PROGRAMS = {
    # a step that is created slowly, and that scancel does not reach until it is there
    "srun": 'touch "$PLACE/called"; sleep 1; while [[ $1 != bash ]]; do shift; done; SLURM_PROCID=0 exec "$@"',
    "scancel": "exit 0",
    "scontrol": 'if [[ $1 == requeue ]]; then touch "$PLACE/requeued"; else echo node1; fi',
    "wrap": 'touch "$PLACE/trained"',
}


def test_a_warning_while_the_step_is_created_is_not_lost(tmp_path: Path) -> None:
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{text}\n")
        program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "PLACE": str(tmp_path),
        "GAN_DIST_ROOT": str(REPOSITORY),
        "GAN_DIST_VENV": str(tmp_path / "none"),
        "GAN_DIST_JOBS": str(tmp_path / "jobs"),
        "GAN_DIST_WRAP": "wrap",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NTASKS": "1",
        "SLURM_LOCALID": "0",
    }
    words = ["bash", str(REPOSITORY / "slurm/train.sbatch"), str(REPOSITORY / "configs/digits.yaml")]
    job = subprocess.Popen(
        words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "called").exists():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR2)
    said, _ = job.communicate(timeout=60)
    assert not (tmp_path / "trained").exists(), said
    assert (tmp_path / "requeued").exists(), said
