"""`gan-dist index` says what it leaves out, runs no command unasked, and fails in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gan_dist import cli
from tests import making


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    members = [*making.samples(3), ("a.gif", b"GIF89a"), ("b.gif", b"GIF89a"), ("README", b"x")]
    return making.write_tar(tmp_path / "0.tar", members)


def test_index_counts_what_belongs_to_no_image(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", str(shard)]) == 0
    assert "unused   3 members that belong to no image: gif 2, no ending 1" in capsys.readouterr().out
    assert cli.main(["index", str(shard), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"gif": 2, "no ending": 1}


def test_index_runs_a_command_only_where_it_is_allowed(
    shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", f"pipe:touch {tmp_path}/run; cat {shard}", "--cache", str(tmp_path / "cache")]
    assert cli.main(words) == 2
    assert "is a shell command" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main([*words, "--allow-pipe"]) == 0
    assert (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_home")
def test_an_index_beside_its_shards_needs_no_home(shard: Path) -> None:
    assert cli.main(["index", str(shard)]) == 0


def test_an_output_that_cannot_be_written_is_one_line(shard: Path, repository: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "gan_dist.cli", "index", str(shard)]
        done = subprocess.run(words, cwd=repository, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written: No space left on device\n")
