"""The way back to a checkpoint, where machines do not see the same one."""

from pathlib import Path
from typing import Any

import pytest

from gan_dist.checkpoint import format
from gan_dist.checkpointing import Checkpointer
from gan_dist.engine import Engine
from gan_dist.engine.engine import AgreedError


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
