"""The copy of the code that a job runs from: an edit while it waits, or between two starts, changes nothing.

python -m gan_dist.cluster.code ROOT CODE
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_COPIED = ("gan_dist", "configs", "launch", "slurm")
COMMIT = "commit.txt"
CHANGES = "changes.patch"


def copy(root: Path, code: Path) -> None:
    """Copy what runs to `code`, with the commit and what differs from it; whole or not at all, once."""
    if code.exists():
        return
    part = code.with_name(f"{code.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    for name in _COPIED:
        shutil.copytree(root / name, part / name, ignore=shutil.ignore_patterns("__pycache__"))
    (part / COMMIT).write_text((_git(root, "rev-parse", "HEAD") or "unknown\n") + _git(root, "status", "--short"))
    (part / CHANGES).write_text(_git(root, "diff", "HEAD"))
    try:
        part.rename(code)
    except OSError:  # another start of the job was first
        shutil.rmtree(part)


def commit(root: Path) -> str:
    """The commit that a repository or a copy of it is at, marked where files were changed; "unknown" without git."""
    try:
        lines = (root / COMMIT).read_text().splitlines()
    except OSError:
        if not (root / "pyproject.toml").exists():  # installed: a repository around it is another's
            return "unknown"
        lines = (_git(root, "rev-parse", "HEAD") + _git(root, "status", "--short")).splitlines()
    if not lines:
        return "unknown"
    return f"{lines[0]} and {len(lines) - 1} changed file(s)" if len(lines) > 1 else lines[0]


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    copy(Path(sys.argv[1]), Path(sys.argv[2]))
