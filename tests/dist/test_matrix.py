"""Every strategy, process count, accumulation, pass and penalty against one process and a plain loop.

Its first test takes 16 minutes of processor time: 2, 4 and 10 at 1, 2 and 4 processes; the others about 6.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import engines
from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.doctor.numerics import distances
from gan_dist.engine import ddp
from gan_dist.engine.engine import Engine, Players
from gan_dist.games import generation
from gan_dist.interfaces import Batch, Phase
from gan_dist.networks.statistics import BatchNorm
from gan_dist.penalties import Penalty
from gan_dist.player import Player
from tests import making, reference
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
PENALTIES: dict[str, dict[str, Any]] = {
    "none": {},
    "R1 every step": {"penalties.r1.weight": 10.0},
    "lazy R1 alone": {"penalties.r1.weight": 10.0, "penalties.r1.every": 2},
    "R1 and R2": {"penalties.r1.weight": 10.0, "penalties.r2.weight": 5.0},
    "WGAN-GP": {"penalties.wgan_gp.weight": 10.0},
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
    keys |= {"optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    if norm:  # a clipped gradient hides a wrong factor: so not always
        keys |= {"optimizers.generator.clip_norm": 0.1, "optimizers.discriminator.clip_norm": 0.3}
    return config_module.load(["configs/digits.yaml", *making.flags({**keys, **PENALTIES[penalty]})])


def without_norm(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                setattr(parent, name, nn.Identity())
    return network


build_networks = generation.build_networks
Difference = tuple[Case, str, float, float]
"""Case, tensor, how far it is from the plain loop's, and how far it may be."""


def networks_of(norm: bool) -> Callable[[Config], tuple[nn.Module, ...]]:
    if norm:
        return build_networks
    return lambda config: tuple(without_norm(network) for network in build_networks(config))


def single(case: Case) -> bool:
    """Whether it is computed in single precision: DeepSpeed knows no double."""
    return case[0].startswith("zero")


def compare(
    matrix: list[Case], world_size: int, more: dict[str, Any] | None = None, steps: int = 10
) -> list[Difference]:
    """All cases, with `more` keys, on this rank; what differs too much in those that are this rank's to compare."""
    more = more or {}
    loaded_once()
    rank = int(os.environ.get("RANK", "0"))
    # of cases that differ by strategy and pass alone the plain loop is the same; each is one rank's, all at the same time.
    # It has the engine's precision: in single, now and then a kink (LeakyReLU) takes the other side of 0 than in double,
    # for the plain loop and the engine alike
    loops = list(dict.fromkeys((single(case), case[1], *case[3:]) for case in matrix))[rank::world_size]
    wrong, known = [], {}
    for in_single, accumulation, penalty, norm in loops:
        generation.build_networks = networks_of(norm)
        plain = build(("ddp", accumulation, 1, penalty, norm), world_size, "fp64", **more)
        dtype = torch.float32 if in_single else torch.float64
        known[in_single, accumulation, penalty, norm] = reference.by_hand(plain, steps, dtype=dtype)
    for case in matrix:
        _, accumulation, _, penalty, norm = case
        generation.build_networks = networks_of(norm)
        precision = "fp32" if single(case) else "fp64"
        try:
            states = numerics.by_engine(build(case, world_size, precision, **more), steps)
        except Exception as error:
            raise AssertionError(f"in {case}") from error
        expected = known.get((single(case), accumulation, penalty, norm))
        if expected is None:
            continue
        limits = (1e-5, 1e-4, 1e-4) if single(case) else (1e-12, 1e-9, 1e-9)
        for when, kind, limit in zip((0, 1, 1), ("gradient", "weights", "average"), limits, strict=True):
            worst, where = numerics.difference(states[when], expected[when], kind)
            if not worst <= limit:
                wrong.append((case, where, worst, limit))
    generation.build_networks = build_networks
    return wrong


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_strategy_accumulation_pass_and_penalty_equals_a_plain_loop(world_size: int) -> None:
    matrix = cases()
    assert len(matrix) == 230
    halves = [[case for case in matrix if case[4] == norm] for norm in (True, False)] if world_size == 1 else [matrix]
    with ThreadPoolExecutor() as threads:  # a single process leaves a core idle: two beside each other
        found = threads.map(lambda half: run_ranks(world_size, compare, half, world_size, limit=2400), halves)
        wrong = [difference for ranks in found for rank in ranks for difference in rank]
    assert not wrong, explain(wrong)


