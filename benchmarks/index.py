"""What the index of very many samples costs a machine and each of its processes.

    python benchmarks/index.py --samples 10_000_000 --shards 100_000
    python benchmarks/index.py --samples 1_000_000 --shards 100_000 --local

Writes the index of a set on a server into a scratch folder, as `gan-dist index` leaves it, and opens it as the ranks of a
machine do: the first writes the table that all map. What a process has for itself is anonymous memory; pages of the table
are the machine's, once. With --local the shards are files, each with its index beside it, and a further rank is measured
with and without the summary that the first one leaves.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

DIGEST = "0" * 64
SUMMARY = {"channels": {"3": "0"}, "bad": [], "digest": DIGEST, "old_digest": DIGEST, "keys": DIGEST, "left_out": {}}


def write(folder: Path, samples: int, shards: int) -> list[str]:
    from safetensors.numpy import save_file

    from gan_dist.data import parts, remote_index

    urls = [f"s3://bucket/train-{number:06d}.tar" for number in range(shards)]
    each = samples // shards
    place = remote_index._place(urls, folder / "cache", "auto")
    place.parent.mkdir(parents=True)
    one = np.arange(each, dtype=np.int64)
    tensors = {
        "offset": np.tile(one * 66_048, shards),
        "size": np.full(each * shards, 65_536, np.uint32),
        "label": np.repeat(np.arange(shards, dtype=np.int32) % 1000, each),
        "width": np.full(each * shards, 256, np.uint16),
        "height": np.full(each * shards, 256, np.uint16),
        "keys": np.zeros(each * shards, np.uint8),
        "first": np.arange(shards + 1) * each,
        "first_key": np.arange(shards + 1) * each,
    }
    about = {
        "version": str(parts.VERSION),
        "facts": json.dumps(
            [[each * 66_048 + 1024, f'"{number:032x}"', "2026-01-01T00:00:00"] for number in range(shards)]
        ),
        "summaries": json.dumps([SUMMARY] * shards),
    }
    save_file(tensors, place, metadata=about)
    return urls


def write_local(folder: Path, samples: int, shards: int) -> None:
    """Shards of no content, as none is read, all of one date, and the index of each."""
    from gan_dist.data import parts

    each = samples // shards
    one = np.arange(each, dtype=np.int64)
    arrays = {
        "offset": one * 66_048,
        "size": np.full(each, 65_536, np.uint32),
        "label": np.zeros(each, np.int32),
        "width": np.full(each, 256, np.uint16),
        "height": np.full(each, 256, np.uint16),
        "keys": np.zeros(each, np.uint8),
    }
    stamp = {"version": str(parts.VERSION), "bytes": "0", "mtime_ns": "0"}
    content = parts.content(stamp, arrays, SUMMARY)
    for name in names(folder, shards):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
        os.utime(name, ns=(0, 0))
        Path(f"{name}.index").write_bytes(content)


def names(folder: Path, shards: int) -> list[str]:
    return [f"{folder}/{number // 1000:03d}/{number:06d}.tar" for number in range(shards)]


def own_memory() -> int:
    """Bytes that only this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Anonymous:",)))


def open_it(folder: str, shards: int, local: bool, prepared: bool) -> None:
    """What a rank does, and prints."""
    from gan_dist import config as config_module
    from gan_dist.data import checks, index

    os.environ["TMPDIR"] = tempfile.tempdir = folder
    far = [f"s3://bucket/train-{number:06d}.tar" for number in range(shards)]
    repository = Path(__file__).resolve().parent.parent
    flags = ["--data.shards", "s3://bucket/train.tar", "--data.resolution", "64"]
    config = config_module.load([str(repository / "configs/dcgan.yaml"), *flags])
    before, begun = own_memory(), time.perf_counter()
    found = index.load(names(Path(folder), shards) if local else far, Path(folder) / "cache", prepared=prepared)
    loaded = time.perf_counter() - begun
    checks.check(found, config)
    checked = time.perf_counter() - begun - loaded
    rng = np.random.default_rng(0)
    found.size[rng.integers(0, len(found), 10_000)].sum()
    held = own_memory() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sent = len(pickle.dumps(found))
    print(
        json.dumps(
            {"own": held, "peak": peak, "sent": sent, "load": loaded, "check": checked, "table": found.rows.nbytes}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--local", action="store_true", help="shards in a file system")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (write_local if options.local else write)(Path(scratch), options.samples, options.shards)
        ranks = {"first rank of a machine": False, "a further rank": True}
        if options.local:
            ranks = {
                "first rank of a machine": False,
                "a further rank without the summary": False,
                "a further rank": True,
            }
        for name, prepared in ranks.items():
            call = f"index.open_it({scratch!r}, {options.shards}, {options.local}, {prepared})"
            code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import index; {call}"
            words = [sys.executable, "-c", code]
            output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            print(
                f"{name}: table {found['table'] / 1e6:,.0f} MB, mapped; own memory {found['own'] / 1e6:,.0f} MB, peak of the process "
                f"{found['peak'] / 1e6:,.0f} MB with the mapped pages; sent to a worker {found['sent'] / 1e6:,.0f} MB; "
                f"load {found['load']:.1f} s, checks {found['check']:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
