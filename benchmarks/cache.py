"""What the cache of blocks saves: bytes fetched over bytes of the set, epoch by epoch, by the fetcher of a training.

    python benchmarks/cache.py                     # full and blocks, 1, 2 and 4 machines, a cache of a quarter of the set
    python benchmarks/cache.py --part 0.5          # another size
    python benchmarks/cache.py --stop              # the server stops for 10 s with a warm cache

The real fetcher and the real files, on a simulated clock: a step takes `batch / rate` seconds, and the source counts bytes.
Ranks of one machine share a cache, so that for them it is the figure of one machine.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gan_dist.data import prefetch
from gan_dist.data.block_cache import Folder, Reading, Unit
from gan_dist.data.order import Blocks
from gan_dist.data.reading import Piece
from gan_dist.data.upcoming import Schedule

SAMPLE = 4096  # bytes: those of a page, so that a file of one sample takes not more
TOTAL = 8192
BATCH = 64
LAYOUTS = ((1, 1, 1), (1, 1, 2), (1, 1, 4), (2, 2, 1), (4, 4, 1), (2, 1, 1))
"""Machines, streams, ranks of a machine."""


class Contents:
    """A set of TOTAL samples in one shard."""

    set = "0123456789abcdef"
    stored = TOTAL * SAMPLE

    def sizes(self, samples: range) -> np.ndarray:
        return np.full(len(samples), SAMPLE - 16, np.int64)

    def pieces(self, samples: range) -> list[Piece]:
        return [Piece(0, sample * SAMPLE, SAMPLE - 16) for sample in samples]


class Source:
    """Gives bytes and counts them."""

    def __init__(self) -> None:
        self.bytes = self.requests = 0

    def read_many(self, pieces) -> list[bytes]:
        ordered = sorted(piece.offset for piece in pieces)
        self.requests += 1 + sum(after - before > SAMPLE for before, after in itertools.pairwise(ordered))
        self.bytes += sum(piece.size for piece in pieces)
        return [piece.offset.to_bytes(8, "little") * (piece.size // 8) for piece in pieces]


class Machine:
    """A machine that serves some slots: its cache, its fetcher, and what its loaders do."""

    def __init__(self, path: Path, schedule: Schedule, slots: range, limit: int, clock, ranks: int = 1) -> None:
        self.ranks = ranks
        self.folder, self.schedule, self.slots = Folder(path), schedule, slots
        self.contents, self.fetched, self.missed = Contents(), Source(), Source()
        self.hits = self.reads = 0
        self.fetcher = prefetch.Fetcher(self.folder, path.name, limit, schedule, self.contents, self.fetched, clock)

    def fetch(self, images: int, allowed: int) -> None:
        """Fetch ahead, so many bytes at most, but for the last round."""
        until = self.fetched.bytes + allowed
        share = len(self.slots) // self.ranks
        readers = [Reading(images, self.slots[rank * share : (rank + 1) * share]) for rank in range(self.ranks)]
        while self.fetched.bytes < until and self.fetcher.step(readers):
            pass

    def read(self, images: int) -> int:
        """Read a step's samples. Returns how many were not there."""
        from gan_dist.data import order

        made = self.schedule
        slots = np.arange(self.slots.start, self.slots.stop)
        samples = order.samples(made.seed, made.total, made.batch, made.streams, images, slots, blocks=made.blocks)
        missing = []
        for sample, number in zip(samples.tolist(), made.units_of(samples).tolist(), strict=True):
            held = made.samples_of(number)
            unit = Unit(self.contents.set, held.start, held.stop)
            data = self.folder.read(unit, self.contents.sizes(held), sample - held.start)
            if data is None:
                missing += self.contents.pieces(range(sample, sample + 1))
            else:
                assert int.from_bytes(data[:8], "little") == sample * SAMPLE
        self.missed.read_many(missing)
        self.reads += len(samples)
        self.hits += len(samples) - len(missing)
        return len(missing)


def belady(total: int, room: int, epochs: int, seed: int = 0) -> float:
    """Bytes fetched over bytes of the set in the last epoch, by the best eviction there is, for single samples in full order."""
    import heapq

    from gan_dist import rng
    from gan_dist.data import order

    uses = np.concatenate(
        [order.permute(rng.key(seed, "order", 0, epoch), total, np.arange(total)) for epoch in range(epochs + 1)]
    )
    following = np.empty(len(uses), np.int64)
    last: dict[int, int] = {}
    for at in range(len(uses) - 1, -1, -1):
        following[at] = last.get(int(uses[at]), len(uses))
        last[int(uses[at])] = at
    kept: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    misses = 0
    for at in range(epochs * total):
        sample = int(uses[at])
        if sample not in kept:
            misses += at >= (epochs - 1) * total
        kept[sample] = int(following[at])
        heapq.heappush(heap, (-kept[sample], sample))
        while len(kept) > room:
            until, worst = heapq.heappop(heap)
            if kept.get(worst) == -until:
                del kept[worst]
    return misses / total


