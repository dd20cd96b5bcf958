"""Compare losses, penalties, optimizers and networks at equal budget: the study of docs/remedies.md.

    python benchmarks/remedies.py write FOLDER                      32 recipes: 16 combinations on two data sets
    sbatch --array=0-95%16 slurm/array.sbatch FOLDER/*.yaml         three seeds of each on a cluster, or
    python benchmarks/remedies.py train FOLDER [--minutes 60]       here, one after another; the same command goes on
    python benchmarks/remedies.py report FOLDER --out remedies      remedies.md, remedies.png (needs matplotlib)

`write --full` writes all 256 combinations a data set. --data names the folder of shards with digits/ and stacked/
(`gan-dist pack digits`, `gan-dist pack stacked-mnist`), --classifier the digit classifier (`gan-dist digit-classifier`).

The 16 combinations are an orthogonal array of strength 2, OA(16, 4^4): each level of a factor meets each level of every
other one once. A factor's level is judged by the mean over its four combinations and all seeds. Effects of two factors
together cannot be told from those of others; `--full` can.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SEEDS = 3
LEAST = 160  # samples: FID needs more than the classifier has features
IMAGES = {"digits": 30_000, "stacked": 40_000}
G, D = "optimizers.generator", "optimizers.discriminator"


def adam(beta1: float, beta2: float, generator: float, discriminator: float) -> dict:
    return {
        player: {"kind": "adam", "learning_rate": rate, "beta1": beta1, "beta2": beta2}
        for player, rate in ((G, generator), (D, discriminator))
    }


def gradient(weight: float) -> dict:
    return {"weight": weight, "every": 4}


DCGAN = {"kind": "dcgan", "base_channels": 16}
FACTORS: dict[str, dict[str, dict]] = {
    "loss": {name: {"loss": name} for name in ("nonsaturating", "hinge", "wasserstein", "relativistic")},
    "penalty": {
        "none": {},
        "R1": {"penalties.r1": gradient(1)},
        "R1 + R2": {"penalties.r1": gradient(1), "penalties.r2": gradient(1)},
        "WGAN-GP": {"penalties.wgan_gp": gradient(10)},
    },
    "optimizer": {
        "Adam 0.5": adam(0.5, 0.999, 2e-4, 2e-4),
        "Adam 0": adam(0.0, 0.99, 5e-4, 5e-4),
        "TTUR": adam(0.0, 0.9, 1e-4, 4e-4),
        "RMSprop": {player: {"kind": "rmsprop", "learning_rate": 2e-4} for player in (G, D)},
    },
    "network": {
        "DCGAN, BatchNorm": {"networks.discriminator.normalisation": "batch"},
        "DCGAN, LayerNorm in D": {"networks.discriminator.normalisation": "layer"},
        "DCGAN, none in D": {"networks.discriminator.normalisation": "none"},
        "R3GAN": {
            f"networks.{player}": {"kind": "r3gan", "widths": 16, "blocks": 1, "expansion": 1}
            for player in ("generator", "discriminator")
        },
    },
}
BASE = {
    "data.resolution": 16,
    "networks.generator": DCGAN,
    "networks.discriminator": DCGAN,
    "game.latent": 32,
    "average.half_life": 2_500,
    "training": {"batch": 32, "micro_batch": 32, "strategy": "ddp", "threads": 1},
    "checkpoint.every": 30_000,
    "track.every": 2_000,
    "sample.every": 20_000,
    "sample.count": 100,
}


def combinations(full: bool) -> list[dict[str, str]]:
    """Return the levels of each combination by factor."""
    names = [list(levels) for levels in FACTORS.values()]
    if full:
        return [dict(zip(FACTORS, levels, strict=True)) for levels in itertools.product(*names)]
    times = ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))  # in the field of four elements; their sum is xor
    rows = [(a, b, a ^ b, a ^ times[2][b]) for a in range(4) for b in range(4)]
    return [dict(zip(FACTORS, (levels[i] for levels, i in zip(names, row, strict=True)), strict=True)) for row in rows]


def recipe(data: str, levels: dict[str, str], options: argparse.Namespace) -> dict:
    """Return the config of a combination, as nested mappings."""
    stacked, images = data == "stacked", round(IMAGES[data] * options.scale)
    scores = {"modes": {"classifier": str(options.classifier)}} if stacked else {"fid": {"features": "classifier"}}
    keys = {
        **BASE,
        "data.shards": str(options.data / data),
        "data.channels": 3 if stacked else 1,
        "training.images": images,
        "evaluate": {
            "every": images,
            "samples": max(LEAST, round((10_000 if stacked else 2_000) * options.scale)),
            "scores": scores,
        },
    }
    if not stacked:
        keys["evaluate"]["scores"]["prdc"] = {"features": "classifier"}
        if options.scale != 1:
            keys["evaluate"]["features"] = {"classifier": {"steps": round(1000 * options.scale)}}
    config: dict = {}
    for key, value in itertools.chain(keys.items(), *(FACTORS[name][level].items() for name, level in levels.items())):
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        old = section.get(last)
        section[last] = dict(value) if isinstance(value, dict) else value
        if isinstance(old, dict) and isinstance(value, dict) and "kind" not in value:
            section[last] = old | value
    network = config["networks"]["discriminator"]
    if levels["penalty"] == "WGAN-GP" and network.get("normalisation") == "batch":
        network["normalisation"] = "layer"  # as its paper has it: the penalty needs a gradient of each sample alone
    return config


def write(options: argparse.Namespace) -> None:
    """Write a recipe for each combination and data set, and the levels of each to levels.json."""
    import yaml

    options.folder.mkdir(parents=True, exist_ok=True)
    table = {}
    for data in IMAGES:
        for number, levels in enumerate(combinations(options.full)):
            name = f"{data}-{number:03d}"
            table[name] = {"data": data, **levels}
            text = f"# {', '.join(f'{factor}: {level}' for factor, level in levels.items())}\n"
            config = yaml.safe_dump(recipe(data, levels, options), sort_keys=False)
            (options.folder / f"{name}.yaml").write_text(text + config)
    (options.folder / "levels.json").write_text(json.dumps(table, indent=1) + "\n")
    print(f"{len(table)} recipes in {options.folder}; tasks of the array: 0-{SEEDS * len(table) - 1}")


def train(options: argparse.Namespace) -> None:
    """Train what has no result yet, as slurm/array.sbatch names it: RUNS/NAME-seedN."""
    end = time.monotonic() + 60 * options.minutes
    names = list(json.loads((options.folder / "levels.json").read_text()))
    jobs = [(name, seed) for seed in range(SEEDS) for name in names]
    for number, (name, seed) in enumerate(jobs):
        if number % options.of != options.part or ended(options.runs / f"{name}-seed{seed}"):
            continue
        if time.monotonic() > end:
            break
        words = [str(options.folder / f"{name}.yaml"), "--run.seed", str(seed)]
        words += [
            "--run.directory",
            str(options.runs / f"{name}-seed{seed}"),
            "--track.wandb",
            "disabled",
            "--data.workers",
            "0",
        ]
        log = options.runs / f"{name}-seed{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            code = subprocess.call([sys.executable, REPOSITORY / "gan_dist/train.py", *words], stdout=file, stderr=file)
        print(f"{number + 1} of {len(jobs)}: {name}-seed{seed} ended with {code}", flush=True)
        if code in (2, 75, 130):
            sys.exit(log.read_text()[-600:])


def ended(run: Path) -> str:
    """Return how a run ended: finished, failed, or nothing where it is not at its end."""
    try:
        state = json.loads((run / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError):
        return ""
    return state if state in ("finished", "failed") else ""


def result(run: Path, data: str) -> dict | None:
    """Return a run's figures at its end; None for a run that has not ended."""
    how = ended(run)
    if not how:
        return None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores: dict = {}
    for line in lines:
        scores |= {name: value for name, value in line.items() if name.startswith("score/") and value is not None}
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    rates = [line["speed/images_per_second"] for line in lines if line.get("speed/images_per_second")]
    found = {
        "quality": scores.get("score/modes/covered" if data == "stacked" else "score/prdc/coverage", math.nan),
        "score": scores.get("score/modes/kl_above_floor" if data == "stacked" else "score/fid", math.nan),
        "seconds": IMAGES[data] / statistics.median(rates) if rates else math.nan,
        "alarm": any(event["event"] == "suspect" for event in events),
    }
    least = 100 if data == "stacked" else 0.1
    broken = how == "failed" or not found["quality"] >= least
    if broken:
        found["quality"] = 0.0 if math.isnan(found["quality"]) else found["quality"]
    return {**found, "collapsed": broken}


