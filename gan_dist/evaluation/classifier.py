"""A small classifier that is trained on the data set's own labels: its features know what matters in these images."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import files, rng
from gan_dist.config.section import Positive
from gan_dist.errors import InputError
from gan_dist.evaluation.features import Extractor, Features, Labelled, Resize, quantised, resized

_HELD_OUT = 0.1
"""Part of the images that the accuracy is measured on."""
_MOST = 20_000
"""Images that are looked at, in the shuffled order of the data set: 60 MB at 32x32 pixels."""
_RATE = 1e-3
_BATCH = 64
_VERSION = 1


class Classifier(Extractor):
    """Features of a small classifier, trained once on the labelled images of the data set, in seconds to minutes.

    For data that no ImageNet network knows. Its accuracy on images that it was not trained on is in the record: scores of
    two classifiers cannot be compared.
    """

    resize: Resize = "area"
    """How images come to 32x32 pixels."""
    steps: Positive = 1000
    """Batches of 64 that it is trained on."""
    seed: int = 0
    """Of its weights and its batches."""

    takes_weights: ClassVar[bool] = False
    side: ClassVar[int] = 32

    @property
    def width(self) -> int:
        return 128

    def build(self, device: torch.device, data: Labelled | None = None) -> Features:
        """Return the trained classifier of this data set: from the cache, or trained now."""
        if data is None or len(data.labels) == 0 or int(data.labels.min()) < 0:
            raise InputError(
                "evaluate.features: classifier learns from the labels of the real images, and they have none; choose other "
                "features, or pack the images with labels (`gan-dist pack`)"
            )
        about = [_VERSION, data.digest, self.steps, self.seed, self.resize, len(data.labels)]
        path = data.cache / f"classifier-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"
        classes = int(data.labels.max()) + 1
        network = Network(classes)

        def on_main() -> tuple[dict[str, Tensor], float] | None:
            if not data.ranks.is_main:
                return None
            found = _read(path)
            if found is None:
                found = self._train(network, data, device)
                files.make_directory(path.parent, "the cache (data.cache)")
                files.write_atomic(path, save(found[0], metadata={"accuracy": repr(found[1])}))
            return found

        state, accuracy = data.ranks.gather(data.ranks.together(on_main))[0]
        network.load_state_dict(state)
        network = network.requires_grad_(False).eval().to(device)
        digest = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
        facts: dict[str, Any] = {**self.facts(), "sha256": digest, "accuracy": round(accuracy, 4), "classes": classes}
        return Features(self._whole(network), facts)

    def _train(self, network: "Network", data: Labelled, device: torch.device) -> tuple[dict[str, Tensor], float]:
        """Train; return the weights and the accuracy on images that were held out."""
        count = min(len(data.labels), _MOST)
        order = rng.uniform(rng.key(self.seed, "classifier"), torch.arange(count), 1)[:, 0].argsort(stable=True)
        tests = max(1, int(_HELD_OUT * count))
        held_out, own = order[:tests], order[tests:]
        pixels = self._pixels(data, count, device)
        if not len(own):
            raise InputError("evaluate.features: classifier needs two labelled images or more")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(self.seed, "classifier's weights") % 2**63)
            network.load_state_dict(Network(network.classes).state_dict())
        network.train().to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        draws = rng.integers(rng.key(self.seed, "classifier's batches"), torch.arange(self.steps * _BATCH), len(own))
        for step, chosen in enumerate(torch.split(own[draws], _BATCH)):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / self.steps)
            optimizer.zero_grad(set_to_none=True)
            seen, labels = pixels[chosen].to(device), data.labels[chosen].to(device)
            F.cross_entropy(network.classify(seen), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            data.beat()
        network.eval()
        right = 0
        with torch.no_grad():
            for chosen in torch.split(held_out, _BATCH):
                named = network.classify(pixels[chosen].to(device)).argmax(1)
                right += int((named.cpu() == data.labels[chosen]).sum())
        return {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}, right / tests

    def _pixels(self, data: Labelled, count: int, device: torch.device) -> Tensor:
        """Return the first `count` images at the network's size, (count, 3, 32, 32) uint8 on the CPU."""
        found = []
        for first in range(0, count, _BATCH):
            images = quantised(data.images(range(first, min(first + _BATCH, count))).to(device))
            found.append(resized(images, self.side, self.resize).round().byte().cpu())
            data.beat()
        return torch.cat(found).expand(-1, 3, -1, -1)


class Network(nn.Module):
    """Three convolutions with stride 2 from 3x32x32 pixels of 0..255, 128 features, classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU())
        self.head = nn.Linear(128, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (N, 128)."""
        found: Tensor = self.features(pixels.float() / 127.5 - 1)
        return found

    def classify(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        found: Tensor = self.head(self(pixels))
        return found


def _read(path: Path) -> tuple[dict[str, Tensor], float] | None:
    """Return weights and accuracy of a trained classifier, where it is there and whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["accuracy"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
