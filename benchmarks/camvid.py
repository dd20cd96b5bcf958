"""Train configs/camvid.yaml, small, and let a segmenter read what it makes of label maps that training did not see.

    python benchmarks/camvid.py FOLDER TRAIN TEST [--key value ...]

TRAIN and TEST are shards; FOLDER keeps run and segmenter; the same command goes on. It prints the scores of the outputs for
TEST at the end of the run, among them those of the real photos (real_miou, real_accuracy), and the scores of outputs that
are compared with the maps of other samples (shuffled): what a picture of any street would have.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gan_dist import files, generate, scoring
from gan_dist.data import loader
from gan_dist.evaluation import Ranks
from gan_dist.scoring import held_out

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = (
    *("--data.resolution", "64x48", "--data.load_size", "72x54"),
    *("--networks.generator.base_channels", "16"),
    *("--networks.discriminator.base_channels", "16", "--networks.discriminator.layers", "2"),
)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("train")
    parser.add_argument("test")
    options, keys = parser.parse_known_args()
    run, recipe = options.folder / "run", REPOSITORY / "configs/camvid.yaml"
    words = [sys.executable, "-m", "gan_dist.cli", "train", str(recipe), "--run.directory", str(run)]
    words += ["--data.shards", options.train, "--data.cache", str(options.folder / "cache")]
    words += ["--evaluate.against", options.test, "--evaluate.samples", "1000"]
    words += ["--evaluate.scores", "psnr,ssim,segmentation"]
    subprocess.run([*words, "--training.device", "cpu", *SMALL, *keys], stdout=sys.stderr, check=True)
    lines = files.read_json_lines(run / "scores.jsonl")
    found = {line["metric"]: round(line["value"], 4) for line in lines if line["images"] == lines[-1]["images"]}
    print(json.dumps({"images": lines[-1]["images"], "pairs": lines[-1]["n_generated"], **found, **shuffled(run)}))


def shuffled(run: Path) -> dict[str, float]:
    """Return the scores of outputs against the maps of other samples: of those half a set further."""
    game, config, _ = generate.load(run, device=CPU)
    index = loader.open_index(held_out.config_of(config, config.evaluate.against))
    metrics = {"": config.evaluate.scores.segmentation.for_game(game)}
    metric = scoring.learnt(metrics, config, lambda: loader.open_index(config), Ranks(), lambda *_: None)[""]
    state = metric.begin()
    for first in range(0, len(index), 32):
        numbers = range(first, min(first + 32, len(index)))
        shown, others = (
            loader.load(index, config, [(number + further) % len(index) for number in numbers], CPU)
            for further in (0, len(index) // 2)
        )
        metric.add_shown(state, game.generated(config.run.seed, numbers, shown), others)
    values = metric.value(state)
    return {f"shuffled_{name}": round(values[name], 4) for name in ("miou", "accuracy")}


if __name__ == "__main__":
    main()
