"""Count true and false alarms of control.collapse over short healthy and broken runs on digits, MNIST and StackedMNIST.

    python benchmarks/alarms.py --data FOLDER --out runs/alarms [--group test] [--minutes 30]
    python benchmarks/alarms.py --out runs/alarms --report
    python benchmarks/alarms.py --data FOLDER --out runs/alarms --cost

FOLDER holds shards in digits/, mnist/ and stacked/ (`gan-dist pack`). Runs are trained one after the other in this process,
at 16x16, with a budget of 40,000 images each (--images); of broken ones the first half alone is trained. Each adds a line to
OUT/GROUP.jsonl, and what is there already is not trained again. `tune` are the runs that the limits were chosen on, `test`
are others. --classifier FILE (`gan-dist digit-classifier`) measures by other
means how each run ended. --report judges the recorded series again, with the limits as they are now. --cost measures what the
signals take of the time of configs/digits.yaml: each is timed in turn with the steps, by the CPU's time of this process.
"""

import argparse
import io
import json
import math
import random
import shutil
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

IMAGES = 40_000
RECIPE = Path(__file__).resolve().parent.parent / "tests/data/digits.yaml"
"""The non-saturating loss, BatchNorm and no penalty: what a run changes can break it. configs/digits.yaml is too robust."""
BASE = {
    "data.resolution": 16,
    "data.workers": 0,
    "data.source": "",
    "networks.generator.base_channels": 16,
    "networks.discriminator.base_channels": 16,
    "game.latent": 32,
    "average.half_life": 2_500,
    "training.batch": 32,
    "training.micro_batch": 32,
    "training.micro_batches_per_pass": 1,
    "training.strategy": "ddp",
    "training.device": "cpu",
    "training.threads": 1,
    "checkpoint.every": 10_000,
    "track.every": 1_000,
    "track.wandb": "disabled",
    "sample.every": 10_000,
    "sample.count": 64,
}
CHANNELS = {"digits": 1, "mnist": 1, "stacked": 3}
WRONG = "-wrong"
"""The same images with labels at random."""
G, D = "optimizers.generator", "optimizers.discriminator"
R1 = {"penalties.r1.weight": 0.5, "penalties.r1.every": 4}
R1R2 = {**R1, "penalties.r2.weight": 0.5, "penalties.r2.every": 4}
GP = {"penalties.wgan_gp.weight": 10, "loss.kind": "wasserstein", f"{G}.beta1": 0.0, f"{D}.beta1": 0.0}
RATES = {f"{G}.learning_rate": 5e-4, f"{D}.learning_rate": 5e-4, f"{G}.beta1": 0.0, f"{D}.beta1": 0.0}
BARE = {"networks.discriminator.normalisation": "none"}


def rates(generator: float, discriminator: float) -> dict[str, float]:
    return {f"{G}.learning_rate": generator, f"{D}.learning_rate": discriminator}


