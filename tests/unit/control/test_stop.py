"""Requests to stop add up, and nothing that happens in between loses one."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gan_dist.bad_steps import BadSteps
from gan_dist.control import stop
from gan_dist.control.stop import Reason, Requests
from gan_dist.engine.health import Skipped
from gan_dist.slurm_jobs import requeue
from gan_dist.trainer import Trainer


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(tmp_path, None)


class Anything:
    """Has every method, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def going_back(requests: Requests) -> Trainer:
    """As much of a trainer as going back needs."""
    trainer = Trainer.__new__(Trainer)
    trainer.requests, trainer.images = requests, 64
    trainer.tracker = trainer.checkpointer = trainer.engine = Anything()  # type: ignore[assignment]
    trainer.engine.on_main = lambda work: "images-000000032"  # type: ignore[method-assign,assignment,return-value]
    trainer.engine.is_main = False
    trainer.engine.skipped = lambda wait=False: {"D": Skipped(3, 3, 64)}  # type: ignore[method-assign]
    trainer.supply = Anything()  # type: ignore[assignment]
    trainer.supply.lacking = lambda *_: ""  # type: ignore[method-assign]
    config: Any = SimpleNamespace(control=SimpleNamespace(max_bad_steps=3))
    trainer.bad_steps = BadSteps(config, trainer.engine, Anything(), requests)  # type: ignore[arg-type]
    trainer._resume = lambda *_, **__: None  # type: ignore[method-assign,assignment,return-value]
    return trainer


def test_a_signal_is_not_lost_when_the_run_goes_back(requests: Requests) -> None:
    requests.ask(Reason.BAD_STEPS)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR2)
    requests.listen()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert requests.reason == Reason.BAD_STEPS
        going_back(requests)._go_back()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGUSR2), before, strict=True):
            signal.signal(number, handler)
    assert requests.reason == Reason.SIGNAL_TERM


def test_the_greatest_reason_decides_and_the_others_stay(requests: Requests) -> None:
    assert requests.reason == Reason.NONE
    for reason in (Reason.DEADLINE, Reason.SIGNAL_INT, Reason.BAD_STEPS):
        requests.ask(reason)
    assert requests.reason == Reason.BAD_STEPS
    requests.discard(Reason.BAD_STEPS)
    assert requests.reason == Reason.DEADLINE


def test_asking_from_many_threads_never_disturbs_who_reads(requests: Requests) -> None:
    def ask() -> None:
        for _ in range(300):
            for reason in Reason:
                requests.ask(reason)
                requests.discard(reason)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert requests.reason in Reason
    for thread in threads:
        thread.join()


def test_only_looking_for_the_file_touches_the_disk(tmp_path: Path) -> None:
    requests = Requests(tmp_path, deadline=0.0)
    (tmp_path / "STOP").touch()
    requests.look_at_clock()
    assert requests.reason == Reason.DEADLINE
    requests.discard(Reason.DEADLINE)
    requests.look_for_file()
    assert requests.reason == Reason.STOP_FILE


def test_every_reason_has_words_and_a_dead_launcher_does_not_forbid_the_next_start(requests: Requests) -> None:
    assert stop.WORDS.keys() == set(Reason) - {Reason.NONE}
    assert stop.WORDS[Reason.LAUNCHER] not in requeue._FINAL
    requests.ask(Reason.LAUNCHER)
    assert requests.reason == Reason.LAUNCHER
    requests.ask(Reason.STOP_FILE)  # a request to stop finally is not hidden by the launcher's death
    assert requests.reason == Reason.STOP_FILE


@pytest.mark.parametrize("reason", [Reason.NONE, Reason.STOP_FILE, Reason.SIGNAL_TERM])
def test_a_stop_file_does_not_stay_however_the_run_ends(requests: Requests, tmp_path: Path, reason: Reason) -> None:
    trainer = going_back(requests)
    trainer.checkpointer.missed, trainer.checkpointer.saved_at = 0, trainer.images
    trainer._finish = lambda how: None  # type: ignore[method-assign]
    trainer.run_directory = Anything()  # type: ignore[assignment]
    (tmp_path / "STOP").touch()  # in the moment of the last step
    trainer._end(reason)
    assert not (tmp_path / "STOP").exists()
