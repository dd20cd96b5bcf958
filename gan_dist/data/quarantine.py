"""Count the samples that could not be used: each once, whichever ranks met it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gan_dist.data import checks
from gan_dist.data.decode import Note
from gan_dist.data.index import Index


class Quarantine:
    """The unusable samples of a data set: what the index lists as bad, and what the ranks met since."""

    def __init__(self, index: Index) -> None:
        self._met: dict[tuple[str, int], str] = {}
        """Shard and sample -> why."""
        self._known = {
            (each.shards[each.shard_of(sample)], sample): "the image cannot be read"
            for each in index.sets
            for sample in checks.unreadable(each).tolist()
        }
        """The same on every rank."""
        self._counts: list[int] = []
        self._slow: set[str] = set()

    @property
    def count(self) -> int:
        """Return how many samples this rank met. Ranks send it to each other; see `over_ranks`."""
        return len(self._met)

    def add(self, note: Note) -> bool:
        """Take in what happened to a sample; whether it is news to this rank."""
        if note.kind != "quarantined":
            new = note.shard not in self._slow
            self._slow.add(note.shard)
            return new
        if (note.shard, note.sample) in self._met:
            return False
        self._met[note.shard, note.sample] = f"{note.key}: {note.reason}"
        return True

    def over_ranks(self, counts: Sequence[int], gather: Callable[[Any], list[Any]]) -> int:
        """Return how many samples are unusable, over all ranks.

        `counts` are every rank's `count`. All ranks call this with the same counts at the same step. Where a count is new
        they gather the samples themselves: a sum of the counts would hold a sample once for each rank that met it.
        """
        if list(counts) != self._counts:
            self._counts = list(counts)
            for met in gather(self._met):
                self._known.update(met)
        return len(self._known)

    def worst(self) -> tuple[int, str, str]:
        """Return the shard with the most of them: how many, its name, the first one's key and reason."""
        if not self._known:
            return 0, "", ""
        shard, count = Counter(shard for shard, _ in sorted(self._known)).most_common(1)[0]
        return count, shard, self._known[min(each for each in self._known if each[0] == shard)]
