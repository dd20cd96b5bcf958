"""training.compile with what may go with it computes what plain networks compute."""

import os
import shutil

import pytest
import torch

from gan_dist import comparison, config as config_module, numerics
from tests import making
from tests.launching import run_ranks

STEPS = 2


def compiled(precision: str) -> tuple[dict[str, comparison.Compared], int]:
    """Steps with a penalty by finite differences, which is what the refusal of an exact one recommends."""
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__batch=8, training__compile=True)
    keys |= {"game.penalty.r1": 1.0, "game.penalty.method": "finite_difference", "training.precision": precision}
    keys |= {"game.generator.epsilon": 1e-4, "game.discriminator.epsilon": 1e-4}
    config = config_module.load(["configs/digits.yaml", *making.flags(keys)])
    found = numerics.by_engine(config, STEPS)
    expected = numerics.by_hand(config, STEPS)
    rounded = numerics.by_hand(config, STEPS, dtype=torch.float32, half=precision == "bf16")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return comparison.compare(found, expected, rounded, config), graphs


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on a CPU"
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_networks_penalised_by_finite_differences_compute_the_same(precision: str) -> None:
    ((found, graphs),) = run_ranks(1, compiled, precision)
    assert graphs > 0, "nothing was compiled"
    assert all(one.share <= 1 for one in found.values()), found