def explain(wrong: list[Difference]) -> str:
    words = [
        f"{case}: {where} differs by {worst:.1e}, more than {limit:.0e}" for case, where, worst, limit in wrong[:20]
    ]
    return "\n".join([f"{len(wrong)} differences:", *words])


def compare_lowered(matrix: list[Case], world_size: int) -> list[Difference]:
    """In bf16, against a plain loop in bf16: of a player's tensors together, as single numbers are mostly rounding."""
    loaded_once()
    rank, wrong = int(os.environ.get("RANK", "0")), []
    for case in matrix:
        generation.build_networks = networks_of(case[4])
        states = numerics.by_engine(build(case, world_size, "bf16"), 2)
        if rank == 0:
            plain = build(("ddp", case[1], 1, *case[3:]), world_size, "bf16")
            expected = reference.by_hand(plain, 2, dtype=torch.float32, half=True)
            for when, kind, limit in ((0, "gradient", 2.0**-8), (1, "weights", 1e-4), (1, "average", 1e-4)):
                for player, far in distances(states[when], expected[when], kind).items():
                    if not far <= limit:
                        wrong.append((case, f"{player}/{kind}", far, limit))
    generation.build_networks = build_networks
    return wrong


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_in_bf16_every_strategy_pass_and_penalty_equals_a_plain_loop_to_its_rounding(
    world_size: int, accumulation: int
) -> None:
    matrix = [case for case in cases() if case[1] == accumulation]
    assert len(matrix) == (50 if accumulation == 1 else 90)
    wrong = run_ranks(world_size, compare_lowered, matrix, world_size, limit=900)[0]
    assert not wrong, explain(wrong)


LABELS = {
    "data__labels": True,
    "data__classes": 3,
    "game__discriminator_steps": 2,
}


def test_labels_and_several_discriminator_steps_are_the_same_game_under_every_strategy() -> None:
    matrix: list[Case] = [
        (strategy, accumulation, 1, penalty, True)
        for strategy in STRATEGIES
        for accumulation in (1, 2)
        for penalty in ("none", "R1 every step", "lazy R1 alone")
    ]
    wrong = list(itertools.chain(*run_ranks(2, compare, matrix, 2, LABELS)))
    assert not wrong, explain(wrong)


CUT: dict[str, dict[str, int]] = {
    "zero1": {"reduce_bucket_size": 500, "allgather_bucket_size": 500},
    "zero2": {"reduce_bucket_size": 500, "allgather_bucket_size": 500},
    "zero3": {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 1, "reduce_bucket_size": 500},
}
"""Of DeepSpeed: a training's large layers are larger than a bucket, and cut and gathered one by one. It would keep the
matrix's whole, and reduce them together."""


def compare_cut(matrix: list[Case], world_size: int) -> list[Difference]:
    wrong = []
    for strategy, settings in CUT.items():
        with engines.told(int(strategy[-1]), **settings):
            wrong += compare([case for case in matrix if case[0] == strategy], world_size)
    return wrong


@pytest.mark.parametrize("world_size", [2, 4])
def test_zero_of_layers_larger_than_its_buckets_equals_a_plain_loop(world_size: int) -> None:
    matrix = [case for case in cases() if case[0] in CUT and case[1:3] == (2, 1) and case[4]]
    assert len(matrix) == len(CUT) * len(PENALTIES)
    if world_size == 2:  # on few cores each of more is slow
        matrix += [case for case in cases() if case[0] == "zero3" and case[1] < 4 and case not in matrix]
    wrong = list(itertools.chain(*run_ranks(world_size, compare_cut, matrix, world_size)))
    assert not wrong, explain(wrong)


