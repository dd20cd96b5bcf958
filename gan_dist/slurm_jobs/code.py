"""The copy of code and config that a job runs from: an edit while it waits, or between two starts, changes nothing.

`python -m gan_dist.slurm_jobs.code ROOT CODE [CONFIG ...]` makes the copy unless it exists, and prints the path of each config in it.
"""

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gan_dist import files
from gan_dist.config import find

_COPIED = ("gan_dist", "configs", "launch", "slurm")
COMMIT = "commit.txt"
CHANGES = "changes.patch"
_NAMED = 3  # changed files in one line


def copy(root: Path, code: Path) -> None:
    """Copy what runs to `code`, with the commit and what differs from it. The copy is whole or absent, and made once."""
    if code.exists():
        return
    part = files.temporary(code)
    part.mkdir(parents=True)
    for name in _COPIED:
        shutil.copytree(root / name, part / name, ignore=shutil.ignore_patterns("__pycache__"))
    (part / COMMIT).write_text((_git(root, "rev-parse", "HEAD") or "unknown\n") + _status(root))
    (part / CHANGES).write_text(_git(root, "diff", "HEAD"))
    try:
        part.rename(code)
    except OSError:  # another start of the job was first
        shutil.rmtree(part)


def keep(code: Path, config: str) -> str:
    """Return the copy of a config beside that of the code, made on the first call; `config` itself if it cannot be read.

    The copy keeps the file's name, because runs are named after it. `config` is the path as a person wrote it.
    """
    kept = code.parent / "configs" / hashlib.sha256(config.encode()).hexdigest()[:8] / Path(config).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = files.temporary(kept)
        try:
            part.write_bytes(find(config).read_bytes())
        except OSError:  # training reports what is wrong with it
            return config
        for name in _users_files(find(config)):  # looked for beside the config
            (kept.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(find(config).parent / name, kept.parent / name)
        part.rename(kept)
    return str(kept)


def _users_files(config: Path) -> list[str]:
    """Return the users' files that a config names by paths relative to it: `kind: my_loss.py:Mine`."""
    words = re.findall(r"[\w./-]+\.py(?=[:\s\"',}\]]|$)", config.read_text(errors="replace"), re.MULTILINE)
    return [
        word for word in dict.fromkeys(words) if not word.startswith(("/", "..")) and (config.parent / word).is_file()
    ]


def commit(root: Path) -> str:
    """Return the commit of a repository or of a copy of it, and which tracked files differ; "unknown" without git.

    Files that git does not track count only where they are code or configs, which a run may have loaded.
    """
    try:
        lines = (root / COMMIT).read_text().splitlines()
    except OSError:
        if not (root / "pyproject.toml").exists():  # installed: a repository around it belongs to something else
            return "unknown"
        lines = (_git(root, "rev-parse", "HEAD") + _status(root)).splitlines()
    if not lines:
        return "unknown"
    changed = [line[3:] for line in lines[1:]]  # after git's two letters and a blank
    if not changed:
        return lines[0]
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return f"{lines[0]} and {len(changed)} changed file(s): {', '.join(changed[:_NAMED])}{more}"


def changes(root: Path) -> str:
    """Return as a patch what a repository, or a copy of it, has beyond its commit; untracked files are not in it."""
    with contextlib.suppress(OSError):
        return (root / CHANGES).read_text()
    return _git(root, "diff", "HEAD") if (root / "pyproject.toml").exists() else ""


def _status(root: Path) -> str:
    """Return git's short lines about changed tracked files anywhere, and about untracked files among what a job copies."""
    tracked = _git(root, "status", "--short", "--untracked-files=no")
    copied = [name for name in _COPIED if (root / name).exists()]
    here = _git(root, "status", "--short", "--untracked-files=all", "--", *copied).splitlines(keepends=True)
    return tracked + "".join(line for line in here if line.startswith("??"))


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
