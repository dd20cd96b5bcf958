"""A row that a device may still be reading is not written again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gan_dist import config as config_module
from gan_dist.data import loader
from gan_dist.data.transfer import SLACK, Sender, Turns
from tests import making
from tests.launching import REPOSITORY


class Late(Sender):
    """A device that reads what was sent at the last moment: when it is waited for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.reading: list[tuple[Tensor, Tensor]] = []
        self.pinned: list[Tensor] = []
        self.waits = 0

    def pin(self, buffer: Tensor) -> None:
        self.pinned.append(buffer)

    def send(self, tensor: Tensor, copy: bool = False) -> Tensor:
        assert any(_inside(tensor, ring) for ring in self.pinned), "sent from memory that is not pinned"
        self.reading.append((tensor, tensor.clone()))
        return self.reading[-1][1]

    def mark(self) -> "Moment":
        moment, self.reading = Moment(self, self.reading), []
        return moment


class Moment:
    def __init__(self, sender: Late, reading: list[tuple[Tensor, Tensor]]) -> None:
        self.sender, self.reading = sender, reading

    def synchronize(self) -> None:
        self.sender.waits += 1
        for now, then in self.reading:
            assert torch.equal(now, then), "written while it was read"


def _inside(tensor: Tensor, ring: Tensor) -> bool:
    return ring.data_ptr() <= tensor.data_ptr() < ring.data_ptr() + ring.nbytes


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slack: int, **keys: object) -> Late:
    """Load 40 groups for a device that reads late."""
    shards = making.data_set(tmp_path / "data", 96, classes=3)
    wanted = making.tiny(shards, "unused", data__labels=True, data__flip=True, training__images=40 * 16, **keys)
    config = config_module.load([str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(wanted)])
    loader.prepare(config, progress=False)
    sender = Late(torch.device("cpu"))
    monkeypatch.setattr(loader, "Sender", lambda device: sender)
    monkeypatch.setattr(loader, "_slack", lambda config: slack)
    monkeypatch.setattr(loader, "_GROUP", 16)
    index = loader.open_index(config)
    expected = [loader.order.samples(0, 96, 16, 1, 16 * step, loader.np.arange(16)) for step in range(40)]
    steps = list(loader.micro_batches(index, config, 0, range(16), torch.device("cpu")))
    assert [torch.cat([micro["class"] for micro in step]).tolist() for step in steps] == [
        (samples % 3).tolist() for samples in expected
    ]
    return sender


def test_a_ring_row_is_written_again_after_its_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = play(tmp_path, monkeypatch, SLACK)
    assert sender.waits == 40 - SLACK - 1  # what is sent last is never waited for
    assert len(sender.pinned) == 3  # pixels, labels, mirror bits


def test_a_ring_that_is_too_short_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "Turns", lambda mark, slack: Turns(mark, slack + 1))
    with pytest.raises(AssertionError, match="written while it was read"):
        play(tmp_path, monkeypatch, SLACK)


@pytest.mark.slow
def test_workers_wait_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(tmp_path, monkeypatch, SLACK, data__workers=1).waits == 40 - SLACK - 1
