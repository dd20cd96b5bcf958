"""On a GPU: cut and resumed to the same bits, and skipped steps leave no trace."""

import signal
from pathlib import Path

import pytest

from tests import making
from tests.launching import digests, lines, start, train

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def keys(shards: Path, directory: Path, **more: object) -> dict[str, object]:
    wanted = {
        "training__images": 480,
        "checkpoint__every": 160,
        "training__device": "cuda",
        "training__deterministic": True,
    }
    return making.tiny(shards, directory, **{**wanted, **more})


def test_a_run_that_was_stopped_and_killed_gives_the_same_bits(shards: Path, tmp_path: Path) -> None:
    done = train(keys(shards, tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    for number in (signal.SIGTERM, signal.SIGKILL):
        run = start(keys(shards, tmp_path / "cut"), fault="slow:seconds=0.1")
        try:
            run.rank(0)
            run.process.send_signal(number)
            run.end()
        finally:
            run.kill()
    assert train(keys(shards, tmp_path / "cut")).returncode == 0
    name = "images-000000480"
    assert digests(tmp_path / "cut")[name] == digests(tmp_path / "whole")[name]


@pytest.mark.parametrize("player", ["G", "D"])
def test_a_bad_step_is_skipped_without_a_trace(shards: Path, tmp_path: Path, player: str) -> None:
    run = start(keys(shards, tmp_path / "run"), fault=f"nan:rank=0:player={player}:from=96:to=128")
    try:
        assert run.end() == 0, run.output.read_text()
    finally:
        run.kill()
    last = lines(tmp_path / "run/metrics.jsonl")[-1]
    assert last[f"skipped/{player}"] == 2
    assert last["loss/G"] is not None
    assert last["loss/D"] is not None
