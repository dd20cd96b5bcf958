"""Every strategy in every precision trains or is refused; fp16's loss scales; what happens when one rank overflows."""

import itertools
import math
import shutil
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games, numerics
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.engine.precision import LossScale
from gan_dist.errors import InputError
from tests import making
from tests.conftest import REPOSITORY
from tests.launching import run_ranks

pytestmark = pytest.mark.dist
ZERO = [pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
REFUSED = {
    **{(strategy, "fp16"): "needs a GPU" for strategy in STRATEGIES},
    **{(strategy, "fp64"): "has no ZeRO" for strategy in STRATEGIES[2:]},
}
"""On a CPU, with a word of the reason."""


def build(strategy: str, precision: str, **more: Any) -> Config:
    keys = making.tiny(
        "unused", "unused", training__strategy=strategy, training__precision=precision, training__micro_batch=2, **more
    )
    keys |= {"game.penalty.r1": 1.0, "game.generator.epsilon": 1e-4, "game.discriminator.epsilon": 1e-4}
    return config_module.load(["configs/digits.yaml", *making.flags(keys)])


def walk() -> dict[tuple[str, str], str]:
    """What becomes of each combination: its difference from the plain loop, or why it is refused."""
    found = {}
    _, expected = numerics.by_hand(build("ddp", "fp64"), 2)
    first, _ = numerics.by_hand(build("ddp", "fp64"), 1)
    for strategy, precision in itertools.product(STRATEGIES, PRECISIONS):
        try:
            gradient, state = numerics.by_engine(build(strategy, precision), 2)
        except InputError as error:
            found[strategy, precision] = str(error)
            continue
        limits = {"fp32": (1e-5, 1e-4), "bf16": (0.2, math.inf), "fp64": (1e-12, 1e-9)}[precision]
        for kind, limit, one, other in (
            ("gradient", limits[0], gradient, first),
            ("weights", limits[1], state, expected),
        ):
            worst, where = numerics.difference(one, other, kind)
            if not worst <= limit:
                found[strategy, precision] = f"{where} differs by {worst:.1e}"
            if precision == "bf16" and worst < 1e-6:
                found[strategy, precision] = "bf16 changed nothing"
    return found


@pytest.mark.slow
@pytest.mark.deepspeed
def test_every_strategy_trains_in_every_precision_or_says_why_not() -> None:
    found = run_ranks(2, walk)[0]
    assert found.keys() == REFUSED.keys(), found
    for combination, reason in REFUSED.items():
        assert reason in found[combination]


def test_the_documents_have_the_same_table() -> None:
    text = (REPOSITORY / "docs/engines.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `") and "`fp" not in line]
    table = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 5}
    assert table.keys() == set(STRATEGIES)
    for strategy, cells in table.items():
        for precision, cell in zip(PRECISIONS, cells, strict=True):
            refused = (strategy, precision) in REFUSED and precision != "fp16"
            assert cell.startswith({True: "refused", False: "GPU only" if precision == "fp16" else "yes"}[refused])


def with_scales(strategy: str) -> dict[str, Any]:
    """Steps with loss scales, as fp16 has them, in fp32; in one of them the loss of rank 1 overflows in D's turn."""
    config = build(strategy, "fp32")
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    engine._scales = {player.name: LossScale(engine.device, 2.0**10, patience=3) for player in game.players}
    seen: dict[str, Any] = {"scales": [], "weights": []}
    for step in range(4):
        micros = numerics.images_of(config, step, engine.slots)
        for micro in micros:
            micro.images = micro.images.float()
        for phase in game.due(step):
            with engine.turn(phase):
                for loss, samples in engine.share(micros):
                    value = loss(samples)
                    bad = step == 1 and phase.player.name == "D" and engine.rank == 1
                    engine.backward(value * math.inf if bad else value)
                engine.update(step)
        seen["scales"].append({name: scale.factor.item() for name, scale in engine._scales.items()})
        seen["weights"].append(numerics.gather(engine, game)["D/weights/logit.weight"])
    seen["skipped"] = {name: found.total for name, found in engine.skipped(wait=True).items()}
    seen["kept"] = engine.loss_scales()
    engine.restore_loss_scales({"G": [8.0, 1.0]})
    assert engine.loss_scales()["G"] == [8.0, 1.0]
    engine.release()
    seen["weights"] = [weight.numpy() for weight in seen["weights"]]
    return seen


