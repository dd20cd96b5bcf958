"""What stopping, watching and noting saves cost a step: the time within these calls over the time of all steps.

    python benchmarks/control.py --shards FOLDER [--processes 2]

Trains the digits recipe for a while with the calls timed from outside; nothing is removed or added.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="the digits, packed at 16x16")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--images", type=int, default=40_000)
    options = parser.parse_args()
    start = [sys.executable]
    if options.processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
    with tempfile.TemporaryDirectory() as folder:
        keys = [
            "--data.shards",
            os.path.abspath(options.shards),
            "--data.source",
            "",
            "--run.directory",
            f"{folder}/run",
        ]
        keys += ["--track.wandb", "disabled", "--training.images", str(options.images), "--training.device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TIMED": "1"}
        script = [str(HERE / "control.py"), str(HERE.parent / "configs/digits.yaml"), *keys]
        done = subprocess.run([*start, *script], env=environment, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("RATIO")]
    if done.returncode or not found:
        sys.exit(done.stderr[-3000:])
    print("\n".join(found))


def timed() -> None:
    sys.path[0] = str(HERE.parent)
    from gan_dist.checkpointing import Checkpointer
    from gan_dist.control.watchdog import Watchdog
    from gan_dist.train import main as train
    from gan_dist.trainer import Trainer

    spent = {"calls": 0.0, "steps": 0.0}

    def count(owner: type, name: str, where: str) -> None:
        original = getattr(owner, name)

        def call(*arguments, **keywords):
            began = time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                spent[where] += time.perf_counter() - began

        setattr(owner, name, call)

    count(Trainer, "_agreed_reason", "calls")
    count(Watchdog, "beat", "calls")
    count(Checkpointer, "note", "calls")
    count(Trainer, "_go_on", "steps")
    code = train(sys.argv[1:])
    if os.environ.get("RANK", "0") == "0":
        ratio = spent["calls"] / spent["steps"]
        print(
            f"RATIO time of stopping, watching and noting saves over all steps: {ratio:.5f}   (at most 0.005)",
            flush=True,
        )
    os._exit(code)


if __name__ == "__main__":
    timed() if os.environ.get("TIMED") else main()
