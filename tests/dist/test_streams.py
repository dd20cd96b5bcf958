"""A training from a server goes on after an outage, or stops saved, and goes on to the same bits at any number of ranks."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import making, serving
from tests.fault.test_stopping import figures, running, status
from tests.launching import Started, digests, lines, start, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

IMAGES = 2048  # a process holds those of two groups, 512, before it needs them
SLOW = "slow:seconds=0.1"
SECRET = "SECRETSECRET"


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("www"), 720)


@pytest.fixture
def nginx(www: Path, tmp_path: Path, need: Callable[[str, bool, str], None]) -> Iterator[serving.Nginx]:
    need("nginx", serving.find_nginx() is not None, "no nginx here (apt-get install nginx-light)")
    with serving.nginx(www, tmp_path / "nginx") as server:
        yield server


def keys(shards: str, directory: Path, **more: object) -> dict[str, object]:
    sizes = {"training__images": IMAGES, "training__batch": 64, "training__micro_batch": 16, "track__every": 64}
    wanted = {**sizes, "checkpoint__every": 1024, "sample__every": IMAGES, "training__strategy": "exact"}
    far = (
        {"data__cache": directory.parent / "cache", "data__patience": 2, "data__cache_limit": 0}
        if "://" in shards
        else {}
    )
    return making.tiny(shards, directory, **{**wanted, **far, **more})


def address(server: serving.Nginx, folder: str = "", query: str = "") -> str:
    return f"{server.url}/{folder}{{0..2}}.tar{query}"


@pytest.fixture(scope="module")
def whole(www: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run from local files."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = train(keys(str(www), directory))
    assert done.returncode == 0, done.stderr
    return directory


def check_same(directory: Path, whole: Path) -> None:
    name = f"images-{IMAGES:09d}"
    assert digests(directory)[name] == digests(whole)[name]
    assert figures(directory) == figures(whole)


def begun(run: Started) -> None:
    run.until(lambda: lines(run.directory / "metrics.jsonl"), "a line of metrics")


@pytest.mark.parametrize(("processes", "after"), [(1, 2), (2, 1)])
def test_a_server_that_is_gone_stops_the_run_saved(
    nginx: serving.Nginx, whole: Path, tmp_path: Path, processes: int, after: int
) -> None:
    wanted = keys(address(nginx), tmp_path / "run")
    with running(start(wanted, processes, fault=SLOW)) as run:
        begun(run)
        nginx.stop()
        assert run.end() == (75 if processes == 1 else 1)  # torchrun turns every code into 1
    told = status(run.directory)
    assert told["state"] == "stopped"
    assert "does not answer (data.patience)" in str(told["reason"])
    assert "no connection" in str(told["reason"])
    assert 0 < int(str(told["images"])) < IMAGES
    unreachable = [line for line in lines(run.directory / "events.jsonl") if line["event"] == "data unreachable"]
    assert 1 <= len(unreachable) <= processes
    nginx.start()
    done = train(keys(address(nginx), tmp_path / "run"), after)
    assert done.returncode == 0, done.stderr
    check_same(run.directory, whole)


def test_a_server_that_comes_back_is_waited_for_and_a_signal_is_heard_meanwhile(
    nginx: serving.Nginx, whole: Path, tmp_path: Path
) -> None:
    wanted = keys(address(nginx), tmp_path / "run", data__patience=100)
    with running(start(wanted, fault=SLOW)) as run:
        begun(run)
        nginx.stop()
        run.event("data unreachable")
        nginx.start()
        run.event("data back")
        nginx.stop()
        run.until(lambda: len(_events(run.directory, "data unreachable")) == 2, "the second outage")
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 75
    assert status(run.directory)["reason"] == "SIGTERM"
    nginx.start()
    done = train(wanted)
    assert done.returncode == 0, done.stderr
    check_same(run.directory, whole)


def test_a_server_that_stops_is_not_missed_with_a_warm_cache(nginx: serving.Nginx, www: Path, tmp_path: Path) -> None:
    order = {"data__order": "blocks", "data__block": 4, "data__window": 16, "training__images": 2 * IMAGES}
    done = train(keys(str(www), tmp_path / "whole", **order))
    assert done.returncode == 0, done.stderr
    name = f"images-{2 * IMAGES:09d}"
    far = {"data__cache_limit": "auto", "data__workers": 1, "data__patience": 60}
    with running(start(keys(address(nginx), tmp_path / "run", **far, **order), 2, fault="slow:seconds=0.2")) as run:
        blocks = tmp_path / "cache/blocks"
        run.until(lambda: len(list(blocks.glob("*/sets/*/*/[0-9]*"))) == 180, "a warm cache")
        nginx.stop()
        assert not (run.directory / "checkpoints" / name).exists()
        assert run.end() == 0, run.output.read_text()
    assert digests(run.directory)[name] == digests(tmp_path / "whole")[name]
    assert figures(run.directory) == figures(tmp_path / "whole")


def _events(directory: Path, kind: str) -> list[dict[str, object]]:
    return [line for line in lines(directory / "events.jsonl") if line["event"] == kind]


def test_a_shard_that_changes_stops_the_run_saved_and_is_named(www: Path, tmp_path: Path) -> None:
    objects = {f"/{path.name}": path.read_bytes() for path in www.glob("*.tar")}
    with serving.Odd(objects) as server:
        wanted = keys(f"{server.url}/{{0..2}}.tar", tmp_path / "run")
        with running(start(wanted, fault=SLOW)) as run:
            begun(run)
            server.etags["/1.tar"] = '"2"'
            assert run.end() == 2
        assert "/1.tar changed: its ETag is another one; put it back" in run.output.read_text()
        assert list(digests(run.directory))[-1] == f"images-{status(run.directory)['images']:09d}"
        done = train(wanted)
        assert done.returncode == 2
        assert "/1.tar changed since it was indexed" in done.stderr


def test_no_secret_reaches_what_a_run_leaves(nginx: serving.Nginx, tmp_path: Path) -> None:
    shards = address(nginx, "signed/", f"?X-Amz-Signature={SECRET}&sig={SECRET}").replace("://", f"://me:{SECRET}@")
    environment = {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ACCESS_KEY_ID": SECRET, "AZURE_STORAGE_SAS_TOKEN": SECRET}
    wanted = keys(shards, tmp_path / "run", track__wandb="offline")
    with running(start(wanted, environment=environment)) as run:
        assert run.end() == 0, run.output.read_text()
    assert SECRET not in run.output.read_text()
    grep = ["grep", "-rlaF", SECRET, str(tmp_path / "run"), str(tmp_path / "cache")]
    found = subprocess.run(grep, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")
    assert json.loads((run.directory / "status.json").read_text())["state"] == "finished"
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != SECRET
