"""Score images made of label maps: a segmenter that is trained on the spot reads the classes back."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import PrivateAttr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from gan_dist import files, rng
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.evaluation.base import Examples, Metric, State
from gan_dist.evaluation.features import quantised
from gan_dist.evaluation.ranks import full_precision
from gan_dist.interfaces import Batch, one_hot

if TYPE_CHECKING:
    from gan_dist.config import Config

_HELD_OUT = 0.1
"""Part of the samples that the segmenter's accuracy is measured on."""
_MOST = 2_000
"""Samples that it is trained on at most."""
_NONE = 255
"""Pixels of no class; classes are 0..253."""
_RATE = 2e-3
_VERSION = 1


class Segmentation(Metric):
    """Mean IoU and pixel accuracy of the classes that a segmenter reads from images made of label maps.

    score/NAME/miou: the mean over classes of TP / (TP + FP + FN), of all pixels of all images together; accuracy: pixels
    read right. real_miou, real_accuracy: the same of the real images, which outputs can hardly surpass. segmenter_accuracy:
    on samples of the training data that it did not learn from. Pixels of no class do not count. The segmenter is a small
    U-Net, trained once on the run's training data and kept in data.cache: scores of two segmenters cannot be compared.
    """

    steps: Positive = 1000
    """Batches of 8 samples that the segmenter is trained on."""
    seed: int = 0
    """Of its weights and its batches."""
    base_channels: Positive = 16
    """Channels of its outermost layers; further inside 2 and 4 times as many."""

    better: ClassVar[Literal["lower", "higher"] | Mapping[str, Literal["lower", "higher"]]] = "higher"
    compares: ClassVar[bool] = False
    _names: tuple[str, str] = PrivateAttr(("", ""))
    """The fields with the label maps and with the images."""
    _network: Any = PrivateAttr(None)
    _accuracy: float = PrivateAttr(0.0)

    def parts(self) -> Collection[str]:
        return ("miou", "accuracy")

    def check(self, config: "Config") -> None:
        fields = getattr(config.data, "fields", {})
        if not any(field.classes for field in fields.values()):
            raise ValueError(
                f"the score {self.kind} compares with label maps, and data.fields has none; remove it, or set classes of a field"
            )

    def for_game(self, game: Any) -> Metric:
        maps = next((name for name, field in game.fields.items() if field.kind == "labels"), "")
        if not maps or not game.has_targets or not game.shows_data:
            raise InputError(
                f"evaluate.scores: {self.kind} compares with the label maps that images are made of, and this game has none; "
                "remove it"
            )
        found = self.model_copy()
        found._names = maps, game.judged
        return found

    def learn(self, examples: Examples) -> Metric:
        """Return the metric with its segmenter: from the cache, or trained now on rank 0.

        Raises ScoreError on all ranks where that fails.
        """
        first = examples.draw(range(1))
        maps, image = (first[name] for name in self._names)
        about = [_VERSION, examples.digest, examples.count, list(image.shape[1:]), maps.shape[1]]
        about += [self.steps, self.seed, self.base_channels]
        path = examples.cache / f"segmenter-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"
        network = Segmenter(image.shape[1], maps.shape[1], self.base_channels)

        def work(beat: Callable[[], object]) -> tuple[dict[str, Tensor], float]:
            found = _read(path)
            if found is None:
                found = self._train(network, dataclasses.replace(examples, beat=beat))
                files.make_directory(path.parent, "the cache (data.cache)")
                files.write_atomic(path, save(found[0], metadata={"accuracy": repr(found[1])}))
            return found

        with examples.ranks.agreed() as ranks:
            learnt = ranks.gather(ranks.on_main(work, examples.beat))[0]
        assert learnt is not None
        state, accuracy = learnt
        network.load_state_dict(state)
        found = self.model_copy()
        found._network, found._accuracy = network.requires_grad_(False).eval().to(image.device), accuracy
        return found

    def _train(self, network: "Segmenter", examples: Examples) -> tuple[dict[str, Tensor], float]:
        """Train; return the weights and the accuracy on samples that were held out."""
        count = min(examples.count, _MOST)
        tests = max(1, int(_HELD_OUT * count))
        if count <= tests:
            raise InputError(f"evaluate.scores: {self.kind} needs two samples or more to learn from")
        held_out, own = torch.arange(count)[:tests], torch.arange(count)[tests:]
        maps, images, classes = self._samples(examples, count)
        device = examples.ranks.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(self.seed, "segmenter's weights") % 2**63)
            network.load_state_dict(Segmenter(images.shape[1], classes, self.base_channels).state_dict())
        network.train().to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        positions = torch.arange(self.steps * 8)
        draws = rng.integers(rng.key(self.seed, "segmenter's batches"), positions, len(own))
        mirrored = rng.uniform(rng.key(self.seed, "segmenter's mirrors"), positions, 1)[:, 0] < 0.5
        with torch.enable_grad():
            for step, (chosen, flip) in enumerate(
                zip(torch.split(own[draws], 8), torch.split(mirrored, 8), strict=True)
            ):
                optimizer.param_groups[0]["lr"] = _RATE * (1 - step / self.steps)
                optimizer.zero_grad(set_to_none=True)
                seen, truth = images[chosen].to(device), one_hot(maps[chosen].to(device), classes, torch.float32)
                flip = flip.to(device)[:, None, None, None]
                seen, truth = torch.where(flip, seen.flip(3), seen), torch.where(flip, truth.flip(3), truth)
                # of one-hot maps: torch's loss of numbers has no deterministic gradient on a GPU; no class, no loss
                loss = -(network(seen).log_softmax(1) * truth).sum() / truth.sum().clamp(min=1)
                loss.backward()
                optimizer.step()
                examples.beat()
        network.eval()
        table = torch.zeros(classes, classes, dtype=torch.float64)
        for chosen in torch.split(held_out, 8):
            truth = one_hot(maps[chosen].to(device), classes, torch.float32)
            table += _confusion(network(images[chosen].to(device)), truth).cpu()
        return {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}, accuracy_of(table)

    def _samples(self, examples: Examples, count: int) -> tuple[Tensor, Tensor, int]:
        """Return label maps (N, H, W) and images (N, C, H, W) of the first samples, uint8 on the CPU, and the classes' number.

        Pixels of no class have 255. A channel for each class would be gigabytes.
        """
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        classes = 0
        for first in range(0, count, 32):
            batch = examples.draw(range(first, min(first + 32, count)))
            maps = batch[self._names[0]]
            classes = maps.shape[1]
            found[0].append(torch.where(maps.any(1), maps.argmax(1), _NONE).byte().cpu())
            found[1].append(quantised(batch[self._names[1]]).cpu())
            examples.beat()
        return torch.cat(found[0]), torch.cat(found[1]), classes

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        """Take in nothing: `add_shown` does."""

    def add_shown(self, state: State, fake: Tensor, shown: Batch) -> None:
        """Add up how often each class (row) was read as each class (column): (K, K) float64."""
        maps, real = (shown[name] for name in self._names)
        with full_precision():
            for name, images in (("fake", fake), ("real", real)):
                table = _confusion(self._network(quantised(images)), maps)
                state[name] = state[name] + table if name in state else table

    def value(self, state: State) -> dict[str, float]:
        """Return the scores by name."""
        found = {
            f"{prefix}{what}": of(state[name])
            for name, prefix in (("fake", ""), ("real", "real_"))
            for what, of in (("miou", mean_iou), ("accuracy", accuracy_of))
        }
        return {**found, "segmenter_accuracy": self._accuracy}


