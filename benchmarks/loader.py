"""How fast images arrive, against a stock WebDataset pipeline and against decoding alone.

    python benchmarks/loader.py --shards FOLDER            # folder of shards of 64x64 JPEGs
    python benchmarks/loader.py --kept FOLDER              # CPU time of an image, decoded and from memory
    python benchmarks/loader.py --order                    # sample order at 10^4 and 10^9 samples
    python benchmarks/loader.py --index                    # memory of the index of 10^6 samples

Every figure is a ratio of two things measured in turn in one run.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from gan_dist import config as config_module
from gan_dist.data import index, loader, order, parts, resident, shards
from gan_dist.data.decode import Decoder

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards")
    parser.add_argument("--larger", help="shards of larger JPEGs: reduced-scale against full decoding")
    parser.add_argument("--kept", help="shards of at most some 10,000 images: data.resident against decoding")
    parser.add_argument("--order", action="store_true")
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=10_000, help="images of a timed pass")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.shards:
        pipelines(options)
        resumes(options)
    if options.larger:
        reduced(options)
    if options.kept:
        kept_cost(options)
    if options.order:
        order_cost(options.rounds)
    if options.index:
        index_memory()


def settings(source: str, workers: int, images: int):
    keys = {
        "data.shards": source,
        "data.workers": workers,
        "data.flip": "false",
        "training.images": images,
        "training.batch": BATCH,
        "training.micro_batch": BATCH,
    }
    flags = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    config = config_module.load([str(Path(__file__).resolve().parent.parent / "configs/dcgan.yaml"), *flags])
    loader.prepare(config, progress=False)
    return config, loader.open_index(config)


def pipelines(options: argparse.Namespace) -> None:
    config, found = settings(options.shards, options.workers, 1 << 40)
    contestants = {
        "gan_dist": lambda: ours(config, found, options.images),
        "stock WebDataset": lambda: stock(shards.expand(options.shards), options.workers, options.images),
        "decoding alone": lambda: decode_only(found, options.workers, options.images),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, run in contestants.items():
            rates[name].append(run())
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items()),
            flush=True,
        )
    print(
        f"normalised batches of {BATCH} at the trainer, {options.workers} workers, median images/s of {options.rounds} rounds:"
    )
    for name, values in rates.items():
        ratios = [mine / other for mine, other in zip(rates["gan_dist"], values, strict=True)]
        print(
            f"  {name:18s} {statistics.median(values):9,.0f}   RATIO gan_dist over it {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


def ours(config, found, images: int) -> float:
    batches = loader.micro_batches(found, config, 0, range(BATCH), torch.device("cpu"))
    rate = steady(batches, images)
    batches.close()
    return rate


def stock(names: list[str], workers: int, images: int) -> float:
    """As WebDataset's documentation writes it for a training loop."""
    import webdataset as wds
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    dataset = wds.WebDataset(names, shardshuffle=len(names), nodesplitter=wds.split_by_node)
    dataset = dataset.shuffle(1000).decode("pil").to_tuple("jpg").map_tuple(transform)
    batches = iter(wds.WebLoader(dataset.repeat(), batch_size=BATCH, num_workers=workers))
    return steady((batch[0] for batch in batches), images)


