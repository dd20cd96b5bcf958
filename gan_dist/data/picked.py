"""Read chosen samples by number, for pictures and scores: as they are stored, without order and mirroring."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gan_dist import degrade
from gan_dist.config import Config
from gan_dist.data import batches, cached, checks, geometry, order, stores
from gan_dist.data.decode import SUBSTITUTES, Decoder, UnusableError
from gan_dist.data.index import Index
from gan_dist.data.stores import Patience
from gan_dist.data.transfer import Sender
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch


def decoders(index: Index, config: Config, patience: Patience = stores.USUAL) -> dict[str, Decoder]:
    """Return what decodes each image field. `patience` is for remote shards."""
    labels = checks.label_maps(config)
    return {
        name: Decoder(field, geometry.geometry(config, name), checks.channels(config, name), labels.get(name), patience)
        for name, field in index.images.items()
    }


def shown(index: Index, config: Config, count: int, device: torch.device) -> Batch:
    """Return the first `count` samples that can be read, in the index's order and as they are stored, for picture grids.

    Positions are the samples' numbers. Fewer where the data set has fewer.
    """
    readers = decoders(index, config)
    cached.lend(index, config, readers)
    decoded: list[tuple[int, dict[str, np.ndarray]]] = []
    for sample in range(len(index)):
        if len(decoded) == count:
            break
        with contextlib.suppress(UnusableError):
            decoded.append((sample, _one(readers, sample)))
    return _batch(decoded, index, config, device)


def load(index: Index, config: Config, samples: Sequence[int], device: torch.device) -> Batch:
    """Return these samples as they are stored; one that cannot be read is replaced by another, always the same.

    Positions are the samples' numbers.
    """
    readers = decoders(index, config)
    cached.lend(index, config, readers)
    decoded: list[tuple[int, dict[str, np.ndarray]]] = []
    for wanted in samples:
        sample = int(wanted)
        for attempt in range(SUBSTITUTES):
            try:
                decoded.append((sample, _one(readers, sample)))
                break
            except UnusableError:
                sample = order.substitute(config.run.seed, len(index), int(wanted), attempt)
    return _batch(decoded, index, config, device)


def _one(decoders: Mapping[str, Decoder], sample: int) -> dict[str, np.ndarray]:
    """Return all images of a sample; of sets without pairs each one's of this number, counted on from the first again."""
    return {name: decoder.decode(sample % len(decoder.index)) for name, decoder in decoders.items()}


def _batch(found: list[tuple[int, dict[str, np.ndarray]]], index: Index, config: Config, device: torch.device) -> Batch:
    """Return the decoded images of samples as a batch."""
    if not found:
        raise InputError(f"data.shards: no sample of {index.shards[0]}, ... can be read; see `gan-dist index`")
    samples, sender = [sample for sample, _ in found], Sender(device)
    if (made := degrade.pipeline(config)) is not None:
        for sample, images in found:
            images["input"] = made(images["target"], sample, "shown")
    fields = {
        name: batches.normalised(name, sender.send_values(np.stack([images[name] for _, images in found])), config)
        for name in found[0][1]
    }
    if config.data.labels:
        fields["class"] = sender.send_values(index.label[samples].astype(np.int64))
    return Batch(fields, sender.send_values(np.array(samples)))
