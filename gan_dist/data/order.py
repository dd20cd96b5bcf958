"""Which sample stands at which position of a run: a pure function of (seed, position), without any array of N.

The samples 0..N-1 are cut into S `streams` of neighbouring samples. In each of its epochs a stream deals its
samples in the order of a keyed Feistel permutation (Luby and Rackoff, 1988; cycle walking as in Black and
Rogaway, "Ciphers with arbitrary finite domains", 2002), which is computed for the positions asked and nothing
else. Slot j of every global batch reads stream j*S//batch, so a process that serves neighbouring slots opens
only its streams' shards, and the order never depends on the number of processes.

With `Blocks` a stream is cut into runs of neighbouring samples. A permutation of the epoch orders these blocks, and one of
each window of blocks its samples: what is read within a window lies in some large pieces of the shards.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from gan_dist import rng
from gan_dist.config import Config

# with 6, which sample follows which is uneven by 10 % in a range of 10 samples and by 3 % in one of 100
_ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How samples are shuffled that are to be read in large pieces."""

    size: int
    """Neighbouring samples of a block; the last block of a stream may have fewer."""
    window: int
    """Blocks whose samples are mixed."""


def permute(key: int, size: int, positions: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of 0..size-1 sends `positions`: (N,) integers below size -> (N,) int64."""
    columns, rows, keys = _feistel(key, size)

    def walk(values: np.ndarray) -> np.ndarray:
        high, low = np.divmod(values, columns)
        for number in range(0, _ROUNDS, 2):
            low = (low + rng.mix_numpy(high + keys[number]) % columns) % columns
            high = (high + rng.mix_numpy(low + keys[number + 1]) % rows) % rows
        return high * columns + low

    return _inside(size, walk, positions)


def unpermute(key: int, size: int, values: np.ndarray) -> np.ndarray:
    """Return which positions `permute` sends to `values`: (N,) integers below size -> (N,) int64."""
    columns, rows, keys = _feistel(key, size)

    def walk_back(values: np.ndarray) -> np.ndarray:
        high, low = np.divmod(values, columns)
        for number in range(_ROUNDS - 2, -1, -2):
            high = (high + rows - rng.mix_numpy(low + keys[number + 1]) % rows) % rows
            low = (low + columns - rng.mix_numpy(high + keys[number]) % columns) % columns
        return high * columns + low

    return _inside(size, walk_back, values)


def _feistel(key: int, size: int) -> tuple[np.uint64, np.uint64, np.ndarray]:
    # two digits (high, low) to the bases `rows` and `columns`: their product hardly exceeds size, so few walk on
    columns = np.uint64(max(1, math.isqrt(size - 1) + 1))
    rows = np.uint64(-(-size // int(columns)))
    return (
        columns,
        rows,
        rng.mix_numpy(np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(rng.GOLDEN) + np.uint64(key)),
    )


def _inside(size: int, walk: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Walk from each position until it is below size again."""
    values = walk(positions.astype(np.uint64))
    while (outside := values >= size).any():
        values[outside] = walk(values[outside])
    return values.astype(np.int64)


class Epoch:
    """One epoch of one stream: which of its samples stands at which place, and where a sample or block stands."""

    def __init__(self, seed: int, purpose: str, stream: int, epoch: int, size: int, blocks: Blocks | None) -> None:
        """`size` is the number of the stream's samples, which are 0..size-1 here."""
        self.size, self.blocks = size, blocks
        self._key = rng.key(seed, purpose, stream, epoch)
        self._window_key = functools.partial(rng.key, seed, f"{purpose} in a window", stream, epoch)
        if blocks is not None:
            self.count = -(-size // blocks.size)
            """Number of blocks."""
            self._missing = self.count * blocks.size - size
            # of the short block: all after it come earlier by what it lacks
            self._short = int(unpermute(self._key, self.count, np.array([self.count - 1]))[0])

    def samples(self, places: np.ndarray) -> np.ndarray:
        """Return the samples at some places (N,) of the epoch: (N,) int64."""
        if self.blocks is None:
            return permute(self._key, self.size, places)
        windows = self.windows(places)
        result = np.empty(places.shape, np.int64)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            start, end = self._begin(np.array([window, window + 1])).tolist()
            inside = start + permute(self._window_key(window), end - start, places[chosen] - start)
            hole = (self._short + 1) * self.blocks.size - self._missing
            blocks, offsets = np.divmod(np.where(inside < hole, inside, inside + self._missing), self.blocks.size)
            result[chosen] = permute(self._key, self.count, blocks) * self.blocks.size + offsets
        return result

    def windows(self, places: np.ndarray) -> np.ndarray:
        """Return the window in which each place lies."""
        assert self.blocks is not None
        each = self.blocks.window * self.blocks.size
        behind = places >= self._begin(np.array(self._short // self.blocks.window + 1))
        found: np.ndarray = (places + np.where(behind, self._missing, 0)) // each
        return found

    def _begin(self, windows: np.ndarray) -> np.ndarray:
        """Return the place at which each window begins."""
        assert self.blocks is not None
        first = windows * self.blocks.window
        found: np.ndarray = np.minimum(
            self.size, first * self.blocks.size - np.where(self._short < first, self._missing, 0)
        )
        return found

    def blocks_of(self, window: int) -> np.ndarray:
        """Return the blocks that are mixed in a window, none after the last one."""
        assert self.blocks is not None
        first = window * self.blocks.window
        return permute(self._key, self.count, np.arange(first, max(first, min(first + self.blocks.window, self.count))))

    def span(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return from which place on, and before which one, samples (N,) are read; with `blocks`, whole blocks (N,)."""
        if self.blocks is None:
            places = unpermute(self._key, self.size, units)
            return places, places + 1
        windows = unpermute(self._key, self.count, units) // self.blocks.window
        return self._begin(windows), self._begin(windows + 1)


def samples(
    seed: int,
    total: int,
    batch: int,
    streams: int,
    images: int,
    slots: np.ndarray,
    name: str = "",
    blocks: Blocks | None = None,
) -> np.ndarray:
    """Return the sample numbers that `slots` of the global batch which starts at `images` read.

    `images` is a multiple of `batch`; `slots` are (N,) integers below `batch`; the result is (N,) int64 below
    `total`. Within an epoch of a stream no sample comes twice. Sets of other `name`s have other orders.
    """
    found: np.ndarray = samples_of_steps(seed, total, batch, streams, images, 1, slots, name, blocks)[0]
    return found


def samples_of_steps(
    seed: int,
    total: int,
    batch: int,
    streams: int,
    images: int,
    steps: int,
    slots: np.ndarray,
    name: str = "",
    blocks: Blocks | None = None,
) -> np.ndarray:
    """Return what `samples` gives for each of the `steps` batches from position `images` on: (steps, N) int64.

    One call for many steps costs little more than a call for one.
    """
    if batch % streams or images % batch or streams > total:
        raise ValueError(f"{streams} streams, batch {batch}, position {images} and {total} samples do not fit")
    per_stream = batch // streams
    stream_of = slots // per_stream
    result = np.empty((steps, len(slots)), dtype=np.int64)
    purpose = purpose_of(name)
    for stream in np.unique(stream_of).tolist():
        first, end = range_of(stream, total, streams)
        chosen = stream_of == stream
        # Python's integers do not overflow, however far the run is
        begin = images // batch * per_stream
        position = begin + (np.arange(steps)[:, None] * per_stream + (slots[chosen] - stream * per_stream))
        epochs, places = np.divmod(position, end - first)
        numbers = np.empty(places.shape, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            now = epochs == epoch
            numbers[now] = Epoch(seed, purpose, stream, epoch, end - first, blocks).samples(places[now])
        result[:, chosen] = first + numbers
    return result


def blocks_of(config: Config) -> Blocks | None:
    """Return how a run's samples are shuffled; None for a full shuffle."""
    return Blocks(config.data.block, config.data.window) if config.data.order == "blocks" else None


def purpose_of(name: str) -> str:
    """Return what the keys of a set's order are drawn for."""
    return f"order of {name}" if name else "order"


def range_of(stream: int, total: int, streams: int) -> tuple[int, int]:
    """Return the first sample of a stream and the one after its last."""
    return stream * total // streams, (stream + 1) * total // streams


def read_by(slots: range, total: int, batch: int, streams: int) -> range:
    """Return the samples that some neighbouring slots of a batch can ever read."""
    per_stream = batch // streams
    first, last = slots[0] // per_stream, slots[-1] // per_stream
    return range(range_of(first, total, streams)[0], range_of(last, total, streams)[1])


def substitute(seed: int, total: int, sample: int, attempt: int) -> int:
    """Which of `total` samples stands in for one that cannot be read; another one at the next attempt."""
    return rng.key(seed, "substitute", sample, attempt) % total
