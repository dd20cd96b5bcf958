"""Sums along the tree do not depend on how the leaves are dealt."""

import pytest
import torch

from gan_dist import rank_counts
from gan_dist.engine.engine import AgreedError, slots_of
from gan_dist.engine.exact import TreeSum


def tree(leaves: list[torch.Tensor]) -> torch.Tensor:
    total = TreeSum()
    for leaf in leaves:
        total.add([leaf.clone()])
    return total.total()[0]


@pytest.mark.parametrize("parts", [1, 2, 4, 6, 8, 12, 28, 32])
def test_every_fitting_count_gives_the_same_bits(parts: int) -> None:
    torch.manual_seed(parts)
    leaves = list(torch.randn(parts, 10_000) * 10 ** torch.randn(parts, 1))
    whole = tree(leaves)
    assert torch.allclose(whole, torch.stack(leaves).sum(0), rtol=1e-3, atol=1e-3)
    for count in rank_counts.fitting(parts, "exact"):
        share = parts // count
        partial = [tree(leaves[rank * share : (rank + 1) * share]) for rank in range(count)]
        assert torch.equal(tree(partial), whole), f"{parts} leaves over {count} processes"


def test_the_order_of_a_sum_matters_without_the_tree() -> None:
    torch.manual_seed(0)
    leaves = torch.randn(4, 10_000)
    assert not torch.equal(((leaves[0] + leaves[1]) + leaves[2]) + leaves[3], tree(list(leaves)))


def test_counts_that_fit() -> None:
    assert rank_counts.fitting(8, "exact") == [1, 2, 4, 8]
    assert rank_counts.fitting(12, "exact") == [1, 3, 6, 12]
    assert rank_counts.fitting(7, "exact") == [1, 7]
    assert rank_counts.fitting(12, "ddp") == [1, 2, 3, 4, 6, 12]


def test_a_count_that_does_not_fit_is_told_what_does() -> None:
    assert rank_counts.refusal(48, 4, "ddp", 4) == ""
    assert "start 1, 3, 6, 12 processes, or set training.strategy: ddp" in rank_counts.refusal(48, 4, "exact", 4)
    assert "start 1, 3, 6, 12 processes, or set training.batch: 40" in rank_counts.refusal(48, 4, "exact", 5)
    assert "start 1, 2, 3, 4, 6, 12 processes, or set training.batch: 40" in rank_counts.refusal(48, 4, "zero2", 5)


@pytest.mark.parametrize(("batch", "micro_batch"), [(64, 16), (12, 4), (30, 5), (7, 7)])
def test_shares_are_contiguous_blocks_of_whole_micro_batches(batch: int, micro_batch: int) -> None:
    parts = batch // micro_batch
    for count in range(1, parts + 3):
        if parts % count:
            fitting = ", ".join(str(number) for number in range(1, parts + 1) if parts % number == 0)
            with pytest.raises(AgreedError, match=f"start {fitting} processes"):
                slots_of(batch, micro_batch, 0, count)
        else:
            shares = [slots_of(batch, micro_batch, rank, count) for rank in range(count)]
            assert [slot for share in shares for slot in share] == list(range(batch))
            assert all(len(share) % micro_batch == 0 for share in shares)
