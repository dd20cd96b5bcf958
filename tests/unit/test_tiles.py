"""Tiles give the image that the whole gives where they overlap as far as the network sees, and say so where they cannot."""

import io
import types
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gan_dist import apply, tiles
from gan_dist.config.data_field import DataField
from gan_dist.errors import InputError
from gan_dist.networks import resnet
from gan_dist.networks.base import Shape
from gan_dist.networks.normalisation import Normalisation
from tests import making


class Stub:
    """What tiles and `apply` ask of a game."""

    def __init__(
        self, network: nn.Module, multiple: int = 1, least: int = 1, scale: int = 1, noise: bool = False
    ) -> None:
        self.network, self.multiple, self.least, self.scale, self.noise = (
            network.double(),
            multiple,
            least,
            scale,
            noise,
        )
        self.players = (types.SimpleNamespace(network=self.network),)

    def takes(self, way: str) -> str:
        return "input"

    @torch.no_grad()
    def infer(self, inputs: Mapping[str, Tensor], way: str = "") -> Tensor:
        made: Tensor = self.network(inputs["input"])
        return made + inputs.positions[0] if self.noise else made  # type: ignore[attr-defined]


def of_resnet(normalisation: Normalisation) -> Stub:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        family = resnet.Resnet(kind="resnet", base_channels=2, blocks=1, normalisation=normalisation)
        return Stub(family.generator(Shape((16, 16), 3, inputs=3)), 4, 8)


def of_scale(scale: int) -> Stub:
    layers = [nn.Conv2d(3, 3 * scale**2, 5, padding=2), nn.PixelShuffle(scale)]
    return Stub(nn.Sequential(*layers), scale=scale)


def made(game: Stub, pixels: np.ndarray, tile: tuple[int, int] | None = None) -> np.ndarray:
    found = None if tile is None else tiles.tiling(game, *tile)  # type: ignore[arg-type]
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(seen=lambda name: 3, fields={}), run=types.SimpleNamespace(seed=0)
    )
    return np.asarray(Image.open(io.BytesIO(apply.apply(game, config, making.encode(pixels), "x", "", found))))  # type: ignore[arg-type]


@pytest.mark.parametrize("game", [of_resnet("none"), of_scale(1), of_scale(4)])
def test_tiles_are_the_whole_image_where_they_overlap_as_far_as_the_network_sees(game: Stub) -> None:
    pixels = making.picture(0, (101, 70), channels=3)
    reach = tiles.reach(game, 3)  # type: ignore[arg-type]
    assert reach is not None
    assert reach > 1
    whole = made(game, pixels)
    assert whole.shape[:2] == (101 * game.scale, 70 * game.scale)
    assert np.array_equal(made(game, pixels, (60, reach)), whole)
    assert tiles.seams(game, 3, tiles.tiling(game, 60, reach)) == ""  # type: ignore[arg-type]
    float_pixels = pixels / 255
    less = tiles.Tiling(60, 0)
    outputs = [tiles.passed(float_pixels, answer(game), tile, game.scale) for tile in (less, tiles.Tiling(200, 0))]
    assert not np.array_equal(*outputs)
    assert f"with --overlap {reach} there is no seam" in tiles.seams(game, 3, less)  # type: ignore[arg-type]


def answer(game: Stub) -> "object":
    def network(pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = (
            game.infer({"input": torch.from_numpy(pixels).permute(2, 0, 1)[None]})[0].permute(1, 2, 0).numpy()
        )
        return found

    return network


def test_a_network_that_looks_at_the_whole_image_or_draws_noise_is_named() -> None:
    tile = tiles.Tiling(64, 60)
    for kind in ("plain", "instance", "batch"):
        assert tiles.reach(of_resnet(kind), 3) is None  # type: ignore[arg-type]
    assert "looks at an image as a whole" in tiles.seams(of_resnet("plain"), 3, tile)  # type: ignore[arg-type]
    noisy = Stub(nn.Conv2d(3, 3, 1), noise=True)
    assert "draws noise" in tiles.seams(noisy, 3, tile)  # type: ignore[arg-type]


class Masked(Stub):
    """Fills in what its last channel says is missing, as a restoration does."""

    @torch.no_grad()
    def infer(self, inputs: Mapping[str, Tensor], way: str = "") -> Tensor:
        images = inputs["input"]
        return super().infer({"input": images[:, :-1].where(images[:, -1:] > 0, 0.0)}, way)


def test_a_mask_does_not_hide_how_far_a_network_sees() -> None:
    assert tiles.reach(Masked(nn.Conv2d(3, 3, 9, padding=4)), 4) == 4  # type: ignore[arg-type]
    hides = Stub(nn.Conv2d(3, 3, 9, padding=4))
    hides.infer = lambda inputs, way="": hides.network(inputs["input"].nan_to_num(0))  # type: ignore[method-assign]
    assert tiles.reach(hides, 3) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(5, 8, 0), (8, 8, 2), (9, 8, 2), (64, 8, 3), (100, 24, 8), (33, 8, 0)]
)
def test_tiles_keep_each_pixel_once_away_from_their_edges(length: int, side: int, overlap: int) -> None:
    found = tiles.spans(length, tiles.Tiling(side, overlap))
    assert [number for span in found for number in range(span.first, span.last)] == list(range(length))
    for span in found:
        assert span.stop - span.start <= side
        assert span.first - span.start >= overlap or span.first == 0
        assert span.stop - span.last >= overlap or span.last == length


def test_tiles_of_which_nothing_is_kept_are_refused() -> None:
    with pytest.raises(InputError, match=r"--tile 64 --overlap 32: nothing of a tile is kept.*--tile 128"):
        tiles.tiling(of_scale(1), 64, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (7, 9)])
def test_the_smallest_images_are_continued_to_what_the_network_takes(size: tuple[int, int]) -> None:
    assert made(of_resnet("plain"), making.picture(0, size, channels=3)).shape[:2] == size


def test_transparency_is_enlarged_with_the_colours() -> None:
    pixels = np.dstack([making.picture(0, (6, 8), channels=3), np.full((6, 8), 77, np.uint8)])
    found = made(of_scale(2), pixels)
    assert found.shape == (12, 16, 4)
    assert (found[..., 3] == 77).all()


def test_other_channels_than_the_networks_are_named() -> None:
    field = DataField(member="")
    assert "is grey, and the run takes colours" in apply.read(making.encode(making.picture(0)), 3, field).converted
    coloured = making.encode(making.picture(0, channels=3))
    assert "has colours, and the run takes grey" in apply.read(coloured, 1, field).converted
    assert not apply.read(coloured, 3, field).converted