TUNE = {
    "healthy": [
        ("digits", {}),
        ("digits", {**R1}),
        ("digits", {"loss.kind": "hinge"}),
        ("digits", {"loss.kind": "least_squares"}),
        ("digits", {"loss.kind": "relativistic", **BARE, **R1R2, **RATES}),
        ("digits", {**GP, **BARE, "game.discriminator_steps": 2}),
        ("mnist", {}),
        ("mnist", {"data.labels": True, **R1}),
        ("stacked", {"loss.kind": "relativistic", **BARE, **R1R2, **RATES}),
        ("stacked", {**R1, **BARE}),
    ],
    "broken": [
        ("digits", rates(2e-2, 2e-4)),
        ("digits", rates(2e-4, 2e-2)),
        ("digits", rates(2e-4, 1e-6)),
        ("digits", rates(2e-2, 2e-2)),
        ("digits", {"loss.kind": "wasserstein", **BARE}),
        ("digits", {"loss.kind": "minimax", "game.discriminator_steps": 5, **rates(2e-4, 1e-3)}),
        ("mnist", {"game.discriminator_steps": 5, **rates(5e-5, 2e-3), **BARE}),
        ("mnist", {"loss.kind": "relativistic", **BARE, **rates(5e-3, 5e-3)}),
        ("stacked", {"loss.kind": "minimax", **rates(2e-4, 2e-3), **BARE}),
        ("stacked", {"loss.kind": "wasserstein", **BARE, **rates(1e-3, 1e-3)}),
    ],
}
WIDE = {"networks.generator.base_channels": 24, "networks.discriminator.base_channels": 24}
TEST = {
    "healthy": [
        ("digits", {**WIDE}),
        ("digits", {**R1}),
        ("digits", {"loss.kind": "hinge", **R1}),
        ("digits", {"loss.kind": "relativistic", **BARE, **R1R2, **RATES}),
        ("digits", {"loss.kind": "least_squares", **R1}),
        ("digits", {"data.labels": True, **R1}),
        ("digits", {"loss.kind": "relativistic_average", **R1}),
        ("digits", {**rates(4e-4, 4e-4), **R1}),
        ("digits", {"game.latent_distribution": "uniform"}),
        ("digits", {"augment.diffaugment.kind": "diffaugment", **R1}),
        ("digits", {**GP, **BARE}),
        ("mnist", {}),
        ("mnist", {**R1}),
        ("mnist", {"loss.kind": "hinge"}),
        ("mnist", {"data.labels": True}),
        ("mnist", {"loss.kind": "relativistic", **BARE, **R1R2, **RATES}),
        ("mnist", {**WIDE, **R1}),
        ("stacked", {**R1, **BARE, **RATES}),
        ("stacked", {"loss.kind": "relativistic", **BARE, **R1R2, **RATES}),
        ("stacked", {"loss.kind": "hinge", **R1, **BARE, **RATES}),
    ],
    "broken": [
        # bad learning rates
        ("digits", rates(1e-2, 2e-4)),
        ("mnist", rates(3e-2, 2e-4)),
        ("stacked", {**rates(1e-2, 2e-4), **R1}),
        ("digits", rates(2e-4, 1e-2)),
        ("mnist", rates(2e-4, 3e-2)),
        ("mnist", rates(2e-4, 1e-6)),
        ("digits", rates(5e-2, 2e-4)),
        ("stacked", rates(2e-4, 2e-2)),
        # no penalty where one is needed
        ("digits", {"loss.kind": "wasserstein", **BARE, **rates(5e-4, 5e-4)}),
        ("mnist", {"loss.kind": "wasserstein", **BARE}),
        ("stacked", {"loss.kind": "wasserstein", **BARE}),
        ("mnist", {"loss.kind": "wasserstein", **BARE, **rates(1e-3, 1e-3)}),
        # too strong a discriminator
        ("digits", {"game.discriminator_steps": 4, **BARE, **rates(5e-5, 2e-3)}),
        ("mnist", {"game.discriminator_steps": 4, **BARE, **rates(2e-4, 2e-3)}),
        ("stacked", {"game.discriminator_steps": 3, **BARE, **rates(1e-4, 1e-3)}),
        # the saturating loss, with a discriminator that learns quickly
        ("digits", {"loss.kind": "minimax", **BARE, **rates(2e-4, 2e-3)}),
        ("mnist", {"loss.kind": "minimax", **BARE, **rates(2e-4, 2e-3)}),
        ("stacked", {"loss.kind": "minimax", **BARE, **rates(1e-4, 3e-3)}),
        # labels at random
        ("mnist-wrong", {"data.labels": True}),
        ("digits-wrong", {"data.labels": True, **R1}),
    ],
}
GROUPS = {"tune": TUNE, "test": TEST}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", choices=list(GROUPS), default="test")
    parser.add_argument("--only", choices=["healthy", "broken"], help="train these; two commands can share the work")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long")
    parser.add_argument("--images", type=int, default=IMAGES, help="budget of a run")
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--cost", action="store_true", help="measure what the signals cost")
    parser.add_argument("--rounds", type=int, default=9, help="of --cost")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cost:
        cost(options)
        return
    path = options.out / f"{options.group}.jsonl"
    if not options.report:
        train_all(options, path)
    report(path, options.images)


def settings(group: str):
    """Every run of a group: name, what it is, data set, and keys."""
    found = []
    for truth, runs in GROUPS[group].items():
        for number, (data, keys) in enumerate(runs):
            name = f"{group}-{truth}-{number:02d}-{data}"
            found.append((name, truth, data, {"run.seed": 100 * list(GROUPS).index(group) + number, **keys}))
    return sorted(found, key=lambda run: run[0].split("-")[2])  # in turn, as the batch may be cut off


