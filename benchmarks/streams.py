"""Compare reading from a web server on this machine with reading the same shards as files, in alternation.

    python benchmarks/streams.py --images 2048 --size 256 --rounds 5
    python benchmarks/streams.py --images 1024 --samples 1024 --size 512 --kind bmp --latency 20 --bandwidth 50

The first needs nginx. With --bandwidth a server in Python, a process of its own, answers after a latency (ms), so many MB/s for
all connections together. Printed are two ratios: how much of the bandwidth are bytes of images, with nothing cached; and with
data.order: blocks and a cold cache, the time to the first batch over that of a whole shard's transfer. The server takes part
of the same cores, and so do the workers: where they are what limits it, larger images shift the limit to the line.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import index as index_module, loader
from tests import making, serving

BATCH, SHARDS = 64, 4


def reading(config: Config) -> Iterator[list[object]]:
    return loader.micro_batches(loader.open_index(config), config, 0, range(BATCH), torch.device("cpu"))


def rate(config: Config, images: int) -> float:
    """Images/s of a loader that has begun."""
    batches = reading(config)
    for _ in range(loader.ahead(config) // (BATCH // config.training.micro_batch) + 1):
        next(batches)
    began = time.perf_counter()
    for _ in range(images // BATCH):
        next(batches)
    return images / (time.perf_counter() - began)


def first_step(config: Config) -> float:
    """Seconds from the start of reading to the first batch."""
    began = time.perf_counter()
    batches = reading(config)
    next(batches)
    return time.perf_counter() - began


def config_of(shards: str, folder: Path, options: argparse.Namespace, **more: object) -> Config:
    sizes = {"data.resolution": options.resolution or options.size // 2, "data.channels": 3, "training.batch": BATCH}
    long = {"training.images": 1 << 30, "training.micro_batch": 16, "data.cache": folder / "cache"}
    keys = {**making.tiny(shards, folder / "run"), **sizes, **long, "networks.generator.kind": "dcgan", **more}
    return config_module.load(["tests/data/digits.yaml", *making.flags({"data.workers": options.workers, **keys})])


def serve(www: Path, latency: float, bandwidth: float, address: Connection) -> None:
    """Answer until this process is ended: after `latency` ms, all connections together with so many MB/s."""
    objects = {f"/{path.name}": path.read_bytes() for path in www.iterdir()}
    line, free = threading.Lock(), 0.0  # when the line has sent all that is under way

    def delayed(path: str, count: int, answer: serving.Answer) -> serving.Answer:
        nonlocal free
        time.sleep(latency / 1000)
        with line:
            free = max(free, time.monotonic()) + len(answer[2]) / (bandwidth * 1e6)
            sent = free
        time.sleep(max(0.0, sent - time.monotonic()))
        return answer

    with serving.Odd(objects) as server:
        server.change = delayed
        address.send(server.url)
        threading.Event().wait()


@contextlib.contextmanager
def slow_server(www: Path, options: argparse.Namespace) -> Iterator[str]:
    """Its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(www, options.latency, options.bandwidth, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def limited(folder: Path, options: argparse.Namespace) -> None:
    """Print how much of a bandwidth images are read at, and how soon the first batch is there."""
    www, line = folder / "www", options.bandwidth * 1e6
    shards = [str(path) for path in sorted(www.glob("*.tar"))]
    index_module.build(shards, folder / "none", progress=False)  # beside the shards, where the server's index is found
    size = sum(Path(shard).stat().st_size for shard in shards) / SHARDS
    stored = SHARDS * size / options.samples
    print(
        f"{options.samples:,} images, {stored:,.0f} bytes each, {SHARDS} shards of {size / 1e6:,.1f} MB, {options.latency:g} ms, "
        f"{options.bandwidth:g} MB/s, {options.workers} workers"
    )
    blocks = {"data.order": "blocks", "data.block": options.block, "data.window": options.window}
    if not options.first:
        with slow_server(www, options) as url:
            plain = config_of(addresses(url), folder, options, **{"data.cache_limit": 0})
            loader.prepare(plain, progress=False)
            parts = sorted(rate(plain, options.images) * stored / line for _ in range(options.rounds))
        told = f"{statistics.median(parts):.2f} ({parts[0]:.2f}..{parts[-1]:.2f})"
        print(f"RATIO bytes of images over the bandwidth: {told}", flush=True)
    times = []
    for number in range(options.rounds):
        cold = {"data.cache": folder / f"cold-{number}", "run.directory": folder / f"run-{number}"}
        with slow_server(www, options) as url:  # the line of the one before has still to send what was fetched ahead
            config = config_of(addresses(url), folder, options, **blocks, **cold)
            loader.prepare(config, progress=False)
            times.append(first_step(config) / (size / line))
    times.sort()
    told = f"{statistics.median(times):.2f} ({times[0]:.2f}..{times[-1]:.2f})"
    print(f"RATIO first batch over the transfer time of a shard ({size / line:.1f} s): {told}")


def addresses(url: str) -> str:
    return f"{url}/{{0..{SHARDS - 1}}}.tar"


def write(folder: Path, options: argparse.Namespace) -> None:
    each = options.samples // SHARDS
    quality = {"quality": 90} if options.kind == "jpeg" else {}
    for shard in range(SHARDS):
        members = (
            (
                f"{number:06d}.{options.kind}",
                making.encode(making.picture(number, options.size, 3), options.kind, **quality),
            )
            for number in range(shard * each, (shard + 1) * each)
        )
        making.write_tar(folder / f"www/{shard}.tar", members)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096, help="images of a measurement")
    parser.add_argument("--samples", type=int, default=4096, help="images of the set")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--resolution", type=int, default=0, help="pixels that training takes; 0: half of --size")
    parser.add_argument(
        "--kind", default="jpeg", choices=("jpeg", "png", "bmp"), help="bmp: most bytes for the least work"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0, help="ms before an answer")
    parser.add_argument("--bandwidth", type=float, default=0, help="MB/s; 0: nginx, as fast as it is")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--first", action="store_true", help="measure the first batch alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options)
        if options.bandwidth:
            limited(folder, options)
            return
        with serving.nginx(folder / "www", folder / "nginx") as server:
            configs = {
                "files": config_of(str(folder / "www"), folder, options),
                "nginx": config_of(f"{server.url}/{{0..3}}.tar", folder, options, **{"data.cache_limit": 0}),
            }
            for config in configs.values():
                loader.prepare(config, progress=False)
            rates: dict[str, list[float]] = {kind: [] for kind in configs}
            for _ in range(options.rounds):
                for kind, config in configs.items():
                    rates[kind].append(rate(config, options.images))
            ratios = sorted(far / near for near, far in zip(rates["files"], rates["nginx"], strict=True))
            stored = sum(path.stat().st_size for path in (folder / "www").glob("*.tar"))
            print(f"{options.samples:,} images, {stored / options.samples:,.0f} bytes each, {options.workers} workers")
            for kind, found in rates.items():
                print(f"{kind}: {statistics.median(found):,.0f} images/s ({min(found):,.0f}..{max(found):,.0f})")
            print(f"nginx over files: {statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
