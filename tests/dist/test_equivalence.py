"""A step is the same mathematics at any process count, accumulation and number of loader workers."""

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.data.pack.packing import pack
from gan_dist.engine import Engine
from gan_dist.errors import InputError, RunError
from gan_dist.step import play_step
from tests import making, reference
from tests.launching import REPOSITORY, run_ranks

pytestmark = pytest.mark.dist

CASES = {
    "labels, mirrored, in streams": {
        "data.flip": True,
        "data.streams": 4,
        "loss.kind": "minimax",
        "data.labels": True,
        "data.classes": 3,
    },
    "one micro-batch a process": {"training.micro_batch": 4, "data.labels": False},
    "article": {"networks.generator.kind": "article", "networks.discriminator.kind": "article", "data.resolution": 28},
}


def load(keys: dict[str, Any], name: str = "digits") -> Config:
    keys = making.fit(dict(keys))
    if keys.get("networks.generator.kind") == "article":
        name = "mnist"
    folder = "tests/data" if name == "digits" else "configs"  # the plain loop knows no schedules
    return config_module.load([str(REPOSITORY / folder / f"{name}.yaml"), *making.flags(keys)])


def play(config: Config, steps: int) -> dict[str, Any]:
    """A rank's part of some steps: final state, figures of each step, and a hash of every image it was given."""
    if torch.distributed.is_initialized() is False or int(torch.distributed.get_rank()) == 0:
        loader.prepare(config, progress=False)
    engine = Engine(config)
    engine.wait()
    index = loader.open_index(config)
    game = games.build(config)
    engine.wrap(game)
    figures, seen = [], []
    batches = loader.micro_batches(index, config, 0, engine.slots, engine.device)
    for number, batch in enumerate(islice(batches, steps)):
        seen.append([hashlib.sha1(image.numpy().tobytes()).hexdigest() for micro in batch for image in micro["image"]])
        play_step(engine, game, batch, number * config.training.batch, config.training.batch)
        figures.append({name: total / count for name, (total, count) in engine.read_metrics().items()})
    batches.close()
    state = {name: tensor.clone().numpy() for name, tensor in tensors.collect(game.players).whole.items()}
    return {"state": state, "figures": figures, "seen": seen, "rank": engine.rank}


def play_all(configs: list[tuple[Config, int]]) -> list[dict[str, Any]]:
    return [play(config, steps) for config, steps in configs]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, size=32, classes=3)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_weights_moments_and_statistics_equal_a_plain_loop_in_fp64(shards: Path, world_size: int) -> None:
    base = making.tiny(shards, "unused", training__precision="fp64")
    cases = {
        f"{name}, {strategy}": {**base, **keys, "training.strategy": strategy}
        for name, keys in CASES.items()
        for strategy in ("ddp", "exact")
    }
    configs = [load(keys) for keys in cases.values()]
    ranks = run_ranks(world_size, play_all, [(config, 4) for config in configs])
    for number, (name, config) in enumerate(zip(cases, configs, strict=True)):
        index = loader.open_index(config)
        single = config.with_({"data.workers": 0})
        batches = loader.micro_batches(index, single, 0, range(config.training.batch), torch.device("cpu"))
        _, expected = reference.by_hand(config, 4, lambda step, batches=batches: next(batches), lively=False)
        for rank in ranks:
            state = rank[number]["state"]
            for key, tensor in expected.items():
                if "/gradient/" in key:
                    continue
                difference = (torch.from_numpy(state[key]) - tensor).abs().max() / tensor.abs().max().clamp(min=1e-3)
                assert difference < 1e-9, f"{name}: {key} differs by {difference:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mnist", "dcgan"])
def test_thirty_steps_of_a_recipe_agree_at_every_process_and_worker_count(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    keys: dict[str, Any] = {"data.shards": tmp_path / "data", "data.source": "", "training.device": "cpu"}
    if name == "digits":
        source = "digits"
    else:
        shared = request.getfixturevalue("shared")
        source = str(
            shared / {"mnist": "data/mnist/t10k-images-idx3-ubyte.gz", "dcgan": "data/faces/utkface-128.tar"}[name]
        )
    if name == "dcgan":  # the paper's widths take minutes here
        keys |= {"networks.generator.base_channels": 8, "networks.discriminator.base_channels": 8}
    pack(source, tmp_path / "data", resolution={"digits": 16, "mnist": 28, "dcgan": 64}[name], progress=False)
    runs = {}
    for world_size, workers in ((1, 0), (1, 3), (2, 1), (4, 0)):
        config = load({**keys, "data.workers": workers}, name)
        ranks = run_ranks(world_size, play, config, 30)
        seen = [[image for rank in ranks for image in rank["seen"][step]] for step in range(30)]
        runs[world_size, workers] = ranks[0]["figures"], seen, ranks[-1]["state"]
    losses, seen, state = runs[1, 0]
    for count, (other_losses, other_seen, other_state) in runs.items():
        # the recipes have training.strategy: exact
        assert all((other_state[key] == state[key]).all() for key in state), f"other bits with {count}"
        assert other_seen == seen, f"other samples, or in another order, with (processes, workers) = {count}"
        assert other_losses == losses, f"other figures with {count}"


def disagreement(rank_with_error: int, kind: type[Exception]) -> tuple[str, str]:
    config = load(making.tiny("unused", "unused"))
    engine = Engine(config)
    assert engine.gather(engine.rank) == list(range(engine.world_size))
    assert engine.on_main(lambda: f"said by {engine.rank}") == "said by 0"

    def work() -> None:
        if engine.rank == rank_with_error:
            raise kind("the disk is gone")

    try:
        engine.on_main(work)
    except (InputError, RunError) as error:
        return type(error).__name__, str(error)
    return "", ""


@pytest.mark.parametrize(("kind", "name"), [(InputError, "AgreedError"), (RunError, "RunError")])
def test_an_error_of_one_process_is_every_process_error(kind: type[Exception], name: str) -> None:
    assert run_ranks(2, disagreement, 0, kind) == [(name, "the disk is gone")] * 2
