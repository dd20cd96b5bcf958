"""The tracker reports to files, W&B and the console, and none of them can fail a run."""

import contextlib
import io
import json
import os
import platform
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import gan_dist
from gan_dist import cli, config as config_module
from gan_dist.config import Config
from gan_dist.redaction import redact
from gan_dist.tracking import Tracker, alerts, media, rebuild, save_grid, weights_and_biases
from gan_dist.tracking.console import ProgressConsole
from gan_dist.tracking.media import Histogram, Image, Scalar, Table
from gan_dist.tracking.panels import Panel
from gan_dist.units import duration

KEYS = {
    "run": {"name": "test"},
    "data": {"shards": "x", "resolution": 8, "channels": 1},
    "training": {"images": 100, "batch": 10, "micro_batch": 10},
}


def config(**track: str) -> Config:
    return config_module.validate({**KEYS, "track": {"wandb": "disabled", **track}}, "test")


def tracker(directory: Path, start: int = 0, **track: str) -> Tracker:
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    return Tracker(directory, config(**track), samples=50, start=start, wandb_id="abc12345")


def offline_records(directory: Path) -> list[list[dict]]:
    """What W&B itself reads back from each of the offline runs, in order of time."""
    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append([json.loads(line) for line in output.splitlines()])
    return found