def train_all(options, path: Path) -> None:
    done = {json.loads(line)["name"] for line in path.read_text().splitlines()} if path.exists() else set()
    end = time.monotonic() + 60 * options.minutes
    for name, truth, data, keys in settings(options.group):
        if name in done or time.monotonic() > end or options.only not in (None, truth):
            continue
        began = time.process_time()
        if truth == "broken":  # what it says later does not count
            keys = {"training.images": options.images // 2, **keys}
        lines, how, reference = train(options, name, data, keys)
        record = {"name": name, "truth": truth, "data": data, "keys": keys, "ended": how, **reference}
        record |= {"cpu_seconds": round(time.process_time() - began, 1), "lines": lines}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}: {how}, {record['cpu_seconds']} s of CPU, {reference}", flush=True)


def train(options, name: str, data: str, keys: dict) -> tuple[list[dict], str, dict]:
    """Return the lines of metrics.jsonl of a run, how it ended, and what the classifier says of its last images."""
    from gan_dist import config as config_module
    from gan_dist.engine import Engine
    from gan_dist.errors import EXIT_STOPPED
    from gan_dist.trainer import Trainer

    directory = options.out / "runs" / name
    shutil.rmtree(directory, ignore_errors=True)
    kind = data.removesuffix(WRONG)
    shards = options.data / kind
    wanted = {
        **BASE,
        "training.images": options.images,
        "run.directory": directory,
        "data.shards": shards if kind == data else wrong_labels(shards, options.out / "data" / data),
        "data.channels": CHANNELS[kind],
        **keys,
    }
    words = [
        word
        for key, value in wanted.items()
        for word in (f"--{key}", json.dumps(value) if isinstance(value, bool) else str(value))
    ]
    config = config_module.load([str(RECIPE), *words])
    trainer = Trainer(config, Engine(config, alone=True))
    how = "finished"
    try:
        with trainer.tracker:
            code = trainer.train()
    except Exception as error:
        how = f"{type(error).__name__}: {error}"
    else:
        if code == EXIT_STOPPED:
            sys.exit("stopped; the same command goes on with this run")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return lines, how, judged(options.classifier, trainer)


def wrong_labels(source: Path, folder: Path) -> Path:
    """Copy shards with a label at random in the place of each one."""
    chance = random.Random(0)
    for path in sorted(source.glob("*.tar")):
        if (folder / path.name).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{path.name}.part"
        with tarfile.open(path) as old, tarfile.open(part, "w") as new:
            for entry in old:
                content = old.extractfile(entry).read()
                if entry.name.endswith(".cls"):
                    content = str(chance.randrange(10)).encode()
                    entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))
        part.rename(folder / path.name)
    return folder


def judged(classifier: Path | None, trainer) -> dict:
    """Return what a digit classifier says: the Frechet distance of its features to real images, and the modes seen."""
    if classifier is None:
        return {}
    import torch

    from gan_dist.evaluation import digits

    network = digits.load(classifier).network
    count = 1000

    @torch.no_grad()
    def features(images):
        large = torch.nn.functional.interpolate(images.clamp(-1, 1), size=28, mode="bilinear", align_corners=False)
        hidden = network[:-2]((large.reshape(-1, 1, 28, 28) + 1) / 2)
        return hidden.view(len(images), -1).double(), network[-2:](hidden).argmax(1).view(len(images), -1)

    fake, digit = features(trainer.game.samples(0, 0, count))
    real, _ = features(trainer.reporter._reals(count)["image"])
    modes = len({tuple(row) for row in digit.tolist()})
    if not fake.isfinite().all():
        return {"distance": None, "modes": modes}
    spread = real.var(0).sum()  # a distance of 1: as far as the deviation of the data
    a, b = (torch.cov(each.T) for each in (fake, real))
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    distance = ((fake.mean(0) - real.mean(0)).square().sum() + a.trace() + b.trace() - 2 * roots) / spread
    return {"distance": round(float(distance), 4), "modes": modes}


