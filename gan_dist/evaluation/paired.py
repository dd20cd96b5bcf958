"""Scores of images that have a target: PSNR, SSIM and LPIPS, of each image against its own."""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import frozen
from gan_dist.errors import InputError
from gan_dist.evaluation.base import Metric, State
from gan_dist.evaluation.ranks import full_precision
from gan_dist.interfaces import Batch

if TYPE_CHECKING:
    from gan_dist.config import Config

_BT601 = (65.481, 128.553, 24.966)
"""Of R, G, B in [0, 1], for a luma of 16..235."""
_WINDOW, _SIGMA = 11, 1.5  # of SSIM
_K1, _K2 = 0.01, 0.03


class Paired(Metric):
    """A mean over images of what `each` says of an image and its target, both rounded to 8 bits."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"
    _game: Any = PrivateAttr(None)
    """A game whose generated images are others than those that it answers real ones by."""
    _inputs_of: Any = PrivateAttr(None)
    """A game whose inputs are perhaps scored too (`baseline`)."""

    least: ClassVar[int] = 1
    """Pixels that the sides of what is compared must have."""

    def check(self, config: "Config") -> None:
        if config.data.drawn:  # `for_game` refuses it
            return
        border = getattr(self, "border", 0)
        if min(config.data.size) - 2 * border < self.least:
            within, advice = (
                (f" within its border of {border}", "make the border smaller") if border else ("", "enlarge it")
            )
            raise ValueError(
                f"the score {self.kind} needs sides of {self.least} pixels{within}, and data.resolution = "
                f"{config.data.resolution}; {advice}, or remove the score"
            )

    def each(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return a number for each of the images (N, C, H, W) of 0..255, float64: (N,)."""
        raise NotImplementedError

    def parts(self) -> Collection[str]:
        return ("", "input")

    def for_game(self, game: Any) -> Metric:
        if not game.shows_data:
            raise InputError(
                f"evaluate.scores: {self.kind} compares each image with its target, and this game draws from latents; "
                "choose fid, kid or prdc"
            )
        if not game.has_targets:
            raise InputError(
                f"evaluate.scores: {self.kind} compares each image with its target, and this game has no targets; choose fid, "
                "kid or prdc"
            )
        found = self.model_copy()
        if game.reconstructs:
            found._game = game
        else:
            found._inputs_of = game
        return found

    def add(self, state: State, fake: Tensor, real: Tensor | None) -> None:
        if real is None:
            return
        if self._game is not None:
            fake = self._game.infer(Batch({self._game.judged: real}, torch.arange(len(real))))
        self._sum(state, "", fake, real)

    def add_shown(self, state: State, fake: Tensor, shown: Batch) -> None:
        game = self._inputs_of
        if game is None or "count" not in state or (inputs := game.baseline(shown)) is None:
            return
        count = int(state["count"] - state.get("input count", 0))  # of those that `add` has seen in this pass
        self._sum(state, "input ", inputs, shown[game.judged][:count])

    def _sum(self, state: State, name: str, fake: Tensor, real: Tensor) -> None:
        pair = [eight_bits(images) for images in (fake[: len(real)], real)]
        values = self.each(*pair).double()
        for key, value in (("sum", values.sum()), ("count", values.new_tensor(len(values)))):
            state[name + key] = state[name + key] + value if name + key in state else value

    def value(self, state: State) -> dict[str, float] | float:
        """Return the score; of a game that restores images also that of their inputs, `input`."""
        found = float(state["sum"] / state["count"])
        if "input sum" not in state:
            return found
        return {"": found, "input": float(state["input sum"] / state["input count"])}