def report(options: argparse.Namespace) -> None:
    """Write a table of levels, a table of combinations, and the plot."""
    table = json.loads((options.folder / "levels.json").read_text())
    runs: dict[str, list[dict]] = {}
    for name, levels in table.items():
        found = [result(options.runs / f"{name}-seed{seed}", levels["data"]) for seed in range(SEEDS)]
        runs[name] = [each for each in found if each]
    print(f"{sum(map(len, runs.values()))} of {SEEDS * len(table)} runs have ended")
    text = "".join(tables(data, table, runs) for data in IMAGES)
    options.out.with_suffix(".md").write_text(text)
    print(text)
    plot(table, runs, options.out.with_suffix(".png"))


HEADS = {"digits": ("coverage", "FID"), "stacked": ("modes of 1,000", "KL above its floor")}


def row(found: list[dict], digits: int) -> str:
    """Return the cells of a table's row: medians, part collapsed, median time."""
    if not found:
        return "| | | | |"
    values = [statistics.median(each[name] for each in found) for name in ("quality", "score", "seconds")]
    collapsed = sum(each["collapsed"] for each in found)
    return f"| {values[0]:.{digits}f} | {values[1]:.3g} | {collapsed} of {len(found)} | {values[2]:.0f} |"


def tables(data: str, table: dict, runs: dict) -> str:
    """Return both tables of a data set in Markdown."""
    names, digits = [name for name in table if table[name]["data"] == data], 0 if data == "stacked" else 2
    heads = f"{HEADS[data][0]} | {HEADS[data][1]} | collapsed | seconds |"
    text = f"\n### {data}\n\n| factor | level | {heads}\n|---|---|---|---|---|---|\n"
    for factor, levels in FACTORS.items():
        for level in levels:
            found = [each for name in names if table[name][factor] == level for each in runs[name]]
            text += f"| {factor} | {level} {row(found, digits)}\n"
    text += f"\n| {' | '.join(FACTORS)} | {heads}\n|{'---|' * (len(FACTORS) + 4)}\n"
    order = sorted(names, key=lambda name: -statistics.median([each["quality"] for each in runs[name]] or [-1]))
    for name in order:
        text += f"| {' | '.join(table[name][factor] for factor in FACTORS)} {row(runs[name], digits)}\n"
    return text


