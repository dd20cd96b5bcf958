"""The rooms of gan_dist and who may know whom: read from the source, nothing is imported."""

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LEVELS = {
    "errors": 0,
    "figures": 0,
    "files": 0,
    "config": 0,
    "redaction": 0,
    "rng": 0,
    "threads": 0,
    "units": 0,
    "rank_counts": 0,
    "losses": 1,
    "augment": 1,
    "degrade": 1,
    "ema": 1,
    "metrics": 1,
    "signals": 1,
    "player": 1,
    "pool": 1,
    "optimizer_probe": 1,
    "penalties": 1,
    "interfaces": 1,
    "schedules": 1,
    "optimizers": 1,
    "footprint": 1,
    "frozen": 1,
    "perceptual": 1,
    "networks": 1,
    "data": 2,
    "engine": 2,
    "checkpoint": 2,
    "tracking": 2,
    "evaluation": 2,
    "control": 2,
    "run_directory": 2,
    "games": 3,
    "trainer": 4,
    "step": 4,
    "supply": 4,
    "trial": 4,
    "warm_start": 4,
    "reporting": 4,
    "alarms": 4,
    "bad_steps": 4,
    "scoring": 4,
    "gallery": 4,
    "generate": 4,
    "walk": 4,
    "film": 4,
    "video": 4,
    "apply": 4,
    "restored": 4,
    "export": 4,
    "foreign": 4,
    "tiles": 4,
    "doctor": 4,
    "planning": 4,
    "recipes": 4,
    "checkpointing": 4,
    "provenance": 4,
    "slurm_jobs": 4,
    "run_status": 4,
    "report": 4,
    "train": 5,
    "cli": 5,
}
"""A module imports from lower levels and from its own. Two exceptions follow."""

APART = 2
"""The rooms of this level do not know each other: the trainer brings them together."""

ONLY_PURE = {"games"}
"""A game is mathematics: it imports from levels below APART only."""

ENGINE_ONLY = ("accelerate", "deepspeed", "torch.distributed", "torch.nn.parallel")
"""Who knows of ranks: engine/ alone."""

OPTIONAL = ("comet_ml", "datasets", "evaluate", "mlflow", "peft", "tensorboard", "timm", "trackio", "transformers")
"""Packages that the libraries below us look for; a module of ours with such a name would be taken for them."""

MOST_LINES = 400


def problems(package: Path) -> list[str]:
    """What is against the rules in the package at this path, one sentence each."""
    found = []
    foreign = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), *OPTIONAL} - {package.name}
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        room = relative.parts[0].removesuffix(".py")
        text = path.read_text()
        if (lines := text.count("\n")) > MOST_LINES:
            found.append(f"{relative} has {lines} lines, more than {MOST_LINES}: cut it into two rooms")
        if room == "__init__":
            continue
        if room in foreign:
            found.append(f"{room} shadows a module of that name when gan_dist/train.py runs as a script: rename it")
        if room not in LEVELS:
            found.append(f"{relative}: {room} is not in LEVELS of tests/unit/test_imports.py: give it a level there")
            continue
        for line, name in imports(ast.parse(text), relative, package.name):
            if problem := judge(room, name, package.name):
                found.append(f"{relative}, line {line}: {problem}")
    return found


def judge(room: str, name: str, package: str) -> str:
    """What is wrong with an import of the dotted `name` in `room`; empty if nothing."""
    if any(f"{name}.".startswith(f"{only}.") for only in ENGINE_ONLY) and room != "engine":
        return f"only engine/ may know {name}"
    top, _, rest = name.partition(".")
    other = rest.split(".")[0]
    if top != package or other not in LEVELS or other == room:
        return ""
    if LEVELS[other] > LEVELS[room]:
        return f"{room} (level {LEVELS[room]}) must not import {other} (level {LEVELS[other]})"
    if LEVELS[other] == LEVELS[room] == APART:
        return f"{room} must not import {other}: rooms of level {APART} do not know each other"
    if room in ONLY_PURE and LEVELS[other] >= APART:
        return f"{room} must not import {other}: it is mathematics, of levels below {APART} only"
    return ""


def imports(tree: ast.Module, module: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, inside functions too, and torch.distributed.x used."""
    folder = (package, *module.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (start, node.module) if part)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ENGINE_ONLY:
            yield node.lineno, ast.unparse(node)


def test_imports_point_downward_and_only_the_engine_knows_of_ranks(repository: Path) -> None:
    assert problems(repository / "gan_dist") == []


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("config.py", "from gan_dist.data import index", "config (level 0) must not import data (level 2)"),
        ("networks/dcgan.py", "from gan_dist import trainer", "networks (level 1) must not import trainer"),
        ("networks/dcgan.py", "from .. import trainer", "networks (level 1) must not import trainer"),
        ("data/loader.py", "from ..engine.core import Engine", "data must not import engine"),
        ("checkpoint/store.py", "def f():\n    import gan_dist.tracking.wandb", "checkpoint must not import tracking"),
        ("games/paired.py", "from gan_dist.engine import Engine", "games must not import engine"),
        ("trainer.py", "import gan_dist.cli", "trainer (level 4) must not import cli (level 5)"),
        ("trainer.py", "import accelerate.utils", "only engine/ may know accelerate.utils"),
        ("control/stop.py", "import torch.distributed as dist", "only engine/ may know torch.distributed"),
        ("control/stop.py", "from torch import distributed", "only engine/ may know torch.distributed"),
        ("control/stop.py", "import torch\ntorch.distributed.barrier()", "only engine/ may know torch.distributed"),
        ("trainer.py", "from deepspeed import initialize", "only engine/ may know deepspeed.initialize"),
        ("queue.py", "", "queue shadows a module of that name"),
        ("wandb/__init__.py", "", "wandb shadows a module of that name"),
        ("evaluate.py", "", "evaluate shadows a module of that name"),
        ("losses.py", "\n" * 401, "losses.py has 401 lines"),
        ("sampler.py", "", "sampler is not in LEVELS of tests/unit/test_imports.py"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str, sentence: str) -> None:
    path = tmp_path / "gan_dist" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert any(sentence in problem for problem in problems(tmp_path / "gan_dist"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("__init__.py", '__version__ = "1"'),
        ("config.py", "from gan_dist import __version__\nfrom gan_dist.errors import InputError"),
        ("data/loader.py", "from gan_dist.data import index, order\nfrom . import shards\nfrom .. import rng"),
        ("engine/core.py", "import accelerate, torch.distributed\nfrom gan_dist.player import Player"),
        ("games/paired.py", "from gan_dist import losses\nfrom gan_dist.games.base import Game"),
        ("trainer.py", "from gan_dist import data, engine, games, generate\nfrom torch import nn"),
    ],
)
def test_what_is_allowed_is_not_complained_about(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "gan_dist" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert problems(tmp_path / "gan_dist") == []
