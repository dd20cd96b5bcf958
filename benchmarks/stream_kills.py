"""Kill trainings from servers at random, resume them at other rank counts, and compare their bits with local files.

    python benchmarks/stream_kills.py --tries 20

A try is one run: one or two trainings that are killed (SIGKILL to all processes, at a random moment of the start or of the
loop), then one that ends. Each draws its ranks (1 or 2), its source (nginx, moto's S3 server, local files), its cache (none,
a third of the set, all of it) and its workers, and nginx is stopped for some seconds in some of them. The order is full or
blocks. At the end the digest must be that of an undisturbed run from local files. It needs nginx; moto where it is installed.

Ranks are forked from a process that has imported all modules: most of such a short training would be their import.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_dist.checkpoint import store
from tests import making, serving
from tests.launching import REPOSITORY, digests, free_port

IMAGES, SAMPLES = 2048, 720
LIMIT = 1200  # seconds, on a machine that does much else
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
    after = chance.uniform(0.2, 4.0) if kill == "start" else chance.uniform(0.0, 3.0)
    gone = (chance.uniform(0.0, 6.0), chance.uniform(0.3, 4.0)) if chance.random() < 0.5 else (0.0, 0.0)
    return Training(ranks, source, cache, workers, kill, after, gone if source == "nginx" else (0.0, 0.0))


def keys(shards: str, directory: Path, order: str, **more: object) -> dict[str, object]:
    sizes = {"training__images": IMAGES, "training__batch": 64, "training__micro_batch": 16, "track__every": 64}
    saves = {"checkpoint__every": 256, "sample__every": IMAGES, "training__strategy": "exact"}
    return making.tiny(shards, directory, **sizes, **saves, **ORDERS[order], **more)


class Ranks:
    """The processes of a training in the background."""

    def __init__(self, wanted: dict[str, object], count: int) -> None:
        self.directory = Path(str(wanted["run.directory"]))
        self.output = self.directory.with_name(f"{self.directory.name}.txt")
        words = [f"slow:seconds={SLOW}", "tests/data/digits.yaml", *making.flags(wanted)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gan_dist.trainer", "torch._dynamo", "tests.launching"])
        port = free_port()
        each = ((rank, count, port, words, self.output) for rank in range(count))
        self.processes = [context.Process(target=be_rank, args=one) for one in each]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended, or one has failed. Says whether that is so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            codes = self.codes
            if None not in codes or any(codes):
                return True
            time.sleep(0.02)
        return False

    @property
    def codes(self) -> list[int | None]:
        return [process.exitcode for process in self.processes]

    def progress(self) -> tuple[int, int]:
        """What rank 0 of this start says of itself, as beats and images; it has not begun where it says nothing yet."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            told = json.loads((self.directory / "logs/processes/rank-0.json").read_text())
            if told["pid"] == self.processes[0].pid:
                return told["beats"], told["images"]
        return 0, -1

    def kill(self) -> None:
        """SIGKILL to all. Their workers end by themselves."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def be_rank(rank: int, count: int, port: int, words: list[str], output: Path) -> None:
    """Train in this process."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if count > 1:
        local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in {"RANK": rank, "WORLD_SIZE": count, **local}.items()})
    sys.argv = [str(REPOSITORY / "tests/fault/inject.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


class Tries:
    def __init__(self, scratch: Path, nginx: serving.Nginx, sources: dict[str, str]) -> None:
        self.scratch, self.nginx, self.sources = scratch, nginx, sources
        self.wanted: dict[str, str] = {}
        for order in ORDERS:
            run = Ranks(keys(sources["files"], scratch / order, order), 1)
            if not run.wait(LIMIT) or any(run.codes):
                run.kill()
                raise SystemExit(f"the run from local files failed\n{run.output.read_text()}")
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
            run = Ranks(wanted, one.ranks)
            try:
                ended = self.disturb(run, one)
            finally:
                run.kill()
        words = f"{one.ranks} rank(s) {one.source} cache {one.cache}{' with a worker' if one.workers else ''}"
        words += f", server gone {one.gone[1]:.1f} s" if one.gone[1] else ""
        return f"{words}, {ended}"

    def disturb(self, run: Ranks, one: Training) -> str:
        """Wait for the kill, or the end. Returns how it ended."""
        ended = False
        while one.kill == "loop" and not ended and run.progress()[0] < 2:
            ended = run.wait(0.05)
        if run.wait(one.after if one.kill else LIMIT):
            if any(run.codes):
                raise SystemExit(f"{run.directory} failed: {run.codes}\n{run.output.read_text()[-4000:]}")
            return "ended"
        if not one.kill:
            raise SystemExit(f"{run.directory} does not end\n{run.output.read_text()[-4000:]}")
        at = run.progress()[1]
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


@contextlib.contextmanager
def servers(www: Path, scratch: Path) -> Iterator[tuple[serving.Nginx, dict[str, str]]]:
    """nginx, and the addresses of the shards by source."""
    with contextlib.ExitStack() as stack:
        nginx = stack.enter_context(serving.nginx(www, scratch / "nginx"))
        sources = {"files": str(www), "nginx": f"{nginx.url}/{{0..2}}.tar"}
        if serving.MOTO:
            import boto3

            logging.getLogger("werkzeug").setLevel(logging.ERROR)  # moto's lines for each request
            address = stack.enter_context(serving.s3())
            os.environ.update(AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE", AWS_SECRET_ACCESS_KEY="SECRET")
            os.environ.update(AWS_ENDPOINT_URL=address, AWS_REGION="us-east-1")  # before the ranks' server starts
            client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
            client.create_bucket(Bucket="photos")
            for path in www.glob("*.tar"):
                client.upload_file(str(path), "photos", path.name)
            sources["s3"] = "s3://photos/{0..2}.tar"
        yield nginx, sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        www = making.data_set(scratch / "www", SAMPLES)
        with servers(www, scratch) as (nginx, sources):
            tries = Tries(scratch, nginx, sources)
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
