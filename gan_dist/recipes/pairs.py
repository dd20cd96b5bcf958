"""Find two sets of images in a folder, paired by their names or not, and write configs of the games that turn one into the other."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from gan_dist import units
from gan_dist.data import tar
from gan_dist.data.index import IMAGE_ENDINGS
from gan_dist.errors import InputError
from gan_dist.recipes.text import Line, join, number, quoted

_NAMES = (
    ("traina", "trainb"),
    ("train_a", "train_b"),
    ("a", "b"),
    ("input", "target"),
    ("inputs", "targets"),
    ("lr", "hr"),
)
"""Folders, in small letters, that hold what goes in and what should come out."""
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two folders below a source."""

    folders: tuple[str, str]
    game: Literal["paired", "unpaired"]
    jpeg: tuple[bool, bool]
    """Whether all files of a folder are JPEGs by name: pack then keeps them so."""


def find(source: str, game: str) -> Pair | None:
    """Return the two folders below a source, for a `game` that was asked for or for any ("").

    Raises InputError where the game needs them and they are not there, or have other names.
    """
    if game == "generation" or not os.path.isdir(source):
        if game in ("paired", "unpaired"):
            raise InputError(f"{source} is no folder; --game {game} wants one with two folders in it, as {_examples()}")
        return None
    below = {entry.name.lower(): entry.name for entry in os.scandir(source) if entry.is_dir()}
    folders = next(((below[a], below[b]) for a, b in _NAMES if a in below and b in below), None)
    if folders is None:
        if game:
            raise InputError(f"{source}: --game {game} wants two folders in it, as {_examples()}; rename yours")
        return None
    names = [names_in(Path(source) / folder) for folder in folders]
    if not all(names):
        if game:
            empty = next(folder for folder, each in zip(folders, names, strict=True) if not each)
            raise InputError(f"{source}: --game {game} wants images in both folders, and {empty} has none; add them")
        return None
    keys = [{str(PurePosixPath(name).with_suffix("")) for name in each} for each in names]
    same = keys[0] == keys[1]
    if game == "paired" and not same:
        odd = sorted(keys[0] ^ keys[1])[0]
        raise InputError(
            f"{source}: {odd} is in one of {folders[0]} and {folders[1]} only; pairs are files of the same name but for the "
            "ending: add it, or take --game unpaired"
        )
    return Pair(
        folders, "paired" if same and game != "unpaired" else "unpaired", (all_jpeg(names[0]), all_jpeg(names[1]))
    )


def _examples() -> str:
    return ", ".join("/".join(pair) for pair in (("A", "B"), ("trainA", "trainB"), ("input", "target")))


def names_in(folder: Path) -> list[str]:
    """Return the images in a folder and below it, by their paths from there."""
    return [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if not tar.is_hidden(name) and name.rsplit(".", 1)[-1].lower() in IMAGE_ENDINGS
    ]


def all_jpeg(names: Sequence[str]) -> bool:
    """Say whether all names are those of JPEGs."""
    return all(name.lower().endswith(_JPEG) for name in names)


def commands(pair: Pair, source: str, shards: str, size: tuple[int, int], channels: int) -> list[str]:
    """Return the commands that pack the two folders."""
    how = f"--resolution {units.pixels(size)} --channels {channels}"
    if pair.game == "paired":
        fields = f"input={pair.folders[0]},target={pair.folders[1]}"
        return [f"gan-dist pack {shlex.quote(source)} {shlex.quote(shards)} --fields {shlex.quote(fields)} {how}"]
    packs = [
        f"gan-dist pack {shlex.quote(str(Path(source) / folder))} {shlex.quote(f'{shards}/{name}')} {how}"
        for name, folder in zip("AB", pair.folders, strict=True)
    ]
    return [" && ".join(packs)]


def text_of(
    pair: Pair,
    shards: str,
    size: tuple[int, int],
    why_size: str,
    channels: int,
    count: int,
    gpu: bool,
    header: Sequence[str],
) -> str:
    """Return the YAML of a game that turns images into images; `count` samples are there."""
    body = _paired if pair.game == "paired" else _unpaired
    return join(header, body(pair, shards, size, why_size, channels, count, gpu))


