"""One sum by hand has the bits of DDP at 2 ranks: what graphs and compiled terms need instead of its hooks."""

from typing import Any
from unittest import mock

import pytest
import torch

from gan_dist import config as config_module
from gan_dist.doctor import numerics
from gan_dist.engine.flat import Flat
from gan_dist.engine.shortcuts import Shortcuts
from tests import making
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def differing() -> tuple[list[str], int]:
    keys: dict[str, Any] = making.tiny("unused", "unused", training__strategy="ddp", training__batch=8)
    keys |= {"penalties.r1.weight": 1.0, "penalties.r1.every": 2, "training.micro_batch": 2, "data.resolution": 8}
    config = config_module.load(["tests/data/digits.yaml", *making.flags(keys)])
    _, plain = numerics.by_engine(config, 2)
    sums = Flat._average
    with (
        mock.patch.object(Shortcuts, "sums_by_hand", True),
        mock.patch.object(Flat, "_average", autospec=True, side_effect=sums) as averaged,
    ):
        _, flat = numerics.by_engine(config, 2)
    return [name for name in plain if not torch.equal(plain[name], flat[name])], averaged.call_count


def test_one_sum_of_all_has_the_bits_of_ddp_at_2_ranks() -> None:
    for wrong, sums in run_ranks(2, differing, limit=600):
        assert not wrong
        assert sums == 5, "G and D twice, and D's penalty"