class Segmenter(nn.Module):
    """A small U-Net from pixels (N, C, H, W) of 0..255 to a logit for each class and pixel (N, K, H, W)."""

    def __init__(self, channels: int, classes: int, base: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                _block(channels, base),
                _block(base, 2 * base, 2),
                _block(2 * base, 4 * base, 2),
                _block(4 * base, 4 * base),
            ]
        )
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(4 * base, 2 * base, 2, 2), nn.ConvTranspose2d(2 * base, base, 2, 2)]
        )
        self.join = nn.ModuleList([_block(4 * base, 2 * base), _block(2 * base, base)])
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        x = functional.pad(pixels.float() / 127.5 - 1, (0, -width % 4, 0, -height % 4))
        passed = []
        for block in self.down:
            x = block(x)
            passed.append(x)
        for up, join, before in zip(self.up, self.join, (passed[1], passed[0]), strict=True):
            x = join(torch.cat([up(x), before], 1))
        found: Tensor = self.head(x)[:, :, :height, :width]
        return found


def _block(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(1, after), nn.ReLU())


def _confusion(logits: Tensor, maps: Tensor) -> Tensor:
    """Return how many pixels of each class (row) were read as each class (column), those of no class left out."""
    classes = maps.shape[1]
    read = functional.one_hot(logits.argmax(1), classes).to(torch.float64)
    return maps.permute(0, 2, 3, 1).flatten(0, 2).double().T @ read.flatten(0, 2)


def accuracy_of(table: Tensor) -> float:
    """Return the part of the pixels that were read right."""
    return float(table.diagonal().sum() / table.sum())


def mean_iou(table: Tensor) -> float:
    """Return the mean of TP / (TP + FP + FN) over the classes that are there or are read."""
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return float((table.diagonal() / union)[union > 0].mean())


def _read(path: Path) -> tuple[dict[str, Tensor], float] | None:
    """Return weights and accuracy of a trained segmenter, where it is there and whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["accuracy"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
