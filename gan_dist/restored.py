"""Score a restoration run on whole clean images of any size, as papers do: degrade, restore, compare, beside the input."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_dist import apply, degrade, units
from gan_dist.config import Config
from gan_dist.config.data_field import DataField
from gan_dist.data.pack import pairs, sources
from gan_dist.data.pack.items import Item
from gan_dist.errors import InputError
from gan_dist.evaluation.paired import Psnr, Ssim
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch


class Restored(NamedTuple):
    """One image: what it was made from, what was made, and their scores."""

    name: str
    low: bytes
    """The degraded image as a PNG, and the restored one."""
    made: bytes
    scores: Mapping[str, float]
    """psnr, psnr/input, ssim, ssim/input."""


def listed(source: str, scratch: Path) -> list[Item]:
    """Return the images of a folder, zip or tar, unread. Raises InputError where two have one name."""
    items = sources.open_source(source, scratch / "clean", "none").items
    names = set[str]()
    for item in items:
        if item.name in names:
            raise InputError(f"{source} has two images {item.name}; rename one")
        names.add(item.name)
    return items


def restored(
    game: Game,
    config: Config,
    source: str,
    items: Sequence[Item],
    scratch: Path,
    inputs: str = "",
    channels: str = "",
    border: int | None = None,
) -> Iterator[Restored]:
    """Yield each of the `listed` images, degraded as the run's data.degrade does it, restored and scored.

    One image is in memory at a time. `inputs` is a folder of stored counterparts instead, with a template as in `gan-dist
    pack`: LR:{}x4. Draws are by the image's number. `channels` is y or rgb, by default y of colour images; `border` pixels do
    not count, by default the scale. Raises InputError.
    """
    steps = degrade.pipeline(config)
    if game.judged != "target" or config.game.kind != "restoration":
        raise InputError(
            f"{config.game.kind} is no restoration: score it by `gan-dist evaluate RUN --scores psnr,ssim`"
        )
    if steps is None and not inputs:
        raise InputError("the run has stored inputs and no data.degrade: name theirs by --inputs FOLDER")
    folder, _, template = inputs.partition(":")
    lows: Mapping[str, Item] = {}
    if inputs:
        lows = pairs.by_key(sources.open_source(folder, scratch / "low", "none").items, template or "{}", folder)
        if alone := next((item.name for item in items if _key(item) not in lows), ""):
            raise InputError(f"{source}: {alone} has no counterpart in {folder}; add it, or correct the template")
    border = game.scale if border is None else border
    chosen: Any = channels or ("y" if config.data.seen("target") == 3 else "rgb")
    measures: dict[str, Psnr | Ssim] = {
        "psnr": Psnr(kind="psnr", channels=chosen, border=border),
        "ssim": Ssim(kind="ssim", channels=chosen, border=border),
    }

    def pair(number: int, item: Item) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean image and the degraded one."""
        clean = _pixels(item, config.data.seen("target"), source)
        if inputs:
            low = _pixels(lows[_key(item)], config.data.seen("input"), folder)
            if clean.shape[:2] != (low.shape[0] * game.scale, low.shape[1] * game.scale):
                raise InputError(
                    f"{item.name} has {units.pixels(clean.shape[:2])} pixels and its input {units.pixels(low.shape[:2])}; the run "
                    f"makes images {game.scale} times as large"
                )
            return clean, low
        height, width = (side // game.scale * game.scale for side in clean.shape[:2])
        if min(height, width) // game.scale < 4:
            raise InputError(f"{source}: {item.name} has {units.pixels(clean.shape[:2])} pixels, too few to degrade")
        assert steps is not None
        return clean[:height, :width], steps(clean[:height, :width], number, "shown")

    for number, item in enumerate(items):  # what is held of an image goes with the call that needs it
        clean, low = pair(number, item)
        if min(clean.shape[:2]) - 2 * border < 11:
            raise InputError(
                f"{source}: {item.name} has {units.pixels(clean.shape[:2])} pixels, and SSIM needs 11 within the border of "
                f"{border}; remove it, or give a smaller --border"
            )
        yield _scored(game, config, item.name, clean, low, measures)
        del clean, low


def _scored(
    game: Game, config: Config, name: str, clean: np.ndarray, low: np.ndarray, measures: Mapping[str, Psnr | Ssim]
) -> Restored:
    """Return what is made of a degraded image, and its scores against the clean one."""
    content = _png(low)
    made = apply.apply(game, config, content, name)
    base = game.baseline(Batch({"input": _tensor(low)}, torch.zeros(1, dtype=torch.int64)))
    assert base is not None
    output = apply.read(made, clean.shape[2], DataField(member="")).pixels * 255
    real, before = 127.5 * (_tensor(clean).double() + 1), ((base.double() + 1) * 127.5).round()
    after = torch.from_numpy(output).double().round().permute(2, 0, 1)[None]
    scores: dict[str, float] = {}
    for kind, measure in measures.items():
        scores |= {kind: float(measure.each(after, real)), f"{kind}/input": float(measure.each(before, real))}
    return Restored(name, content, made, scores)


def _key(item: Item) -> str:
    """Return by what an image and its counterpart are called the same."""
    return str(Path(item.name).with_suffix(""))


def _pixels(item: Item, channels: int, source: str) -> np.ndarray:
    """Return an image (H, W, channels) uint8."""
    try:
        content = sources.read(item.place)
        if isinstance(content, np.ndarray):
            content = _png(content if content.ndim == 3 else content[..., None])
        return degrade.rounded(apply.read(content, channels, DataField(member="")).pixels * 255)
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{source}: {item.name} {error}; remove it, or convert it") from None


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1


def _png(image: np.ndarray) -> bytes:
    """Return (H, W, C) uint8 as a PNG: grey, grey with transparency, RGB or RGBA."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(stream, "PNG")
    return stream.getvalue()
