"""What a step is followed by, in an order that loses nothing."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from gan_dist.control.stop import Reason
from gan_dist.evaluation import ScoreError
from gan_dist.trainer import Trainer


class Scene:
    """A trainer at its first step, with an evaluation due, and a save where it is said."""

    def __init__(self, save_due: bool, best: bool) -> None:
        self.done: list[str] = []
        self.trainer = trainer = Trainer.__new__(Trainer)
        whole: Any = trainer
        whole.config = SimpleNamespace(
            track=SimpleNamespace(every=1000),
            evaluate=SimpleNamespace(every=16),
            sample=SimpleNamespace(every=1000),
            checkpoint=SimpleNamespace(every=16 if save_due else 1000),
            control=SimpleNamespace(desync_every=0),
            training=SimpleNamespace(batch=16, images=10_000),
        )
        whole.images, whole._owed = 0, False
        whole.bad_steps = SimpleNamespace(are_under_way=lambda images: False)
        self.checkpointer = SimpleNamespace(
            is_best=lambda images, lines: best, note=lambda tracker: None, begun_at=0, save=self._save
        )
        pace = SimpleNamespace(spending=lambda name: contextlib.nullcontext())
        whole.reporter = SimpleNamespace(panels=lambda *_: None, scores=self._score, pace=pace)
        whole.checkpointer = self.checkpointer
        whole.tracker = SimpleNamespace(progress=lambda images: None)
        whole.watchdog = SimpleNamespace(beat=lambda *_: None)
        whole.requests = SimpleNamespace(reason=Reason.NONE)
        whole.engine = SimpleNamespace(world_size=1)
        whole.step = self._step

    def _step(self, batch: object) -> None:
        self.trainer.images += 16

    def _save(self, images: int, tracker: object) -> None:
        self.checkpointer.begun_at = images
        self.done.append("save")

    def _score(self, images: int, beat: Any) -> list[dict[str, Any]]:
        beat()
        self.done.append("scores")
        return []


@pytest.mark.parametrize(
    ("save_due", "best", "order"),
    [
        (True, False, ["save", "scores"]),
        (True, True, ["save", "scores"]),  # its checkpoint is under way
        (False, True, ["scores", "save"]),
        (False, False, ["scores"]),
    ],
)
def test_a_save_that_is_due_does_not_wait_for_an_evaluation(save_due: bool, best: bool, order: list[str]) -> None:
    scene = Scene(save_due, best)
    scene.trainer.advance([])
    assert scene.done == order


def test_a_rank_that_is_asked_to_stop_gives_up_the_evaluation() -> None:
    scene = Scene(save_due=True, best=False)
    requests: Any = scene.trainer.requests
    requests.reason = Reason.SIGNAL_TERM
    with pytest.raises(ScoreError, match="because of SIGTERM"):
        scene.trainer._beat_evaluating()
