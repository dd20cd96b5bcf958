"""Read networks of StyleGAN2-ADA's PyTorch code (Karras et al., 2020), whose StyleGAN2 StyleGAN3's code has too.

Both scale weights in use as ours do, so tensors are renamed and not changed. Left out is the limit of 256 on activations,
which that code also applies in fp32 to networks that were trained in fp16.
"""

from typing import Any

from torch import Tensor

from gan_dist.errors import InputError
from gan_dist.foreign.layout import Layout, Read, Tensors

_LEAST = 4


class Stylegan2Ada(Layout):
    """`mapping.fc0.weight`, `synthesis.b4.conv1.affine.weight` and so on."""

    def generator(self, tensors: Tensors) -> Read:
        sizes = _sizes(tensors, "synthesis.b{}.")
        if tensors.has(f"synthesis.b{sizes[-1]}.skip."):
            raise InputError("synthesis is of architecture resnet; only skip, the usual one, is known here")
        found: dict[str, Tensor] = {}
        channels = [tensors.shape(f"synthesis.b{size}.conv1.weight")[0] for size in sizes]
        image_channels = tensors.shape(f"synthesis.b{sizes[-1]}.torgb.weight")[0]
        style = tensors.shape("synthesis.b4.conv1.affine.weight")[1]
        layers, classes = _mapping(tensors, found, "mapping", "mapping")
        latent = found["mapping.layers.0.weight"].shape[1] - (style if classes else 0)
        found["w_avg.value"] = tensors.take("mapping.w_avg")
        found["constant"] = tensors.take("synthesis.b4.const")
        for number, size in enumerate(sizes):
            there, here = f"synthesis.b{size}", f"blocks.{number}"
            for at, name in enumerate(("conv0", "conv1") if number else ("conv1",)):
                _styled(tensors, found, f"{there}.{name}", f"{here}.convolutions.{at}")
            for name in ("weight", "bias", "affine.weight", "affine.bias"):
                found[f"{here}.to_image.{name}"] = tensors.take(f"{there}.torgb.{name}")
        keys = {"kind": "stylegan2", "mapping_layers": layers, "style": style, **_widths(sizes, channels)}
        return Read(keys, found, sizes[-1], image_channels, latent, classes)

    def discriminator(self, tensors: Tensors) -> Read:
        sizes = _sizes(tensors, "b{}.")
        found: dict[str, Tensor] = {}
        top = sizes[-1]
        channels = [
            tensors.shape("b4.conv.weight")[0],
            *(tensors.shape(f"b{size}.conv0.weight")[0] for size in sizes[1:]),
        ]
        image_channels = tensors.shape(f"b{top}.fromrgb.weight")[1]
        residual = f"b{top}.skip.weight" in tensors
        if tensors.has(f"b{sizes[0]}.fromrgb."):
            raise InputError("b4.fromrgb is of architecture skip; resnet, the usual one, and orig are known here")
        _pair(tensors, found, f"b{top}.fromrgb", "from_image")
        for number, size in enumerate(reversed(sizes[1:])):
            _pair(tensors, found, f"b{size}.conv0", f"blocks.{number}.first")
            _pair(tensors, found, f"b{size}.conv1", f"blocks.{number}.second")
            if residual:
                found[f"blocks.{number}.shortcut.weight"] = tensors.take(f"b{size}.skip.weight")
        for there, here in (("conv", "convolution"), ("fc", "dense"), ("out", "out")):
            _pair(tensors, found, f"b4.{there}", f"end.{here}")
        classes = 0
        keys: dict[str, Any] = {"kind": "stylegan2", "architecture": "residual" if residual else "plain"}
        if tensors.has("mapping."):
            layers, classes = _mapping(tensors, found, "mapping", "classes")
            keys["mapping_layers"] = layers
        return Read({**keys, **_widths(sizes, channels)}, found, top, image_channels, 0, classes)


def _sizes(tensors: Tensors, pattern: str) -> list[int]:
    sizes = []
    size = _LEAST
    while tensors.has(pattern.format(size)):
        sizes.append(size)
        size *= 2
    if len(sizes) < 2:
        tensors.shape(pattern.format(_LEAST) + ("conv1.weight" if "synthesis" in pattern else "conv.weight"))
        raise InputError(f"{pattern.format(2 * _LEAST)} is missing: images of 8 pixels are the least")
    return sizes


def _mapping(tensors: Tensors, found: dict[str, Tensor], there: str, here: str) -> tuple[int, int]:
    """Take the layers of a mapping network, and return their number and that of its classes."""
    layers = tensors.count(f"{there}.fc{{}}.")
    if not layers:
        tensors.take(f"{there}.fc0.weight")
    for number in range(layers):
        _pair(tensors, found, f"{there}.fc{number}", f"{here}.layers.{number}")
    if not tensors.has(f"{there}.embed."):
        return layers, 0
    _pair(tensors, found, f"{there}.embed", f"{here}.embedding")
    return layers, found[f"{here}.embedding.weight"].shape[1]


def _styled(tensors: Tensors, found: dict[str, Tensor], there: str, here: str) -> None:
    names = {"noise_strength": "strength", "noise_const": "fixed_noise"}
    for name in ("weight", "bias", "affine.weight", "affine.bias", *names):
        found[f"{here}.{names.get(name, name)}"] = tensors.take(f"{there}.{name}")


def _pair(tensors: Tensors, found: dict[str, Tensor], there: str, here: str) -> None:
    for name in ("weight", "bias"):
        found[f"{here}.{name}"] = tensors.take(f"{there}.{name}")


def _widths(sizes: list[int], channels: list[int]) -> dict[str, Any]:
    """Return the two keys that give these channels at these sizes. Raises InputError where there are none."""
    most = max(channels)
    bases = [size * width for size, width in zip(sizes, channels, strict=True) if width < most]
    base = max(bases, default=most * sizes[-1])
    if [min(base // size, most) for size in sizes] != channels:
        raise InputError(f"channels {channels} at {sizes} pixels are not min(channel_base / pixels, channel_max)")
    return {"channel_base": base, "channel_maximum": most}