def of(kind: str, records: list[dict]) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def history(records: list[dict]) -> list[dict]:
    return [row["item"] for row in of("history", records)]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def surroundings(home: Path, **environment: str) -> dict[str, str]:
    """The environment of someone whose home is empty."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC", "XDG_"))}
    return {**bare, "HOME": str(home), "PYTHONPATH": str(Path(gan_dist.__file__).parent.parent), **environment}


def python(code: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def unexpected(reason: str) -> None:
    pytest.fail(reason)


@pytest.mark.slow
def test_a_run_that_was_stopped_twice_is_one_run_offline_with_all_figures_and_pictures(tmp_path: Path) -> None:
    recorded = {"wandb_id": "abc12345", "created": "2026-11-27T01:02:03+00:00"}
    (tmp_path / "config.yaml").write_text(config_module.to_yaml(config(), recorded))
    old = tmp_path / "wandb/offline-run-20200101_000000-abc12345"  # as older versions left one for each start
    other = tmp_path / "wandb/offline-run-20200101_000000-other"
    for folder in (old, other):
        folder.mkdir(parents=True)
    (tmp_path / ".wandb-new/wandb/offline-run-1-abc12345").mkdir(parents=True)  # a kill left it
    command = ["gan_dist/train.py", "x.yaml"]
    (tmp_path / "environment.jsonl").write_text(json.dumps({"images": 0, "command": command}) + "\n")
    samples = tmp_path / "samples"
    for start in (0, 20, 40):
        with tracker(tmp_path, start, wandb="offline") as run:
            run.begin()
            for images in (start + 10, start + 20):
                skipped = {"skipped/G": 0, "skipped/D": float(images > 40)}
                run.metrics(images, images // 10, {"loss/G": images / 2, "speed/images_per_second": 1.0, **skipped})
            names = {
                "grid": samples / f"images-{start + 20:09d}.png",
                "live": samples / f"live/images-{start + 20:09d}.png",
            }
            (samples / "live").mkdir(parents=True, exist_ok=True)
            for name, path in {**names, **({} if start else {"reals": samples / "reals.png"})}.items():
                save_grid(torch.zeros(4, 1, 8, 8), path, caption="real images" if name == "reals" else "")
                run.picture(path, start + 20, f"samples/{name}")
            run.event("stopped", start + 20, reason="SIGINT")
            # nothing is written while it trains
            assert not list(tmp_path.glob("wandb/*/*.wandb")) or start
    (one,) = tmp_path.glob("wandb/offline-run-*-abc12345")
    assert not old.exists()
    assert other.exists()
    assert not (tmp_path / ".wandb-new").exists()
    assert (tmp_path / "wandb/latest-run").resolve() == one.resolve()
    (records,) = offline_records(tmp_path)
    rows = history(records)
    assert [(row["_step"], row["images"], row["loss/G"]) for row in rows] == [
        (images, images, images / 2) for images in range(10, 61, 10)
    ]
    for name, positions in {"grid": [20, 40, 60], "live": [20, 40, 60], "9": [20, 40, 60], "reals": [20]}.items():
        assert [row["images"] for row in rows if row.get(f"samples/{name}._type") == "image-file"] == positions
    assert rows[1]["samples/grid.caption"] == "20 images"
    assert rows[1]["samples/reals.caption"] == "real images"
    assert rows[1]["samples/single.count"] == 4
    assert [row.get("skipped/D") for row in rows] == [None] * 4 + [1, 1]
    assert not any("skipped/G" in row for row in rows)
    assert rows[-1]["events._type"] == "table-file"
    assert {"glob_name": "*", "step_metric": "images"}.items() <= {
        key: value for metric in of("metric", records) for key, value in metric.items() if key != "options"
    }.items()
    (about,) = of("run", records)
    assert (about["run_id"], about["display_name"], about["project"]) == ("abc12345", "test", "gan_dist")
    settings = about["config"]["update"]
    assert settings.items() >= {"training.micro_batch": 10, "run.name": "test"}.items()
    facts = {key: value for environment in of("environment", records) for key, value in environment.items()}
    assert (facts["program"], facts["args"]) == (command[0], command[1:])
    assert not of("stats", records)
    view = json.loads((tmp_path / "wandb/.wandb-leet.json").read_text())["metrics_filter"]["query"]
    shown = [name for name in rows[-1] if re.search(view, name)]
    assert sorted(shown) == ["loss/G", "speed/images_per_second"]


def test_the_view_of_a_person_stays(tmp_path: Path) -> None:
    (tmp_path / rebuild._VIEW).write_text("{}")
    rebuild._arrange(tmp_path, config())
    assert (tmp_path / rebuild._VIEW).read_text() == "{}"


def test_another_run_in_the_same_folder_stays(tmp_path: Path) -> None:
    for name in ("wandb/offline-run-20260101_000000-ab", "wandb/offline-run-20260101_000000-x-ab"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "new/wandb/offline-run-20260102_000000-ab").mkdir(parents=True)
    rebuild._replace(tmp_path, tmp_path / "new", "ab", {})
    names = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert names == ["offline-run-20260101_000000-x-ab", "offline-run-20260102_000000-ab"]


KEY = "a" * 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"NETRC": "login"}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "offline"),
    ],
)
def test_wandb_is_online_where_it_has_a_key(
    tmp_path: Path, wanted: str, environment: dict[str, str], mode: str
) -> None:
    if "NETRC" in environment:  # what `wandb login` itself leaves behind
        environment = {"NETRC": str(tmp_path / "netrc")}
        command = [str(Path(sys.executable).with_name("wandb")), "login", "--no-verify", KEY]
        subprocess.run(command, env=surroundings(tmp_path, **environment), check=True, capture_output=True)
    code = f"from gan_dist.tracking.weights_and_biases import mode_of; print(mode_of({wanted!r}))"
    done = python(code, surroundings(tmp_path, **environment))
    assert (done.stdout, done.stderr) == (f"{mode}\n", "")


UNATTENDED = """
import sys
from pathlib import Path
from gan_dist import config
from gan_dist.tracking import Tracker
from gan_dist.tracking import weights_and_biases
weights_and_biases._INIT_SECONDS = 1
directory, wandb = Path(sys.argv[1]), sys.argv[2]
(directory / "logs").mkdir(exist_ok=True)
keys = {
    "data": {"shards": "x", "resolution": 8, "channels": 1},
    "training": {"images": 300, "batch": 10, "micro_batch": 10},
    "track": {"wandb": wandb},
}
with Tracker(directory, config.validate(keys, "x"), samples=50, start=0, wandb_id="abc12345") as run:
    run.begin()
    for images in range(10, 310, 10):
        run.progress(images)
        run.metrics(images, images // 10, {"loss/G": 1.0})
    run.status("finished", images, "", None)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("key", "reason"), [(KEY, "connection refused"), ("", "W&B has no key")])
