"""Every program of benchmarks/ at toy size: it ends with code 0 and prints its figures. A new one has to be named here."""

import ast
import dataclasses
import multiprocessing
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_dist import config as config_module
from gan_dist.engine import Engine
from gan_dist.errors import EXIT_FINISHED
from gan_dist.trainer import Trainer
from tests import making, serving
from tests.documents import commands
from tests.launching import REPOSITORY
from tests.unit.test_documents import DOCUMENTS, problem

pytestmark = pytest.mark.slow

PATIENCE = 1200  # seconds; none takes twenty on a core of its own


@dataclasses.dataclass(frozen=True)
class Small:
    """A command, with {names} of `places`, and patterns of what it prints."""

    words: str
    prints: tuple[str, ...]
    code: int = 0
    nginx: bool = False


def small(words: str, *prints: str, **more: Any) -> Small:
    return Small(words, prints, **more)


RUN = "--training.device cpu --data.workers 0 --track.wandb disabled"
UNSCORED = RUN + " --evaluate '{{every: 0, scores: {{}}}}'"
NARROW = "--networks.generator.base_channels 2 --networks.discriminator.base_channels 2"
OVERHEAD = "benchmarks/overhead.py --rounds 1 --batch 4 --shards"
RATE = r"[\d,.]+ images/s"

