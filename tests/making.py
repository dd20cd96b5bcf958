"""Small data sets for tests."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: int | tuple[int, int] = 16, channels: int = 1) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8: smooth random blobs, different for each seed."""
    height, width = (size, size) if isinstance(size, int) else size
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    stacked = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return stacked[..., 0] if channels == 1 else stacked


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: object) -> Path:
    """A tar file of (name, content) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def samples(
    count: int, size: int | tuple[int, int] = 16, channels: int = 1, classes: int = 0, first: int = 0
) -> list[tuple[str, bytes]]:
    """Members of a WebDataset: `000007.png` and, with classes, `000007.cls`."""
    members: list[tuple[str, bytes]] = []
    for number in range(first, first + count):
        members.append((f"{number:06d}.png", encode(picture(number, size, channels))))
        if classes:
            members.append((f"{number:06d}.cls", str(number % classes).encode()))
    return members


def data_set(folder: Path, count: int = 96, shards: int = 3, **kind: int) -> Path:
    """A folder of shards."""
    each = count // shards
    for number in range(shards):
        write_tar(folder / f"{number}.tar", samples(each, first=number * each, **kind))
    return folder


def tiny(shards: Path | str, directory: Path | str, **keys: object) -> dict[str, object]:
    """Keys of a run that takes seconds; `keys` with __ for a dot override them."""
    found: dict[str, object] = {
        "run.directory": directory,
        "data.shards": shards,
        "data.source": "",
        "data.labels": False,
        "data.resolution": 16,
        "data.channels": 1,
        "data.workers": 0,
        "networks.generator.base_channels": 4,
        "networks.discriminator.base_channels": 4,
        "game.latent": 8,
        "training.images": 64,
        "training.batch": 16,
        "training.micro_batch": 4,
        "training.micro_batches_per_pass": 1,  # what auto chooses depends on the moment, and rounding on the choice
        "training.device": "cpu",
        "checkpoint.every": 32,
        "track.every": 16,
        "track.wandb": "disabled",
        "sample.every": 32,
        "sample.count": 4,
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    return fit(found)


def fit(keys: dict[str, object]) -> dict[str, object]:
    """The same without keys that a chosen network does not have."""
    without = [player for player in ("generator", "discriminator") if keys.get(f"networks.{player}.kind") == "article"]
    return {
        key: value
        for key, value in keys.items()
        if key not in [f"networks.{player}.base_channels" for player in without]
    }


def flags(keys: Mapping[str, object]) -> list[str]:
    """As command-line arguments."""
    return [
        word
        for key, value in keys.items()
        for word in (f"--{key}", str(value).lower() if isinstance(value, bool) else str(value))
    ]
