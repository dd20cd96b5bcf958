"""How well `data.order: blocks` mixes: what the samples of a batch have in common, and whether training suffers.

    python benchmarks/order.py                 # batches of a set sorted by class: pairs of one block, shard and class
    python benchmarks/order.py --train FOLDER  # digits sorted by class, 16x16: full, blocks, and blocks without mixing

The first needs a minute, the second some minutes of one CPU core a seed. Runs and shards are put into FOLDER.
"""

import argparse
import io
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gan_dist.data import order
from gan_dist.data.order import Blocks

REPOSITORY = Path(__file__).resolve().parent.parent
TOTAL, CLASSES, SHARD, BATCH = 1_281_167, 1000, 10_000, 256
"""As ImageNet, sorted by class, in shards of 10,000."""
ORDERS = {
    "full": None,
    "blocks of 64, window 64": Blocks(64, 64),
    "blocks of 64, window 256 (the default)": Blocks(64, 256),
    "blocks of 16, window 256": Blocks(16, 256),
    "blocks of 64, window 16": Blocks(64, 16),
    "blocks of 1000, window 10": Blocks(1000, 10),
    "as stored": Blocks(10_000, 1),
}


def mixing(batches: int) -> None:
    print(
        f"{TOTAL:,} samples sorted by {CLASSES} classes, shards of {SHARD:,}, batches of {BATCH}: share of pairs of a batch"
    )
    print(f"{'order':40s} same 64  same shard  same class  classes in a batch  shards in a batch  in 10 batches")
    starts = np.random.default_rng(0).integers(0, 4 * TOTAL // BATCH, batches) * BATCH
    for name, blocks in ORDERS.items():
        found = []
        for start in starts.tolist():
            ten = order.samples_of_steps(0, TOTAL, BATCH, 1, start, 10, np.arange(BATCH), blocks=blocks)
            samples = ten[0]
            label = samples * CLASSES // TOTAL
            found.append(
                [
                    same(samples // 64),
                    same(samples // SHARD),
                    same(label),
                    len(np.unique(label)),
                    len(np.unique(samples // SHARD)),
                    len(np.unique(ten // SHARD)),
                ]
            )
        block, shard, of_class, classes, shards, of_ten = np.mean(found, axis=0)
        print(
            f"{name:40s} {block:7.2%}  {shard:10.2%}  {of_class:10.2%}  {classes:18.1f}  {shards:17.1f}  {of_ten:13.1f}"
        )


def same(values: np.ndarray) -> float:
    """The share of pairs that are of one value."""
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(values) * (len(values) - 1)))


def train(folder: Path, seeds: int, images: int, orders: int) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    digits = load_digits()
    by_class = np.argsort(digits.target, kind="stable")
    reals, labels = [], digits.target[by_class]
    shards = folder / "sorted"
    shards.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shards / "0.tar", "w") as archive:
        for number, place in enumerate(by_class.tolist()):
            pixels = Image.fromarray((digits.images[place] / 16 * 255).astype(np.uint8)).resize(
                (16, 16), Image.Resampling.BICUBIC
            )
            reals.append(np.asarray(pixels))
            buffer = io.BytesIO()
            pixels.save(buffer, "PNG")
            entry = tarfile.TarInfo(f"{number:05d}.png")
            entry.size = len(buffer.getvalue())
            archive.addfile(entry, io.BytesIO(buffer.getvalue()))
    real = np.stack(reals).reshape(len(reals), -1) / 255
    judge = KNeighborsClassifier(5).fit(real, labels)
    variants = {
        "full": {},
        "blocks of 16, window 8": {"data.order": "blocks", "data.block": 16, "data.window": 8},
        "as stored (blocks of 64, window 1)": {"data.order": "blocks", "data.window": 1},
    }
    print(f"{images:,} images, digits sorted by class; distance: Frechet, 32 main components of the pixels")
    for name, keys in list(variants.items())[:orders]:
        for seed in range(seeds):
            run = folder / f"{name.split(',')[0].replace(' ', '-').replace('(', '')}-{seed}"
            flags = {
                "run.directory": run, "run.seed": seed, "data.shards": shards, "data.source": '""', "training.images": images,
                "networks.generator.base_channels": 16, "networks.discriminator.base_channels": 16,
                "track.wandb": "disabled", "sample.every": images, "checkpoint.every": images, **keys,
            }  # fmt: skip
            words = [word for key, value in flags.items() for word in (f"--{key}", str(value).strip('"'))]
            program = [sys.executable, str(REPOSITORY / "gan_dist/train.py"), str(REPOSITORY / "configs/digits.yaml")]
            subprocess.run([*program, *words], check=True, stdout=subprocess.DEVNULL)
            made = folder / f"{run.name}-made"
            generate = [
                sys.executable,
                "-m",
                "gan_dist.cli",
                "generate",
                str(run),
                "--n",
                "1000",
                "--replace",
                "--out",
                str(made),
            ]
            subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
            drawn = [np.asarray(Image.open(path).convert("L")) for path in sorted(made.glob("*.png"))]
            fake = np.stack([each for each in drawn if each.shape == (16, 16)]).reshape(-1, 256) / 255
            share = np.bincount(judge.predict(fake), minlength=10) / len(fake)
            print(
                f"  {name:36s} seed {seed}  distance {frechet(real, fake):.3f}  smallest and largest class {share.min():.1%} {share.max():.1%}",
                flush=True,
            )


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    axes = np.linalg.svd(real - real.mean(0), full_matrices=False)[2][:32].T
    one, other = real @ axes, fake @ axes
    a, b = np.cov(one.T), np.cov(other.T)
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=38_400)
    parser.add_argument("--orders", type=int, default=3, help="train the first so many of the three")
    parser.add_argument("--batches", type=int, default=60, help="at which the mixing is looked at")
    options = parser.parse_args()
    if options.train:
        train(options.train, options.seeds, options.images, options.orders)
    else:
        mixing(options.batches)


if __name__ == "__main__":
    main()
