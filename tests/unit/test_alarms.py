"""An alarm is told once in every place, names the checkpoint from before and keeps it, and stops the run only if asked to."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_dist.alarms import Alarms
from gan_dist.checkpoint import Store, format
from gan_dist.config import load
from gan_dist.control import collapse, remedies
from gan_dist.tracking import records
from tests import making
from tests.launching import REPOSITORY

GAPS = [3.0, 3.0, 20.0, 20.0, 20.0, 20.0, 3.0, 3.0, 3.0, 20.0]
"""An alarm at the 5th reading with control.limits.readings: 3, and its end at the 9th."""


class Watched:
    """Alarms of a run directory, with what they told."""

    def __init__(self, directory: Path, *words: str, keep: int = 2) -> None:
        limits = {
            f"control.limits.{name}": value
            for name, value in (("readings", 3), ("warm_up_live", 0), ("warm_up_steps", 0))
        }
        keys = {**making.tiny("unused", directory), **limits}
        config = load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(keys), *words])
        directory.mkdir(exist_ok=True)
        self.store = Store(directory / "checkpoints", keep)
        self.told: list[tuple[str, int, str, dict[str, Any]]] = []
        self.stops = 0
        self.metrics = directory / "metrics.jsonl"
        tracker = SimpleNamespace(
            alert=lambda kind, images, words, **details: self.told.append((kind, images, words, details)),
            event=lambda kind, images, **details: self.told.append((kind, images, "", details)),
            images=0,
        )
        engine: Any = SimpleNamespace(is_main=True)
        self.game: Any = SimpleNamespace(rivals=("D", "G"), makes_points=False, judged="image")
        run: Any = SimpleNamespace(directory=directory)
        self.alarms = Alarms(config, engine, self.game, run, tracker, self.store, lambda count: None, self._stop)  # type: ignore[arg-type]

    def _stop(self) -> None:
        self.stops += 1

    def feed(self, first: int, gaps: list[float]) -> None:
        """Readings from number `first` on, 1,000 images apart, with a checkpoint before each."""
        for number, gap in enumerate(gaps, first):
            images = 1_000 * (number + 1)
            path = self.store.directory / f"images-{images:09d}"
            path.mkdir(parents=True, exist_ok=True)
            format.write_manifest(path, [], {}, {"fingerprint": "f", "images": images})
            self.store.retire()
            records.write_metrics(self.metrics, images, number, {"score/gap": gap})
            self.alarms.judge(images, {"score/gap": gap})


def test_an_alarm_says_what_it_is_since_when_and_what_to_do(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "run")
    watched.alarms.begin(0)
    watched.feed(0, GAPS)
    (kind, images, words, details), clear = watched.told
    assert (kind, images) == ("suspect", 5_000)
    assert details == {
        "signal": "score/gap",
        "trouble": "sure",
        "value": 20.0,
        "threshold": 12.0,
        "since": 3_000,
        "checkpoint": "images-000002000",
        "remedy": details["remedy"],
    }
    assert "penalties.r1" in details["remedy"]
    assert words == (
        "suspect: the discriminator is sure of every image (score/gap is 20, above 12 since 3,000 images). "
        f"images-000002000 from before is kept. Try in a new run: {details['remedy']}"
    )
    assert clear[:2] == ("clear", 9_000)
    assert watched.stops == 0


def test_the_checkpoint_from_before_the_first_suspicion_stays(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "run")
    watched.alarms.begin(0)
    watched.feed(0, GAPS[:6])
    assert watched.store.names() == ["images-000002000", "images-000005000", "images-000006000"]
    watched.feed(6, GAPS[6:])
    assert "images-000002000" in watched.store.names()  # the first of the run, though all is well again


def test_a_run_that_goes_on_tells_the_same_and_keeps_the_same(tmp_path: Path) -> None:
    whole = Watched(tmp_path / "whole")
    whole.alarms.begin(0)
    whole.feed(0, GAPS)
    for stop in (3, 4, 6):
        first = Watched(tmp_path / f"cut-{stop}")
        first.alarms.begin(0)
        first.feed(0, GAPS[:stop])
        second = Watched(tmp_path / f"cut-{stop}")
        second.alarms.begin(1_000 * stop)
        second.feed(stop, GAPS[stop:])
        assert [*first.told, *second.told] == whole.told
        assert second.store.names() == whole.store.names()


@pytest.mark.parametrize(("mode", "told", "stops"), [("off", 0, 0), ("warn", 2, 0), ("stop", 2, 1)])
def test_off_says_nothing_and_stop_stops(tmp_path: Path, mode: str, told: int, stops: int) -> None:
    watched = Watched(tmp_path / "run", "--control.collapse", mode)
    watched.alarms.begin(0)
    watched.feed(0, GAPS)
    assert (len(watched.told), watched.stops) == (told, stops)
    if mode == "off":
        assert watched.store.names() == ["images-000009000", "images-000010000"]


def test_a_run_that_was_stopped_for_an_alarm_goes_on_without_stopping_again(tmp_path: Path) -> None:
    Watched(tmp_path / "run").feed(0, GAPS[:5])
    again = Watched(tmp_path / "run", "--control.collapse", "stop")
    again.alarms.begin(5_000)
    again.feed(5, [20.0] * 5)
    assert again.stops == 0
    assert again.told == []


def test_a_signal_that_raises_is_reported_once_and_ends_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "run")
    state = torch.get_rng_state()

    def look(images: int, live: bool, average: bool) -> dict[str, float]:
        torch.rand(3)
        raise RuntimeError("no memory")

    watched.alarms._look = look  # type: ignore[method-assign]
    watched.alarms._engine.averages = torch.no_grad  # type: ignore[method-assign]
    means = {"score/real": 1.0, "score/fake": 0.0}
    assert watched.alarms.figures(2_000, means) == {"score/gap": 1.0, "score/level": 1.0}
    assert watched.alarms.figures(4_000, means) == {"score/gap": 1.0, "score/level": 1.0}
    assert [(kind, details) for kind, _, _, details in watched.told] == [
        ("signals failed", {"reason": "RuntimeError: no memory"})
    ]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("trouble", "words", "expected"),
    [
        ("few pictures", ("--optimizers.generator.learning_rate", "0.02"), "the generator's is 100 times"),
        ("few pictures", ("--penalties.r1.weight", "1"), "game.pack: 2"),
        ("sure", ("--loss.kind", "minimax"), "loss.kind: nonsaturating"),
        ("sure", ("--loss.kind", "wasserstein"), "penalties.wgan_gp.weight: 10"),
        ("sure", (), "penalties.r1.weight"),
        ("sure", ("--penalties.r1.weight", "1", "--game.discriminator_steps", "5"), "discriminator_steps: 1, not 5"),
        ("runs away", ("--loss.kind", "wasserstein"), "penalties.wgan_gp.weight: 10"),
        ("remembers", (), "diffaugment"),
        ("unsure", (), "lower the generator's learning rate"),
        ("labels", (), "the right labels"),
    ],
)
def test_the_remedy_is_what_this_recipe_does_not_have_yet(
    trouble: collapse.Trouble, words: tuple[str, ...], expected: str
) -> None:
    config = load([str(REPOSITORY / "tests/data/digits.yaml"), *words])
    assert expected in remedies.remedy(trouble, config.flat())
