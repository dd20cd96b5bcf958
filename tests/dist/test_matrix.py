"""Every strategy, process count, accumulation, pass and penalty against one process and a plain loop.

A covering array of the cases runs always: every two settings meet in one of them, and under zero3, where DeepSpeed does
most by itself, every three. The last test plants mistakes into the engine and asks this array to see each. All cases run
with `-m exhaustive`.
"""

import contextlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.utils import broadcast_object_list
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
LAZY = "lazy R1 alone"
PENALTIES: dict[str, dict[str, Any]] = {
    "none": {},
    "R1 every step": {"penalties.r1.weight": 10.0},
    LAZY: {"penalties.r1.weight": 10.0, "penalties.r1.every": 2},
    "R1 and R2": {"penalties.r1.weight": 10.0, "penalties.r2.weight": 5.0},
    "WGAN-GP": {"penalties.wgan_gp.weight": 10.0},
}
STEPS = 4
"""Two of the longest period, of a penalty or of several discriminator steps: what a first one leaves shows in the second."""
Case = tuple[str, int, int, str, bool]
"""Strategy, micro-batches a process, micro-batches a pass, penalty, with BatchNorm."""


def cases() -> list[Case]:
    """The full product."""
    found = itertools.product(STRATEGIES, (1, 2, 4), (1, 2), PENALTIES, (True, False))
    return [case for case in found if case[2] == 1 or (case[1] > 1 and case[0] != "exact")]


def meetings(case: Case, ways: int) -> set[tuple[Any, ...]]:
    """What a case covers: so many settings that meet in it, and one more where zero3 is one of them.

    And under each strategy BatchNorm, which must not see a pass as one, with wider passes; and clipping with a lazy penalty,
    whose update is of the penalty alone: there clipping hides a wrong factor.
    """
    settings = list(enumerate(case))
    strategy, _, passes, penalty, norm = settings
    found: set[tuple[Any, ...]] = set(itertools.combinations(settings, ways))
    if case[0] == "zero3":
        found |= {meeting for meeting in itertools.combinations(settings, ways + 1) if strategy in meeting}
    if ways > 1:
        found.add((strategy, passes, norm))
        if case[3] == LAZY:
            found.add((strategy, penalty, norm))
    return found


def covering(product: list[Case], ways: int = 2) -> list[Case]:
    """Few cases of a product that cover all that it covers: each time the one that covers most of what is left, and of equal
    ones that whose settings were taken least."""
    covers = {case: meetings(case, ways) for case in product}
    left = set().union(*covers.values())
    taken: Counter[Any] = Counter()

    def worth(case: Case) -> tuple[int, int]:
        return len(covers[case] & left), -sum(taken[setting] for setting in enumerate(case))

    chosen = []
    while left:
        chosen.append(max(product, key=worth))
        left -= covers[chosen[-1]]
        taken.update(enumerate(chosen[-1]))
    return sorted(chosen, key=product.index)


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
    return config_module.load(["tests/data/digits.yaml", *making.flags({**keys, **PENALTIES[penalty]})])


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
    matrix: list[Case], world_size: int, more: dict[str, Any] | None = None, steps: int = STEPS
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


def check(matrix: list[Case], world_size: int, *arguments: Any) -> None:
    ranks = run_ranks(world_size, compare, matrix, world_size, *arguments, limit=5400, forked=True)
    wrong = list(itertools.chain(*ranks))
    assert not wrong, explain(wrong)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_strategy_accumulation_pass_and_penalty_equals_a_plain_loop(world_size: int) -> None:
    # the process count is a setting, too: the others meet in twos at 2 processes, and each of them meets 1 and 4
    check(covering(cases(), ways=2 if world_size == 2 else 1), world_size)


@pytest.mark.exhaustive
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_combination_equals_a_plain_loop(world_size: int) -> None:
    assert len(cases()) == 230
    check(cases(), world_size, {}, 10)


