"""The pool of earlier images is that of the paper for each slot, whichever ranks hold the slots and wherever a run goes on."""

import pytest
import torch
from torch import Tensor

from gan_dist.checkpoint import tensors
from gan_dist.interfaces import Batch
from gan_dist.pool import Pool

BATCH, SIZE, STEPS = 8, 3, 12
IMAGE = (1, 2, 2)
CPU = torch.device("cpu")


def images(positions: Tensor) -> Tensor:
    """An image that tells its position, from 1 on."""
    return (positions + 1.0).view(-1, 1, 1, 1).expand(-1, *IMAGE).clone()


def pool(slots: range = range(BATCH)) -> Pool:
    made = Pool("B", 5, SIZE, BATCH, IMAGE)
    made.place(slots, CPU, torch.float32)
    return made


def play(pools: list[Pool], ranks: int, steps: range, micro: int = 2) -> Tensor:
    """What is shown, by step and slot, where each rank has a pool."""
    rows = []
    for step in steps:
        row = []
        for rank in range(ranks):
            own = torch.arange(BATCH).chunk(ranks)[rank] + step * BATCH
            batches = [Batch({}, part) for part in own.split(min(micro, len(own)))]
            row += [pools[rank].exchange(batch, images(batch.positions)) for batch in batches]
            pools[rank].commit(batches)
        rows.append(torch.cat(row)[:, 0, 0, 0])
    return torch.stack(rows)


def split(ranks: int) -> list[Pool]:
    return [pool(range(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_number_of_ranks_shows_the_same_images(ranks: int) -> None:
    assert torch.equal(play(split(ranks), ranks, range(STEPS)), play([pool()], 1, range(STEPS), micro=8))


@pytest.mark.parametrize("stop", [2, 7])  # before and after it is full
def test_a_pool_goes_on_at_another_number_of_ranks(stop: int) -> None:
    whole = play([pool()], 1, range(STEPS))
    before = split(4)
    assert torch.equal(play(before, 4, range(stop)), whole[:stop])
    pieces = [piece for each in before for piece in tensors.collect([], {}, [each]).owned]
    saved = torch.full((BATCH * SIZE * 4,), -1.0)
    for piece, values in pieces:
        assert piece.name == "pool/B"
        saved[piece.offset : piece.offset + piece.length] = values
    assert saved.min() >= 0  # all is written, and by one rank each
    after = split(2)
    for each in after:
        tensors.restore([], lambda name, offset=0, length=0: saved[offset : offset + length], {}, {}, [each])
    assert torch.equal(play(after, 2, range(stop, STEPS)), whole[stop:])


def test_it_is_the_pool_of_the_paper() -> None:
    made, steps = Pool("B", 0, SIZE, 1, IMAGE), 400
    made.place(range(1), CPU, torch.float32)
    kept: list[float] = []
    fresh = 0
    for step in range(steps):
        batch = Batch({}, torch.tensor([step]))
        shown = float(made.exchange(batch, images(batch.positions))[0, 0, 0, 0])
        made.commit([batch])
        new = step + 1.0
        if len(kept) < SIZE:
            kept.append(new)
            assert shown == new
        elif shown != new:  # one that was kept, whose place the new one takes
            kept[kept.index(shown)] = new
        fresh += shown == new
        assert sorted(made.held().held.view(SIZE, 4)[: len(kept), 0].tolist()) == sorted(kept)
    assert abs(fresh / steps - 0.5) < 0.1


def test_trials_leave_no_trace_and_what_is_not_finite_is_not_kept() -> None:
    made = pool(range(4, 8))
    foreign = Batch({}, torch.arange(4) + 100 * BATCH)  # of another rank's slots, long after
    assert made.exchange(foreign, images(foreign.positions)).shape == (4, *IMAGE)
    assert not made.held().held.any()
    bad = Batch({}, torch.arange(4, 8))
    made.exchange(bad, images(bad.positions) * float("nan"))
    made.commit([bad])
    assert not made.held().held.any()


def test_no_pool_shows_the_newest() -> None:
    made = Pool("B", 0, 0, BATCH, IMAGE)
    made.place(range(BATCH), CPU, torch.float32)
    batch = Batch({}, torch.arange(BATCH) + 100 * BATCH)
    assert torch.equal(made.exchange(batch, images(batch.positions)), images(batch.positions))
    made.commit([batch])
    assert tensors.collect([], {}, [made]).owned == []


def test_the_choice_is_not_that_of_another_seed_or_domain() -> None:
    other = Pool("A", 5, SIZE, BATCH, IMAGE)
    other.place(range(BATCH), CPU, torch.float32)
    assert not torch.equal(play([other], 1, range(STEPS)), play([pool()], 1, range(STEPS)))
