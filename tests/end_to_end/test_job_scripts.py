"""What slurm/lib.sh makes of an allocation, and of signals at any moment, with pretended commands of Slurm."""

import contextlib
import datetime
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launching import REPOSITORY


def shell(line: str, **variables: str) -> str:
    functions = f"lscpu() {{ echo 'Thread(s) per core:  {variables.pop('threads', '1')}'; }}"
    functions += "; srun() { echo 1; printf 'GPUs: %s\\n' $GPUS_OF_NODES; }"  # the 1: a prolog of the site prints
    done = subprocess.run(
        ["bash", "-c", f"set -u; root=/nowhere; {functions}; source slurm/lib.sh; {line}"],
        env={"PATH": "/usr/bin:/bin", "ENVIRONMENT": "BATCH", **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "nodes", "gpus"),
    [
        ({}, 1, 0),
        ({}, 16, 0),
        ({"SLURM_GPUS_ON_NODE": "8"}, 1, 8),
        ({"SLURM_GPUS_ON_NODE": "8", "GPUS_OF_NODES": "8 8"}, 2, 8),
        ({"SLURM_GPUS_ON_NODE": "8", "GPUS_OF_NODES": "8 4 8"}, 3, 4),  # --gpus 20: the least decides
        ({"ENVIRONMENT": "", "GPUS_OF_NODES": "4"}, 1, 4),  # the shell of salloc knows nothing
        ({"SLURM_GPUS_ON_NODE": "8", "GPUS_OF_NODES": "a b"}, 2, 8),  # no node answered: as the first
    ],
)
def test_gpus_of_a_node(variables: dict[str, str], nodes: int, gpus: int) -> None:
    assert shell(f"gpus_per_node {nodes}", **variables) == str(gpus)


@pytest.mark.parametrize(
    ("variables", "gpus", "processes"),
    [
        ({}, 0, 1),
        ({}, 8, 8),
        ({"SLURM_TASKS_PER_NODE": "1(x2)"}, 8, 8),
        ({"GAN_DIST_PROCESSES": "2"}, 8, 2),
        ({"SLURM_TASKS_PER_NODE": "8(x2)"}, 0, 8),  # --ntasks-per-node 8, or --nodes 2 --ntasks 16
        ({"SLURM_TASKS_PER_NODE": "2(x4),1"}, 0, 1),
    ],
)
def test_processes_of_a_node(variables: dict[str, str], gpus: int, processes: int) -> None:
    assert shell(f"processes_per_node {gpus}", **variables) == str(processes)


@pytest.mark.parametrize(
    ("cores", "threads", "processes", "gpus", "last"),
    [
        ("32(x2)", "1", 8, 8, "--cpus-per-task=4 --gpus-per-node=8"),
        ("32(x2),16", "1", 8, 0, "--cpus-per-task=2"),  # the smallest node decides
        ("24(x4)", "1", 8, 0, "--cpus-per-task=3"),
        ("28", "2", 4, 0, "--cpus-per-task=6"),  # Slurm gives whole cores: 7 would become 8
        ("1(x2)", "2", 1, 0, "--cpus-per-task=1"),
        ("2(x2)", "1", 8, 8, "--overcommit --gpus-per-node=8"),
    ],
)
def test_a_rank_gets_its_share_of_the_cores(cores: str, threads: str, processes: int, gpus: int, last: str) -> None:
    told = shell(
        f'tasks_of srun 2 {processes} {gpus}; echo "${{tasks[*]}}"', SLURM_JOB_CPUS_PER_NODE=cores, threads=threads
    )
    assert told == f"--export=ALL --ntasks={2 * processes} --ntasks-per-node={processes} {last}"


def test_a_launcher_is_one_task_a_node_with_all_of_its_cores() -> None:
    told = shell('tasks_of torchrun 4 8 8; echo "${tasks[*]}"', SLURM_JOB_CPUS_PER_NODE="32(x4)")
    assert told == "--export=ALL --ntasks=4 --ntasks-per-node=1 --cpus-per-task=32 --gpus-per-node=8"


def test_what_the_job_said_of_its_tasks_does_not_reach_the_steps() -> None:
    names = ("SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_EXPORT_ENV", "SLURM_NTASKS")
    told = shell("forget_tasks; env | grep -c ^SLURM_ || true", **dict.fromkeys(names, "1"))
    assert told == "0"


def test_a_site_s_setup_may_use_variables_that_are_not_set() -> None:
    assert shell('activate; echo "$own"', GAN_DIST_SETUP="own=$nothing; export own=yes", GAN_DIST_VENV="/no") == "yes"


