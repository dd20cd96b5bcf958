"""The engines on a GPU, as one process of a launch: NCCL, DDP, fused Adam, 16 bits, TF32.

The same on a CPU with gloo, for a part of the cases: so that what needs a GPU has run before one is there.
"""

import itertools
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gan_dist import config as config_module, games
from gan_dist.checkpoint.format import read_manifest
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine, exact
from tests import making, reference
from tests.dist import test_precision
from tests.dist.test_matrix import PENALTIES
from tests.launching import digests, loaded_once, run_ranks, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")


def build(device: str, strategy: str, precision: str, **more: Any) -> Config:
    keys = making.tiny("unused", "unused", training__strategy=strategy, training__precision=precision)
    keys |= {"training.device": device, "training.micro_batch": 2, "training.batch": 8, **more}
    keys |= {"optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


class Several(int):
    """A number of processes that does not look like one, so that a sum over one goes the way of a sum over many."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return False


def join() -> None:
    """Let this process be the only one of a launch, as torchrun does: with a group, DDP and collectives."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    alone = exact.sum_over_processes

    def sum_over_processes(tensors: list[Tensor], world_size: int) -> None:
        alone(tensors, Several(world_size))

    exact.sum_over_processes = sum_over_processes


def joined(device: str) -> tuple[str, list[bool], int]:
    """The group's backend, whether DDP wraps the players, and how often exact's sum crossed the group in a step."""
    join()
    config = build(device, "ddp", "fp32")
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    wrapped = [isinstance(player.trained, DistributedDataParallel) for player in game.players]
    sent, calls = torch.distributed.all_to_all_single, []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return sent(*arguments, **keywords)

    torch.distributed.all_to_all_single = counted
    numerics.by_engine(build(device, "exact", "fp32"), 1)
    return torch.distributed.get_backend(), wrapped, len(calls)


@pytest.mark.parametrize("device", DEVICES)
def test_one_process_of_a_launch_has_a_group_ddp_and_collectives(device: str) -> None:
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
    assert run_ranks(1, joined, device) == [(backend, [True, True], 2)]


def compare(device: str, penalties: list[str]) -> list[str]:
    join()
    loaded_once()
    wrong = []
    for penalty in penalties:
        keys = PENALTIES[penalty]
        expected = reference.by_hand(build(device, "ddp", "fp64", **keys), 4)
        for strategy, precision, passes in itertools.product(STRATEGIES, ("fp64", "fp32"), (1, 2)):
            if (strategy == "exact" and passes > 1) or (precision == "fp64" and strategy.startswith("zero")):
                continue
            more = {} if strategy == "exact" else {"training.micro_batches_per_pass": passes}
            states = numerics.by_engine(build(device, strategy, precision, **keys, **more), 4)
            limits = {"fp64": (1e-12, 1e-9, 1e-9), "fp32": (1e-5, 1e-4, 1e-4)}[precision]
            for when, kind, limit in zip((0, 1, 1), ("gradient", "weights", "average"), limits, strict=True):
                worst, where = numerics.difference(states[when], expected[when], kind)
                if not worst <= limit:
                    wrong.append(f"{strategy} {precision} passes {passes} {penalty}: {where} differs by {worst:.1e}")
    return wrong


@pytest.mark.deepspeed
@pytest.mark.parametrize("device", DEVICES)
def test_every_strategy_pass_and_penalty_equals_a_plain_loop(device: str) -> None:
    penalties = ["lazy R1 alone"] if device == "cpu" else list(PENALTIES)  # on a CPU the matrix walks all of them
    wrong = run_ranks(1, compare, device, penalties, limit=500)[0]
    assert not wrong, "\n".join(wrong[:20])


def compare_lowered(device: str, precisions: list[str]) -> list[str]:
    """Steps in 16 bits against a plain loop under autocast on the same device, with algorithms that repeat their bits."""
    join()
    loaded_once()
    wrong, limit = [], {"cpu": test_precision.LIMIT, "cuda": 1e-4}[device]
    for precision, strategy, every in itertools.product(precisions, STRATEGIES, (1, 2)):
        keys = {"penalties.r1.weight": 1.0, "penalties.r1.every": every, "training.deterministic": True}
        config = build(device, strategy, precision, **keys)
        scale = 2.0**10 if precision == "fp16" else 1.0
        state = test_precision.lowered_step(config, scale)
        expected = test_precision.by_autocast(config, torch.device(device), scale)
        for kind in test_precision.KINDS:
            if found := test_precision.beyond(limit, state, expected, kind):
                wrong.append(f"{strategy} {precision} penalty every {every}: {found}")
    return wrong


@pytest.mark.deepspeed
@pytest.mark.parametrize("device", DEVICES)
def test_sixteen_bits_equal_a_plain_loop_under_autocast(device: str) -> None:
    precisions = {"cpu": ["bf16"], "cuda": ["bf16", "fp16"]}[device]
    wrong = run_ranks(1, compare_lowered, device, precisions, limit=500)[0]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_in_16_bits_is_cut_and_goes_on_to_the_same_bits_with_its_loss_scales(device: str, tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)
    precision = {"cpu": "bf16", "cuda": "fp16"}[device]
    more = {"training.device": device, "training.precision": precision, "training.deterministic": True}

    def run(name: str, images: int) -> None:
        done = train(
            {**making.tiny(shards, tmp_path / name, training__images=images), **more, "penalties.r1.weight": 1.0}
        )
        assert done.returncode == 0, done.stderr

    run("whole", 128)
    for images in (64, 128):
        run("cut", images)
    name = "images-000000128"
    assert digests(tmp_path / "cut")[name] == digests(tmp_path / "whole")[name]
    kept = [read_manifest(tmp_path / run / "checkpoints" / name)["loss_scales"] for run in ("cut", "whole")]
    assert kept[0] == kept[1]
    assert kept[0].keys() == ({"G", "D"} if precision == "fp16" else set())
    for factor, good in kept[0].values():
        assert math.log2(factor).is_integer()
        assert 0 <= good <= 8


def differences_with_tf32(device: str) -> list[float]:
    """Of the first gradients from double precision: without TF32, with it, and again without."""
    keys = {"networks.generator.base_channels": 32, "networks.discriminator.base_channels": 32}
    expected, _ = reference.by_hand(build(device, "ddp", "fp64", **keys), 1)
    found = []
    for tf32 in (False, True, False):
        first, _ = numerics.by_engine(build(device, "ddp", "fp32", **keys, **{"training.tf32": tf32}), 1)
        found.append(numerics.difference(first, expected, "gradient")[0])
    return found


@pytest.mark.gpu
def test_tf32_rounds_only_where_it_is_set_and_the_run_says_so(tmp_path: Path) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    without, with_it, again = run_ranks(1, differences_with_tf32, "cuda")[0]
    assert without < 1e-5
    assert 1e-5 < with_it < 0.1
    assert again < 1e-5
    shards = making.data_set(tmp_path / "data", 96)
    keys = making.tiny(shards, tmp_path / "run", training__device="cuda", training__tf32=True)
    assert train(keys).returncode == 0
    config, _ = config_module.read_run(tmp_path / "run")
    assert config.training.tf32
    done = train({**keys, "training.tf32": False, "training.images": 128})
    assert done.returncode == 2
    assert "training.tf32" in done.stderr