def decode_only(found, workers: int, images: int) -> float:
    """The same decoder over the same samples in as many processes, each thrown away: nothing crosses to anybody."""
    reading, writing = os.pipe()
    children = []
    for number in range(workers):
        if (child := os.fork()) == 0:
            decoder = Decoder(found, (64, 64), 3)
            mine = np.random.default_rng(number).integers(0, len(found), images // workers).reshape(-1)
            batches = [mine[i : i + BATCH] for i in range(0, len(mine), BATCH)]
            decoder.read(batches[0])
            begin = time.perf_counter()
            for batch in batches:
                decoder.read(batch)
            os.write(writing, f"{len(mine) / (time.perf_counter() - begin)}\n".encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as results:
        return sum(float(line) for line in results)


def steady(batches, images: int) -> float:
    """Images a second once the workers have started and their queues have been emptied."""
    for _ in range(20):
        next(batches)
    begin = time.perf_counter()
    for _ in range(images // BATCH):
        next(batches)
    return images // BATCH * BATCH / (time.perf_counter() - begin)


def resumes(options: argparse.Namespace) -> None:
    """Time to the first batch at a far position over the time at the beginning."""
    config, found = settings(options.shards, options.workers, 1 << 40)
    ratios = []
    far = 10**9 // BATCH * BATCH
    for _ in range(options.rounds):
        times = []
        for start in (0, far):
            begin = time.perf_counter()
            batches = loader.micro_batches(found, config, start, range(BATCH), torch.device("cpu"))
            next(batches)
            times.append(time.perf_counter() - begin)
            batches.close()
        ratios.append(times[1] / times[0])
    print(
        f"RATIO time to the first batch, position 10^9 over 0: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
    )


def reduced(options: argparse.Namespace) -> None:
    """Decoding larger JPEGs to 64x64 at a reduced scale, against decoding them whole first."""
    import cv2

    from gan_dist.data import decode

    _, found = settings(options.larger, 0, 1 << 40)
    samples = np.arange(min(len(found), 1000))
    whole = {key: flag if key[1] == 1 else decode._REDUCED[key[0], 1] for key, flag in decode._REDUCED.items()}
    ratios = []
    for _ in range(options.rounds):
        times = []
        for table in (decode._REDUCED, whole):
            kept, decode._REDUCED = decode._REDUCED, table
            begin = time.perf_counter()
            Decoder(found, (64, 64), 3).read(samples)
            times.append(time.perf_counter() - begin)
            decode._REDUCED = kept
        ratios.append(times[1] / times[0])
    size = f"{found.width[0]}x{found.height[0]}"
    print(
        f"RATIO images/s from {size} JPEGs to 64x64, reduced scale over whole (OpenCV {cv2.__version__}): median {statistics.median(ratios):.2f}"
    )


def kept_cost(options: argparse.Namespace) -> None:
    """CPU time that an image costs a training process without workers: decoded each time, and from memory."""
    config, found = settings(options.kept, 0, 1 << 40)
    made = resident.plan(
        config.with_({"data.resident": "host"}), found, [range(BATCH)], range(BATCH), torch.device("cpu")
    )
    assert made is not None
    streams = {}
    for name, cache in (("decoded", None), ("from memory", resident.Cache(made))):
        streams[name] = loader.micro_batches(found, config, 0, range(BATCH), torch.device("cpu"), cache=cache)
        for _ in range(len(found) // BATCH * 9 // 8 + 2 if cache else 2):  # until all are there, and it was looked for
            next(streams[name])
        assert cache is None or cache.is_full
    times: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(options.rounds):
        for name, batches in streams.items():
            begin = time.process_time()
            for _ in range(options.images // BATCH):
                next(batches)
            times[name].append((time.process_time() - begin) / (options.images // BATCH * BATCH) * 1e6)
    for name, values in times.items():
        print(f"{name:12s} {statistics.median(values):8.1f} us of CPU an image ({min(values):.1f}..{max(values):.1f})")
    ratios = [one / other for one, other in zip(*times.values(), strict=True)]
    shape = "x".join(str(each) for each in made.shapes["image"])
    print(
        f"RATIO decoded over from memory {statistics.median(ratios):.1f} ({min(ratios):.1f}..{max(ratios):.1f}); "
        f"{len(found):,} images to {shape}, {made.bytes / 2**20:.1f} MiB"
    )


def order_cost(rounds: int) -> None:
    """Memory and time of a batch of sample numbers at 10^4 and 10^9 samples."""
    slots = np.arange(256)
    sizes = (10**4, 10**9)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    memory = {}
    for _ in range(rounds * 20):
        for size in sizes:
            position = size * 7 // 3 // 256 * 256
            begin = time.perf_counter()
            for step in range(20):
                order.samples(0, size, 256, 1, position + 256 * step, slots)
            times[size].append((time.perf_counter() - begin) / 20)
    for size in sizes:
        tracemalloc.start()
        order.samples(0, size, 256, 1, size * 7 // 3 // 256 * 256, slots)
        memory[size] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    small, large = (statistics.median(times[size]) for size in sizes)
    print(f"256 sample numbers: {small * 1e6:.0f} us of 10^4 samples, {large * 1e6:.0f} us of 10^9")
    print(
        f"RATIO time {large / small:.2f}, RATIO peak memory {memory[sizes[1]] / memory[sizes[0]]:.2f} ({memory[sizes[1]]} bytes)"
    )


def index_memory() -> None:
    """Resident memory that the index of 10^6 samples adds to a process, and to each of its loader workers."""
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(100):
            make_index(Path(scratch) / f"shard-{number:04d}.tar", 10_000)
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent)!r}); import loader; loader.measure({scratch!r})"
        subprocess.run([sys.executable, "-c", code], check=True)


def make_index(path: Path, samples: int) -> None:
    """A stand-in for a scanned shard: a file of zeros and an index that says it holds `samples` images."""
    with path.open("wb") as file:
        file.truncate(samples * 2560 + 1024)
    columns = {
        "offset": np.arange(samples, dtype=np.int64) * 2560,
        "size": np.full(samples, 2048, np.uint32),
        "label": np.zeros(samples, np.int32),
        "width": np.full(samples, 64, np.uint16),
        "height": np.full(samples, 64, np.uint16),
        "keys": np.frombuffer("".join(f"{i:09d}\0" for i in range(samples)).encode(), np.uint8),
    }
    names = dict.fromkeys(("digest", "old_digest", "keys"), path.name)
    summary = {"channels": {"3": "0"}, "bad": [], "left_out": {}, **names}
    Path(f"{path}.index").write_bytes(parts.content(index.stamp(str(path)), columns, summary))


def measure(folder: str) -> None:
    names = shards.expand(folder)
    index.load(names[:1], Path(folder))
    before = resident_bytes()
    found = index.load(names, Path(folder))
    np.sum(found.offset), np.sum(found.size)  # touch them
    print(f"index of {len(found):,} samples: {(resident_bytes() - before) / 2**20:.1f} MiB resident in the process")
    before = resident_bytes()
    from multiprocessing.reduction import ForkingPickler

    print(f"handed to a worker: {len(ForkingPickler.dumps(found)):,} bytes of handles, the arrays stay shared")


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
