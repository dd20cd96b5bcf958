"""Measure what looking for near-duplicates costs `gan-dist pack`: the same source, packed with and without, in turns.

    python benchmarks/near_duplicates.py SOURCE [--resolution 64] [--rounds 5]

Prints the median ratio of CPU seconds, and the least and the most.
"""

import argparse
import resource
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_dist.data.pack.packing import pack


def seconds(source: str, resolution: int | None, compare: bool) -> tuple[float, int]:
    """Return the CPU seconds of one pack in this process, and the near-duplicates that it found."""
    with tempfile.TemporaryDirectory() as folder:
        begin = resource.getrusage(resource.RUSAGE_SELF)
        report = pack(
            source, Path(folder) / "shards", resolution=resolution, processes=1, progress=False, compare=compare
        )
        end = resource.getrusage(resource.RUSAGE_SELF)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime, report.near_duplicates


def main() -> None:
    """Alternate, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds(options.source, options.resolution, True)  # what is loaded once
    ratios, found = [], 0
    for _ in range(options.rounds):
        without, _ = seconds(options.source, options.resolution, False)
        with_them, found = seconds(options.source, options.resolution, True)
        ratios.append(with_them / without)
        print(f"{without:.2f} s without, {with_them:.2f} s with", flush=True)
    middle = statistics.median(ratios)
    print(f"{middle:.2f} times ({min(ratios):.2f}..{max(ratios):.2f}), {found} near-duplicates")


if __name__ == "__main__":
    main()
