"""Read networks of R3GAN's code (Huang et al., 2024): convolutions without bias, whose biases are those of the activations."""

from torch import Tensor

from gan_dist.errors import InputError
from gan_dist.foreign.layout import Layout, Read, Tensors

_CLASS_FEATURES = 64  # of our generator


class R3gan(Layout):
    """`MainLayers.0.Layers.1.LinearLayer1.Layer.weight` and so on, behind `Model.` or not."""

    def generator(self, tensors: Tensors) -> Read:
        found: dict[str, Tensor] = {}
        stages = _stages(tensors)
        blocks = tensors.count("MainLayers.0.Layers.{}.LinearLayer1.", first=1)
        widths, first = [], "MainLayers.0.Layers.0"
        latent = tensors.shape(f"{first}.LinearLayer.weight")[1]
        found["stages.0.0.pictures"] = tensors.take(f"{first}.Basis")
        found["stages.0.0.factors.weight"] = tensors.take(f"{first}.LinearLayer.weight")
        shapes = set()
        for stage in range(stages):
            there, begin = f"MainLayers.{stage}.Layers", 1
            change = f"{there}.0.LinearLayer.Layer.weight"
            if change in tensors:
                found[f"stages.{stage}.0.weight"] = tensors.take(change)
                begin = 2
            for number in range(blocks):
                shapes.add(_block(tensors, found, f"{there}.{number + 1}", f"stages.{stage}.{begin + number}"))
            widths.append(found[f"stages.{stage}.{begin}.widen.weight"].shape[1])
        found["image.0.weight"] = tensors.take("AggregationLayer.Layer.weight")
        classes = 0
        if "EmbeddingLayer.weight" in tensors:
            embedding = tensors.take("EmbeddingLayer.weight")
            classes = embedding.shape[1]
            if embedding.shape[0] != _CLASS_FEATURES:
                raise InputError(
                    f"EmbeddingLayer.weight has {embedding.shape[0]} features of a class; {_CLASS_FEATURES} are known here"
                )
            found["classes.weight"] = embedding.t().contiguous()
            latent -= _CLASS_FEATURES
        keys = {"kind": "r3gan", "widths": widths, "blocks": blocks, **_one(shapes)}
        return Read(keys, found, 4 << (stages - 1), found["image.0.weight"].shape[0], latent, classes)

    def discriminator(self, tensors: Tensors) -> Read:
        found: dict[str, Tensor] = {"image.0.weight": tensors.take("ExtractionLayer.Layer.weight")}
        stages = _stages(tensors)
        blocks = tensors.count("MainLayers.0.Layers.{}.LinearLayer1.")
        widths, shapes = [], set()
        for stage in range(stages):
            there = f"MainLayers.{stage}.Layers"
            for number in range(blocks):
                shapes.add(_block(tensors, found, f"{there}.{number}", f"stages.{stage}.{number}"))
            widths.append(found[f"stages.{stage}.0.widen.weight"].shape[1])
            if (change := f"{there}.{blocks}.LinearLayer.Layer.weight") in tensors:
                found[f"stages.{stage}.{blocks + 1}.weight"] = tensors.take(change)
        last = f"MainLayers.{stages - 1}.Layers.{blocks}"
        found["features.pictures"] = tensors.take(f"{last}.Basis.weight")[:, 0]
        found["features.linear.weight"] = tensors.take(f"{last}.LinearLayer.weight")
        classes = 0
        if "EmbeddingLayer.weight" in tensors:
            found["classes.weight"] = tensors.take("EmbeddingLayer.weight").t().contiguous()
            classes = len(found["classes.weight"])
        keys = {"kind": "r3gan", "widths": widths[::-1], "blocks": blocks, **_one(shapes)}
        return Read(keys, found, 4 << (stages - 1), found["image.0.weight"].shape[1], 0, classes)


def _stages(tensors: Tensors) -> int:
    stages = tensors.count("MainLayers.{}.")
    if stages < 2:
        tensors.take("MainLayers.1.Layers.1.LinearLayer1.Layer.weight")
    return stages


def _block(tensors: Tensors, found: dict[str, Tensor], there: str, here: str) -> tuple[int, int]:
    """Take a residual block; returns how many times the channels are inside, and the channels of a group."""
    for number, name in enumerate(("widen", "mix", "narrow"), 1):
        found[f"{here}.{name}.weight"] = tensors.take(f"{there}.LinearLayer{number}.Layer.weight")
        if number < 3:
            found[f"{here}.{name}.bias"] = tensors.take(f"{there}.NonLinearity{number}.Bias")
    inner, width = found[f"{here}.widen.weight"].shape[:2]
    if found[f"{here}.mix.weight"].shape[2:] != (3, 3):
        raise InputError(f"{there}.LinearLayer2.Layer.weight is no 3x3 convolution, which is known here")
    return inner // width, found[f"{here}.mix.weight"].shape[1]


def _one(shapes: set[tuple[int, int]]) -> dict[str, int]:
    if len(shapes) != 1:
        raise InputError(f"blocks have several (expansion, group width): {sorted(shapes)}; one is known here")
    expansion, group = shapes.pop()
    return {"expansion": expansion, "group_width": group}
