"""A small run's files, as training writes them."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gan_dist import config

NASTY = "<script>document.title='taken'</script>"


def make_run(directory: Path, name: str = "plain", lines: int = 40, grids: int = 3, **keys: str) -> Path:
    """A finished run of 6,400 images with scores, signals, a user's own metric, and events of all sorts."""
    (directory / "samples").mkdir(parents=True)
    words = [word for key, value in keys.items() for word in (f"--{key.replace('__', '.')}", value)]
    made = config.load(["tests/data/digits.yaml", "--run.name", name, "--training.images", "6400", *words])
    (directory / "config.yaml").write_text(config.to_yaml(made, {"version": "0.1.0"}))
    end = 6400
    figures = []
    for number in range(1, lines + 1):
        images = end * number // lines
        figures.append(
            {
                "images": images,
                "step": number,
                "loss/G": 1 + number / lines,
                "loss/D": 0.5 + 0.1 * (number % 3),
                "grad_norm/G": 3.0,
                "grad_norm/D": 10.0 ** (number % 3),
                "score/real": 2.0,
                "score/fake": -1.0,
                "score/kid": 1.0 / number,
                "collapse/diversity": 0.9,
                "mine/brightness": 0.5 + 0.01 * (number % 5),
                "skipped/G": 0.0,
                "speed/images_per_second": 100.0,
                "memory/process_gib": 1.0,
            }
        )
    write(directory / "metrics.jsonl", figures)
    write(
        directory / "events.jsonl",
        [
            event(0, "started", processes=2, commit="abc"),
            event(3200, "saved", checkpoint="images-000003200", seconds=0.5),
            event(3200, "stopped", reason="SIGTERM"),
            event(3200, "resumed", processes=1, commit="abc"),
            event(4800, "suspect", signal="score/gap", value=0.05, threshold=0.1, remedy="Lower it", checkpoint=None),
            event(4800, "best", score="score/kid", value=0.04, checkpoint="images-000003200"),
            event(4960, "of a later version", thing=f"{NASTY} & more"),
            event(6400, "finished"),
        ],
    )
    start = {"time": "2026-01-01T00:00:00.000+00:00", "images": 0, "python": "3.11", "ranks": ["here cpu"]}
    write(directory / "environment.jsonl", [{**start, "command": ["train.py", "c.yaml", "--run.name", name]}])
    state = {"state": "finished", "images": end, "reason": "", "host": os.uname().nodename, "pid": os.getpid()}
    (directory / "status.json").write_text(json.dumps(state))
    for number in range(grids):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"samples/images-{100 * number:09d}.png")
    return directory


def event(images: int, kind: str, **details: object) -> dict[str, object]:
    return {"time": "2026-01-01T00:00:00.000+00:00", "rank": 0, "images": images, "event": kind, **details}


def write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