def _paired(
    pair: Pair, shards: str, size: tuple[int, int], why_size: str, channels: int, count: int, gpu: bool
) -> list[Line]:
    length = max(200 * count, 1_000) if gpu else max(20 * count, 5_000)
    batch = min(4 if gpu else 16, 1 << (count.bit_length() - 1))
    rate = "2.0e-4" if gpu else "1.0e-3"
    narrow = "" if gpu else ", base_channels: 16"
    layers = 3 if min(size) >= 64 else 2
    endings = ["jpg" if jpeg else "png" for jpeg in pair.jpeg]
    return [
        Line("data:"),
        Line(f"  shards: {quoted(shards)}"),
        Line("  fields:"),
        Line(f"    input: {{member: input.{endings[0]}}}", f"of {pair.folders[0]}"),
        Line(f"    target: {{member: target.{endings[1]}}}", f"of {pair.folders[1]}, files of the same names"),
        Line(f"  resolution: {units.pixels(size)}", why_size),
        Line(f"  channels: {channels}"),
        Line("  flip: true", "both images of a pair alike; set false for text, and where left and right differ"),
        Line("game: {kind: paired, l1: 100}"),
        Line("networks:"),
        Line(
            f"  generator: {{kind: unet{narrow}}}",
            "" if gpu else "small, as there is no GPU; 32: about 4 times the work",
        ),
        Line(f"  discriminator: {{kind: patchgan{narrow}, layers: {layers}}}"),
        *_fading(rate, length),
        Line("training:"),
        Line(f"  images: {number(length)}", f"{length / count:.0f} times all pairs"),
        Line(f"  batch: {batch}"),
        Line(f"  micro_batch: {1 if gpu else batch}"),
        *_every(length),
        Line(f"evaluate: {{every: {number(max(1, length // 5))}, samples: {min(count, 512)}, scores: [psnr, ssim]}}"),
    ]


def _unpaired(
    pair: Pair, shards: str, size: tuple[int, int], why_size: str, channels: int, count: int, gpu: bool
) -> list[Line]:
    length = max((200 if gpu else 20) * count, 1_000)
    rate = "2.0e-4"
    narrow = "" if gpu else ", base_channels: 16"
    layers = 3 if min(size) >= 64 else 2
    blocks = 9 if min(size) >= 256 else 6
    larger = tuple(round(1.12 * side) for side in size)
    return [
        Line("data:"),
        Line(f"  shards: {{A: {quoted(f'{shards}/A')}, B: {quoted(f'{shards}/B')}}}", f"{' and '.join(pair.folders)}"),
        Line(f"  resolution: {units.pixels(size)}", why_size),
        Line(f"  load_size: {units.pixels((larger[0], larger[1]))}", "of which training sees a random part"),
        Line("  crop: random"),
        Line(f"  channels: {channels}"),
        Line("  flip: true", "set false for text, and where left and right differ"),
        Line("game: {kind: unpaired, cycle: 10, identity: 5, pool: 50}", "identity: 0 lets colours change more"),
        Line("networks:"),
        Line(f"  generator: {{kind: resnet{narrow}, blocks: {blocks}}}", "" if gpu else "small, as there is no GPU"),
        Line(f"  discriminator: {{kind: patchgan{narrow}, layers: {layers}, normalisation: plain}}"),
        Line("loss: least_squares"),
        *_fading(rate, length),
        Line("training:"),
        Line(f"  images: {number(length)}", f"{length / count:.0f} times all images of the larger set; the paper: 200"),
        Line("  batch: 1"),
        Line("  micro_batch: 1"),
        *_every(length),
    ]


def _fading(rate: str, length: int) -> list[Line]:
    fade = f"{{kind: linear, start: {rate}, stop: 0, begin: {number(length // 2)}, end: {number(length)}}}"
    return [
        Line("optimizers:"),
        Line("  generator: &adam"),
        Line(f"    learning_rate: {fade}"),
        Line("  discriminator: *adam"),
    ]


def _every(length: int) -> list[Line]:
    return [
        Line(f"checkpoint: {{every: {number(max(1, length // 10))}}}"),
        Line(f"track: {{every: {number(max(1, length // 100))}}}"),
        Line(f"sample: {{every: {number(max(1, length // 10))}, count: 12}}"),
    ]
