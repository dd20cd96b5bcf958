"""Every strategy, process count, accumulation, pass and penalty against one process and a plain loop."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gan_dist import config as config_module, numerics
from gan_dist.config import Config
from gan_dist.engine import core, whole
from gan_dist.games import generation
from gan_dist.networks.normalisation import BatchNorm
from tests import making
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
PENALTIES: dict[str, dict[str, Any]] = {
    "none": {},
    "R1 every step": {"game.penalty.r1": 10.0},
    "lazy R1 alone": {"game.penalty.r1": 10.0, "game.penalty.every": 2},
    "R1 and R2": {"game.penalty.r1": 10.0, "game.penalty.r2": 5.0},
    "WGAN-GP": {"game.penalty.wgan_gp": 10.0},
    "finite difference": {"game.penalty.r1": 10.0, "game.penalty.method": "finite_difference"},
}
Case = tuple[str, int, int, str, bool]
"""Strategy, micro-batches a process, micro-batches a pass, penalty, with BatchNorm."""


def cases() -> list[Case]:
    found = itertools.product(STRATEGIES, (1, 2, 4), (1, 2), PENALTIES, (True, False))
    return [case for case in found if case[2] == 1 or (case[1] > 1 and case[0] != "exact")]


def build(case: Case, world_size: int, precision: str, **more: Any) -> Config:
    strategy, accumulation, passes, penalty, norm = case
    keys = making.tiny(
        "unused",
        "unused",
        training__strategy=strategy,
        training__precision=precision,
        training__batch=2 * accumulation * world_size,
        training__micro_batch=2,
        **more,
    )
    if strategy != "exact":
        keys["training.micro_batches_per_pass"] = passes
    # an epsilon like the gradients' size: Adam's first steps are else signs, which rounding decides near 0
    keys |= {"game.generator.epsilon": 1e-4, "game.discriminator.epsilon": 1e-4}
    keys["game.generator.clip_norm"] = 0.1 if norm else 0.0  # a clipped gradient hides a wrong factor: so not always
    return config_module.load(["configs/digits.yaml", *making.flags({**keys, **PENALTIES[penalty]})])


def without_norm(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                setattr(parent, name, nn.Identity())
    return network


def compare(matrix: list[Case], world_size: int, steps: int) -> list[str]:
    """A rank's part of all cases; what differs too much, in words (on rank 0)."""
    loaded_once()
    plain, known, wrong = generation.build_networks, {}, []
    for case in matrix:
        strategy, accumulation, _, penalty, norm = case
        generation.build_networks = (
            plain if norm else lambda config: tuple(without_norm(network) for network in plain(config))
        )
        precision = "fp32" if strategy.startswith("zero") else "fp64"
        config = build(case, world_size, precision)
        try:
            first, last = numerics.by_engine(config, steps)
        except Exception as error:  # the other cases are worth seeing too
            wrong.append(f"{case}: {type(error).__name__} {error}")
            continue
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            continue
        key = accumulation, penalty, norm
        if key not in known:
            known[key] = numerics.by_hand(config, steps)
        double = precision == "fp64"
        # in fp32 a penalty by finite differences has the rounding of two logits over its step, 0.03, and in later steps
        # that of activations at their kinks: its weights are compared in fp64
        noisy = penalty == "finite difference"
        limits = {"gradient": 1e-12 if double else 1e-5, "weights": 1e-9 if double else 1e-4}
        if noisy:
            limits = {"gradient": 1e-11, "weights": 1e-8} if double else {"gradient": 5e-5}
        for kind, limit in limits.items():
            found, expected = (first, known[key][0]) if kind == "gradient" else (last, known[key][1])
            worst, where = numerics.difference(found, expected, kind)
            if not worst <= limit:
                wrong.append(f"{case}: {where} differs by {worst:.1e}, more than {limit:.0e}")
            if kind == "weights":
                worst, where = numerics.difference(found, expected, "average")
                if not worst <= limit:
                    wrong.append(f"{case}: {where} differs by {worst:.1e}, more than {limit:.0e}")
    return wrong


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_strategy_accumulation_pass_and_penalty_equals_a_plain_loop(world_size: int) -> None:
    matrix = cases()
    assert len(matrix) == 276
    began = time.monotonic()
    # the tenth step of 4 processes on few cores adds minutes and nothing that 4 steps do not show
    wrong = run_ranks(world_size, compare, matrix, world_size, 10 if world_size < 4 else 4, limit=900)[0]
    print(f"{len(matrix)} cases in {time.monotonic() - began:.0f} s")
    assert not wrong, "\n".join([f"{len(wrong)} differences:", *wrong[:20]])


def spoil(fault: str) -> None:
    """Put into this rank what would be a plausible mistake in the engine."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ["RANK"])
    if fault == "static_graph":
        from torch.nn.parallel import DistributedDataParallel

        whole.prepare_quietly = lambda _, network: DistributedDataParallel(network, static_graph=True)
    elif fault == "a player is not frozen":
        plain = core.Engine.turn

        @contextlib.contextmanager
        def turn(engine: core.Engine, phase: core.Phase) -> Iterator[None]:
            with plain(engine, phase):
                for player in engine._players:
                    player.network.requires_grad_(True)
                yield

        core.Engine.turn = turn
    elif fault == "one rank's share is counted twice":
        plain_backward = core.Engine.backward
        core.Engine.backward = lambda engine, loss: plain_backward(engine, loss * 2 if rank == 0 else loss)
    elif fault == "stage 3 does not count micro-batches":
        from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

        DeepSpeedZeroOptimizer_Stage3.clear_backward_seen_flag = lambda optimizer: None
    elif fault == "DeepSpeed clips as it likes":
        from gan_dist.engine import zero

        settings = zero.Zero._settings
        zero.Zero._settings = lambda strategy, player: {
            name: value for name, value in settings(strategy, player).items() if name != "gradient_clipping"
        }
    elif fault == "BatchNorm sees all micro-batches of a pass":
        core.Engine._see_parts = lambda engine, parts: None
    elif fault == "a lazy penalty is not made stronger":
        generation.Generation.keep_gradients_small = _weaker(generation.Generation.keep_gradients_small)
    else:
        assert fault == "none"


def _weaker(penalty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def weaker(game: generation.Generation, micro: Any) -> torch.Tensor:
        return penalty(game, micro) / game.penalty.every

    weaker.__name__ = penalty.__name__
    return weaker


def compare_spoiled(fault: str, case: Case) -> list[str]:
    spoil(fault)
    return compare([case], 2, 4)


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        ("static_graph", ("ddp", 1, 1, "none", True)),
        ("a player is not frozen", ("zero2", 1, 1, "none", True)),
        ("one rank's share is counted twice", ("ddp", 2, 1, "none", True)),
        ("one rank's share is counted twice", ("exact", 2, 1, "R1 and R2", False)),
        ("one rank's share is counted twice", ("zero3", 2, 1, "R1 every step", True)),
        ("stage 3 does not count micro-batches", ("zero3", 2, 1, "none", True)),
        ("DeepSpeed clips as it likes", ("zero2", 1, 1, "R1 every step", False)),
        ("BatchNorm sees all micro-batches of a pass", ("ddp", 2, 2, "none", True)),
        ("a lazy penalty is not made stronger", ("ddp", 1, 1, "lazy R1 alone", True)),
    ],
)
def test_the_comparison_sees_a_mistake_in_the_engine(fault: str, case: Case) -> None:
    assert run_ranks(2, compare_spoiled, fault, case)[0], f"{fault} makes no difference in {case}"
