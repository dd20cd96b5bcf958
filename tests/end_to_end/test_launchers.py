"""Every launcher that docs/many-ranks.md names starts the run it promises, and says so where it contradicts the config."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gan_dist.engine import launcher_settings
from tests import making
from tests.launching import REPOSITORY, digests, lines

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96)


def accelerate(file: str, keys: dict[str, object], *more: str, cpu: bool = True) -> subprocess.CompletedProcess[str]:
    words = [ACCELERATE, "launch", "--config_file", f"launch/accelerate/{file}.yaml", *more, "gan_dist/train.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if cpu:
        environment["ACCELERATE_USE_CPU"] = "1"
    return subprocess.run(
        [*words, "tests/data/digits.yaml", *making.flags(keys)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_every_file_of_settings_says_what_the_code_takes_without_one() -> None:
    for strategy, settings in launcher_settings.SETTINGS.items():
        found = json.loads((REPOSITORY / f"launch/deepspeed/{strategy}.json").read_text())
        assert found == {"zero_optimization": {"stage": int(strategy[-1]), **settings}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_accelerate_joins_the_processes_of_two_machines(shards: Path, tmp_path: Path) -> None:
    """Two agents, one for each machine; here both are on this one."""
    keys = making.tiny(shards, tmp_path / "run", training__strategy="ddp", training__processes=2)
    address = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    with ThreadPoolExecutor(2) as agents:
        ended = list(
            agents.map(lambda rank: accelerate("ddp-multinode", keys, "--machine_rank", rank, *address), ("0", "1"))
        )
    assert [done.returncode for done in ended] == [0, 0], ended[0].stderr[-3000:] + ended[1].stderr[-3000:]
    started = lines(tmp_path / "run/events.jsonl")[0]
    assert (started["event"], started["processes"]) == ("started", 2)
    assert "finished at 64 images" in ended[0].stdout
    assert "finished" not in ended[1].stdout
    assert len(digests(tmp_path / "run")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["cpu", "ddp", *(pytest.param(f"zero{stage}", marks=pytest.mark.deepspeed) for stage in (1, 2, 3))]
)
def test_accelerate_starts_two_processes_of_the_strategy(shards: Path, tmp_path: Path, file: str) -> None:
    strategy = file if file.startswith("zero") else "ddp"
    keys = making.tiny(
        shards, tmp_path / "run", training__strategy=strategy, training__processes=2, checkpoint__every=32
    )
    done = accelerate(file, keys, cpu=file != "cpu")  # that file's own business
    assert done.returncode == 0, done.stderr[-3000:]
    started = lines(tmp_path / "run/events.jsonl")[0]
    assert (started["event"], started["processes"]) == ("started", 2)
    assert len(list((tmp_path / "run/checkpoints/images-000000064").glob("part-*"))) == 2
    assert len(digests(tmp_path / "run")) == 2
    assert (tmp_path / "run/samples/images-000000064.png").exists()


@pytest.mark.parametrize(
    ("file", "more", "keys", "says"),
    [
        ("zero2", (), {"training__strategy": "ddp"}, "ZeRO stage 2, but training.strategy = ddp"),
        ("zero2", (), {"training__strategy": "zero3"}, "ZeRO stage 2, but training.strategy = zero3"),
        ("cpu", ("--mixed_precision", "bf16"), {}, "--mixed_precision bf16, but training.precision = fp32"),
        ("cpu", ("--num_processes", "1"), {"training__processes": 2}, "training.processes = 2, but 1 started"),
    ],
)
def test_a_launcher_that_contradicts_the_config_is_refused(
    shards: Path, tmp_path: Path, file: str, more: tuple[str, ...], keys: dict[str, object], says: str
) -> None:
    done = accelerate(file, making.tiny(shards, tmp_path / "run", **{"training__strategy": "ddp", **keys}), *more)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, done.stderr[-3000:]
    assert says in said[0]
    assert not (tmp_path / "run").exists()


def ranks(launcher: tuple[str, ...], keys: dict[str, object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launch/ranks.py", *launcher, "gan_dist/train.py", "tests/data/digits.yaml", *making.flags(keys)],
        cwd=REPOSITORY, env={**os.environ, "ACCELERATE_USE_CPU": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize(
    "launcher", [TORCHRUN, ("accelerate", "--config_file", "launch/accelerate/ddp.yaml", "--num_processes", "2")]
)
def test_wrong_input_on_many_ranks_ends_with_its_line_alone(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    keys = making.tiny(tmp_path / "nowhere", tmp_path / "run", training__strategy="ddp")
    done = ranks(launcher, keys)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert [line for line in said if line.startswith("error: ")], done.stderr
    assert not [line for line in said if "Traceback" in line or "exitcode" in line], done.stderr


def test_a_run_of_many_ranks_that_stopped_and_saved_ends_with_75(shards: Path, tmp_path: Path) -> None:
    keys = making.tiny(shards, tmp_path / "run", training__images=640_000, run__deadline="0:02")
    done = ranks(TORCHRUN, keys)
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_of_a_rank_keeps_the_launcher_s_report(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run(
        [sys.executable, "launch/ranks.py", *TORCHRUN, script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "SIGKILL" in done.stderr
