"""Kill trainings from servers at random, resume them at other rank counts, and compare their bits with local files.

    python benchmarks/stream_kills.py --tries 20

A try is one run: one or two trainings that are killed (SIGKILL to all processes, at a random moment of the start or of the
loop), then one that ends. Each draws its ranks (1 or 2), its source (nginx, moto's S3 server, local files), its cache (none,
a third of the set, all of it) and its workers, and nginx is stopped for some seconds in some of them. The order is full or
blocks. At the end the digest must be that of an undisturbed run from local files. It needs nginx; moto where it is installed.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from gan_dist.checkpoint import store
from tests import making, serving
from tests.launching import Started, digests, start, train

IMAGES, SAMPLES = 2048, 720
SLOW = 0.08  # seconds by which a step takes longer, so that there is something to kill
PARTS = {"full": "1MiB", "blocks": "300KiB"}  # a third of the set, as it lies on a disk
ORDERS = {"full": {}, "blocks": {"data__order": "blocks", "data__block": 4, "data__window": 16}}


@dataclasses.dataclass(frozen=True)
class Training:
    """One start of a run's command, and what happens to it."""

    ranks: int
    source: str
    cache: str
    """none, part or all."""
    workers: int
    kill: str
    """Whether all processes are killed: "", at the "start", or in the "loop"."""
    after: float
    """Seconds from that moment to the kill."""
    gone: tuple[float, float]
    """Seconds after the start at which nginx stops, and for how long; 0 for not at all."""


def drawn(chance: random.Random, sources: list[str], order: str, kill: str) -> Training:
    source = chance.choice(sources)
    ranks, cache, workers = chance.choice((1, 2)), chance.choice(("none", "part", "all")), chance.choice((0, 0, 1))
    after = chance.uniform(0.5, 8.0) if kill == "start" else chance.uniform(0.0, 3.0)
    gone = (chance.uniform(0.0, 12.0), chance.uniform(0.3, 4.0)) if chance.random() < 0.5 else (0.0, 0.0)
    return Training(ranks, source, cache, workers, kill, after, gone if source == "nginx" else (0.0, 0.0))


def keys(shards: str, directory: Path, order: str, **more: object) -> dict[str, object]:
    sizes = {"training__images": IMAGES, "training__batch": 64, "training__micro_batch": 16, "track__every": 64}
    saves = {"checkpoint__every": 256, "sample__every": IMAGES, "training__strategy": "exact"}
    return making.tiny(shards, directory, **sizes, **saves, **ORDERS[order], **more)