def test_a_port_that_is_taken_is_left() -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        job = str(taken - 20000) if taken >= 20000 else str(taken)
        found = int(shell(f"SLURM_JOB_ID={job}; free_port 127.0.0.1"))
    assert found != taken


def test_an_array_s_task_is_never_called_by_the_number_of_the_array() -> None:
    array = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    assert shell('echo "$job $code"', GAN_DIST_JOBS="/jobs", **array) == "5_3 /jobs/5_3/code"


COMMANDS = {
    "srun": 'echo srun >>"$PLACE/calls"; while [[ $1 != bash ]]; do shift; done; SLURM_PROCID=0 SLURM_NTASKS=1 exec "$@"',
    "scancel": 'echo "scancel $*" >>"$PLACE/calls"; [[ $* != *.0 ]] || kill -KILL "$(<"$PLACE/pid")"',
    "squeue": "printf '%s\\n' 7.batch 7.extern 7.0",
    "scontrol": 'if [[ $1 == requeue ]]; then echo "requeue $2" >>"$PLACE/calls"; elif [[ $2 == show ]]; then '
    'echo "JobId=7 Restarts=0 EndTime=${ENDS:-Unknown} PreemptTime=None"; else echo node1; fi',
    "train": 'echo $$ >"$PLACE/pid"; touch "$PLACE/trains"; exec sleep "${TRAINS:-60}"',
}


class Batch:
    """slurm/train.sbatch as a job of one task; the commands note their calls in a file."""

    def __init__(self, folder: Path, commands: dict[str, str], **variables: str) -> None:
        self.folder = folder
        for name, text in {**COMMANDS, **commands}.items():
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/usr/bin/env bash\n{text}\n")
            program.chmod(0o755)
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_LOCALID": "0"}
        settings = {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PLACE": str(folder),
            "ENVIRONMENT": "BATCH",
            "GAN_DIST_ROOT": str(REPOSITORY),
            "GAN_DIST_VENV": str(folder / "none"),
            "GAN_DIST_JOBS": str(folder / "jobs"),
            "GAN_DIST_WRAP": "train",
        }
        words = ["bash", str(REPOSITORY / "slurm/train.sbatch"), str(REPOSITORY / "tests/data/digits.yaml")]
        self.process = subprocess.Popen(
            words, env={**settings, **job, **variables}, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def tell(self, number: signal.Signals, when: str) -> None:
        """Send a signal to the batch shell once a file is there."""
        end = time.monotonic() + 60
        while not (self.folder / when).exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, list[str]]:
        """Exit code, log, and what was called."""
        said, _ = self.process.communicate(timeout=60)
        calls = self.folder / "calls"
        return self.process.returncode, said, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.slow