def test_every_two_settings_meet_in_the_covering_array_and_every_three_under_zero3() -> None:
    array = covering(cases())
    assert len(array) == len(set(array)) < 40
    settings = [(place, value) for place, values in enumerate(zip(*cases(), strict=True)) for value in set(values)]
    for two in itertools.combinations(settings, 2):
        for third in [(), ((0, "zero3"),)]:
            wanted = {*two, *third}

            def holds(case: Case, wanted: set[Any] = wanted) -> bool:
                return wanted <= set(enumerate(case))

            assert any(map(holds, array)) == any(map(holds, cases())), wanted


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
            # a convolution sums in another order, and so rounds otherwise, in another layout
            layout = torch.contiguous_format if single(case) else torch.channels_last
            expected = reference.by_hand(plain, 2, dtype=torch.float32, half=True, layout=layout)
            # what rounding in bf16 does to the plain loop; a wider pass sums in another order, and rounds otherwise by less
            noise = distances(reference.by_hand(plain, 2, dtype=torch.float32)[0], expected[0], "gradient")
            for when, kind, least in ((0, "gradient", 2.0**-8), (1, "weights", 1e-4), (1, "average", 1e-4)):
                for player, far in distances(states[when], expected[when], kind).items():
                    limit = max(least, noise[player]) if kind == "gradient" else least
                    assert limit < 0.1, "a mistake in a factor would not be seen"
                    if not far <= limit:
                        wrong.append((case, f"{player}/{kind}", far, limit))
    generation.build_networks = build_networks
    return wrong


@pytest.mark.parametrize(("turn", "world_size"), list(enumerate([1, 2, 4])))
def test_in_bf16_every_strategy_pass_and_penalty_equals_a_plain_loop_to_its_rounding(
    turn: int, world_size: int
) -> None:
    wrong = run_ranks(world_size, compare_lowered, covering(cases())[turn::3], world_size, forked=True)[0]
    assert not wrong, explain(wrong)


LABELS = {
    "data__labels": True,
    "data__classes": 3,
    "game__discriminator_steps": 2,
}


def test_labels_and_several_discriminator_steps_are_the_same_game_under_every_strategy() -> None:
    penalties = ("none", "R1 every step", LAZY)
    check(
        covering([(*most, True) for *most, norm in cases() if norm and most[1] < 4 and most[3] in penalties]), 2, LABELS
    )


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
    matrix = covering([case for case in cases() if case[0] in CUT and case[1] < 4])
    if world_size == 4:  # on few cores each of more is slow
        matrix = [case for case in matrix if case[0] == "zero3"]
    wrong = list(itertools.chain(*run_ranks(world_size, compare_cut, matrix, world_size, forked=True)))
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


FAULTS: dict[str, tuple[str, ...]] = {
    "static_graph": ("ddp",),
    "a player is not frozen": ("ddp", "exact"),
    "one rank's share is counted twice": STRATEGIES,
    "stage 3 does not count micro-batches": ("zero3",),
    "DeepSpeed clips as it likes": ("zero1", "zero2", "zero3"),
    "both players are clipped alike": STRATEGIES,
    "BatchNorm sees all micro-batches of a pass": ("ddp", "zero1", "zero2", "zero3"),
    "a lazy penalty is not made stronger": STRATEGIES,
}
"""Mistakes, and the strategies in which they can be made."""


def compare_spoiled() -> dict[tuple[str, str], list[Difference]]:
    """What the first case of the covering array that sees a mistake under a strategy says."""
    found: dict[tuple[str, str], list[Difference]] = {}
    for fault, strategies in FAULTS.items():
        for strategy in strategies:
            found[fault, strategy] = []
            # the slower ones, of more micro-batches, last
            for case in sorted((case for case in covering(cases()) if case[0] == strategy), key=lambda case: case[1]):
                with pytest.MonkeyPatch.context() as patch:
                    spoil(fault, patch)
                    wrong = compare([case], 2)
                # rank 0 compares, as each is one case; the other must go on to the same next case
                found[fault, strategy] = broadcast_object_list([wrong])[0]
                if found[fault, strategy]:
                    break
    return found


def test_the_covering_array_sees_every_mistake_in_the_engine() -> None:
    for (fault, strategy), wrong in run_ranks(2, compare_spoiled, forked=True)[0].items():
        assert wrong, f"{fault} makes no difference under {strategy}"
        assert all(limit < worst < math.inf for _, _, worst, limit in wrong), f"{fault}: {wrong}"