class Tries:
    def __init__(
        self, scratch: Path, nginx: serving.Nginx, sources: dict[str, str], environment: dict[str, str]
    ) -> None:
        self.scratch, self.nginx, self.sources, self.environment = scratch, nginx, sources, environment
        self.wanted: dict[str, str] = {}
        for order in ORDERS:
            done = train(keys(sources["files"], scratch / order, order))
            if done.returncode:
                raise SystemExit(f"the run from local files failed\n{done.stderr}")
            self.wanted[order] = digests(scratch / order)[store.name_of(IMAGES)]

    def play(self, number: int, order: str, trainings: list[Training]) -> bool:
        """Run a try, print its line, and return whether the digest is the right one."""
        directory = self.scratch / f"try-{number}" / "run"
        directory.parent.mkdir()
        told = [self.training(each, directory, order) for each in trainings]
        found = digests(directory).get(store.name_of(IMAGES), "none")
        same = found == self.wanted[order]
        words = "the same digest" if same else f"ANOTHER DIGEST {found[:16]}, not {self.wanted[order][:16]}"
        print(f"{number + 1:3d}  {order:6s}  {'; '.join(told)}: {words}", flush=True)
        return same

    def training(self, one: Training, directory: Path, order: str) -> str:
        cache = {"none": "0", "part": PARTS[order], "all": "auto"}[one.cache]
        far = one.source != "files"
        more = {"data__cache_limit": cache if far or one.cache != "none" else "auto", "data__workers": one.workers}
        more |= {} if far or one.cache == "none" else {"data__cache_local": True}
        wanted = keys(self.sources[one.source], directory, order, data__cache=directory.parent / "cache", **more)
        with self.restarts(one):
            run = start(wanted, one.ranks, fault=f"slow:seconds={SLOW}", environment=self.environment)
            try:
                ended = self.disturb(run, one)
            finally:
                kill(run)
        words = f"{one.ranks} rank(s) {one.source} cache {one.cache}{' with a worker' if one.workers else ''}"
        words += f", server gone {one.gone[1]:.1f} s" if one.gone[1] else ""
        return f"{words}, {ended}"

    def disturb(self, run: Started, one: Training) -> str:
        """Wait for the kill, or the end. Returns how it ended."""
        begun = not one.kill
        while not begun and run.process.poll() is None:
            begun = one.kill == "start" or progress(run)["beats"] > 1
            time.sleep(0.02)
        with contextlib.suppress(Exception):
            run.process.wait(one.after if one.kill else 300)
        if (code := run.process.poll()) is not None:
            if code:
                raise SystemExit(
                    f"{run.directory} ended by itself with exit code {code}\n{run.output.read_text()[-4000:]}"
                )
            return "ended"
        if not one.kill:
            raise SystemExit(f"{run.directory} does not end\n{run.output.read_text()[-4000:]}")
        at = progress(run)["images"]
        return f"killed at {at:,}" if at >= 0 else "killed in its start"

    @contextlib.contextmanager
    def restarts(self, one: Training) -> Iterator[None]:
        """Let nginx be gone for some time meanwhile."""
        ended = threading.Event()

        def restart() -> None:
            if not ended.wait(one.gone[0]):
                self.nginx.stop()
                time.sleep(one.gone[1])
                self.nginx.start()

        thread = threading.Thread(target=restart)
        if one.gone[1]:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if one.gone[1]:
                thread.join()


def progress(run: Started) -> dict[str, int]:
    """What rank 0 of this start says of itself; it has not begun where it says nothing yet."""
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        told = json.loads((run.directory / "logs/processes/rank-0.json").read_text())
        rank = psutil.Process(told["pid"])
        if run.process.pid in (rank.pid, *(each.pid for each in rank.parents())):  # not one of the start before
            return {"beats": told["beats"], "images": told["images"]}
    return {"beats": 0, "images": -1}


def kill(run: Started) -> None:
    """SIGKILL to the launcher, its ranks and their workers. The launcher is stopped before, so that it starts nobody more."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(run.process.pid)
        if run.process.poll() is None:
            parent.suspend()
        family = [parent, *parent.children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    run.process.wait()
    psutil.wait_procs(family, 10)


@contextlib.contextmanager
def servers(www: Path, scratch: Path) -> Iterator[tuple[serving.Nginx, dict[str, str], dict[str, str]]]:
    """nginx, the addresses of the shards by source, and the environment for them."""
    with contextlib.ExitStack() as stack:
        nginx = stack.enter_context(serving.nginx(www, scratch / "nginx"))
        sources, environment = {"files": str(www), "nginx": f"{nginx.url}/{{0..2}}.tar"}, {}
        if serving.MOTO:
            import boto3

            address = stack.enter_context(serving.s3())
            environment = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "SECRET"}
            environment |= {"AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1"}
            os.environ.update(environment)
            client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
            client.create_bucket(Bucket="photos")
            for path in www.glob("*.tar"):
                client.upload_file(str(path), "photos", path.name)
            sources["s3"] = "s3://photos/{0..2}.tar"
        yield nginx, sources, environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        www = making.data_set(scratch / "www", SAMPLES)
        with servers(www, scratch) as (nginx, sources, environment):
            tries = Tries(scratch, nginx, sources, environment)
            often = [source for source in sources for _ in range(3 if source == "nginx" else 1)]
            same = 0
            for number in range(options.tries):
                order = chance.choice(list(ORDERS))
                kills = [chance.choice(("start", "loop", "loop")) for _ in range(chance.choice((1, 2)))]
                trainings = [drawn(chance, often, order, kill) for kill in (*kills, "")]
                same += tries.play(number, order, trainings)
    seconds = time.monotonic() - began
    print(f"{same} of {options.tries} the same digest, from {', '.join(sources)}, in {seconds:.0f} s")
    if same < options.tries:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
