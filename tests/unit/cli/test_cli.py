"""`gan-dist`: help, unknown words, output that cannot be written, and what is loaded for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan_dist import cli
from gan_dist.checkpoint import format
from tests.launching import REPOSITORY
from tests.unit.report.runs import make_run

NOT_YET = ("evaluate", "export", "walk", "film", "plan")
"""Commands of the contract that are listed once they exist."""


def call(*words: str, stdout: int | None = subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        [sys.executable, "-m", "gan_dist.cli", *words],
        env=environment,
        cwd="/",
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_alone_it_prints_the_help_which_lists_the_commands_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"    {name}" in said for name in cli.COMMANDS)
    assert not [name for name in NOT_YET if f"    {name} " in said and name not in cli.COMMANDS]
    assert "gan-dist train configs/digits.yaml" in said


@pytest.mark.parametrize("name", sorted(cli.COMMANDS.keys() - {"train"}))  # whose help lists the config's keys
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  gan-dist {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["zzz"], "there is no command zzz; `gan-dist --help` lists all commands"),
        (["status", "x", "--verbose"], "unknown argument --verbose; see `gan-dist status --help`"),
        (["runs", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert says in said


def test_nothing_heavy_is_loaded_before_a_command_runs() -> None:
    code = "import sys, gan_dist.cli; print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'rich'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_commands_that_only_read_files_load_neither_torch_nor_the_config_s_library(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=2, grids=0)
    format.write_manifest(make_folder(run / "checkpoints/images-000000064"), [], {}, {"images": 64})
    code = (
        "import sys; from gan_dist import cli; run = sys.argv[1]\n"
        "for words in (['status', run], ['watch', run, '--once'], ['checkpoints', run, '--verify'], ['runs', run + '/..']):\n"
        "    assert cli.main(words) == 0\n"
        "    loaded = {'torch', 'pydantic'} & set(sys.modules)\n"
        "    assert not loaded, (words, loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_output_that_cannot_be_written_is_one_line() -> None:
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            done = call("runs", "/etc", stdout=full.fileno(), PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 1
        assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_letters_that_the_output_lacks_are_shown_by_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "chät"
    folder.mkdir()
    done = call("runs", str(folder), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ch\\xe4t holds no run yet" in done.stdout


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": ""}, 'RANK is "" in the environment'),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without MASTER_ADDR and MASTER_PORT: `unset RANK WORLD_SIZE`"),
        ({"WORLD_SIZE": "two"}, 'WORLD_SIZE is "two"'),
    ],
)
def test_what_a_launcher_left_in_the_environment_is_one_line(variables: dict[str, str], says: str) -> None:
    done = call("train", "tests/data/digits.yaml", **variables)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr


def test_train_takes_the_keys_of_a_config_and_ends_with_training_s_codes() -> None:
    helped = call("train", "--help")
    assert helped.returncode == 0
    assert "gan-dist train CONFIG" in helped.stdout
    assert "--training.images" in helped.stdout
    wrong = call("train", "tests/data/digits.yaml", "--training.images", "many")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert wrong.stderr.startswith("error: ")
