"""Sample numbers in, one uint8 batch out: positioned reads, decoding, centre crop and reduction by area."""

import os
from collections import OrderedDict

import cv2
import numpy as np

from gan_dist.data.index import Index
from gan_dist.errors import InputError

cv2.setNumThreads(0)  # every loader process is one thread; more would fight with the training process

_JPEG = b"\xff\xd8"
_OPEN_SHARDS = 64
_REDUCED = {
    (1, 1): cv2.IMREAD_GRAYSCALE,
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    (3, 1): cv2.IMREAD_COLOR,
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
}


class Decoder:
    """Reads samples of an index as images of one size. Keeps the shards it reads open."""

    def __init__(self, index: Index, resolution: int, channels: int) -> None:
        self.index = index
        self.resolution = resolution
        self.channels = channels
        self._files: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}  # descriptors belong to one process

    def read(self, samples: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(N,) sample numbers -> (N, H, W, C) uint8, into `out` where it is given.

        Raises InputError, naming shard and key, for a sample that cannot be read or decoded.
        """
        size = self.resolution
        batch = np.empty((len(samples), size, size, self.channels), dtype=np.uint8) if out is None else out
        for row, sample in zip(batch, samples.tolist(), strict=True):
            self._decode(sample, row)
        return batch

    def _decode(self, sample: int, target: np.ndarray) -> None:
        data = self._bytes(sample)
        index, size = self.index, self.resolution
        scale = 1
        if data[:2] == _JPEG:  # libjpeg decodes at 1/2, 1/4, 1/8 for a fraction of the work
            short = min(int(index.width[sample]), int(index.height[sample]))
            scale = max(factor for factor in (1, 2, 4, 8) if short >= factor * size or factor == 1)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[self.channels, scale])
        except cv2.error:  # more pixels than OpenCV decodes
            image = None
        if image is None:
            raise InputError(
                f"{index.key(sample)}: the image cannot be decoded; take it out or pack the data again with `gan-dist pack`"
            )
        height, width = image.shape[:2]
        if (height, width) != (size, size):
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = image[top : top + side, left : left + side]
            if side != size:
                image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        if self.channels == 1:
            target[..., 0] = image
        else:
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=target)

    def _bytes(self, sample: int) -> bytes:
        index = self.index
        shard = index.shard_of(sample)
        size = int(index.size[sample])
        try:
            data = os.pread(self._descriptor(shard), size, int(index.offset[sample]))
        except OSError as error:
            raise InputError(f"data.shards: {index.shards[shard]} cannot be read ({error.strerror})") from None
        if len(data) != size:
            raise InputError(f"data.shards: {index.shards[shard]} became shorter while it was read; put it back")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= _OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.index.shards[shard], os.O_RDONLY)
        return self._files[shard]