def spoil(fault: str, patch: pytest.MonkeyPatch) -> None:
    """Put into this rank what would be a plausible mistake in the engine."""
    if fault == "static_graph":
        # silent where a frozen player goes through its wrapper; else an update of several backwards ends in an assertion
        settings = {"static_graph": True, "broadcast_buffers": False, "gradient_as_bucket_view": True}
        patch.setattr(ddp, "prepare_quietly", lambda _, network: DistributedDataParallel(network, **settings))
        patch.setattr(Player, "__call__", lambda player, *inputs: player.trained(*inputs))
    elif fault == "a player is not frozen":
        plain = Engine.turn

        @contextlib.contextmanager
        def turn(engine: Engine, phase: Phase) -> Iterator[None]:
            # and gradients are cleared after an update, as many loops do: before it, the wrong ones would go too. With ZeRO
            # there is nothing to compare: DeepSpeed raises
            optimizer = phase.player.optimizer
            with pytest.MonkeyPatch.context() as late:
                late.setattr(optimizer, "zero_grad", lambda set_to_none: None)
                with plain(engine, phase):
                    for player in engine._players:
                        player.network.requires_grad_(True)
                    yield
            optimizer.zero_grad(set_to_none=True)

        patch.setattr(Engine, "turn", turn)
    elif fault == "one rank's share is counted twice":
        backward = Engine.backward
        patch.setattr(Engine, "backward", lambda engine, loss: backward(engine, loss * 2 if engine.rank == 0 else loss))
    elif fault == "stage 3 does not count micro-batches":
        from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

        patch.setattr(DeepSpeedZeroOptimizer_Stage3, "clear_backward_seen_flag", lambda optimizer: None)
    elif fault == "DeepSpeed clips as it likes":
        from gan_dist.engine import zero

        said = zero.Zero._settings

        def unsaid(strategy: zero.Zero, player: Player) -> dict[str, Any]:
            return {name: value for name, value in said(strategy, player).items() if name != "gradient_clipping"}

        patch.setattr(zero.Zero, "_settings", unsaid)
    elif fault == "both players are clipped alike":
        wrap = Engine.wrap

        def wrap_alike(engine: Engine, game: Players) -> None:
            for player in game.players:
                player.clip_norm = game.players[0].clip_norm
            wrap(engine, game)

        patch.setattr(Engine, "wrap", wrap_alike)
    elif fault == "BatchNorm sees all micro-batches of a pass":
        patch.setattr(Engine, "see_parts", lambda engine, parts: None)
    else:
        assert fault == "a lazy penalty is not made stronger"
        penalise = generation.GenerationGame.penalise

        def weaker(
            game: generation.GenerationGame, named: list[tuple[str, Penalty]], every: int, batch: Batch
        ) -> torch.Tensor:
            return penalise(game, named, every, batch) / every

        patch.setattr(generation.GenerationGame, "penalise", weaker)


FAULTS: list[tuple[str, Case]] = [
    ("static_graph", ("ddp", 1, 1, "none", True)),
    ("a player is not frozen", ("ddp", 1, 1, "none", True)),
    ("one rank's share is counted twice", ("ddp", 2, 1, "none", True)),
    ("one rank's share is counted twice", ("exact", 2, 1, "R1 and R2", False)),
    ("one rank's share is counted twice", ("zero3", 2, 1, "R1 every step", True)),
    ("stage 3 does not count micro-batches", ("zero3", 2, 1, "none", True)),
    ("DeepSpeed clips as it likes", ("zero2", 1, 1, "R1 every step", False)),
    ("both players are clipped alike", ("exact", 1, 1, "none", True)),
    ("BatchNorm sees all micro-batches of a pass", ("ddp", 2, 2, "none", True)),
    ("a lazy penalty is not made stronger", ("ddp", 1, 1, "lazy R1 alone", False)),
]


def compare_spoiled() -> list[list[Difference]]:
    found = []
    for fault, case in FAULTS:
        with pytest.MonkeyPatch.context() as patch:
            spoil(fault, patch)
            found.append(compare([case], 2, steps=4))
    return found


def test_the_comparison_sees_a_mistake_in_the_engine() -> None:
    # rank 0 compares, as each is one case
    for (fault, case), wrong in zip(FAULTS, run_ranks(2, compare_spoiled)[0], strict=True):
        assert wrong, f"{fault} makes no difference in {case}"
        assert all(limit < worst < math.inf for _, _, worst, limit in wrong), f"{fault} in {case}: {wrong}"
