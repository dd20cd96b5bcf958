"""A job runs from a copy of the code, which knows its commit."""

import subprocess
from pathlib import Path

from gan_dist.slurm_jobs import code


def test_a_copy_is_made_once_and_knows_its_commit_and_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("gan_dist", "configs", "launch", "slurm"):
        (root / name).mkdir(parents=True)
        (root / name / "file.txt").write_text("as committed\n")
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    assert code.commit(root) == "unknown"  # a package in an environment: the repository around it is another's
    (root / "pyproject.toml").touch()
    assert len(code.commit(root).split()[0]) == 40
    (root / "configs/file.txt").write_text("changed\n")
    code.copy(root, tmp_path / "job/code")
    (root / "configs/file.txt").write_text("edited while the job waits\n")
    code.copy(root, tmp_path / "job/code")
    assert (tmp_path / "job/code/configs/file.txt").read_text() == "changed\n"
    assert "+changed" in (tmp_path / "job/code/changes.patch").read_text()
    assert code.commit(tmp_path / "job/code").endswith(" and 2 changed file(s)")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["code"]


def test_without_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert code.commit(tmp_path) == "unknown"
