"""Read samples' bytes out of remote shards."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gan_dist.data import stores
from gan_dist.data.stores import Facts, Patience


class Piece(NamedTuple):
    """Bytes of a shard."""

    shard: int
    """Its number in the index."""
    offset: int
    size: int


class Reader(Protocol):
    """What the decoder reads remote shards by. It is pickled to workers, and opens nothing before it reads."""

    def read_many(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of some pieces, in order. Raises StoreError, and InputError where a cache cannot be used."""


class Direct:
    """Read ranges and keep nothing. Those of a call that lie close together share a request; all go out together."""

    def __init__(self, shards: Sequence[str], facts: Sequence[Facts], patience: Patience = stores.USUAL) -> None:
        """`shards` are addresses, `facts` what the index says of each."""
        self.shards, self.facts, self.patience = shards, facts, patience

    def read_many(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of some pieces, in order."""
        by_shard: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            by_shard.setdefault(piece.shard, []).append(number)
        wanted = [
            (
                self.shards[shard],
                [(pieces[number].offset, pieces[number].offset + pieces[number].size) for number in numbers],
                self.facts[shard],
            )
            for shard, numbers in by_shard.items()
        ]
        found: list[bytes] = [b""] * len(pieces)
        for numbers, parts in zip(by_shard.values(), stores.STORE.read_many(wanted, self.patience), strict=True):
            for number, data in zip(numbers, parts, strict=True):
                found[number] = data
        return found
