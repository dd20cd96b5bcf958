"""What ranks tell each other, in words that name the machine."""

import pytest

from gan_dist.engine.consensus import who_differs


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