def plot(table: dict, runs: dict, path: Path) -> None:
    """Draw what each level reaches: a dot a run, a bar the mean."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print(f"no {path}: pip install matplotlib")
        return

    figure, axes = pyplot.subplots(len(IMAGES), len(FACTORS), figsize=(13, 6.5), sharey="row", layout="constrained")
    for across, data in zip(axes, IMAGES, strict=True):
        for axis, (factor, levels) in zip(across, FACTORS.items(), strict=True):
            for place, level in enumerate(levels):
                names = [name for name in table if table[name]["data"] == data and table[name][factor] == level]
                found = [each for name in names for each in runs[name]]
                for number, each in enumerate(found):
                    x = place + 0.5 * (number / max(1, len(found) - 1) - 0.5)
                    axis.plot(x, each["quality"], "x" if each["collapsed"] else "o", color="0.45", markersize=4)
                if found:
                    mean = statistics.mean(each["quality"] for each in found)
                    axis.hlines(mean, place - 0.35, place + 0.35, color="C0", linewidth=3)
            axis.set_xticks(
                range(len(levels)), [level.replace(", ", ",\n") for level in levels], fontsize=8, rotation=20
            )
            axis.grid(axis="y", alpha=0.3)
            if data == "digits":
                axis.set_title(factor)
        across[0].set_ylabel(f"{data}: {HEADS[data][0]}")
    figure.savefig(path, dpi=100)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "train", "report"])
    parser.add_argument("folder", type=Path, help="of the recipes")
    parser.add_argument("--full", action="store_true", help="all combinations, not a sixteenth")
    parser.add_argument("--scale", type=float, default=1.0, help="of images, and of samples that are scored")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--classifier", type=Path, default=Path("data/digit-classifier.pt"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long")
    parser.add_argument("--part", type=int, default=0, help="train every OF-th run from this one on")
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("remedies"))
    options = parser.parse_args()
    {"write": write, "train": train, "report": report}[options.action](options)


if __name__ == "__main__":
    main()
