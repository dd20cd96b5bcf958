"""Train configs/digits_denoise.yaml on 1,500 digits, and denoise the other 297 by it, and by a median filter.

    python benchmarks/digits_denoise.py FOLDER [--key value ...]

Prints PSNR in dB of the noisy images, of the best median filter, and of the run.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TRAINED = 1_500


def command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "gan_dist.cli", *map(str, words)], check=True)


def psnr(images: list[np.ndarray], clean: list[np.ndarray]) -> float:
    """Return the mean over images, in dB."""
    errors = [np.square(one.astype(float) - other).mean() for one, other in zip(images, clean, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def read(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]


def main() -> None:
    folder = Path(sys.argv[1])
    for number, digit in enumerate(load_digits().images):
        path = folder / ("train" if number < TRAINED else "test") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digit * 255 / 16).round().astype(np.uint8)).save(path)
    for name in ("train", "test"):
        command("pack", folder / name, folder / f"{name}-shards", "--channels", 1, "--resolution", 16)
    own = ["--data.shards", folder / "train-shards", "--data.source", "", "--run.directory", folder / "run"]
    command("train", "configs/digits_denoise.yaml", *own, *sys.argv[2:])
    command("psnr", folder / "run", folder / "test-shards", "--border", 0, "--out", folder / "out")
    with tarfile.open(next((folder / "test-shards").glob("*.tar"))) as shard:
        names = sorted(name for name in shard.getnames() if name.endswith(".png"))
        clean = [np.asarray(Image.open(shard.extractfile(name))) for name in names]
    noisy = read(folder / "out/input")
    median = max(psnr([cv2.medianBlur(image, size) for image in noisy], clean) for size in (3, 5))
    print(
        f"noisy {psnr(noisy, clean):.2f}, median filter {median:.2f}, run {psnr(read(folder / 'out/output'), clean):.2f} dB"
    )


if __name__ == "__main__":
    main()