def eight_bits(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as whole numbers of 0..255, float64."""
    return ((images.double() + 1) * 127.5).round().clamp(0, 255)


class _Grey(Paired):
    channels: Literal["rgb", "y"] = "rgb"
    """rgb: all channels. y: the luma of BT.601 alone, as papers of super-resolution do."""
    border: Annotated[int, Field(ge=0)] = 0
    """Pixels at each edge that do not count: papers of super-resolution leave out as many as the scale."""

    def check(self, config: "Config") -> None:
        super().check(config)
        if self.channels == "y" and not config.data.drawn and config.data.seen("target") != 3:
            raise ValueError(
                f"the score {self.kind} has channels: y, the luma of RGB, and the images have {config.data.seen('target')} "
                "channel(s); set channels: rgb, which is all there are"
            )

    def _seen(self, images: Tensor) -> Tensor:
        if self.channels == "y" and images.shape[1] == 3:
            weights = images.new_tensor(_BT601).view(3, 1, 1) / 255
            images = 16 + (images * weights).sum(1, keepdim=True)
        edge = self.border
        return images[..., edge : images.shape[-2] - edge, edge : images.shape[-1] - edge]


class Psnr(_Grey):
    """Peak signal-to-noise ratio in dB, the mean over images. It prefers blur: show LPIPS beside it.

    It is infinite where a single image equals its target; JSON has null for that.
    """

    def each(self, fake: Tensor, real: Tensor) -> Tensor:
        error = (self._seen(fake) - self._seen(real)).square().flatten(1).mean(1)
        return 10 * (255**2 / error).log10()


class Ssim(_Grey):
    """Structural similarity (Wang et al., 2004): an 11x11 Gaussian window of 1.5 pixels, valid positions only, as in MATLAB."""

    least: ClassVar[int] = _WINDOW

    def each(self, fake: Tensor, real: Tensor) -> Tensor:
        a, b = self._seen(fake), self._seen(real)
        channels = a.shape[1]
        place = torch.arange(_WINDOW, dtype=torch.float64, device=a.device) - _WINDOW // 2
        line = torch.exp(-place.square() / (2 * _SIGMA**2))
        window = torch.outer(line, line) / line.sum() ** 2
        window = window.expand(channels, 1, _WINDOW, _WINDOW)

        def mean(values: Tensor) -> Tensor:
            return F.conv2d(values, window, groups=channels)

        mean_a, mean_b = mean(a), mean(b)
        of_a, of_b = mean(a * a) - mean_a.square(), mean(b * b) - mean_b.square()
        both = mean(a * b) - mean_a * mean_b
        c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
        likeness = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        likeness = likeness * (2 * both + c2) / (of_a + of_b + c2)
        return likeness.flatten(1).mean(1)


class Lpips(Paired):
    """LPIPS 0.1 by AlexNet (Zhang et al., 2018), 0 at best: how unlike two images look."""

    weights: str = ""
    """File of torchvision's AlexNet. Default: alexnet-owt-7be5be79.pth in $GAN_DIST_WEIGHTS or torch's hub cache."""
    heads: str = ""
    """File of the learnt weights of its channels, weights/v0.1/alex.pth of the package lpips. Default: lpips-alex-0.1.pth in
    the same folders."""

    better: ClassVar[Literal["lower", "higher"]] = "lower"
    least: ClassVar[int] = 31  # of fewer, nothing is left for AlexNet's second pooling

    def check(self, config: "Config") -> None:
        super().check(config)
        if not config.data.drawn and config.data.seen("target") == 4:
            raise ValueError(f"the score {self.kind} knows no images with transparency (4 channels); remove it")

    def prepare(self) -> None:
        """Raise InputError where a file is missing or another network's."""
        _distance(self.weights, self.heads, "cpu")

    def each(self, fake: Tensor, real: Tensor) -> Tensor:
        network = _distance(self.weights, self.heads, str(fake.device))
        with full_precision():
            found: Tensor = network(fake.float() / 127.5 - 1, real.float() / 127.5 - 1)
        return found


class LpipsNetwork(nn.Module):
    """AlexNet's five convolutions and a weight for each of their channels, under the names of the files."""

    _ENDS = (1, 4, 7, 9, 11)  # layers of AlexNet's features: the ReLUs
    _WIDTHS = (64, 192, 384, 256, 256)

    def __init__(self, trunk: Path, heads: Path) -> None:
        """Read both files. Raises InputError for those of other networks."""
        super().__init__()
        self.trunk = frozen.Frozen(_trunk, lambda: trunk, _KEYS[0], _of_features)
        self.heads = frozen.Frozen(self._heads, lambda: heads, _KEYS[1], dict)
        for each in (self.trunk, self.heads):
            each.read()
        self.shift = nn.Buffer(torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.scale = nn.Buffer(torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the distance of each pair of images (N, C, H, W) in [-1, 1]: (N,)."""
        a, b = ((images.expand(-1, 3, -1, -1) - self.shift) / self.scale for images in (fake, real))
        total = fake.new_zeros(len(fake))
        ends = iter(enumerate(self._ENDS))
        number, end = next(ends)
        for place, layer in enumerate(self.trunk.network.children()):
            a, b = layer(a), layer(b)
            if place == end:
                apart = (F.normalize(a, eps=1e-10) - F.normalize(b, eps=1e-10)).square()
                head = self.heads.network.get_submodule(f"lin{number}.model")
                total = total + head(apart).mean((1, 2, 3))
                if (following := next(ends, None)) is None:
                    break
                number, end = following
        return total

    def _heads(self) -> nn.Module:
        made = nn.Module()
        for number, width in enumerate(self._WIDTHS):  # a dropout has the place before
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            made.add_module(f"lin{number}", nn.ModuleDict({"model": head}))
        return made


_KEYS = "evaluate.scores.lpips.weights", "evaluate.scores.lpips.heads"
_FETCH = " (a machine with a network fetches it by `python -c \"import torchvision; torchvision.models.alexnet(weights='IMAGENET1K_V1')\"`)"


def _trunk() -> nn.Module:
    from torchvision.models import alexnet

    made: nn.Module = alexnet(weights=None).features
    return made


def _of_features(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("features."): each for name, each in state.items()}


@functools.lru_cache(maxsize=2)
def _distance(weights: str, heads: str, device: str) -> LpipsNetwork:
    trunk = frozen.locate(weights, "alexnet-owt-7be5be79.pth", _KEYS[0], _FETCH)
    network = LpipsNetwork(trunk, frozen.locate(heads, "lpips-alex-0.1.pth", _KEYS[1]))
    return network.requires_grad_(False).eval().to(device)