def test_a_server_that_does_not_answer_and_a_missing_key_stop_nothing(tmp_path: Path, key: str, reason: str) -> None:
    environment = surroundings(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", **({"WANDB_API_KEY": key} if key else {}))
    # on a terminal, where W&B would ask for a missing key
    above, terminal = pty.openpty()
    try:
        command = [sys.executable, "-c", UNATTENDED, str(tmp_path), "online"]
        done = subprocess.run(
            command, env=environment, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=300
        )
    finally:
        os.close(above)
        os.close(terminal)
    assert (done.returncode, done.stderr) == (0, "")
    (event,) = lines(tmp_path / "events.jsonl")
    assert event["event"] == "tracker failed"
    assert reason in event["reason"]
    assert len(lines(tmp_path / "metrics.jsonl")) == 30


class Online:
    """What training calls of a W&B run that is online."""

    offline, url = False, "https://host/run"

    def log(self, *_: object, **__: object) -> None: ...

    def define_metric(self, *_: object, **__: object) -> None: ...

    def finish(self) -> None: ...


def test_alerts_are_sent_once_each_with_what_a_person_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    sent: list[tuple[str, str, str, float]] = []

    class Run(Online):
        def alert(self, title: str, text: str, level: str, wait_duration: float) -> None:
            sent.append((title, text, level, wait_duration))

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    monkeypatch.setattr(weights_and_biases, "mode_of", lambda wanted: wanted)
    monkeypatch.setattr(sys, "argv", ["train.py", "x.yaml", "--password", "SECRET-9"])
    with contextlib.suppress(RuntimeError), tracker(tmp_path, wandb="online") as run:
        run.begin()
        run.event("saved", 10, checkpoint="images-000000010")
        run.status("running", 10, "", "images-000000010")
        run.alert("suspect", 20, "suspect: few shapes (collapse/diversity is 0.1)", signal="collapse/diversity")
        run.event("best", 20, score="score/fid", value=3.5, checkpoint="images-000000020")
        run.event("finished", 30)
        run.event("stopped", 30, reason="SIGINT")
        raise RuntimeError("the disk is gone")
    assert [(title, level) for title, _, level, _ in sent] == [
        ("test: suspect", "WARN"),
        ("test: finished", "INFO"),
        ("test: stopped", "INFO"),
        ("test: failed", "ERROR"),
    ]
    suspect, finished, stopped, failed = (text for _, text, _, _ in sent)
    assert suspect == "suspect: few shapes (collapse/diversity is 0.1)"
    assert "score/fid 3.5 of images-000000020" in finished
    assert f"0.0 hours. Report: {tmp_path / 'report.html'}" in finished
    assert "SIGINT. To go on: train.py x.yaml" in stopped
    assert "the disk is gone. Newest checkpoint: images-000000010. To go on: train.py x.yaml" in failed
    assert "SECRET-9" not in str(sent)
    kinds = [line["event"] for line in lines(tmp_path / "events.jsonl")]
    assert kinds == ["saved", "suspect", "best", "finished", "stopped", "failed"]
    monkeypatch.setenv("GAN_DIST_SUBMISSION", "7")
    about = alerts.About(tmp_path, None, 1.0, requeued=True)
    assert "queued again by itself" in alerts.words("stopped", 1, {"reason": "the deadline"}, about)
    assert "To go on" in alerts.words("stopped", 1, {"reason": "the file STOP"}, about)


@pytest.mark.parametrize("place", ["init", "log"])
def test_wandb_that_raises_is_reported_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import wandb

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such server")

    class Run(Online):
        log = broken

    monkeypatch.setattr(wandb, "init", broken if place == "init" else lambda **_: Run())
    monkeypatch.setattr(weights_and_biases, "mode_of", lambda wanted: wanted)
    with tracker(tmp_path, wandb="online") as run:
        run.begin()
        for images in (10, 20, 30):
            run.metrics(images, 1, {"loss/G": 1.0})
    assert run.dashboard == str(tmp_path / "metrics.jsonl")
    (event,) = lines(tmp_path / "events.jsonl")
    assert event["event"] == "tracker failed"
    assert "no such server" in event["reason"]
    assert len(lines(tmp_path / "metrics.jsonl")) == 3


def test_wandb_that_hangs_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    hanging, answered = threading.Event(), []

    class Run(Online):
        def log(self, *_: object, **__: object) -> None:
            hanging.wait(60)
            answered.append(True)

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    monkeypatch.setattr(weights_and_biases, "mode_of", lambda wanted: wanted)
    monkeypatch.setattr(weights_and_biases, "_INIT_SECONDS", 0.2)
    monkeypatch.setattr(weights_and_biases, "_FINISH_SECONDS", 0.1)
    monkeypatch.setattr(weights_and_biases, "_WAITING", 20)
    with tracker(tmp_path, wandb="online") as run:
        run.begin()
        for images in range(10, 1010, 10):  # more than may wait
            run.metrics(images, 1, {"loss/G": 1.0})
        assert not answered  # nobody waited for W&B
    hanging.set()
    (event,) = lines(tmp_path / "events.jsonl")
    assert "W&B: does not answer; `gan-dist track" in event["reason"]
    assert len(lines(tmp_path / "metrics.jsonl")) == 100


@pytest.mark.slow
def test_wandb_is_rebuilt_from_the_files_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gan-dist track`: for a run that was trained without W&B, or whose W&B failed."""
    with tracker(tmp_path) as run:
        run.begin()
        for images in (10, 20):
            run.metrics(images, images // 10, {"loss/G": images / 2, "loss/D": float("nan")})
        (tmp_path / "samples").mkdir()
        save_grid(torch.zeros(4, 1, 8, 8), tmp_path / "samples/images-000000020.png")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"images": 30, "lo')  # torn by a kill
    (tmp_path / "config.yaml").write_text(config_module.to_yaml(config(), {"wandb_id": "abc12345"}))
    assert cli.main(["track", str(tmp_path), "--wandb", "offline"]) == 0
    assert f"2 lines of {tmp_path}/metrics.jsonl are in W&B: wandb leet {tmp_path}/wandb" in capsys.readouterr().out
    (records,) = offline_records(tmp_path)
    rows = history(records)
    assert [(row["images"], row["loss/G"]) for row in rows] == [(10, 5.0), (20, 10.0)]
    assert rows[1]["samples/grid._type"] == "image-file"
    assert cli.main(["track", str(tmp_path / "wandb"), "--wandb", "offline"]) == 2
    assert "is no run directory" in capsys.readouterr().err


PANELS = {
    "pairs": Image(torch.zeros(2, 1, 8, 8), "two"),
    "weights/G": Histogram([1, 2], [0.0, 0.5, 1.0]),
    "classes": Table(["class", "samples"], [["cat", 3], [None, 4]]),
    "score/pixels": Scalar(0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("rebuilt", [False, True])
def test_wandb_shows_panels_and_the_same_again_when_rebuilt_from_the_files(tmp_path: Path, rebuilt: bool) -> None:
    secret = {"shards": "https://me:PASS-9@host/x.tar?signature=SIGN-9", "resolution": 8, "channels": 1}
    keys = config_module.validate(
        {**KEYS, "data": secret, "track": {"wandb": "disabled" if rebuilt else "offline"}}, "x"
    )
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.yaml").write_text(config_module.to_yaml(keys, {"wandb_id": "abc12345"}))
    with Tracker(tmp_path, keys, samples=50, start=0, wandb_id="abc12345") as run:
        run.begin()
        for images, better in ((10, 0.0), (20, -0.25), (30, 0.25)):
            run.metrics(images, images // 10, {"loss/G": images / 2, "score/real": images / 1})
            run.log(images, {**PANELS, "score/pixels": Scalar(0.5 + better)})
        run.log(35, {"score/pixels": Scalar(0.6)})
    if rebuilt:
        command = ["gan_dist/train.py", "x.yaml", "--data.shards", "https://host/x.tar?signature=SIGN-9"]
        (tmp_path / "environment.jsonl").write_text(json.dumps({"images": 0, "command": command}) + "\n")
        assert cli.main(["track", str(tmp_path), "--wandb", "offline"]) == 0
    (records,) = offline_records(tmp_path)
    rows = history(records)
    assert [(row["_step"], row["images"], row.get("loss/G"), row["score/pixels"]) for row in rows] == [
        (10, 10, 5.0, 0.5),
        (20, 20, 10.0, 0.25),
        (30, 30, 15.0, 0.75),
        (35, 35, None, 0.6),
    ]
    for row in rows[:3]:
        assert row["pairs._type"] == "image-file"
        assert row["pairs.caption"] == "two"
        assert row["weights/G._type"] == "histogram"
        assert row["classes._type"] == "table-file"
    hidden = [entry["name"] for entry in of("metric", records) if entry["options"].get("hidden")]
    assert hidden == ["images"]
    best = [update["update"].get("score/pixels") for update in of("summary", records)]
    assert best[-1] == {"min": 0.25}
    logits = [update["update"]["score/real"] for update in of("summary", records) if "score/real" in update["update"]]
    assert logits == [10, 20, 30]
    everything = b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "environment" not in path.name
    )
    assert b"PASS-9" not in everything
    assert b"SIGN-9" not in everything
    about = {key: value for environment in of("environment", records) for key, value in environment.items()}
    if rebuilt:  # says what was trained, and nothing of the machine that rebuilds
        assert about["args"] == ["x.yaml", "--data.shards", redact("https://host/x.tar?signature=SIGN-9")]
        assert about["program"] == "gan_dist/train.py"
        assert "memory" not in about


def test_the_project_is_the_keys_and_else_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert weights_and_biases.project(config()) == "gan_dist"
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    assert weights_and_biases.project(config()) == "ours"
    assert weights_and_biases.project(config(project="mine")) == "mine"


def test_numbers_share_the_line_of_their_position_and_a_resume_leaves_none_twice(tmp_path: Path) -> None:
    for start in (0, 10):
        with tracker(tmp_path, start) as run:
            run.begin()
            for images in range(start + 10, 31, 10):
                run.log(images, {"score/pixels": Scalar(torch.tensor(images / 100).item())})
                if images != 20:
                    run.metrics(images, images // 10, {"loss/G": 1.0})
                run.log(images, {"panel/number": Scalar(2.0), "panel/table": Table(["x"], [[start]])})
                if not start:
                    run.log(images, {"removed/later": Table(["x"], [["first"]])})
            if start:
                run.rewind(20)
    assert lines(tmp_path / "metrics.jsonl") == [
        {"images": 10, "step": 1, "score/pixels": 0.1, "loss/G": 1.0, "panel/number": 2.0},
        {"images": 20, "step": 2, "score/pixels": 0.2, "panel/number": 2.0},
    ]
    kept = [(images, media.read(path).rows) for images, _, path in media.listed(tmp_path / "media")]  # type: ignore[union-attr]
    assert kept == [(10, [[0]]), (20, [[10]]), (10, [["first"]])]


def test_a_full_disk_is_said_once_and_panels_stop_nothing(tmp_path: Path) -> None:
    with tracker(tmp_path) as run:
        (tmp_path / "media").symlink_to("/dev/full")
        for images in (10, 20):
            run.log(images, {"a": Table([], []), "b": Table([], []), "n": Scalar(1.0)})
    (event,) = lines(tmp_path / "events.jsonl")
    assert event["reason"].startswith("media: ")
    assert len(lines(tmp_path / "metrics.jsonl")) == 2


def test_other_ranks_show_no_panels(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with Tracker(tmp_path, config(), samples=50, start=0, wandb_id="x", rank=1) as run:
        run.log(10, {"a": Table([], []), "n": Scalar(1.0)})
        run.draw({"broken": Panel()}, None, 10)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["rank-1.txt"]


def test_without_the_wandb_package_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracker(tmp_path, wandb="offline") as run:
        run.begin()
        run.metrics(10, 1, {"loss/G": 1.0})
    (event,) = lines(tmp_path / "events.jsonl")
    assert "wandb" in event["reason"]
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize("gone", ["closed pipe", "full disk"])
def test_standard_output_that_is_gone_stops_nothing(tmp_path: Path, gone: str) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-c", UNATTENDED, str(tmp_path), "disabled"]
    output = pipe if gone == "closed pipe" else full
    done = subprocess.run(command, env=surroundings(tmp_path), stdout=output, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    os.close(full)
    assert (done.returncode, done.stderr) == (0, "")
    (event,) = lines(tmp_path / "events.jsonl")
    assert event["reason"].startswith("standard output: ")
    assert len(lines(tmp_path / "metrics.jsonl")) == 30
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tracker(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    run.begin()
    for images in (10, 20):
        run.metrics(images, images // 10, {"loss/G": 1.0})
    run.close()
    (event,) = lines(tmp_path / "events.jsonl")
    assert event["reason"] == "metrics.jsonl: No space left on device"
    printed = capsys.readouterr().out
    assert printed.count("No space left on device") == 1
    assert "images 20/100" in printed


def test_figures_before_training_begins_are_kept_too(tmp_path: Path) -> None:
    with tracker(tmp_path) as run:
        run.metrics(10, 1, {"loss/G": 1.0})
    assert [line["images"] for line in lines(tmp_path / "metrics.jsonl")] == [10]


def test_the_dashboard_is_where_the_figures_are(tmp_path: Path) -> None:
    run = tracker(tmp_path)
    assert run.dashboard == str(tmp_path / "metrics.jsonl")
    (tmp_path / "wandb").mkdir()
    assert run.dashboard == f"wandb leet {tmp_path}/wandb"  # of an earlier start
    run.begin()
    assert run.dashboard == str(tmp_path / "metrics.jsonl")  # disabled now
    run.close()


def test_an_event_is_one_line_whatever_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(tmp_path) as run:
        run.event("fell back", 7, problem="[/tmp/x] on [rank 0] :smile:\nsecond line")
    assert capsys.readouterr().out == "fell back at 7 images  problem [/tmp/x] on [rank 0] :smile: second line\n"
    assert "fell back at 7 images" in (tmp_path / "logs/rank-0.txt").read_text()


def test_an_error_in_the_run_is_recorded(tmp_path: Path) -> None:
    run = tracker(tmp_path)
    run.status("running", 20, "", "images-000000020")
    run.progress(30)
    with pytest.raises(ZeroDivisionError), run:
        1 / 0  # noqa: B018
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["images"]) == ("failed", 30)
    assert status["checkpoint"] == "images-000000020"  # still there to go on from
    log = (tmp_path / "logs/rank-0.txt").read_text()
    assert f" {platform.node()} rank 0 ERROR traceback:" in log
    assert "1 / 0" in log
    assert "ZeroDivisionError" in log.splitlines()[-1]  # slurm/lib.sh shows the end


def test_other_ranks_write_events_and_their_log_only(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with Tracker(tmp_path, config(), samples=50, start=0, wandb_id="x", rank=1) as run:
        run.begin()
        run.metrics(10, 1, {"loss/G": 1.0})
        run.status("running", 0, "", None)
        run.event("started", 0)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["events.jsonl", "rank-1.txt"]


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    report = ProgressConsole(0, 60_000, 10_000, unexpected, Console(file=out, soft_wrap=True, highlight=False))
    report.begin()
    report.progress(10)
    report.metrics(15_000, {"loss/G": 0.69, "loss/D": 1.38, "speed/images_per_second": 5})
    report.close()
    assert len(out.getvalue().splitlines()) == 1
    for part in ("images 15,000/60,000", "epoch 1.5", "images/s", "ETA 0:00:0", "loss/D 1.380  loss/G 0.690"):
        assert part in out.getvalue()


@pytest.mark.parametrize("width", [80, 150])
def test_a_bar_on_a_terminal_and_events_above_it(width: int) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, force_interactive=True, width=width, highlight=False)
    report = ProgressConsole(30, 60, 30, unexpected, terminal)
    report.begin()
    report.metrics(45, {"loss/G": 0.5, "loss/D": 1.25, "speed/images_per_second": 5})
    report.progress(45)
    report.say("saved")
    report.close()
    assert "saved\n" in out.getvalue()
    words = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", out.getvalue().split("saved\n")[1]).split())
    for part in ("images 45/60", "epoch 1.5", "images/s", "ETA 0:00:0", "elapsed 0:00:00"):
        assert part in words
    assert "loss/D 1.250 loss/G 0.500" in words


def test_plain_lines_on_a_terminal_that_cannot_move_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    report = ProgressConsole(
        0, 60, 30, unexpected, Console(file=out, force_terminal=True, soft_wrap=True, highlight=False)
    )
    report.begin()
    report.metrics(30, {"loss/G": 0.5})
    report.close()
    assert out.getvalue().startswith("images 30/60  epoch 1.0  ")
    assert len(out.getvalue().splitlines()) == 1


def test_the_time_left_counts_only_images_since_the_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    out = io.StringIO()
    report = ProgressConsole(5_000, 6_000, 1_000, unexpected, Console(file=out, soft_wrap=True, highlight=False))
    report.begin()
    report.metrics(5_100, {})
    assert out.getvalue() == "images 5,100/6,000  epoch 5.1  10 images/s  ETA 0:01:30\n"


def shown(monkeypatch: pytest.MonkeyPatch, positions: list[tuple[float, int]], total: int) -> str:
    """The last line of a console that was told these (seconds, images)."""
    clock = iter([0.0, 0.0, *(seconds for seconds, _ in positions)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    out = io.StringIO()
    report = ProgressConsole(0, total, 1_000, unexpected, Console(file=out, soft_wrap=True, highlight=False))
    report.begin()
    for _, images in positions:
        report.metrics(images, {})
    return out.getvalue().splitlines()[-1]


def test_the_time_left_comes_from_the_recent_rate_and_not_from_a_slow_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = [(600.0, 100)]  # ten minutes of compiling
    fast = [(600.0 + seconds, 100 + 10 * seconds) for seconds in range(10, 130, 10)]
    line = shown(monkeypatch, slow + fast, 2_300)
    assert line == "images 1,300/2,300  epoch 1.3  10 images/s  ETA 0:01:40"


def test_a_run_that_went_back_has_no_rate_until_it_trains_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "  0 images/s  ETA -" in shown(monkeypatch, [(10.0, 1_000), (20.0, 500)], 2_000)
    assert "  10 images/s  ETA 0:02:20" in shown(monkeypatch, [(10.0, 1_000), (20.0, 500), (30.0, 600)], 2_000)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 61, 3723.4, -5)] == ["0:00:00", "0:01:01", "1:02:03", "0:00:00"]
