"""Train configs/camvid.yaml, small, and let a segmenter read what it makes of label maps that training did not see.

    python benchmarks/camvid.py FOLDER TRAIN TEST [--key value ...]

TRAIN and TEST are shards; FOLDER keeps run and segmenter; the same command goes on. It prints the scores of the outputs,
which `gan-dist evaluate RUN --scores psnr,ssim,segmentation --against TEST` gives as well, those of the real photos
(real_miou, real_accuracy), and those of outputs that are compared with the maps of other samples (shuffled): a segmenter that
did not look at the image, but knew streets, would have these.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gan_dist import generate, scoring
from gan_dist.data import loader
from gan_dist.evaluation import METRICS, Ranks
from gan_dist.scoring import held_out

SMALL = (
    *("--data.resolution", "64x48", "--data.load_size", "72x54"),
    *("--networks.generator.base_channels", "16"),
    *("--networks.discriminator.base_channels", "16", "--networks.discriminator.layers", "2"),
)
CPU = torch.device("cpu")


def main() -> None:
    folder, train, test = Path(sys.argv[1]), *sys.argv[2:4]
    run, cache = folder / "run", folder / "cache"
    command("train", "configs/camvid.yaml", "--run.directory", run, "--data.shards", train, "--data.cache", cache,
            "--evaluate.against", test, "--training.device", "cpu", *SMALL, *sys.argv[4:])  # fmt: skip
    scores = json.loads(command("evaluate", run, "--scores", "psnr,ssim,segmentation", "--device", "cpu", "--json"))
    found = {name: round(score["value"], 4) for name, score in scores["scores"].items()}
    print(json.dumps({"checkpoint": scores["what"], **found, **shuffled(run)}))


def shuffled(run: Path) -> dict[str, float]:
    """Return the scores of outputs against the maps of other samples: of those half a set further."""
    game, config, _ = generate.load(run, device=CPU)
    index = loader.open_index(held_out.config_of(config, config.evaluate.against))
    metrics = {"": METRICS["segmentation"](kind="segmentation").for_game(game)}
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


def command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gan_dist.cli", *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
