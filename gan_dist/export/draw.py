"""Draw with an exported network by torch and safetensors alone: this file lies beside the weights, and needs no other code.

    network, config = load(".")
    images = draw(network, config, seed=0, count=16)    # (16, C, H, W), about in [-1, 1]

Sample number i of a seed is always the same one. `python draw.py` writes a grid of them, or translates a picture.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GROUP = 32
"""Samples that pass the network together: rounding may depend on the batch."""
LEAST = 48
"""Pixels of a side of a sample in a picture of many: smaller ones are enlarged."""
ENCODER, ENCODER_PROGRAM = "encoder.safetensors", "encoder.pt2"
Network = Callable[..., Tensor]
Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]
Config = dict[str, Any]
_MULTIPLIERS, _SHIFTS, _GOLDEN = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), (30, 27, 31), 0x9E3779B97F4A7C15


def load(folder: str | Path) -> tuple[Network, Config]:
    """Return the network of an export, which takes what config["inputs"] says, and its config."""
    from safetensors.torch import load_file

    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    network = torch.export.load(folder / "model.pt2").module()
    network.load_state_dict(load_file(folder / "model.safetensors"))  # the weights that model.pt2 has too
    return network, config


def load_encoder(folder: str | Path) -> Encoder:
    """Return the encoder of an export of an autoencoder: (N, C, H, W) images -> means and log-variances, (N, latent) each."""
    from safetensors.torch import load_file

    encoder = torch.export.load(Path(folder) / ENCODER_PROGRAM).module()
    encoder.load_state_dict(load_file(Path(folder) / ENCODER))
    return encoder


@torch.no_grad()
def encode(encoder: Encoder, config: Config, images: Tensor) -> Tensor:
    """Return the latents of images (N, C, H, W) in [-1, 1] of the training's size: their means, (N, latent)."""
    height, width = config["encoder"]["inputs"]["images"]["size"]
    if images.shape[2:] != (height, width):
        raise ValueError(
            f"an image has {images.shape[3]}x{images.shape[2]} pixels, and this export takes {width}x{height}; resize it"
        )
    return encoder(images.to(dtype_of(config)))[0]


@torch.no_grad()
def reconstruct(network: Network, encoder: Encoder, config: Config, images: Tensor) -> Tensor:
    """Return what the network makes of the latents of images: (N, C, H, W), about in [-1, 1]."""
    return network(encode(encoder, config, images))


