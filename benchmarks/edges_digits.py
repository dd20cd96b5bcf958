"""Train configs/edges_digits.yaml on 1,500 digits, and score it on the 297 others: PSNR, SSIM, and what a classifier reads.

    python benchmarks/edges_digits.py FOLDER [--key value ...]

FOLDER keeps shards and run; the same command goes on. The classifier is scikit-learn's SVC on digits of 8x8 pixels, trained
on the targets of the 1,500. It prints how many targets of the others it reads right, and how many outputs.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from sklearn.svm import SVC

from gan_dist import generate
from gan_dist.data import index as index_module
from gan_dist.data.decode import Decoder
from gan_dist.interfaces import Batch

HELD_OUT = 297


def main() -> None:
    folder, keys = Path(sys.argv[1]), sys.argv[2:]
    if not (folder / "test/0.tar").exists():
        command("pack", "edges", folder / "data", "--from", "digits", "--resolution", 32, "--channels", 1)
        split(folder)
    run = folder / "run"
    command("train", "configs/edges_digits.yaml", "--run.directory", run, "--data.source", "", "--data.shards",
            folder / "train", *keys)  # fmt: skip
    scores = command("evaluate", run, "--scores", "psnr,ssim", "--n", HELD_OUT, "--against", folder / "test", "--json")
    found = {name: round(score["value"], 4) for name, score in json.loads(scores)["scores"].items()}
    inputs, targets, labels = read(folder / "test")
    _, own, own_labels = read(folder / "train")
    classifier = SVC(gamma=0.001).fit(features(own), own_labels)
    game, _, name = generate.load(run)
    device = next(game.players[0].network.parameters()).device
    seen = torch.from_numpy(inputs).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
    outputs = game.infer(Batch({"input": seen}, torch.arange(len(seen), device=device)))
    drawn = ((outputs + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy()
    found |= {
        "targets read right": round(float((classifier.predict(features(targets)) == labels).mean()), 4),
        "outputs read right": round(float((classifier.predict(features(drawn)) == labels).mean()), 4),
        "edges themselves read right": round(float((classifier.predict(features(inputs)) == labels).mean()), 4),
    }
    print(json.dumps({"checkpoint": name, "held out": len(labels), **found}))


def command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gan_dist.cli", *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def split(folder: Path) -> None:
    """Put the first samples of the packed shard, which are shuffled, into test/, and the others into train/."""
    with tarfile.open(folder / "data/shard-000000.tar") as packed:
        members = packed.getmembers()
        keys = list(dict.fromkeys(member.name.split(".")[0] for member in members))
        for part, chosen in (("test", set(keys[:HELD_OUT])), ("train", set(keys[HELD_OUT:]))):
            (folder / part).mkdir(exist_ok=True)
            with tarfile.open(folder / part / "0.tar", "w") as shard:
                for member in members:
                    if member.name.split(".")[0] in chosen:
                        shard.addfile(member, packed.extractfile(member))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges and images (N, 32, 32, 1) uint8, and labels."""
    shards, found = [str(folder / "0.tar")], []
    for member in ("edges.png", "image.png"):
        index_module.build(shards, folder, member, progress=False)
        index = index_module.load(shards, folder, member)
        found.append(Decoder(index, (32, 32), 1).read(np.arange(len(index))))
    return found[0], found[1], index.label.copy()


def features(images: np.ndarray) -> np.ndarray:
    """Return images (N, 32, 32, 1) of 0..255 as scikit-learn has the digits: means of 4x4 pixels, 0..16."""
    small: np.ndarray = images.reshape(-1, 8, 4, 8, 4).astype(np.float64).mean((2, 4)) * 16 / 255
    return small.reshape(len(images), 64)


if __name__ == "__main__":
    main()
