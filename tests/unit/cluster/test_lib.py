"""What slurm/lib.sh makes of an allocation: processes a node, and the tasks that srun starts."""

import subprocess

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
