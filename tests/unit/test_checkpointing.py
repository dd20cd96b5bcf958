"""The way back to a checkpoint, where machines do not see the same one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gan_dist.checkpoint import Outcome, format, store
from gan_dist.checkpointing import Checkpointer
from gan_dist.engine import Engine
from gan_dist.engine.engine import AgreedError
from gan_dist.evaluation import METRICS


class FakeEngine:
    """Rank 0 of three machines, of which the last sees no shared disk."""

    who_differs = Engine.who_differs
    rank, world_size, is_main = 0, 3, True

    def on_main(self, work: Any) -> Any:
        return work()

    def gather(self, value: Any) -> list[Any]:
        _, sha = value
        assert sha
        return [("node1", sha), ("node2", sha), ("node3", "")]


def test_a_checkpoint_that_a_machine_does_not_see_is_said_once_with_that_machine(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/images-000000032").mkdir(parents=True)
    format.write_manifest(tmp_path / "checkpoints/images-000000032", [], {}, {"fingerprint": "f", "images": 32})
    checkpointer = Checkpointer.__new__(Checkpointer)
    checkpointer._engine = FakeEngine()  # type: ignore[assignment]
    checkpointer._run = type("Run", (), {"checkpoints": tmp_path / "checkpoints", "directory": tmp_path})()
    checkpointer._config = type("Config", (), {"fingerprint": lambda self: "f"})()
    checkpointer.store = format_store(tmp_path)
    with pytest.raises(AgreedError, match=r"is another on node3 \(rank 2\) unlike node1 \(rank 0\); run.directory"):
        checkpointer.load()


def format_store(folder: Path) -> Any:
    from gan_dist.checkpoint import Store

    return Store(folder / "checkpoints", 2)


def test_a_best_score_waits_for_its_own_checkpoint_and_counts_until_then(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    tracker: Any = SimpleNamespace(event=lambda kind, images, **_: told.append((kind, images)), status=lambda *_: None)
    evaluate = SimpleNamespace(best="pixels", scores={"pixels": METRICS["pixels"]()}.items())
    checkpointer = Checkpointer.__new__(Checkpointer)
    checkpointer._engine = SimpleNamespace(gather=lambda value: [value], is_main=True)  # type: ignore[assignment]
    checkpointer._config = SimpleNamespace(evaluate=evaluate)  # type: ignore[assignment]
    checkpointer._best, checkpointer.store = {}, format_store(tmp_path)
    (tmp_path / "checkpoints").mkdir()

    def scored(images: int, value: float) -> bool:
        return checkpointer.is_best(images, {"score/pixels": value})

    def saved(images: int) -> None:
        checkpointer._report([Outcome(name=store.name_of(images), images=images)], tracker)

    assert scored(10, 0.5)
    assert not scored(20, 0.6), "the save of the best one is still under way"
    saved(10)
    assert ("best", 10) in told
    assert scored(30, 0.1)  # its save is put off
    saved(40)
    assert ("best", 40) not in told
    assert scored(50, 0.2), "no checkpoint has the 0.1"
