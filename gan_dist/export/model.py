"""Load an export: a folder, or a name on the hub, as a network."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gan_dist import rng
from gan_dist.errors import InputError
from gan_dist.export import draw
from gan_dist.networks import NETWORKS, Network, Shape

CONFIG, WEIGHTS, PROGRAM, ONNX, CARD, GRID = (
    "config.json", "model.safetensors", "model.pt2", "model.onnx", "README.md", "grid.png",
)  # fmt: skip
ENCODER, ENCODER_PROGRAM, ENCODER_ONNX = draw.ENCODER, draw.ENCODER_PROGRAM, "encoder.onnx"
FORMAT = 1
"""Of config.json: raised when older code could not read it."""


class Encoder(nn.Module):
    """The encoder of an exported autoencoder: images of the training's size to the Gaussians of their latents."""

    takes_images = True

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        """`config` is what `config["encoder"]` of the export says."""
        super().__init__()
        self.network = network
        self.config = dict(config)
        self.eval().requires_grad_(False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) images in [-1, 1] -> means and log-variances, (N, latent) each."""
        means, log_variances = self.network(inputs)
        return means, log_variances


class Generator(nn.Module):
    """An exported network: it draws from latents, or turns images into images, as `config["inputs"]` says.

    Call it by what it takes: `generator(latents)`, `generator(latents, labels=..., truncation=...)`,
    `generator(images, numbers=...)`. Of an autoencoder it is the decoder, and `encoder` the encoder.
    """

    encoder: Encoder | None

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.config = dict(config)
        self.draws_key: int | None = self.config.get("draws_key")
        self.takes_images = "images" in self.config["inputs"]
        self.encoder = None
        self.eval().requires_grad_(False)

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        truncation: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> Tensor:
        """(N, latent) numbers or (N, C, H, W) images -> (N, C, H, W), about in [-1, 1].

        `labels`: (N,) int64. `truncation`: a scalar. `numbers`: (N,) int64, the keys of each image's dropout; without them
        nothing is dropped.
        """
        more: dict[str, Any] = {}
        if (fill := self.config.get("fill")) is not None:  # what is missing may hold anything
            there = inputs[:, -1:] > 0
            inputs = torch.cat([inputs[:, :-1].where(there, fill), 2 * there.to(inputs.dtype) - 1], dim=1)
        if self.draws_key is not None and numbers is not None:
            more["draws"] = rng.Draws(self.draws_key, numbers)
        if truncation is not None:
            more["truncation"] = truncation
        made: Tensor = self.network(inputs, **more) if self.takes_images else self.network(inputs, labels, **more)
        return made

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def draw(
        self,
        seed: int = 0,
        count: int = 16,
        first: int = 0,
        label: int | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Return samples number `first`, ... of a seed, as `gan-dist generate` draws them: (count, C, H, W) in [-1, 1]."""
        if self.takes_images:
            raise InputError("this network turns images into images: use translate")
        return draw.draw(self, self.config, seed, count, first, label, truncation, self.device)

    def translate(self, images: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """Return what it makes of images (N, C, H, W) in [-1, 1] of any size; `numbers` key their dropout."""
        if not self.takes_images:
            raise InputError("this network draws from latents: use draw")
        return draw.translate(self, self.config, images, numbers)

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of images (N, C, H, W) in [-1, 1] of the training's size: their means, (N, latent)."""
        return draw.encode(self._encoder(), self.config, images)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what the decoder makes of the latents of images: (N, C, H, W), as `gan-dist apply` does."""
        return draw.reconstruct(self, self._encoder(), self.config, images)

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise InputError("this export has no encoder: `gan-dist export` writes one of a run of an autoencoder")
        return self.encoder

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> "Generator":
        """Load a folder that `gan-dist export` wrote, or the name of one on the hub (OWNER/NAME), at a revision.

        Raises InputError where that is none.
        """
        folder = Path(source)
        if not folder.is_dir():
            folder = _download(str(source), revision)
        config = read_config(folder)
        try:
            made = cls(_filled(build(config), config, folder / WEIGHTS), config)
            if own := config.get("encoder"):
                made.encoder = Encoder(_filled(build_encoder(own), own, folder / ENCODER), own)
            return made
        except (
            OSError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
            SafetensorError,
        ) as error:  # pydantic's are ValueErrors
            raise InputError(f"{source}: {CONFIG} and {WEIGHTS} do not fit: {_line(error)}; export it again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of an export. Raises InputError where it is none, or of a newer version."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        version = config["export_format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} is no export: it has no {CONFIG} of `gan-dist export`") from None
    if version != FORMAT:
        raise InputError(f"{folder} is of format {version}, this version reads {FORMAT}; install a newer gan_dist")
    return dict(config)


def is_export(folder: Path) -> bool:
    with contextlib.suppress(InputError):
        return bool(read_config(folder))
    return False


def build(config: Mapping[str, Any]) -> nn.Module:
    """Return the network that a config describes, with weights that mean nothing."""
    return _part(config).generator(_shape(config))


def build_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Return the encoder that `config["encoder"]` of an export describes, with weights that mean nothing."""
    return _part(config).encoder(_shape(config))


def _part(config: Mapping[str, Any]) -> Network:
    kind = config["network"]["kind"]
    if kind not in NETWORKS:
        raise ValueError(f"its network is a file of its author's; load {PROGRAM} by the draw.py beside it")
    part: Network = NETWORKS[kind](**config["network"])
    return part


def _shape(config: Mapping[str, Any]) -> Shape:
    return Shape(**{**config["shape"], "size": tuple(config["shape"]["size"])})


def _filled(network: nn.Module, config: Mapping[str, Any], weights: Path) -> nn.Module:
    from safetensors.torch import load_file

    network.to(dtype=draw.dtype_of(dict(config)))
    network.to(memory_format=torch.channels_last)  # as a run has them: it decides about bits
    saved = load_file(weights)
    network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in saved.items()})
    return network


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS, ENCODER]))
    except HFValidationError:
        raise InputError(f"there is no folder {name}, and it is no name on the hub (OWNER/NAME)") from None
    except Exception as error:  # no such name, or no network: its kind is that of the HTTP library of the day
        raise InputError(f"there is no folder {name}, and it cannot be had from the hub: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def shape_of(shape: Shape) -> dict[str, Any]:
    return dataclasses.asdict(shape)
