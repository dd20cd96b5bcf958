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
    checkpointer.store, checkpointer._best = format_store(tmp_path), {}
    with pytest.raises(AgreedError, match=r"is another on node3 \(rank 2\) unlike node1 \(rank 0\); run.directory"):
        checkpointer.load()


def format_store(folder: Path) -> Any:
    from gan_dist.checkpoint import Store

    return Store(folder / "checkpoints", 2)


class Best:
    """A checkpointer of a run whose best score by pixels is kept."""

    def __init__(self, folder: Path) -> None:
        self.told: list[tuple[str, int]] = []
        self.full = False
        evaluate = SimpleNamespace(best="pixels", scores={"pixels": METRICS["pixels"]()}.items())
        self.checkpointer = Checkpointer.__new__(Checkpointer)
        engine: Any = SimpleNamespace(gather=lambda value: [value], is_main=True, on_main=lambda work: work())
        self.checkpointer._engine = engine
        self.checkpointer._config = SimpleNamespace(evaluate=evaluate)  # type: ignore[assignment]
        self.checkpointer._best, self.checkpointer.store = {}, format_store(folder)
        self.folder = folder / "checkpoints"
        self.folder.mkdir()
        self.tracker: Any = SimpleNamespace(
            event=lambda kind, images, **_: self.told.append((kind, images)), status=lambda *_: None, guard=self._guard
        )

    def _guard(self, name: str, work: Any) -> bool:
        if not self.full:
            work()
        return not self.full

    def scored(self, images: int, value: float, samples: int = 100, against: str = "") -> bool:
        line: dict[str, Any] = {"metric": "pixels", "value": value, "n_generated": samples}
        line |= {"against": {"where": "data/test", "data": against}} if against else {}
        return self.checkpointer.is_best(images, [line])

    def saved(self, images: int, problem: str = "") -> None:
        if not problem:
            (self.folder / store.name_of(images)).mkdir()
            format.write_manifest(self.folder / store.name_of(images), [], {}, {"fingerprint": "f", "images": images})
        outcome = Outcome(name=store.name_of(images), images=images, problem=problem)
        self.checkpointer.missed = 0
        self.checkpointer._report([outcome], self.tracker)

    @property
    def kept(self) -> dict[str, Any]:
        return store.read_kept(self.folder).get("best", {})


def test_a_best_score_waits_for_its_own_checkpoint_and_counts_until_then(tmp_path: Path) -> None:
    best = Best(tmp_path)
    assert best.scored(10, 0.5)
    assert not best.scored(20, 0.6), "the save of the best one is still under way"
    best.saved(10)
    assert ("best", 10) in best.told
    assert not best.scored(25, 0.6)
    assert best.scored(30, 0.1)  # its save is put off
    best.saved(40)
    assert ("best", 40) not in best.told
    assert best.scored(50, 0.2), "no checkpoint has the 0.1"


def test_a_best_checkpoint_that_cannot_be_noted_is_noted_after_the_next_save(tmp_path: Path) -> None:
    best = Best(tmp_path)
    assert best.scored(10, 0.5)
    best.full = True
    best.saved(10)
    best.saved(20, problem="the disk is full")
    assert best.kept == {}
    assert not best.scored(25, 0.6), "the 0.5 has a checkpoint"
    best.full = False
    best.saved(30)
    assert (best.kept["checkpoint"], best.kept["value"]) == ("images-000000010", 0.5)
    assert ("best", 10) in best.told


def test_a_best_score_of_another_measure_or_without_its_checkpoint_blocks_no_other(tmp_path: Path) -> None:
    best = Best(tmp_path)
    assert best.scored(10, 0.5)
    best.saved(10)
    assert not best.scored(20, 0.6)
    assert best.scored(20, 0.6, samples=1000), "of other numbers of images it is another measure"
    best.checkpointer._best = {}
    assert best.scored(20, 0.6, against="digest"), "and against other data"
    best.checkpointer._best = {}
    for path in (best.folder / "images-000000010").iterdir():
        path.unlink()
    assert best.scored(20, 0.6), "the checkpoint of the 0.5 is damaged"


def test_scores_of_a_training_that_was_gone_back_from_are_forgotten(tmp_path: Path) -> None:
    best = Best(tmp_path)
    assert best.scored(10, 0.5)
    best.checkpointer._run = SimpleNamespace(directory=tmp_path, checkpoints=best.folder)  # type: ignore[assignment]
    best.checkpointer.load()
    assert best.scored(10, 0.5)
