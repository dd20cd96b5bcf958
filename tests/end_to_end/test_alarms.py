"""A broken run says so by the real command, and says the same after a stop."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.launching import digests, lines, train

pytestmark = pytest.mark.slow

IMAGES = 9_600  # long after the alarm: an agreement to stop takes up to a second
BROKEN = {"optimizers.generator.learning_rate": 0.1}
"""500 times the recipe's."""


def keys(shards: Path, directory: Path, **more: object) -> dict[str, object]:
    wanted = making.tiny(shards, directory, training__images=IMAGES, training__batch=32, training__micro_batch=32)
    wanted |= {"training.strategy": "ddp", "track.every": 160, "checkpoint.every": 4_800, "sample.every": IMAGES}
    limits = {"control.limits.warm_up_live": 100, "control.limits.warm_up_steps": 0}
    return {**wanted, **BROKEN, **limits, **more}


def alarms(directory: Path) -> list[dict[str, Any]]:
    found = [line for line in lines(directory / "events.jsonl") if line["event"] in ("suspect", "clear")]
    return [{name: line[name] for name in line if name != "time"} for line in found]


def without_checkpoints(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A stop saves, so that there is another checkpoint to go back to."""
    return [{name: value for name, value in event.items() if name != "checkpoint"} for event in events]


def test_a_broken_run_is_suspect_and_the_same_after_a_stop(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    warned = train(keys(shards, tmp_path / "warn"))
    assert warned.returncode == 0, warned.stderr
    told = alarms(tmp_path / "warn")
    faded = next(event for event in told if event["signal"] == "grad_norm/ratio")
    assert faded["event"] == "suspect"
    assert (faded["threshold"], faded["checkpoint"]) == (1.2, None)
    assert faded["images"] == faded["since"] + 4 * 160
    assert "suspect: the generator's gradient has nearly gone" in warned.stdout
    assert faded["remedy"] in warned.stdout
    assert "the generator's is 500 times the discriminator's" in faded["remedy"]
    whole = lines(tmp_path / "warn/metrics.jsonl")
    assert {"score/gap", "score/accuracy", "score/sign_real", "grad_norm/ratio"} <= whole[-1].keys()

    stop = {"control.collapse": "stop"}
    first = train(keys(shards, tmp_path / "stop", **stop))
    assert first.returncode == 1, first.stderr
    status = json.loads((tmp_path / "stop/status.json").read_text())
    assert (status["state"], status["reason"]) == ("stopped", "a suspected collapse (control.collapse: stop)")
    assert status["images"] < IMAGES
    while (again := train(keys(shards, tmp_path / "stop", **stop))).returncode == 1:  # another signal, later
        assert "suspected collapse" in again.stdout
    assert again.returncode == 0, again.stderr
    assert without_checkpoints(alarms(tmp_path / "stop")) == without_checkpoints(told)
    for event in (*told, *alarms(tmp_path / "stop")):
        assert not event.get("checkpoint") or int(event["checkpoint"].removeprefix("images-")) < event["since"]
    name = f"images-{IMAGES:09d}"
    assert digests(tmp_path / "stop")[name] == digests(tmp_path / "warn")[name]