def test_a_warning_while_the_step_is_created_is_not_lost(tmp_path: Path) -> None:
    # scancel does not reach a step before it is there
    batch = Batch(tmp_path, {"srun": 'touch "$PLACE/called"; sleep 1; ' + COMMANDS["srun"]})
    batch.tell(signal.SIGUSR2, "called")
    code, said, calls = batch.end()
    assert not (tmp_path / "trains").exists(), said
    assert (code, calls[-1]) == (75, "requeue 7"), said


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["setting up", "deciding"])
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_before_and_after_training_is_not_lost(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    setup = f'touch "$PLACE/{"early" if moment == "setting up" else "unused"}"; sleep 0.5'
    facts = COMMANDS["scontrol"].replace(
        "elif [[ $2 == show ]]; then", 'elif [[ $2 == show ]]; then touch "$PLACE/late"; sleep 1;'
    )
    batch = Batch(tmp_path, {"scontrol": facts}, GAN_DIST_SETUP=setup, TRAINS="0.1")
    batch.tell(number, "early" if moment == "setting up" else "late")
    code, said, calls = batch.end()
    assert (code, calls[-1]) == (75, "requeue 7"), said
    assert (tmp_path / "trains").exists() == (moment == "deciding")


def test_signals_that_come_all_at_once_are_heard_and_the_guard_ends_with_its_job(tmp_path: Path) -> None:
    end = (datetime.datetime.now() + datetime.timedelta(hours=1)).isoformat(timespec="seconds")
    lines = [
        "set -u; root=/nowhere; source slurm/lib.sh",
        f"scancel() {{ :; }}; scontrol() {{ echo 'JobId=7 EndTime={end} '; }}",
        "guard=''; listen; echo ready; sleep 1 & attend $!; echo \"told ${told:-}\"; trap '' USR2; stop_guard",
    ]
    environment = {"PATH": "/usr/bin:/bin", "ENVIRONMENT": "BATCH", "GAN_DIST_TOLD": str(tmp_path / "told")}
    shells = [
        subprocess.Popen(
            ["bash", "-c", "\n".join(lines)],
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(30)
    ]
    for number, process in enumerate(shells):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for gap in (0, 0.001 * (number % 8), 0):
            process.send_signal(signal.SIGUSR2)
            time.sleep(gap)
    said = [process.communicate(timeout=30)[0] for process in shells]  # ends only if the guard, which writes there, has
    assert all("told 1" in one and "saving" in one for one in said), said
    assert not [one for one in said if "unexpected" in one or "not saved in time" in one]


def test_the_guard_leaves_no_process_behind_when_its_job_ends(tmp_path: Path) -> None:
    end = (datetime.datetime.now() + datetime.timedelta(hours=1)).isoformat(timespec="seconds")
    lines = [
        "set -u; root=/nowhere; source slurm/lib.sh",
        f"scontrol() {{ echo 'JobId=7 EndTime={end} '; }}",
        "guard=''; listen; trap '' USR2 TERM INT; guard_end; stop_guard; echo ended",
    ]
    mark = f"GUARD_OF={tmp_path}"
    environment = {"PATH": "/usr/bin:/bin", "ENVIRONMENT": "BATCH", "GUARD_OF": str(tmp_path)}
    with (tmp_path / "said").open("w+") as said:  # not a pipe, which what is left behind would hold open
        subprocess.run(["bash", "-c", "\n".join(lines)], env=environment, cwd=REPOSITORY, stdout=said, check=True)
        said.seek(0)
        assert said.read() == "ended\n"

    def left() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_text(errors="replace").split("\0"):
                    found.append((process / "cmdline").read_text())
        return found

    end_of_waiting = time.monotonic() + 30
    while left() and time.monotonic() < end_of_waiting:  # a kill is not done at once; the sleep would last an hour
        time.sleep(0.05)
    assert left() == []


@pytest.mark.slow
def test_what_does_not_save_in_time_is_killed_before_the_limit_and_requeued(tmp_path: Path) -> None:
    # the time limit counts from the warning, so that a slow start leaves as much of it
    limit = '$(cat "$PLACE/limit" 2>/dev/null || date -d \'+12 seconds\' +%FT%T | tee "$PLACE/limit")'
    commands = {
        "scontrol": COMMANDS["scontrol"].replace("${ENDS:-Unknown}", limit),
        "scancel": f'[[ $* != *KILL* ]] || touch "$PLACE/killed"; {COMMANDS["scancel"]}',
    }
    batch = Batch(tmp_path, commands)
    batch.tell(signal.SIGUSR2, "trains")  # which training does not hear
    _, said, calls = batch.end()
    limit_at = datetime.datetime.fromisoformat((tmp_path / "limit").read_text().strip()).timestamp()
    assert (tmp_path / "killed").stat().st_mtime < limit_at
    assert "not saved in time" in said
    assert calls == ["srun", "scancel --signal=USR2 7", "scancel --signal=KILL 7.0", "requeue 7"], said


@pytest.mark.slow
def test_an_edit_of_scripts_and_config_changes_no_later_start(tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "root"
    for name in ("gan_dist", "configs", "launch", "slurm"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    mine = tmp_path / "mine.yaml"
    shutil.copy(REPOSITORY / "tests/data/digits.yaml", mine)
    words = {"GAN_DIST_ROOT": str(root), "TRAINS": "0"}

    def start(**more: str) -> str:
        batch = Batch(tmp_path, {"train": 'echo "$@" >>"$PLACE/started"'}, **words, **more)
        return batch.end()[1]

    first = start()
    lib = root / "slurm/lib.sh"
    lib.write_text(lib.read_text().replace("job $job, start", "EDITED"))
    (root / "gan_dist/slurm_jobs/batch.py").write_text("edited")
    second = start(SLURM_RESTART_COUNT="1")
    for number, said in enumerate((first, second), 1):
        assert f"job 7, start {number}: 1 node(s) x 1 process(es) by srun on node1" in said
    one, two = (tmp_path / "started").read_text().splitlines()
    assert one == two
    assert str(tmp_path / "jobs/7/configs/") in one


@pytest.mark.parametrize(("restarts", "kept"), [("", False), ("0", False), ("1", True)])
def test_a_copy_of_the_code_is_that_of_an_older_job_where_this_one_has_not_started_yet(
    tmp_path: Path, restarts: str, kept: bool
) -> None:
    mark = tmp_path / "7/code/mark"
    mark.parent.mkdir(parents=True)
    mark.write_text("")
    shell(
        "true", SLURM_JOB_ID="7", GAN_DIST_JOBS=str(tmp_path), **({"SLURM_RESTART_COUNT": restarts} if restarts else {})
    )
    assert mark.exists() == kept
    assert len(list(tmp_path.glob("7.before-*/code/mark"))) == 1 - kept
