"""The copy of code and config that a job runs from: an edit while it waits, or between two starts, changes nothing.

`python -m gan_dist.slurm_jobs.code ROOT CODE [CONFIG ...]` makes it, unless it is there, and prints where each config is in it.
"""

import contextlib
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from gan_dist import files
from gan_dist.config import find

_COPIED = ("gan_dist", "configs", "launch", "slurm")
COMMIT = "commit.txt"
CHANGES = "changes.patch"


def copy(root: Path, code: Path) -> None:
    """Copy what runs to `code`, with the commit and what differs from it; whole or not at all, once."""
    if code.exists():
        return
    part = files.temporary(code)
    part.mkdir(parents=True)
    for name in _COPIED:
        shutil.copytree(root / name, part / name, ignore=shutil.ignore_patterns("__pycache__"))
    (part / COMMIT).write_text((_git(root, "rev-parse", "HEAD") or "unknown\n") + _git(root, "status", "--short"))
    (part / CHANGES).write_text(_git(root, "diff", "HEAD"))
    try:
        part.rename(code)
    except OSError:  # another start of the job was first
        shutil.rmtree(part)


def keep(code: Path, config: str) -> str:
    """The copy of a config beside that of the code, made on the first call; what cannot be read is returned as it is.

    Its name stays, as runs are called after it. `config`: as a person wrote it.
    """
    kept = code.parent / "configs" / hashlib.sha256(config.encode()).hexdigest()[:8] / Path(config).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = files.temporary(kept)
        try:
            part.write_bytes(find(config).read_bytes())
        except OSError:  # training says what is wrong with it
            return config
        part.rename(kept)
    return str(kept)


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


def changes(root: Path) -> str:
    """What a repository, or a copy of it, has beyond its commit, as a patch; files that git does not know are not in it."""
    with contextlib.suppress(OSError):
        return (root / CHANGES).read_text()
    return _git(root, "diff", "HEAD") if (root / "pyproject.toml").exists() else ""


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    copy(Path(sys.argv[1]), Path(sys.argv[2]))
    for name in sys.argv[3:]:
        print(keep(Path(sys.argv[2]), name))
