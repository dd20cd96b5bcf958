"""Compare reading from a web server on this machine with reading the same shards as files, in alternation.

    python benchmarks/streams.py --images 2048 --size 256 --rounds 5
    python benchmarks/streams.py --images 1024 --size 256 --rounds 3 --latency 20 --bandwidth 10

It needs nginx. The server takes part of the same cores, and nothing is cached but by the kernel. With --bandwidth a server in
Python answers after a latency (ms), so many MB/s for all connections together: how much of that are bytes of images is printed.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.data import loader
from tests import making, serving

BATCH = 64


def rate(config: Config, images: int) -> float:
    """Images/s of a loader that has begun."""
    index = loader.open_index(config)
    batches = loader.micro_batches(index, config, 0, range(BATCH), torch.device("cpu"))
    for _ in range(loader.ahead(config) // (BATCH // config.training.micro_batch) + 1):
        next(batches)
    began = time.perf_counter()
    for _ in range(images // BATCH):
        next(batches)
    return images / (time.perf_counter() - began)


def config_of(shards: str, folder: Path, size: int, workers: int) -> Config:
    sizes = {"data.resolution": size // 2, "data.channels": 3, "data.workers": workers, "training.batch": BATCH}
    long = {"training.images": 1 << 30, "training.micro_batch": 16, "data.cache": folder / "cache"}
    keys = {**making.tiny(shards, folder / "run"), **sizes, **long, "networks.generator.kind": "dcgan"}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


def limited(folder: Path, options: argparse.Namespace) -> None:
    """Print how much of a bandwidth images are read at."""
    objects = {f"/{path.name}": path.read_bytes() for path in (folder / "www").glob("*.tar")}
    stored, line = sum(map(len, objects.values())) / options.samples, threading.Lock()

    free = 0.0  # when the line has sent all that is under way

    def delayed(path: str, count: int, answer: serving.Answer) -> serving.Answer:
        nonlocal free
        time.sleep(options.latency / 1000)
        with line:
            free = max(free, time.monotonic()) + len(answer[2]) / (options.bandwidth * 1e6)
            sent = free
        time.sleep(max(0.0, sent - time.monotonic()))
        return answer

    with serving.Odd(objects) as server:
        config = config_of(f"{server.url}/{{0..3}}.tar", folder, options.size, options.workers)
        loader.prepare(config, progress=False)
        server.change = delayed
        parts = sorted(rate(config, options.images) * stored / (options.bandwidth * 1e6) for _ in range(options.rounds))
    print(f"{options.samples:,} images, {stored:,.0f} bytes each, {options.latency:g} ms, {options.bandwidth:g} MB/s")
    print(f"bytes of images over the bandwidth: {statistics.median(parts):.2f} ({parts[0]:.2f}..{parts[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096, help="images of a measurement")
    parser.add_argument("--samples", type=int, default=4096, help="images of the set")
    parser.add_argument("--size", type=int, default=128, help="pixels; training takes half of them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0, help="ms before an answer")
    parser.add_argument("--bandwidth", type=float, default=0, help="MB/s; 0: nginx, as fast as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shard in range(4):
            each = range(shard * options.samples // 4, (shard + 1) * options.samples // 4)
            members = (
                (f"{number:06d}.jpg", making.encode(making.picture(number, options.size, 3), "JPEG", quality=90))
                for number in each
            )
            making.write_tar(folder / f"www/{shard}.tar", members)
        if options.bandwidth:
            limited(folder, options)
            return
        with serving.nginx(folder / "www", folder / "nginx") as server:
            configs = {
                "files": config_of(str(folder / "www"), folder, options.size, options.workers),
                "nginx": config_of(f"{server.url}/{{0..3}}.tar", folder, options.size, options.workers),
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
