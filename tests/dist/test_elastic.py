"""A run stops at some process count and goes on at another: the same run."""

import shutil
from pathlib import Path

import pytest

from tests import making
from tests.launching import digests, lines, train

STEP = 48
STOP, END = 40 * STEP, 60 * STEP


def keys(shards: Path, directory: Path, images: int, **more: object) -> dict[str, object]:
    return making.tiny(
        shards,
        directory,
        training__images=images,
        training__batch=STEP,
        training__micro_batch=4,
        track__every=STEP,
        checkpoint__every=10**6,
        sample__every=10**6,
        **more,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 192)


def figures(directory: Path) -> list[dict[str, object]]:
    """metrics.jsonl but for what depends on the machine."""
    found = lines(directory / "metrics.jsonl")
    return [{name: row[name] for name in row if not name.startswith(("speed/", "memory/"))} for row in found]


def finish(shards: Path, directory: Path, images: int, processes: int = 1) -> None:
    done = train(keys(shards, directory, images, training__strategy="ddp"), processes)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ddp_goes_on_at_any_process_and_worker_count_with_the_same_losses(shards: Path, tmp_path: Path) -> None:
    finish(shards, tmp_path / "whole", END)
    finish(shards, tmp_path / "two", STOP, processes=2)
    whole = {line["images"]: line for line in lines(tmp_path / "whole/metrics.jsonl")}
    for processes, workers in ((1, 2), (2, 0), (3, 1), (4, 0)):
        directory = tmp_path / f"then-{processes}"
        shutil.copytree(tmp_path / "two", directory)
        done = train(keys(shards, directory, END, data__workers=workers, training__strategy="ddp"), processes)
        assert done.returncode == 0, done.stderr
        found = [line for line in lines(directory / "metrics.jsonl") if line["images"] > STOP]
        assert len(found) == 20
        for line in found:
            for name in ("loss/G", "loss/D", "score/real", "score/fake"):
                assert line[name] == pytest.approx(whole[line["images"]][name], rel=1e-4, abs=1e-6), (processes, line)


@pytest.mark.slow
def test_exact_goes_on_at_another_process_count_to_the_same_bits(shards: Path, tmp_path: Path) -> None:
    exact = {"training__strategy": "exact"}
    done = train(keys(shards, tmp_path / "whole", END, **exact))
    assert done.returncode == 0, done.stderr
    for images, processes in ((STOP, 3), (STOP + 3 * STEP, 1), (END, 3)):  # 12 micro-batches: trees of 1, 3, 6, 12
        done = train(keys(shards, tmp_path / "cut", images, **exact), processes)
        assert done.returncode == 0, done.stderr
    name = f"images-{END:09d}"
    assert digests(tmp_path / "cut")[name] == digests(tmp_path / "whole")[name]
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
