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
    assert code.commit(tmp_path / "job/code").endswith(" and 1 changed file(s): configs/file.txt")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["code"]


def test_tracked_files_count_as_changed_and_untracked_ones_only_where_they_are_code(tmp_path: Path) -> None:
    for name in ("gan_dist/a.py", "docs/a.md", "pyproject.toml", *(f"docs/{number}.md" for number in range(4))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "out1").mkdir()
    (tmp_path / "out1/000000.png").touch()  # a person's pictures
    assert len(code.commit(tmp_path)) == 40
    (tmp_path / "docs/a.md").write_text("changed\n")
    (tmp_path / "gan_dist/mine.py").touch()
    assert code.commit(tmp_path)[40:] == " and 2 changed file(s): docs/a.md, gan_dist/mine.py"
    for number in range(4):
        (tmp_path / f"docs/{number}.md").write_text("changed\n")
    assert code.commit(tmp_path).endswith(" and 6 changed file(s): docs/0.md, docs/1.md, docs/2.md and 3 more")


def test_without_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert code.commit(tmp_path) == "unknown"


def test_a_jobs_copy_of_a_config_has_the_users_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my_loss.py").write_text("# a loss\n")
    (tmp_path / "mine/x.yaml").write_text("loss: {kind: my_loss.py:Mine}\nnetworks: {generator: other.py}\n")
    kept = Path(code.keep(tmp_path / "job/code", str(tmp_path / "mine/x.yaml")))
    assert (kept.parent / "my_loss.py").read_text() == "# a loss\n"
    assert sorted(path.name for path in kept.parent.iterdir()) == ["my_loss.py", "x.yaml"]