def simulate(
    blocks: Blocks | None, machines: int, streams: int, part: float, epochs: int, speed: float, ranks: int
) -> str:
    """Print bytes fetched over bytes of the set, in each epoch, all machines together."""
    now = [0.0]
    schedule = Schedule(
        seed=0, name="", total=TOTAL, batch=BATCH, streams=streams, end=(epochs + 2) * TOTAL, blocks=blocks
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        share = BATCH // machines
        each = [
            Machine(
                Path(scratch) / f"{number}",
                schedule,
                range(number * share, (number + 1) * share),
                int(part * TOTAL * SAMPLE * (17 / 16 if blocks else 1)),
                lambda: now[0],
                ranks,
            )
            for number in range(machines)
        ]
        ratios, requests, before = [], [], 0
        asked = 0
        for images in range(0, epochs * TOTAL, BATCH):
            for machine in each:
                machine.fetch(images, int(speed * share * SAMPLE))
                machine.read(images)
            now[0] += BATCH / 1000
            if (images + BATCH) % TOTAL == 0:
                total = sum(machine.fetched.bytes + machine.missed.bytes for machine in each)
                calls = sum(machine.fetched.requests + machine.missed.requests for machine in each)
                ratios.append((total - before) / (TOTAL * (SAMPLE - 16)))
                requests.append((calls - asked) / TOTAL)
                before, asked = total, calls
        hits = sum(machine.hits for machine in each) / sum(machine.reads for machine in each)
        most = max(sum(kept.bytes for kept in machine.folder.scan().values()) for machine in each)
    return (
        f"{' '.join(f'{ratio:.2f}' for ratio in ratios)}   from the cache {hits:.2f}   requests a sample, last epoch "
        f"{requests[-1]:.3f}   cache {most / TOTAL / SAMPLE:.3f} of the set"
    )


def stop(blocks: Blocks, speed: float) -> None:
    """Count the samples that a loop lacks while the server is silent for 10 s."""
    now = [0.0]
    schedule = Schedule(seed=0, name="", total=TOTAL, batch=BATCH, streams=1, end=10 * TOTAL, blocks=blocks)
    with tempfile.TemporaryDirectory() as scratch:
        machine = Machine(Path(scratch) / "0", schedule, range(BATCH), TOTAL * SAMPLE // 4, lambda: now[0])
        rate, lacking, steps = TOTAL / 200, 0, 0  # 10 s are a twentieth of an epoch
        silent = range(TOTAL // 2, TOTAL // 2 + int(10 * rate))
        for images in range(0, TOTAL, BATCH):
            now[0] += BATCH / rate
            if images in silent:
                lacking, steps = lacking + machine.read(images), steps + 1
                continue
            machine.fetch(images, int(speed * BATCH * SAMPLE))
            machine.read(images)
    print(f"server silent for 10 s, a twentieth of an epoch: {steps} steps, {lacking} samples not in the cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=6, help="of machines and ranks: the first so many")
    parser.add_argument("--part", type=float, default=0.25, help="bytes of the cache over bytes of the set")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--speed", type=float, default=4.0, help="bandwidth over what the training reads")
    parser.add_argument("--stop", action="store_true")
    options = parser.parse_args()
    blocks = Blocks(16, 8)
    prefetch._SORT = prefetch._SCAN_SHARE = 0  # the clock here is not the one of the fetcher's work
    prefetch._ROUND = 16 * 8 * SAMPLE // 4  # of the small set here
    if options.stop:
        stop(blocks, options.speed)
        return
    print(f"bytes fetched over bytes of the set in epochs 1 to {options.epochs}, cache {options.part:g} of the set")
    for name, order in (("full", None), ("blocks", blocks)):
        for machines, streams, ranks in LAYOUTS[: options.layouts]:
            part = options.part / machines
            line = simulate(order, machines, streams, part, options.epochs, options.speed, ranks)
            print(f"  {name:6s} {machines} machine(s) of {ranks} rank(s), data.streams: {streams}   {line}", flush=True)
    print(f"  full, Belady without fetching ahead: {belady(TOTAL, int(options.part * TOTAL), options.epochs):.2f}")


if __name__ == "__main__":
    main()
