"""Ten kills at random; `benchmarks/soak.py --kills 100` is the long version."""

import subprocess
import sys

import pytest

from tests.launching import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("mode", [[], ["--fixed"]])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(mode: list[str]) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks/soak.py"), "--kills", "10", *mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same digest" in done.stdout