@torch.no_grad()
def draw(
    network: Network,
    config: Config,
    seed: int = 0,
    count: int = 16,
    first: int = 0,
    label: int | None = None,
    truncation: float | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return samples number `first`, `first` + 1, ... of a seed: (count, C, H, W). `gan-dist generate` draws the same.

    Of a network with classes sample i is of class i % classes, or all are of class `label`. `truncation`, of a network that
    takes one: less than 1 moves images towards the mean; None is the export's own.
    """
    _check(config, count, label, truncation)
    made = []
    groups = range(first // GROUP, (first + count - 1) // GROUP + 1)
    for group in groups:
        numbers = torch.arange(group * GROUP, (group + 1) * GROUP)
        more: dict[str, Tensor] = {}
        if "labels" in config["inputs"]:
            classes = config["inputs"]["labels"]["classes"]
            more["labels"] = numbers % classes if label is None else torch.full_like(numbers, label)
        if "truncation" in config["inputs"]:
            given = config["inputs"]["truncation"]["default"] if truncation is None else truncation
            more["truncation"] = torch.tensor(float(given), dtype=dtype_of(config))
        given_on_device = {name: tensor.to(device) for name, tensor in more.items()}
        made.append(network(latents(config, seed, numbers).to(device), **given_on_device))
    start = first - groups.start * GROUP
    return torch.cat(made)[start : start + count]


@torch.no_grad()
def translate(network: Network, config: Config, images: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
    """Return what the network makes of images of any size: (N, C, H, W) in [-1, 1], or a channel for each class.

    `numbers`, of a network that takes some: one for each image, the key of its dropout.
    """
    given = config["inputs"]["images"]
    height, width = images.shape[2:]
    least = [max(side, given["least"]) for side in (height, width)]
    size = given["size"] or [side + -side % given["multiple"] for side in least]
    if size[0] < height or size[1] < width:
        raise ValueError(f"an image has {width}x{height} pixels, and this export takes {size[1]}x{size[0]}")
    for axis, side in ((2, size[0]), (3, size[1])):  # continued by its mirror image, and cut again
        while images.shape[axis] < side:
            missing = min(images.shape[axis], side - images.shape[axis])
            images = torch.cat([images, images.flip(axis).narrow(axis, 0, missing)], axis)
    more = {}
    if "numbers" in config["inputs"]:
        keys = list(numbers or range(len(images)))
        more["numbers"] = torch.tensor(keys, device=images.device)
    scale = config["scale"]
    return network(images.to(dtype_of(config)), **more)[:, :, : scale * height, : scale * width]


def latents(config: Config, seed: int, numbers: Tensor) -> Tensor:
    """Return a latent for each number of a seed: (N,) int64 -> (N, latent)."""
    given = config["inputs"]["latents"]
    count = given["shape"][1]
    if given["distribution"] == "uniform":
        return (2 * _uniform(seed, numbers, count) - 1).to(dtype_of(config))
    half = (count + 1) // 2
    first, second = _uniform(seed, numbers, 2 * half).chunk(2, dim=1)
    radius, angle = (-2.0 * first.log()).sqrt(), 2.0 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].float().to(dtype_of(config))


def _check(config: Config, count: int, label: int | None, truncation: float | None) -> None:
    """Raise ValueError for what the network cannot draw."""
    inputs = config["inputs"]
    if count < 1:
        raise ValueError(f"{count} samples cannot be drawn; ask for 1 or more")
    if label is not None and "labels" not in inputs:
        raise ValueError(f"class {label} has no effect: this network knows no classes")
    if label is not None and not 0 <= label < inputs["labels"]["classes"]:
        raise ValueError(f"there is no class {label}: they are 0..{inputs['labels']['classes'] - 1}")
    if truncation is not None and "truncation" not in inputs:
        raise ValueError("a truncation has no effect: this network takes none")


def dtype_of(config: Config) -> torch.dtype:
    """Return the type of the weights and of what goes in."""
    found: torch.dtype = getattr(torch, config["dtype"])
    return found


def _uniform(seed: int, numbers: Tensor, count: int) -> Tensor:
    """Return uniform numbers in (0, 1) as a function of seed, number and place: SplitMix64's finaliser, applied twice."""
    key = int.from_bytes(hashlib.blake2b(repr((int(seed), "sample")).encode(), digest_size=8).digest(), "little")
    rows = _mixed(numbers * _signed(_GOLDEN) + _signed(key))
    words = _mixed(rows[:, None] + torch.arange(1, count + 1) * _signed(_GOLDEN))
    return (((words >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52


def _mixed(values: Tensor) -> Tensor:
    mask = (1 << 64) - 1
    for shift, factor in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        values = (values ^ ((values >> shift) & (mask >> shift))) * _signed(factor)
    return values


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def to_pixels(images: Tensor) -> Any:
    """Return (N, C, H, W) in [-1, 1] as an array (N, H, W, C) of bytes."""
    pixels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).nan_to_num(0).byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def grid(images: Tensor, least: int = 0) -> Any:
    """Return (N, C, H, W) in [-1, 1] as one picture of PIL, about a square; images of less than `least` pixels are enlarged."""
    from PIL import Image

    scale = max(1, -(-least // images.shape[3]))
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    across = math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // across)
    padded = torch.cat([images, images.new_full((rows * across - len(images), *images.shape[1:]), 1.0)])
    joined = padded.view(rows, across, *padded.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    pixels = to_pixels(joined[None])[0]
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def from_picture(config: Config, picture: Any) -> Tensor:
    """Return a picture of PIL as the network takes it: (1, channels, H, W)."""
    import numpy
    from PIL import ImageOps

    given = config["inputs"]["images"]
    channels = given["shape"][1]
    palette = (given.get("label_map") or {}).get("palette")
    if given.get("label_map"):
        numbers = picture.mode in ("1", "L") or picture.mode.startswith("I") or (picture.mode == "P" and not palette)
        if not numbers and not palette:
            raise ValueError("a picture in colours is no label map here; give a grey one, or one with a palette")
        seen = torch.from_numpy(numpy.array(picture if numbers else picture.convert("RGB")).astype("int64"))
        if palette and not numbers:  # the class of the nearest colour
            colours = torch.tensor([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in palette])
            seen = (seen[:, :, None] - colours).square().sum(3).argmin(2)
        planes = seen[None] == torch.arange(channels)[:, None, None]  # other numbers are of no class
        return planes[None].float()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # grey of 16 bits, which PIL cuts to 8
        grey = numpy.asarray(picture).astype(numpy.float32)[..., None] / 65535
        opaque = numpy.ones_like(grey)
        pixels = numpy.concatenate([grey] * (channels - 1 + channels % 2) + [opaque] * (1 - channels % 2), 2)
    else:
        kind = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        pixels = numpy.asarray(picture.convert(kind), numpy.float32) / 255
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)[None] * 2 - 1


def to_encode(config: Config, picture: Any) -> Tensor:
    """Return a picture of PIL as the encoder takes it, cropped at the centre and resized: (1, channels, H, W)."""
    from PIL import ImageOps

    height, width = config["encoder"]["inputs"]["images"]["size"]
    return from_picture(config["encoder"], ImageOps.fit(ImageOps.exif_transpose(picture), (width, height)))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="drawn.png", help="the picture to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=16, help="how many samples")
    parser.add_argument("--class", dest="label", type=int, help="this class only")
    parser.add_argument("--truncation", type=float)
    parser.add_argument("--image", help="the picture to translate, or to reconstruct by an autoencoder")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent
    network, config = load(folder)
    encodes = "encoder" in config and bool(options.image)
    if not encodes and bool(options.image) != ("images" in config["inputs"]):
        parser.error("--image: this network draws from latents" if options.image else "--image FILE is needed")
    try:
        if encodes:
            from PIL import Image

            made = reconstruct(network, load_encoder(folder), config, to_encode(config, Image.open(options.image)))
        elif options.image:
            from PIL import Image

            made = translate(network, config, from_picture(config, Image.open(options.image)))
        else:
            made = draw(network, config, options.seed, options.n, label=options.label, truncation=options.truncation)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    out = Path(options.out)
    if made.ndim == 2:  # points
        out = out.with_suffix(".csv")
        out.write_text("\n".join(",".join(f"{number:.6g}" for number in point) for point in made.tolist()) + "\n")
    else:
        grid(made, 0 if options.image else LEAST).save(out)
    print(out)


if __name__ == "__main__":
    _main()
