"""Read a remote object as a file is read: forward, with a window that grows while reads follow each other."""

import os

from gan_dist.data import stores
from gan_dist.data.stores import Facts, Patience

_SMALL = 8 << 20  # bytes of an object that is fetched at once
_WINDOW, _LARGEST = 64 << 10, 4 << 20  # bytes fetched at a time, at first and at most
_NEAR = 256 << 10  # bytes that are read over sooner than jumped over


class RemoteFile:
    """What `tarfile` and Pillow need of a file. It keeps one window of the object."""

    def __init__(self, url: str, facts: Facts, patience: Patience = stores.USUAL) -> None:
        """`facts` are those of the object; reads raise ChangedError where it is another one by then."""
        self.url, self.facts, self.patience = url, facts, patience
        self.fetched = 0
        """Bytes that were asked for."""
        self._at, self._start, self._window = 0, 0, facts.size if facts.size <= _SMALL else _WINDOW
        self._data = b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as a file does."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.facts.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes; fewer at the end of the object. Raises StoreError."""
        stop = self.facts.size if count < 0 else min(self._at + count, self.facts.size)
        if stop <= self._at:
            return b""
        if not (self._start <= self._at and stop <= self._start + len(self._data)):
            self._fill(self._at, stop)
        found = self._data[self._at - self._start : stop - self._start]
        self._at = stop
        return found

    def _fill(self, start: int, stop: int) -> None:
        end = self._start + len(self._data)
        follows = self._start <= start <= end + _NEAR
        if self._data:
            self._window = min(2 * self._window, _LARGEST) if follows else _WINDOW
        kept = b""
        if follows and start < end:  # what is there already is not fetched again
            kept = self._data[start - self._start :]
        until = min(max(stop, start + len(kept) + self._window), self.facts.size)
        (data,) = stores.STORE.read(self.url, [(start + len(kept), until)], self.facts, self.patience)
        self.fetched += len(data)
        self._start, self._data = start, kept + data