@pytest.mark.parametrize("strategy", ["ddp", "exact", pytest.param("zero1", marks=ZERO), pytest.param("zero3", marks=ZERO)])
def test_an_overflow_on_one_rank_skips_the_step_on_all_and_halves_that_players_scale_alone(strategy: str) -> None:
    one, other = run_ranks(2, with_scales, strategy)
    for seen in (one, other):
        assert seen["skipped"] == {"G": 0, "D": 1}
        assert [scales["D"] for scales in seen["scales"]] == [1024, 512, 512, 512]
        assert [scales["G"] for scales in seen["scales"]] == [1024, 1024, 2048, 2048]  # doubled after three good ones
        assert (seen["weights"][0] == seen["weights"][1]).all()
        assert (seen["weights"][1] != seen["weights"][2]).any()
        assert seen["kept"] == {"G": [2048.0, 1.0], "D": [512.0, 2.0]}
    assert all((mine == theirs).all() for mine, theirs in zip(one["weights"], other["weights"], strict=True))


def scaled_equals_unscaled(strategy: str) -> list[float]:
    """How far a run with a loss scale is from the plain loop: powers of two round nothing."""
    config = build(strategy, "fp32", game__discriminator__clip_norm=0.5)
    plain = Engine.settle

    def settle(engine: Engine, game: games.Game) -> None:
        plain(engine, game)
        engine._scales = {player.name: LossScale(engine.device, 2.0**12) for player in game.players}

    Engine.settle = settle  # type: ignore[method-assign]
    first, last = numerics.by_engine(config, 4)
    expected = numerics.by_hand(build("ddp", "fp64", game__discriminator__clip_norm=0.5), 4)
    return [
        numerics.difference(first, expected[0], "gradient")[0],
        numerics.difference(last, expected[1], "weights")[0],
    ]


@pytest.mark.parametrize("strategy", ["ddp", "exact", pytest.param("zero2", marks=ZERO), pytest.param("zero3", marks=ZERO)])
def test_a_loss_scale_changes_no_gradient_and_no_clipping(strategy: str) -> None:
    gradient, weights = run_ranks(2, scaled_equals_unscaled, strategy)[0]
    assert gradient < 1e-5
    assert weights < 1e-4


def test_a_loss_scale_has_bounds() -> None:
    scale = LossScale(torch.device("cpu"))
    for _ in range(100):
        scale.update(torch.tensor(False))
    assert scale.factor.item() == 2.0**-14
    for _ in range(100_000):
        scale.update(torch.tensor(True))
    assert scale.factor.item() == 2.0**24


def compiled() -> list[float]:
    """Differences of a run with training.compile from the plain loop."""
    made = []
    for more in ({"training.compile": True}, {"training.precision": "fp64"}):
        keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=4)
        keys |= {"game.generator.epsilon": 1e-4, "game.discriminator.epsilon": 1e-4, **more}
        made.append(config_module.load(["configs/digits.yaml", *making.flags(keys)]))
    first, last = numerics.by_engine(made[0], 3)
    expected = numerics.by_hand(made[1], 3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    return [
        numerics.difference(first, expected[0], "gradient")[0],
        numerics.difference(last, expected[1], "weights")[0],
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_networks_compute_the_same() -> None:
    gradient, weights = run_ranks(2, compiled)[0]
    assert gradient < 1e-5
    assert weights < 1e-4
