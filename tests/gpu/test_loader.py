"""On a GPU batches arrive without a wait, and are those that a CPU sees."""

from pathlib import Path

import pytest
import torch

from gan_dist import config as config_module
from gan_dist.data import loader, resident
from tests import making
from tests.launching import REPOSITORY

pytestmark = pytest.mark.gpu

STEPS = 30


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kept", ["no", "host", "device"])
def test_batches_come_without_a_wait_and_are_those_of_a_cpu(tmp_path: Path, kept: str, workers: int) -> None:
    shards = making.data_set(tmp_path / "data", 96, channels=3, classes=3)
    keys = making.tiny(shards, "unused", data__channels=3, data__labels=True, data__flip=True, data__resident=kept)
    keys |= {"training.images": 16 * STEPS, "training.device": "cuda", "data.workers": workers}
    config = config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(keys)])
    loader.prepare(config, progress=False)
    index, slots, gpu, cpu = loader.open_index(config), range(16), torch.device("cuda", 0), torch.device("cpu")
    plain = config.with_({"data.resident": "no", "data.workers": 0})
    expected = list(loader.micro_batches(index, plain, 0, slots, cpu))
    made = resident.plan(config, index, [slots], slots, gpu) if kept != "no" else None
    cache = resident.Cache(made) if made is not None else None
    said: list[str] = []
    batches, steps = loader.micro_batches(index, config, 0, slots, gpu, cache=cache, say=said.append), []
    for number in range(STEPS):
        # once, all samples go to the GPU; and memory is pinned at the first step
        strict = number > 0 and (cache is None or bool(cache._selected))
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            steps.append(next(batches))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert kept == "no" or ("pixels are on the GPU" in said[-1]) == (kept == "device")
    for step, other in zip(steps, expected, strict=True):
        for micro, wanted in zip(step, other, strict=True):
            # a GPU multiplies by 1 / 127.5
            assert torch.allclose(micro["image"].cpu(), wanted["image"], rtol=0, atol=1e-6)
            assert micro["class"].tolist() == wanted["class"].tolist()
            assert micro.positions.tolist() == wanted.positions.tolist()
            assert micro["image"].is_contiguous(memory_format=torch.channels_last)
