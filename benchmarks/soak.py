"""Kills a two-process run at random, again and again, and compares what is left with an undisturbed run.

    python benchmarks/soak.py --kills 100

Every kill is one of: SIGKILL to one rank, SIGKILL to all, SIGTERM to one rank, SIGSTOP to one rank (the watchdog must
end the job), SIGKILL to the launcher and all, of a start with 1 or 2 processes. Ten kills are each of these once, in random
order. After each, every checkpoint that was reported as saved and not replaced must be whole. At the end: the right number of
images, every metrics line once, and the same figures and bits.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from gan_dist.checkpoint import store  # noqa: E402
from gan_dist.data.pack.packing import pack  # noqa: E402

KINDS = ("kill one rank", "kill all", "term one rank", "stop one rank", "kill launcher and all")
STEPS, BATCH = 10_000_000, 16
HANG = 4.0


class Soak:
    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        self.random = random.Random(options.seed)
        self.run = scratch / "run"
        self.survived: Counter[str] = Counter()
        self.deck: list[tuple[str, int]] = []
        pack("digits", scratch / "digits", resolution=8, progress=False)

    def command(self, directory: Path, processes: int, images: int) -> list[str]:
        keys = {
            "run.directory": directory, "data.shards": self.scratch / "digits", "data.source": "", "data.resolution": 8,
            "data.workers": 0, "networks.generator.base_channels": 4, "networks.discriminator.base_channels": 4, "game.latent": 8, "training.batch": BATCH,
            "training.micro_batch": 4, "training.strategy": "exact", "training.device": "cpu", "training.images": images,
            "checkpoint.every": BATCH * 40, "checkpoint.keep": 3, "track.every": BATCH * 10, "track.wandb": "disabled",
            "sample.every": 10**9, "control.hang_seconds": HANG,
        }  # fmt: skip
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        flags = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
        return [*start, str(HERE / "gan_dist/train.py"), str(HERE / "tests/data/digits.yaml"), *flags]

    def start(self, directory: Path, processes: int, images: int) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30",
        }
        log = (self.scratch / "log.txt").open("a")
        return subprocess.Popen(
            self.command(directory, processes, images), env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def ranks(self, processes: int, launcher: "subprocess.Popen[bytes]") -> list[int]:
        """Process ids of the ranks, once they train; [] if the command ended before."""
        began = time.time()
        while launcher.poll() is None:
            found = []
            for rank in range(processes):
                with contextlib.suppress(OSError, ValueError):
                    progress = json.loads((self.run / f"logs/processes/rank-{rank}.json").read_text())
                    if (
                        progress["moved"] > began - 1
                        and progress["beats"] > 1
                        and is_running(progress["pid"])  # not one of the run before, killed a moment ago
                    ):
                        found.append(progress["pid"])
            if len(found) == processes:
                return found
            time.sleep(0.02)
        return []

    def draw(self) -> tuple[str, int]:
        """A kind of kill and a number of processes, none again before all have come."""
        if not self.deck:
            self.deck = [(kind, processes) for kind in KINDS for processes in (1, 2)]
            self.random.shuffle(self.deck)
        return self.deck.pop()

    def disturb(self, number: int, images: int) -> None:
        """Start the run, let it train for a while, and do something to it."""
        kind, processes = self.draw()
        launcher = self.start(self.run, processes, images)
        try:
            pids = self.ranks(processes, launcher)
            time.sleep(self.random.uniform(0, 2.0))
            if not pids or launcher.poll() is not None:
                raise SystemExit(f"kill {number}: the run ended by itself\n{self.tail()}")
            victims = pids if kind in ("kill all", "kill launcher and all") else [self.random.choice(pids)]
            if kind == "kill launcher and all":
                launcher.kill()
            sent = {"term one rank": signal.SIGTERM, "stop one rank": signal.SIGSTOP}.get(kind, signal.SIGKILL)
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            if kind == "stop one rank" and processes == 1:  # nobody is left to notice: a person kills it
                time.sleep(0.2)
                os.kill(pids[0], signal.SIGKILL)
            launcher.wait(60)
            self.gone(pids)
        finally:
            self.end(launcher, pids)
        self.survived[f"{kind}, {processes} process(es)"] += 1
        whole = self.check_checkpoints(number, kind)
        print(f"{number + 1:4d}  {kind:22s} {processes} process(es)  newest whole: {whole}", flush=True)

    def gone(self, pids: list[int]) -> None:
        end = time.monotonic() + 30
        while any(map(is_running, pids)):
            if time.monotonic() > end:
                alive = list(filter(is_running, pids))
                raise SystemExit(f"ranks {alive} of {pids} outlive their launcher\n{self.tail()}")
            time.sleep(0.05)

    def end(self, launcher: "subprocess.Popen[bytes]", pids: list[int]) -> None:
        if launcher.poll() is None:
            launcher.kill()
        launcher.wait()
        for pid in pids:
            with contextlib.suppress(OSError):  # the process has ended
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                # the kernel may have given the number to another program by now
                if os.fsencode(self.run) in command or os.fsencode(self.scratch) in command:
                    os.kill(pid, signal.SIGKILL)

    def check_checkpoints(self, number: int, kind: str) -> str:
        directory = self.run / "checkpoints"
        rows = [store.describe(directory / name, hashes=True) for name in store.names(directory)]
        saved = [event["checkpoint"] for event in self.events() if event["event"] == "saved"]
        whole = [row["name"] for row in rows if row["whole"]]
        damaged = [row for row in rows if not row["whole"]]
        if damaged:
            raise SystemExit(f"kill {number} ({kind}): {damaged}")
        if saved and (not whole or int(whole[-1][7:]) < max(int(name[7:]) for name in saved)):
            raise SystemExit(f"kill {number} ({kind}): saved was {saved[-1]}, whole are {whole}")
        if len(whole) < min(3, len(set(saved))):
            raise SystemExit(f"kill {number} ({kind}): only {whole} are whole")
        return whole[-1] if whole else "none yet"

    def events(self) -> list[dict]:
        path = self.run / "events.jsonl"
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def tail(self) -> str:
        return (self.scratch / "log.txt").read_text()[-3000:]


def is_running(pid: int) -> bool:
    """Whether a process computes still; one that has ended, and that nobody has asked for its end, has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to leave everything in")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        soak = Soak(options, options.keep or Path(scratch))
        for number in range(options.kills):
            soak.disturb(number, STEPS)
        reached = max(event["images"] for event in soak.events() if event["event"] == "saved")
        images = (reached // (BATCH * 40) + 2) * BATCH * 40
        for directory in (soak.run, soak.scratch / "undisturbed"):
            child = soak.start(directory, 2, images)
            if child.wait(1200):
                raise SystemExit(f"{directory} did not finish\n{soak.tail()}")
        compare(soak, images)
        seconds = time.monotonic() - began
        print(
            f"{options.kills} kills in {seconds:.0f} s: "
            + ", ".join(f"{n} x {k}" for k, n in sorted(soak.survived.items()))
        )
        if options.keep is None:
            shutil.rmtree(soak.run)


def compare(soak: Soak, images: int) -> None:
    """The killed run against the undisturbed one."""
    name = store.name_of(images)
    digests, figures = [], []
    for directory in (soak.run, soak.scratch / "undisturbed"):
        digests.append(store.describe(directory / "checkpoints" / name, hashes=True)["digest"])
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        positions = [line["images"] for line in lines]
        wanted = list(range(BATCH * 10, images + 1, BATCH * 10))
        if positions != wanted:
            raise SystemExit(
                f"{directory}: metrics lines lost or doubled: {sorted(Counter(positions) - Counter(wanted))}"
            )
        figures.append(
            [{key: value for key, value in line.items() if not key.startswith(("speed/", "memory/"))} for line in lines]
        )
    if None in digests or digests[0] != digests[1]:
        raise SystemExit(f"other bits: {digests}")
    if figures[0] != figures[1]:
        raise SystemExit("other figures")
    print(
        f"{images:,} images: the same digest {digests[0][:16]} and the same {len(figures[0])} metrics lines as undisturbed"
    )


if __name__ == "__main__":
    main()
