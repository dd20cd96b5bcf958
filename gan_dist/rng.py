"""Random numbers as pure functions of a key: (seed, purpose, position in the run).

No generator state exists anywhere, so there is none to save: the numbers of sample number i of a run are the
same on any machine, at any process count and after any resume. The mixing function is SplitMix64's finaliser
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants of Stafford's
variant 13), applied once per position and once per coordinate.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def key(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 64-bit key for one purpose of one run, and for `numbers` within it (a stream, an epoch).

    Distinct arguments give unrelated keys; the same arguments give the same key everywhere.
    """
    text = repr((int(seed), purpose, *(int(number) for number in numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix_numpy(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser over a uint64 array."""
    (first, second), (a, b, c) = _MULTIPLIERS, _SHIFTS
    values = (values ^ (values >> np.uint64(a))) * np.uint64(first)
    values = (values ^ (values >> np.uint64(b))) * np.uint64(second)
    mixed: np.ndarray = values ^ (values >> np.uint64(c))
    return mixed


def _signed(value: int) -> int:
    """Return the int64 that has the same bits as the low 64 of `value`: torch's integer arithmetic wraps."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_torch(values: torch.Tensor) -> torch.Tensor:
    (first, second), (a, b, c) = _MULTIPLIERS, _SHIFTS
    # int64's >> keeps the sign, so the bits that it shifts in are masked away
    values = (values ^ ((values >> a) & (_MASK >> a))) * _signed(first)
    values = (values ^ ((values >> b) & (_MASK >> b))) * _signed(second)
    return values ^ ((values >> c) & (_MASK >> c))


def bits(stream: int, positions: torch.Tensor, count: int) -> torch.Tensor:
    """`count` random 64-bit words for each position: (N,) int64 -> (N, count) int64, on the same device."""
    rows = _mix_torch(positions * _signed(GOLDEN) + _signed(stream))
    columns = torch.arange(1, count + 1, device=positions.device) * _signed(GOLDEN)
    return _mix_torch(rows[:, None] + columns)


def uniform(stream: int, positions: torch.Tensor, count: int) -> torch.Tensor:
    """Uniform numbers in (0, 1) for each position: (N,) int64 -> (N, count) float64."""
    return _to_uniform(bits(stream, positions, count))


def _to_uniform(words: torch.Tensor) -> torch.Tensor:
    # 52 bits and a half: never 0 or 1, so that a logarithm is safe
    return (((words >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52


def halves(stream: int, positions: np.ndarray) -> np.ndarray:
    """Say whether `uniform(stream, positions, 1)` is below 1/2, without torch: (N,) integers -> (N,) booleans."""
    rows = mix_numpy(positions.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(stream))
    below: np.ndarray = mix_numpy(rows + np.uint64(GOLDEN)) >> np.uint64(63) == 0
    return below


def uniform_numpy(stream: int, position: int, count: int) -> np.ndarray:
    """Return what `uniform` draws for one position, without torch's small kernels: (count,) float64."""
    row = mix_numpy(np.array([(position * GOLDEN + stream) & _MASK], np.uint64))
    words = mix_numpy(row + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN))
    found: np.ndarray = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return found


def normal_numpy(stream: int, position: int, count: int) -> np.ndarray:
    """Return what `normal` draws for one position, but for the last bit: (count,) float32."""
    half = (count + 1) // 2
    first, second = np.split(uniform_numpy(stream, position, 2 * half), 2)
    radius, angle = np.sqrt(-2.0 * np.log(first)), 2.0 * math.pi * second
    numbers: np.ndarray = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].astype(np.float32)
    return numbers


def normal(stream: int, positions: torch.Tensor, count: int) -> torch.Tensor:
    """Return standard normal numbers for each position: (N,) int64 -> (N, count) float32 (Box and Muller, 1958).

    Computed in float64 and rounded once, because a vectorised logarithm may differ from a scalar one in its
    last bit: a sample's numbers must not depend on how many samples are drawn with it.
    """
    half = (count + 1) // 2
    return torch.cat(_box_muller(uniform(stream, positions, 2 * half)), dim=1)[:, :count].float()


def _box_muller(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two independent normal numbers for each pair of uniform ones: (N, 2 * half) -> twice (N, half)."""
    first, second = numbers.chunk(2, dim=1)
    radius = (-2.0 * first.log()).sqrt()
    angle = 2.0 * math.pi * second
    return radius * angle.cos(), radius * angle.sin()


@dataclasses.dataclass(frozen=True)
class Normals:
    """Draws what `normal` draws of some streams, so many numbers of each, in the kernels of one call."""

    streams: tuple[int, ...]
    counts: tuple[int, ...]

    def __call__(self, stream: int, positions: torch.Tensor, count: int) -> torch.Tensor:
        """Return the numbers stream by stream: (N,) int64 -> (N, sum of counts) float32. The arguments beside are unused."""
        halves = [(count + 1) // 2 for count in self.counts]
        start = positions * _signed(GOLDEN)
        rows = _mix_torch(torch.stack([start + _signed(stream) for stream in self.streams], dim=1))
        # the first uniform numbers of all pairs, then the second ones
        each = [rows[:, place : place + 1].expand(-1, half) for place, half in enumerate(halves)]
        numbers = torch.arange(1, 2 * max(halves) + 1, device=positions.device)
        columns = torch.cat([*(numbers[:half] for half in halves), *(numbers[half : 2 * half] for half in halves)])
        words = _mix_torch(torch.cat([*each, *each], dim=1) + columns * _signed(GOLDEN))
        pairs = [torch.split(side, halves, dim=1) for side in _box_muller(_to_uniform(words))]
        parts = [
            part
            for cosine, sine, half, count in zip(*pairs, halves, self.counts, strict=True)
            for part in (cosine, sine[:, : count - half])
        ]
        return torch.cat(parts, dim=1).float()


def integers(stream: int, positions: torch.Tensor, below: int) -> torch.Tensor:
    """One integer in [0, below) for each position: (N,) int64 -> (N,) int64."""
    return (uniform(stream, positions, 1)[:, 0] * below).long()


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of the samples in a pass, by name: functions of the key, the name and each sample's position."""

    key: int
    positions: torch.Tensor
    """(N,) int64, micro-batch by micro-batch."""
    draw: "Callable[[Callable[[int, torch.Tensor, int], torch.Tensor], int, int], torch.Tensor] | None" = None
    """Draws for these positions, perhaps for others at once (interfaces.Batch.draw)."""

    def _drawn(self, draw: Callable[[int, torch.Tensor, int], torch.Tensor], name: str, count: int) -> torch.Tensor:
        stream = key(self.key, name)
        return draw(stream, self.positions, count) if self.draw is None else self.draw(draw, stream, count)

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """Return standard normal numbers: (N, *shape) float32."""
        return self._drawn(normal, name, math.prod(shape)).view(-1, *shape)

    def normals(self, shapes: Mapping[str, tuple[int, ...]]) -> list[torch.Tensor]:
        """Return what `normal` returns for each name and shape, by fewer kernels."""
        streams = tuple(key(self.key, name) for name in shapes)
        counts = tuple(math.prod(shape) for shape in shapes.values())
        drawn = Normals(streams, counts)
        numbers = drawn(0, self.positions, sum(counts)) if self.draw is None else self.draw(drawn, 0, sum(counts))
        split = torch.split(numbers, list(counts), dim=1)
        return [part.view(-1, *shape) for part, shape in zip(split, shapes.values(), strict=True)]

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        """Return uniform numbers in (0, 1): (N, *shape) float64."""
        return self._drawn(uniform, name, math.prod(shape)).view(-1, *shape)

    def integers(self, name: str, below: int, *shape: int) -> torch.Tensor:
        """Return integers in [0, below): (N, *shape) int64."""
        return (self.uniform(name, *shape) * below).long()

    def for_micro_batch(self, name: str, parts: int) -> torch.Tensor:
        """Return a uniform number in (0, 1) for each of the `parts` micro-batches: (parts,) float64."""
        firsts = self.positions.view(parts, -1)[:, 0]
        return uniform(key(self.key, name), firsts, 1)[:, 0]
