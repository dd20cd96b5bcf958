"""Leave out files that would take the suite beyond its time. They run when tests/dist is asked for by name."""

from pathlib import Path

import pytest

LEFT_OUT = ("test_across_strategies.py", "test_footprint.py", "test_matrix.py", "test_precision.py")
"""Some five minutes each on two cores; run them when engine/ or checkpoint/ changes: ./launch/test.sh tests/dist."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore them unless an argument names the folder or a file in it."""
    asked = any("tests/dist" in str(argument) for argument in config.args)
    return True if collection_path.name in LEFT_OUT and not asked else None
