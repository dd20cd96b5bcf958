"""Ten kills in random order, at random moments; `benchmarks/soak.py --kills 100` is the long version."""

import subprocess
import sys

import pytest

from tests.launching import REPOSITORY


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks/soak.py"), "--kills", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same digest" in done.stdout
    assert done.stdout.count("1 x ") == 10  # each kind of kill at 1 and at 2 processes
