"""Foretell when samples, or blocks of them, are read next: from the order of the run alone, without any array of N.

The order is known for all time and can be inverted, so what to fetch next and what to give up first (Belady, "A study of
replacement algorithms for a virtual-storage computer", 1966) is computed for the units asked.
"""

import dataclasses
import functools
import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from gan_dist.config import Config
from gan_dist.data import order
from gan_dist.data.order import Blocks

NEVER = 1 << 62
"""The position of a use that is not foreseen."""
_EPOCHS = 3  # that are looked at: a unit that is in none of them is as good as never used
_SAMPLES_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a run reads the units of a set. A unit is a block, or a sample where the shuffle is full."""

    seed: int
    name: str
    """Of the set."""
    total: int
    """Samples of the set."""
    batch: int
    streams: int
    end: int
    """Position at which the run ends."""
    blocks: Blocks | None

    @classmethod
    def of(cls, config: Config, name: str, total: int) -> "Schedule":
        """Return the schedule of a run's set of `total` samples."""
        return cls(
            seed=config.run.seed,
            name=name,
            total=total,
            batch=config.training.batch,
            streams=config.data.streams,
            end=config.training.whole_images,
            blocks=order.blocks_of(config),
        )

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The first sample of each stream, then `total`."""
        return np.array([order.range_of(stream, self.total, self.streams)[0] for stream in range(self.streams + 1)])

    @property
    def _stride(self) -> int:
        """Unit numbers from one stream's first unit to the next one's."""
        assert self.blocks is not None
        longest = -(-self.total // self.streams)
        return -(-longest // self.blocks.size)

    def units_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the unit of each sample: (N,) int64."""
        if self.blocks is None:
            return samples
        streams = np.searchsorted(self._starts, samples, side="right") - 1
        found: np.ndarray = streams * self._stride + (samples - self._starts[streams]) // self.blocks.size
        return found

    def samples_of(self, unit: int) -> range:
        """Return the samples of a unit."""
        first, end = self.spans_of(np.array([unit]))
        return range(int(first[0]), int(end[0]))

    def spans_of(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first sample of each unit and the one after its last: two (N,) int64."""
        if self.blocks is None:
            return units, units + 1
        streams, blocks = np.divmod(units, self._stride)
        firsts = self._starts[streams] + blocks * self.blocks.size
        return firsts, np.minimum(firsts + self.blocks.size, self._starts[streams + 1])

    def next_use(self, units: np.ndarray, images: int, slots: Sequence[range]) -> np.ndarray:
        """Return the position of the first step, from `images` on, that reads each unit in some slots: (N,) int64."""
        found = np.full(len(units), NEVER, np.int64)
        streams = (
            np.searchsorted(self._starts, units, side="right") - 1 if self.blocks is None else units // self._stride
        )
        for stream in np.unique(streams).tolist():
            own = self._own(stream, slots)
            if not own.any():
                continue
            chosen = np.flatnonzero(streams == stream)
            inside = units[chosen] - (self._starts[stream] if self.blocks is None else stream * self._stride)
            found[chosen] = self._next_use(stream, inside, images, own)
        return np.where(found < self.end, found, NEVER)

    def _next_use(self, stream: int, units: np.ndarray, images: int, own: np.ndarray) -> np.ndarray:
        """Return the next use of units of a stream, which are numbered from 0; `own` says which of its slots count."""
        size, place = self._size(stream), images // self.batch * len(own)
        found = np.full(len(units), NEVER, np.int64)
        for epoch in range(place // size, place // size + _EPOCHS):
            open_ = np.flatnonzero(found == NEVER)
            starts, ends = (each + epoch * size for each in self._epoch(stream, epoch).span(units[open_]))
            uses = np.maximum(starts, place)
            read = ends > place
            if self.blocks is None:
                read &= own[uses % len(own)]
            found[open_[read]] = uses[read] // len(own) * self.batch
        return found

    def upcoming(self, images: int, slots: Sequence[range]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield positions, ascending from `images` on, and the units that are read from each on in some slots: (N,) int64.

        A window of blocks that has begun before or at `images` is left out, as its samples are being read already.
        """
        if self.blocks is None:
            yield from self._upcoming_samples(images, slots)
            return
        streams = [stream for stream in range(self.streams) if self._own(stream, slots).any()]
        windows = [self._upcoming_blocks(stream, images) for stream in streams]
        yield from heapq.merge(*windows, key=lambda each: each[0])

    def _upcoming_samples(self, images: int, slots: Sequence[range]) -> Iterator[tuple[int, np.ndarray]]:
        numbers = np.concatenate([np.arange(each.start, each.stop) for each in slots])
        many = max(1, _SAMPLES_AT_ONCE // len(numbers))
        for position in range(images // self.batch * self.batch, self.end, many * self.batch):
            steps = min(many, (self.end - position) // self.batch)
            rows = order.samples_of_steps(
                self.seed, self.total, self.batch, self.streams, position, steps, numbers, self.name
            )
            for step, row in enumerate(rows):
                yield position + step * self.batch, np.unique(row)

    def _upcoming_blocks(self, stream: int, images: int) -> Iterator[tuple[int, np.ndarray]]:
        assert self.blocks is not None
        size, per_step = self._size(stream), self.batch // self.streams
        number, place = divmod(images // self.batch * per_step, size)
        window = int(self._epoch(stream, number).windows(np.array([place]))[0]) + 1
        while True:
            epoch = self._epoch(stream, number)
            units = epoch.blocks_of(window)
            if not len(units):
                number, window = number + 1, 0
                continue
            begin = int(epoch.span(units[:1])[0][0]) + number * size
            if (position := begin // per_step * self.batch) >= self.end:
                return
            yield position, units + stream * self._stride
            window += 1

    def _own(self, stream: int, slots: Sequence[range]) -> np.ndarray:
        """Say which of a stream's slots are among some: (batch // streams,) booleans."""
        per_step = self.batch // self.streams
        own = np.zeros(per_step, bool)
        for each in slots:
            own[max(0, each.start - stream * per_step) : max(0, each.stop - stream * per_step)] = True
        return own

    def _size(self, stream: int) -> int:
        return int(self._starts[stream + 1] - self._starts[stream])

    def _epoch(self, stream: int, epoch: int) -> order.Epoch:
        return _epoch(self.seed, order.purpose_of(self.name), stream, epoch, self._size(stream), self.blocks)


_epoch = functools.lru_cache(maxsize=256)(order.Epoch)
