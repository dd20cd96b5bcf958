"""The engines on a GPU: NCCL, fused Adam, 16 bits."""

import itertools
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, numerics
from gan_dist.config import Config
from tests import making
from tests.dist.test_matrix import PENALTIES
from tests.launching import loaded_once, run_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")


def build(strategy: str, precision: str, passes: int = 1, **more: Any) -> Config:
    keys = making.tiny("unused", "unused", training__strategy=strategy, training__precision=precision)
    keys |= {"training.device": "cuda", "training.micro_batch": 2, "training.batch": 8, **more}
    if strategy != "exact":
        keys["training.micro_batches_per_pass"] = passes
    keys |= {"game.generator.epsilon": 1e-4, "game.discriminator.epsilon": 1e-4}
    return config_module.load(["configs/digits.yaml", *making.flags(keys)])


def compare() -> list[str]:
    loaded_once()
    wrong = []
    for penalty, keys in PENALTIES.items():
        expected = numerics.by_hand(build("ddp", "fp64", **keys), 4)
        for strategy, precision, passes in itertools.product(STRATEGIES, ("fp64", "fp32", "bf16", "fp16"), (1, 2)):
            if (strategy == "exact" and passes > 1) or (precision == "fp64" and strategy.startswith("zero")):
                continue
            first, last = numerics.by_engine(build(strategy, precision, passes, **keys), 4)
            limits = {"fp64": (1e-10, 1e-8), "fp32": (1e-4, 1e-3), "bf16": (0.3, 1e9), "fp16": (0.1, 1e9)}[precision]
            noisy = penalty == "finite difference"
            for kind, limit, found, wanted in (
                ("gradient", limits[0], first, expected[0]),
                ("weights", limits[1], last, expected[1]),
            ):
                worst, where = numerics.difference(found, wanted, kind)
                if not worst <= limit * (100 if noisy else 1) and not (noisy and kind == "weights"):
                    wrong.append(f"{strategy} {precision} passes {passes} {penalty}: {where} differs by {worst:.1e}")
    return wrong


def test_every_strategy_in_every_precision_equals_a_plain_loop() -> None:
    assert torch.cuda.is_available()
    wrong = run_ranks(1, compare, limit=500)[0]
    assert not wrong, "\n".join(wrong[:20])
