"""benchmarks/gpu.py where there is no GPU: every part runs at toy size, and one that fails loses only itself."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import measuring, table

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
LEFT_OUT = {"11": "not run: give --r3gan CHECKOUT", "12": "not run: give --stylegan2 CHECKOUT"}


def lines_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in measuring.read(out):
        found.setdefault(line["part"], []).append(line)
    return found


@pytest.mark.slow
def test_every_part_measures_something_in_a_dry_run(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=3600)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stderr
    found = lines_of(tmp_path)
    for part in gpu.PARTS:
        failed = [line["measured"] for line in found[part.name] if line["name"] == "failed"]
        assert not failed, f"part {part.name}: {failed}\n{log[-4000:]}"
        figures = [line for line in found[part.name] if not isinstance(line["measured"], str)]
        if part.name in LEFT_OUT:
            assert [line["measured"] for line in found[part.name]] == [LEFT_OUT[part.name]]
        elif part.name not in ("0", "13"):  # 13 records on a GPU, and by a version that can
            assert figures, f"part {part.name} measured nothing: {found[part.name]}"
    same = [line["measured"] for line in found["3"] if line["name"].endswith("eager and captured")]
    assert set(same) == {"the same bits"}
    assert done.stdout.endswith((tmp_path / "table.txt").read_text() + "\n")
    assert "What is left\nDCGAN-64 bf16 micro 128, b128" in done.stdout


def test_a_part_that_raises_dies_or_takes_too_long_loses_only_itself(tmp_path: Path) -> None:
    def measures_and_raises(bench: measuring.Bench) -> None:
        bench.line("before", 1.0)
        raise ValueError("of no use\nsecond line")

    def dies(bench: measuring.Bench) -> None:
        os.kill(os.getpid(), 9)

    def sleeps(bench: measuring.Bench) -> None:
        subprocess.run(["sleep", "60"], check=True)

    def says_nothing(bench: measuring.Bench) -> None: ...

    def works(bench: measuring.Bench) -> None:
        bench.line("after", 3.0, "ms", (1.0, 4.0), floor=1.5)

    parts = [
        gpu.Part("a", "raises", 60, measures_and_raises),
        gpu.Part("b", "dies", 60, dies),
        gpu.Part("c", "sleeps", 0.2, sleeps, 0.0),
        gpu.Part("d", "says nothing", 60, says_nothing),
        gpu.Part("e", "works", 60, works),
        gpu.Part("f", "wants more time than is left", 60, works, 1e6),
    ]
    gpu.play(parts, argparse.Namespace(out=tmp_path, seconds=600.0, dry=True, scratch=tmp_path))
    found = {part: [(line["name"], line["measured"]) for line in lines] for part, lines in lines_of(tmp_path).items()}
    assert found == {
        "a": [("before", 1.0), ("failed", "ValueError: of no use")],
        "b": [("failed", "ended by SIGKILL")],
        "c": [("failed", "stopped after 2 s, its time limit")],
        "d": [("says nothing", "gave no line")],
        "e": [("after", 3.0)],
        "f": [("wants more time than is left", "not run: no time")],
    }
    text = table.text(measuring.read(tmp_path), {part.name: part.title for part in parts}, dry=False)
    assert "after" in text
    assert "1..4" in text
    assert "not run: no time" in text


WITHOUT_PYDANTIC = """
import sys, pathlib
sys.modules["pydantic"] = None
from benchmarks.gpu_parts import stand_in
assert stand_in.install()
from benchmarks.gpu_parts import measuring, steps
bench = measuring.Bench("2", pathlib.Path("."), dry=True)
for recipe in (steps.dcgan(bench), steps.r3gan(bench), steps.stylegan2(bench, 64, precision="bf16")):
    steps.Step(bench, recipe).step()
assert stand_in.missing("pydantic", "torch") == "needs pydantic"
print("stepped")
"""


def test_networks_losses_and_penalties_run_without_pydantic(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PYDANTIC]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "stepped", done.stderr
