"""training.compile with what may go with it computes what plain networks compute."""

import os
import shutil

import pytest
import torch

from gan_dist import config as config_module
from gan_dist.doctor import numerics
from tests import making, reference
from tests.launching import run_ranks


def compiled() -> tuple[dict[str, numerics.Compared], int]:
    """A step in bf16, without a penalty: torch.compile cannot differentiate twice."""
    keys = making.tiny("unused", "unused", training__strategy="ddp", training__batch=4, data__resolution=8)
    keys |= {"training.compile": True, "training.precision": "bf16"}
    keys |= {"optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    found, expected = numerics.by_engine(config, 1), reference.by_hand(config, 1)
    rounded = reference.by_hand(config, 1, dtype=torch.float32, half=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return numerics.compare(found, expected, rounded, config), graphs


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on a CPU"
)
def test_networks_compiled_in_bf16_compute_the_same() -> None:
    ((found, graphs),) = run_ranks(1, compiled)
    assert graphs > 0, "nothing was compiled"
    assert all(one.fraction <= 1 for one in found.values()), found
