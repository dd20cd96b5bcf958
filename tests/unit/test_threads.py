"""How threads wait, and when the machine's load is said."""

import os
import re
import subprocess
import sys

import pytest

from gan_dist.control import load
from gan_dist.threads import WAITS, spin_briefly
from tests.launching import REPOSITORY


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "200"}])
def test_what_the_user_set_stays(own: dict[str, str]) -> None:
    environment = dict(own)
    spin_briefly(environment)
    assert environment == own


@pytest.mark.slow
def test_the_variable_is_set_before_torch_reads_it() -> None:
    """OpenMP prints its settings as torch loads it."""
    code = (
        "import sys; sys.argv = ['x']; from gan_dist import {0}; {1}; import torch; torch.ones(4).sum(); "
        "print('libgomp' in open('/proc/self/maps').read())"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "OMP_DISPLAY_ENV": "VERBOSE"}
    spins = []
    for module, start in (
        ("threads", "pass"),
        ("threads", "threads.spin_briefly()"),
        ("train", "train.main = lambda *_: __import__('torch') and 0; train.run([])"),
        ("cli", "cli.COMMANDS['runs'].run = lambda options: __import__('torch') and 0; cli.main(['runs'])"),
    ):
        words = [sys.executable, "-c", code.format(module, start)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        if done.stdout.split()[-1:] == ["False"]:
            pytest.skip("this torch has another OpenMP than GNU's, which prints no GOMP_SPINCOUNT")
        spins.append(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr))
    assert len(spins[0]) == 1
    assert spins[0] != [WAITS["GOMP_SPINCOUNT"]]
    assert spins[1:] == [[WAITS["GOMP_SPINCOUNT"]]] * 3


@pytest.mark.parametrize(
    ("threads", "processes", "now", "cores", "said"),
    [
        (2, 1, 11.0, 2, True),
        (1, 2, 11.0, 2, True),
        (2, 1, 2.2, 2, False),  # an earlier start of the same run
        (2, 1, 10.0, 64, False),  # enough cores are left
        (32, 2, 90.0, 64, False),
        (32, 2, 200.0, 64, True),
        (1, 1, 5.0, 4, True),
    ],
)
def test_a_load_far_above_our_own_is_said(threads: int, processes: int, now: float, cores: int, said: bool) -> None:
    line = load.others(threads, processes, load=now, cores=cores)
    assert bool(line) == said
    assert not said or f"load {now:.1f} on {cores} cores" in line


def test_it_reads_the_machine_s_own_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (50.0, 0.0, 0.0))
    assert "load 50.0 on 4 cores, of which this training wants 1" in load.others(1)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 50.0, 50.0))
    assert load.others(1) == ""
