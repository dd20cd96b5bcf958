"""Samples that could not be used, counted once each."""

from collections import Counter

from gan_dist.data.decode import Note
from gan_dist.data.index import Index


class Quarantine:
    """What this process has met so far."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._samples: set[int] = set()
        self._slow: set[str] = set()
        self._shards: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, note: Note) -> bool:
        """Take it in; whether it is news."""
        if note.kind != "quarantined":
            new = note.shard not in self._slow
            self._slow.add(note.shard)
            return new
        if note.sample in self._samples:
            return False
        self._samples.add(note.sample)
        self._shards[note.shard] += 1
        self._reasons.setdefault(note.shard, f"{note.key}: {note.reason}")
        return True

    def worst(self) -> tuple[int, str, str]:
        """The shard with the most of them: how many, its name, the first one's key and reason."""
        if not self._shards:
            return 0, "", ""
        shard, count = self._shards.most_common(1)[0]
        return count, shard, self._reasons[shard]