def cost(options) -> None:
    """Print the part of the time of configs/digits.yaml that the signals take: those of a step, and those of pictures."""
    import itertools
    import statistics

    import torch

    from gan_dist import config as config_module, losses
    from gan_dist.data import loader
    from gan_dist.engine import Engine
    from gan_dist.metrics import Metrics
    from gan_dist.trainer import Trainer

    shutil.rmtree(options.out / "runs/cost", ignore_errors=True)
    words = ["--data.shards", str(options.data / "digits"), "--run.directory", str(options.out / "runs/cost")]
    words += ["--track.wandb", "disabled", "--data.workers", "0", "--training.threads", "1"]
    config = config_module.load([str(Path(__file__).resolve().parent.parent / "configs/digits.yaml"), *words])
    trainer = Trainer(config, Engine(config, alone=True))
    alarms, parts = trainer.reporter._alarms, config.training.batch // config.training.micro_batch
    metrics, logits = Metrics(torch.device("cpu")), torch.randn(2, config.training.micro_batch)
    batches = loader.micro_batches(trainer.index, config, 0, trainer.engine.slots, trainer.engine.device)

    def signs() -> None:
        for _ in range(parts):
            for name, value in losses.signs(trainer.game.loss, logits[0], logits[1]).items():
                metrics.add(f"score/{name}", value)

    work = {
        "step": lambda: [trainer.step(batch) for batch in itertools.islice(batches, 8)],
        "signs": lambda: [signs() for _ in range(100)],
        "live": lambda: alarms._look(0, True, False),
        "average": lambda: alarms._look(0, False, True),
        "cells": alarms._count_cells,
    }
    for each in work.values():
        each()
    times = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, each in work.items():
            began = time.process_time()
            each()
            times[name].append(time.process_time() - began)
    batches.close()
    took = {name: statistics.median(values) for name, values in times.items()}
    image = took["step"] / 8 / config.training.batch
    readings = 40_000 // 2_000 + (config.training.images - 40_000) / 5_000
    parts = {
        "logits of every step": took["signs"] / 100 / (image * config.training.batch),
        "live images, every 2,000 to 5,000": took["live"] * readings / (image * config.training.images),
        "averaged images, every 5,000": took["average"] / (image * 5_000),
        f"cells every {config.sample.every:,} images": took["cells"] / (image * config.sample.every),
    }
    for name, part in parts.items():
        print(f"{name}: {100 * part:.2f} % of the training")
    print(f"COST {100 * sum(parts.values()):.2f} %, at {1 / image:.0f} images/s of a core")


def report(path: Path, images: int) -> None:
    """Print a line a run, and the counts."""
    from gan_dist import losses, signals
    from gan_dist.config.control import Limits
    from gan_dist.control import collapse

    limits = Limits()
    counts = {"healthy": [0, 0], "broken": [0, 0]}
    for record in map(json.loads, path.read_text().splitlines()):
        loss = losses.LOSSES[record["keys"].get("loss.kind", "nonsaturating")]
        length = math.sqrt(CHANNELS[record["data"].removesuffix(WRONG)]) * BASE["data.resolution"]
        level = length if loss.lipschitz else math.inf
        rules = collapse.rules(limits, BASE["average.half_life"], BASE["training.batch"], loss.sure, level)
        judge = collapse.Judge(rules, limits.readings)
        alarms = []
        for line in record["lines"]:
            line = {**line, **signals.of_figures(line, ("D", "G"))}  # of an older recording
            alarms += [change for change in judge.feed(line["images"], line) if change.kind == "suspect"]
        until = images if record["truth"] == "healthy" else images // 2
        told = (bool(alarms) and alarms[0].images <= until) or record["ended"] != "finished"
        counts[record["truth"]][0] += told
        counts[record["truth"]][1] += 1
        words = ", ".join(f"{each.rule.signal} {each.value:.3g} at {each.images:,}" for each in alarms[:4])
        print(
            f"{record['name']:28s} distance {record.get('distance')} modes {record.get('modes')}  {words or 'no alarm'}"
        )
    print(
        f"ALARMS broken {counts['broken'][0]} of {counts['broken'][1]} before half of the budget; "
        f"healthy {counts['healthy'][0]} of {counts['healthy'][1]}"
    )


if __name__ == "__main__":
    main()