TABLE: dict[str, list[Small]] = {
    "alarms": [
        small(
            "benchmarks/alarms.py --data {sets} --out {out} --only healthy --minutes 0.001 --images 64",
            r"test-healthy-00-digits: finished",
            r"ALARMS broken 0 of 0 before half of the budget; healthy \d of 1",
        ),
        small(
            "benchmarks/alarms.py --data {sets} --out {out} --cost --rounds 1",
            r"cells every 25,000 images: [\d.]+ %",
            rf"COST [\d.]+ %, at {RATE}",
        ),
    ],
    "autoencoders": [
        small("benchmarks/autoencoders.py {out}/rows.png --vae {vae} --gan {gan} --columns 4", "rows.png: 4 rows of 4")
    ],
    "cache": [
        small(
            "benchmarks/cache.py --epochs 1 --layouts 1",
            r"full +1 machine\(s\)",
            r"blocks +1 machine\(s\)",
            r"Belady.*: [\d.]+",
        ),
        small("benchmarks/cache.py --stop", r"\d+ steps, \d+ samples not in the cache"),
    ],
    "checkpoint": [
        small(
            "benchmarks/checkpoint.py --folder {out} --rounds 1 --every 1 --width 50",
            "RATIO stall beyond the copy, over a synchronous save: median",
            r"RATIO bandwidth of the writer \(hashed, synced, named\) over plain writes: median",
            r"RATIO time to find a batch's samples at image 10\^9 over 10\^3: median",
            r"RATIO peak memory of building and loading over the state: [\d.]+",
            r"RATIO time of a pair of [\d.]+ million weights with a save every 1 steps over without: median",
        )
    ],
    "control": [
        small(
            "benchmarks/control.py --shards {digits} --processes 1 --images 192",
            r"RATIO time of stopping, watching and noting saves over all steps: [\d.]+",
        )
    ],
    "digits_denoise": [
        small(
            f"benchmarks/digits_denoise.py {{out}} --training.images 32 --networks.generator.blocks 1 {UNSCORED}",
            r"noisy [\d.]+, median filter [\d.]+, run [\d.-]+ dB",
        )
    ],
    "edges_digits": [
        small(f"benchmarks/edges_digits.py {{out}} --training.images 32 {NARROW} {UNSCORED}", '"outputs read right": ')
    ],
    "engines": [
        small(
            "benchmarks/engines.py speed memory traffic precision --rounds 1 --resolution 16 --base 4 --micro-batch 2"
            " --strategies ddp exact",
            rf"RATIO exact over bare DDP loop: [\d.]+ .*, {RATE}",
            r"exact +process 1 of 2: kept between steps [\d.]+ MiB, formula [\d.]+, RATIO [\d.]+",
            r"exact +exact R1: each process sends [\d.]+ MiB a step of 2 passes, formula [\d.]+, RATIO [\d.]+",
            rf"RATIO bf16 over fp32: .*, ddp, CPU: {RATE}",
        )
    ],
    "evaluation": [
        small("benchmarks/evaluation.py --images 12 --rounds 1 --processes 1", rf"round 1: 1 ranks [\d.]+ s, {RATE}")
    ],
    "index": [
        small(
            "benchmarks/index.py --samples 1000 --shards 10",
            "first rank of a machine: table 0 MB, mapped; own memory",
            "a further rank: table 0 MB, mapped; own memory",
        )
    ],
    "loader": [
        small(
            "benchmarks/loader.py --shards {photos} --larger {large} --kept {photos} --order --index --rounds 1"
            " --workers 1 --images 128",
            r"stock WebDataset +[\d,]+ +RATIO gan_dist over it [\d.]+",
            r"decoding alone +[\d,]+ +RATIO gan_dist over it [\d.]+",
            r"RATIO time to the first batch, position 10\^9 over 0: median",
            r"RATIO images/s from 192x192 JPEGs to 64x64, reduced scale over whole .*: median",
            r"RATIO decoded over from memory [\d.]+ .*; 128 images to 64x64x3",
            r"RATIO time [\d.]+, RATIO peak memory [\d.]+",
            r"index of 1,000,000 samples: [\d.]+ MiB resident",
        )
    ],
    "mnist_modes": [
        small(
            "benchmarks/mnist_modes.py {article} --train {mnist} --test {mnist} --n 8 --epochs 1",
            r"classifier: [\d.]+% of 512 test images right",
            r"share of each digit: 0: [\d.]+%",
            "all ten digits, each over 3 %, sure of 80 %: NO",
            code=1,  # its verdict
        )
    ],
    "near_duplicates": [
        small("benchmarks/near_duplicates.py {files} --resolution 16 --rounds 1", r"times \(.*\), \d+ near-duplicates")
    ],
    "neighbour": [
        small(
            "benchmarks/neighbour.py --rounds 1 --turns 1 --seconds 0.05 --neighbours 1 --config {config}",
            "RATIO images/s alone, ours over spin: median",
            "RATIO of the fair share beside 1 busy loops, spin: median",
        )
    ],
    "order": [
        small("benchmarks/order.py --batches 1", r"full +[\d.]+% +[\d.]+%", r"as stored +[\d.]+%"),
        small(
            "benchmarks/order.py --train {out} --seeds 1 --images 64 --orders 1",
            r"full +seed 0  distance [\d.]+  smallest and largest class [\d.]+% [\d.]+%",
        ),
    ],
    "overhead": [
        small(f"{OVERHEAD} {words}", "RATIO images/s, trainer over bare loop: median")
        for words in (
            f"{{photos}} --steps 1 -- {RUN} {NARROW}",
            f"{{photos}} --steps 1 --recipe r3gan -- {RUN}",
            # the path lengths are penalised in every fourth step, R1 in every sixteenth
            f"{{photos}} --steps 16 --recipe stylegan2 -- {RUN} --data.resolution 16"
            " --networks.generator.channel_maximum 4 --networks.discriminator.channel_maximum 4",
            f"{{edges}} --steps 1 --recipe paired -- {RUN} {NARROW}",
            f"{{photos}} --shards-b {{large}} --steps 1 --recipe unpaired -- {RUN} {NARROW} --data.resolution 32"
            " --data.load_size 36 --networks.generator.blocks 1",
        )
    ],
    "pacgan": [
        small(
            f"gan_dist/train.py benchmarks/pacgan.yaml --data.shards {{photos}} --run.directory {{out}} {UNSCORED}"
            " --training.images 128",
            "finished at 128 images",
        )
    ],
    "peers": [
        small(
            "benchmarks/peers.py --images {files} --rounds 1 --steps 1 --batch 4 --processes 1",
            r"gan_dist, 1 process\(es\) +[\d.]+ +1.000",
        )
    ],
    "remedies": [
        small("benchmarks/remedies.py write {out}/sweep --data {sets} --scale 0.01", "32 recipes in "),
        small(
            "benchmarks/remedies.py train {out}/sweep --runs {out}/runs --minutes 0.001",
            "1 of 96: digits-000-seed0 ended with 0",
        ),
        small(
            "benchmarks/remedies.py report {out}/sweep --runs {out}/runs --out {out}/remedies",
            "1 of 96 runs have ended",
            r"\| loss \| nonsaturating \| [\d.]+ \| [\d.e+]+ \| \d of 1 \|",
        ),
    ],
    "scaling": [
        small(
            "benchmarks/scaling.py --shards {photos} --processes 1 --batch 4 --rounds 1 --steps 1",
            r"trainer +1 processes: .*, RATIO over 1: 1.000, over the bare loop: [\d.]+",
        )
    ],
    "stopwatch": [
        small("benchmarks/stopwatch.py --batch 4 --warm 1 --steps 2 -- {script}", r"RESULT images_per_second=[\d.]+")
    ],
    "streams": [
        small(
            "benchmarks/streams.py --images 64 --samples 64 --size 32 --rounds 1 --workers 0 --latency 1 --bandwidth 10",
            r"bytes of images over the bandwidth: [\d.]+",
        ),
        small(
            "benchmarks/streams.py --images 64 --samples 64 --size 32 --rounds 1 --workers 0",
            r"nginx over files: [\d.]+",
            nginx=True,
        ),
    ],
}

ONLY_HELP = {
    "camvid": "it trains for minutes; tests/unit/evaluation/test_segmentation.py and test_held_out.py have its parts",
    "stream_kills": "a try takes a minute; tests/dist/test_streams.py compares bits from the same servers",
    "gpu": "tests/unit/test_gpu_benchmark.py plays its parts",
    "slurm": "it needs root, a Slurm of its own and minutes; tests/slurm uses the same cluster and jobs",
    "soak": "tests/fault/test_soak.py runs it for ten kills",
}


def trained(recipe: str, keys: dict[str, object]) -> None:
    config = config_module.load([str(REPOSITORY / recipe), *making.flags(keys)])
    assert Trainer(config, Engine(config, alone=True)).train() == EXIT_FINISHED


