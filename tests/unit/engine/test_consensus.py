"""What ranks tell each other, in words that name the machine."""

import datetime

import pytest
from torch.distributed import TCPStore

from gan_dist.engine.consensus import Board, who_differs


@pytest.mark.parametrize(
    ("machines", "values", "words"),
    [
        ("a", "x", ""),
        ("aabb", "xxxx", ""),
        ("aabbcc", "xxyyxx", "on b (rank 2) unlike a (rank 0)"),
        ("aabbcc", "yyxxxx", "on a (rank 0) unlike b (rank 2)"),
        ("aabb", "xxyy", "on b (rank 2) unlike a (rank 0)"),
        ("ab", "xy", "on b (rank 1) unlike a (rank 0)"),
        ("aa", "xy", "on a (rank 1) unlike a (rank 0)"),
        (
            "abcdefghijklm",
            "xyxyxyxyxyxxx",
            "on b (rank 1), d (rank 3), f (rank 5), h (rank 7) and 1 more unlike a (rank 0)",
        ),
    ],
)
def test_the_machines_that_differ_are_named_once(machines: str, values: str, words: str) -> None:
    assert who_differs(list(machines), list(values)) == words


def test_a_board_keeps_the_first_text_and_says_when_the_store_does_not_answer() -> None:
    store = TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    one, other = (Board(store, datetime.timedelta(seconds=0.1)) for _ in range(2))
    for name in ("failed", "rank-0"):
        one.put(name, "")
    assert other.read(["failed", "rank-0"]) == ["", ""]
    one.put_first("failed", "rank 1")
    other.put_first("failed", "rank 2")
    other.put("rank-0", "lives")
    assert one.read(["failed", "rank-0"]) == ["rank 1", "lives"]
    with pytest.raises(RuntimeError):
        one.read(["nobody"])
