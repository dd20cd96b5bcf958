"""`gan-dist doctor` with the processes that it starts."""

import fcntl
import json
import re
import sys
from pathlib import Path

import pytest

from gan_dist import cli
from gan_dist.doctor import local
from tests import making
from tests.doctoring import arguments, found
from tests.launching import train

pytestmark = pytest.mark.slow


def test_other_files_and_a_run_of_another_config_are_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert "files that are no run" in found(tmp_path)["run directory"].text
    assert cli.main(["doctor", *arguments(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "PROBLEM  run directory" in out
    assert "PROBLEM  start           data.shards" in out  # of the processes that were tried
    assert "3 problem(s): run directory, data, start" in err


ONLY_RANK_1 = """
import os, sys, torch
if os.environ.get("RANK") == "1":
    class Planted:
        def find_spec(self, name, path=None, target=None):
            if name == "gan_dist.doctor.autotune":  # what a step needs is imported: from here on it runs out of memory
                def fail(*_):
                    raise torch.OutOfMemoryError("CUDA out of memory")
                from gan_dist.engine import Engine
                Engine.turn = fail
    sys.meta_path.insert(0, Planted())
"""


def test_a_process_that_runs_out_of_memory_is_named_and_the_others_do_not_wait_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/sitecustomize.py").write_text(ONLY_RANK_1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "planted"))
    shards = making.data_set(tmp_path / "data", 96)
    wanted = arguments(tmp_path / "run", training__strategy="ddp", data__shards=shards)
    assert cli.main(["doctor", *wanted, "--json", "--processes", "2"]) == 2
    bad = [row for row in json.loads(capsys.readouterr().out) if not row["good"]]
    assert [row["what"] for row in bad] == ["memory"]
    assert bad[0]["text"].startswith("rank 1: a step does not fit: CUDA out of memory")


@pytest.mark.parametrize("strategy", ["exact", pytest.param("zero3", marks=pytest.mark.deepspeed)])
def test_every_kind_of_strategy_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    more = {"training__strategy": strategy, "penalties__r1__weight": 1.0, "data__shards": shards}
    wanted = arguments(tmp_path / "run", training__micro_batch=4, **more)
    cli.main(["doctor", *wanted, "--json", "--processes", "2", "--numerics"])
    rows = json.loads(capsys.readouterr().out)
    assert [row for row in rows if not row["good"] and row["what"] != "loader"] == []
    by_name = {row["what"]: row["text"] for row in rows}
    assert by_name["memory"].startswith(f"{strategy} on 2 rank(s) holds in each: weights ")
    assert "each rank sends " in by_name["traffic"]
    assert by_name["numerics"].startswith(f"{strategy} in fp32: ")
    assert ("threads" in by_name) == (strategy == "exact")


def test_processes_are_tried_and_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    seldom = {"game__discriminator_steps": 5, "penalties__r1__weight": 1.0, "penalties__r1__every": 16}
    wanted = arguments(tmp_path / "run", training__micro_batch=2, training__strategy="ddp", **seldom)
    wanted[wanted.index("--data.shards") + 1] = str(shards)
    assert cli.main(["doctor", *wanted, "--json", "--processes", "2", "--numerics"]) in (0, 2)  # the loader may be slow
    rows = json.loads(capsys.readouterr().out)
    by_name = {row["what"]: row["text"] for row in rows}
    assert [row["text"] for row in rows if not row["good"] and row["what"] != "loader"] == []
    assert by_name["devices"].startswith("2 rank(s) on 1 machine(s): CPU")
    for name in ("gan_dist", "Python", "torch", "accelerate"):
        assert f"{name} " in by_name["devices"]
    assert "1.00 MiB in" in by_name["links"]
    assert by_name["data overlap"] == "the first 16 samples are dealt over 2 rank(s), 0 of them twice"
    assert "images/s with" in by_name["step"]
    assert "D's penalty every 16 steps " in by_name["step"]
    assert by_name["memory"].startswith("ddp on 2 rank(s) holds in each: weights ")
    assert "; the worst phase, " in by_name["memory"]
    assert "saved and read back" in by_name["checkpoint"]
    assert "the step takes" in by_name["loader"]
    assert [row["text"].split(":")[0] for row in rows if row["what"] == "numerics"] == ["ddp in fp64", "ddp in fp32"]
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_run_in_use_and_a_damaged_checkpoint_are_seen(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    run = tmp_path / "run"
    assert train(making.tiny(shards, run)).returncode == 0
    good = found(run)
    assert "2 of 2 are whole, the newest is images-000000064" in good["checkpoints"].text
    assert good["in use"].good
    (run / "checkpoints/images-000000064/manifest.json").unlink()
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bad = found(run)
    assert "by process" in bad["in use"].text
    assert not bad["in use"].good
    assert "1 of 2 are whole" in bad["checkpoints"].text


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), 9)", r"rank 1 on \S+: Signal 9 \(SIGKILL\)"),
        ("int('planted')", r"\S*ValueError: invalid literal for int\(\) with base 10: 'planted'"),
    ],
)
def test_of_all_that_a_launcher_says_the_cause_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, said: str
) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(f"import os, time\n{end} if os.environ['RANK'] == '1' else time.sleep(60)")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    monkeypatch.setenv(local.RANKS, "\n".join(words))
    (finding,) = local._processes(["config.yaml"], 0, False)
    assert re.fullmatch(f"ended with code 1: {said}", finding.text), finding.text