def jpegs(count: int, size: int) -> list[tuple[str, bytes]]:
    pictures = (making.picture(number, size, 3) for number in range(count))
    return [(f"{number:06d}.jpg", making.encode(pixels, "JPEG")) for number, pixels in enumerate(pictures)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data and runs of the commands, by the names that stand in them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    names = ("sets", "photos", "large", "edges", "mnist", "files", "gan", "article", "vae", "config", "script", "cache")
    found = {name: folder / name for name in names}
    found["digits"] = making.data_set(folder / "sets/digits", 192, classes=10)
    making.data_set(folder / "mnist", 512, 1, size=28, classes=10)
    for name, count, size in (("photos", 128, 64), ("large", 64, 192)):
        making.write_tar(folder / name / "0.tar", jpegs(count, size))
    sketches = [(f"{number:06d}", making.encode(making.picture(number, 32))) for number in range(32)]
    members = [(f"{name}.{kind}.png", png) for name, png in sketches for kind in ("edges", "image")]
    making.write_tar(folder / "edges/0.tar", members)
    for name, content in jpegs(16, 64):
        (folder / "files/class").mkdir(parents=True, exist_ok=True)
        (folder / "files/class" / name).write_bytes(content)
    recipe = yaml.safe_load((REPOSITORY / "tests/data/digits.yaml").read_text())
    recipe["data"] |= {"shards": str(found["digits"]), "source": "", "workers": 0}
    found["config"].write_text(yaml.safe_dump(recipe))
    found["script"].write_text(SCRIPT)
    return found


SCRIPT = """
import torch
adams = [torch.optim.Adam([torch.zeros(1, requires_grad=True)]) for _ in range(2)]
while True:
    for adam in adams:
        adam.step()
"""


@pytest.fixture(scope="module")
def runs(places: dict[str, Path]) -> None:
    """Runs of four steps, for the benchmarks that look at one."""
    digits = places["digits"]
    trained("tests/data/digits.yaml", making.tiny(digits, places["gan"]))
    for recipe, keys in (
        ("configs/digits_vae.yaml", making.tiny(digits, places["vae"])),
        ("configs/mnist.yaml", making.tiny(places["mnist"], places["article"], data__resolution=28)),
    ):
        trained(recipe, {key: value for key, value in keys.items() if not key.startswith("networks.")})


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_benchmark_ends_and_prints_its_figures(
    name: str, places: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest, need: Any
) -> None:
    if name in ("autoencoders", "mnist_modes"):
        request.getfixturevalue("runs")
    (tmp_path / "out").mkdir()
    for case in TABLE[name]:
        if case.nginx:
            need("nginx", serving.find_nginx() is not None, "no nginx here")
        code, printed = play(case.words.format(**places, out=tmp_path / "out"), tmp_path, places["cache"])
        said = f"{case.words}\n{printed[-6000:]}"
        assert code == case.code, said
        for pattern in case.prints:
            assert re.search(pattern, printed), f"not printed: {pattern}\n{said}"


def play(words: str, folder: Path, cache: Path) -> tuple[int | None, str]:
    """The exit code of `python WORDS`, and what it printed. Its process is a fork of one that has loaded torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan_dist.trainer", "gan_dist.generate", "torch._dynamo"])
    log = folder / "printed.txt"
    process = context.Process(target=_program, args=(shlex.split(words), log, cache))
    process.start()
    process.join(PATIENCE)
    process.kill()
    process.join()
    return process.exitcode, log.read_text()


def _program(words: list[str], log: Path, cache: Path) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.pop("PYTHONPATH", None)
    os.environ["GAN_DIST_CACHE"] = str(cache)
    os.chdir(REPOSITORY)
    sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
    runpy.run_path(words[0], run_name="__main__")


@pytest.mark.parametrize("name", sorted(ONLY_HELP))
def test_a_benchmark_that_runs_elsewhere_or_takes_long_says_its_options(name: str, tmp_path: Path) -> None:
    code, printed = play(f"benchmarks/{name}.py --help", tmp_path, tmp_path)
    assert code == 0, printed
    assert "usage: " in printed


BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


def test_every_benchmark_is_in_a_table() -> None:
    assert TABLE.keys() | ONLY_HELP.keys() == {path.stem for path in BENCHMARKS}
    assert not TABLE.keys() & ONLY_HELP.keys()
    for name, cases in TABLE.items():
        assert all(f"benchmarks/{name}." in case.words for case in cases)


def test_every_benchmark_stands_in_a_document_and_its_own_examples_have_options_that_exist() -> None:
    shown = [word for path in DOCUMENTS for words in commands(path.read_text()) for word in words]
    for path in BENCHMARKS:
        assert {f"benchmarks/{path.name}", f"benchmarks/{path.stem}.yaml"} & set(shown), f"no document runs {path.name}"
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        examples = [line.strip() for line in lines if line.strip().startswith("python ")]
        assert examples, path.name
        wrong = {line: text for line in examples if (text := problem(shlex.split(line, comments=True)))}
        assert not wrong
