"""What each process holds and sends is what the formula says: counted in live tensors and at the collectives."""

import argparse
import contextlib
import gc

import pytest

from benchmarks import engines
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.deepspeed]

SELDOM = {"penalties.r1.every": 2, "game.discriminator_steps": 3}
Row = tuple[str, str, float, float]
"""Strategy, what, bytes found, bytes by the formula."""


def measure() -> list[Row]:
    options = argparse.Namespace(processes=2, resolution=32, base=32, micro_batch=1)
    rows: list[Row] = []
    engines.sent(engines.Variant(options, "ddp"))  # it loads the rest of torch, which is then not searched for tensors
    loaded_once()
    for strategy in engines.STRATEGIES:
        gc.collect()
        before = engines.live()
        # else it keeps weights this small whole, and gathers prefetched ones once for several uses
        cut = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 1}
        with engines.told(3, **cut) if strategy == "zero3" else contextlib.nullcontext():
            variant = engines.Variant(options, strategy, **engines.PENALTIES["exact R1"])
        found, formula = engines.held(variant, before)
        found["sent"], formula["sent"] = engines.sent(variant)
        rows += [(strategy, what, found[what], formula[what]) for what in formula]
        variant.engine.release()
        del variant
        with engines.told(3, **cut) if strategy == "zero3" else contextlib.nullcontext():
            variant = engines.Variant(options, strategy, **engines.PENALTIES["exact R1"], **SELDOM)
        rows.append((strategy, "sent where phases are seldom", *engines.sent(variant)))
        variant.engine.release()
        del variant
    return rows


def test_every_process_holds_and_sends_what_the_formula_says() -> None:
    for rank, rows in enumerate(run_ranks(2, measure)):
        assert len(rows) == 5 * len(engines.STRATEGIES)
        for strategy, what, found, formula in rows:
            assert found == pytest.approx(formula, rel=0.05), f"{strategy}, rank {rank}, {what}"
