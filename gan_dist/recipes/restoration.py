"""Write a config that restores images: stored pairs of degraded and clean ones, or clean ones that the loader degrades."""

import dataclasses
import shlex
from pathlib import Path

from gan_dist import units
from gan_dist.errors import InputError
from gan_dist.recipes.choose import fitting_size
from gan_dist.recipes.counterparts import USUAL, Pair
from gan_dist.recipes.look import Images
from gan_dist.recipes.text import Line, number, quoted

_PATCH = {True: 128, False: 48}
"""Pixels of a clean patch, with a GPU and without (docs/restoration.md)."""
_LEAST = 8  # pixels of a degraded patch
_LENGTH = {True: 16_000_000, False: 32_000}
_WINDOW = 11  # pixels that SSIM looks at


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is restored: stored pairs, or clean images that the loader degrades."""

    pair: Pair | None
    scale: int
    """How many times images are enlarged; 1: they keep their size."""
    crops: bool
    """Whether training sees parts of images; small ones it sees whole."""
    size: tuple[int, int]
    why_size: str
    channels: int
    count: int
    gpu: bool

    @property
    def what(self) -> str:
        """Say what is learnt, and from what."""
        does = f"enlarged by {self.scale}" if self.scale > 1 else "restored" if self.pair else "freed of noise"
        if self.pair is None:
            return f"restoration, as asked: images that are degraded while they are read are {does}"
        others = f"; {', '.join(self.pair.others)} would do too" if self.pair.others else ""
        folders = f"{self.pair.input} and {self.pair.target}"
        return f"the files of {folders} are pairs by their names: restoration, those of {self.pair.input} are {does}{others}"


def choose(source: str, images: Images, pair: Pair | None, gpu: bool, asked: tuple[int, int] | None) -> Choice:
    """Return what to restore. `images` are the clean ones. Raises InputError for images that are too small."""
    channels = 1 if images.channels == 1 else 3
    usual, smallest = images.shorter(0.05), images.shorter(0)
    if pair is None and usual < _PATCH[False]:
        size, why = (asked, "as asked") if asked else fitting_size([images], (16, 32))
        why += f"; too small to be enlarged by {USUAL}"
        return Choice(None, 1, False, size, why, channels, images.images, gpu)
    scale = pair.scale if pair else USUAL
    side = min(_PATCH[gpu], smallest) // scale * scale
    size, least = asked or (side, side), _LEAST * scale
    if min(size) < least or min(size) > smallest:
        raise InputError(
            f"{source}: the smallest clean image has {smallest} pixels on its shorter side, and training sees parts of "
            f"{units.pixels(size) if asked else least} pixels; remove smaller images"
            + (f", or give a --resolution of {least} or more" if asked else "")
        )
    if any(side % scale for side in size):
        near = units.pixels((size[0] // scale * scale, size[1] // scale * scale))
        raise InputError(
            f"--resolution {units.pixels(size)} is no multiple of {scale}, by which inputs are smaller; give {near}"
        )
    why = "as asked" if asked else "parts of so many pixels, cut out at random"
    if smallest < _PATCH[gpu] and not asked:
        why += f"; the smallest image has {smallest} on its shorter side"
    return Choice(pair, scale, True, size, why, channels, images.images, gpu)


def commands(choice: Choice, source: str, shards: str, name: str) -> tuple[list[str], list[str]]:
    """Return the commands before the training, and those after it."""
    run = shlex.quote(f"runs/{name}")
    if choice.pair is None:
        given, made = ("SMALL", "LARGE") if choice.scale > 1 else ("NOISY", "CLEAN")
        return [], [f"gan-dist apply {run} {given} --out {made}"]
    pair = choice.pair
    fields = ",".join(
        f"{field}={folder}" + (f":{template}" if template != "{}" else "")
        for field, folder, template in zip(("target", "input"), (pair.target, pair.input), pair.templates, strict=True)
    )
    pack = f"gan-dist pack {shlex.quote(source)} {shlex.quote(shards)} --fields {shlex.quote(fields)}"
    degraded = shlex.quote(str(Path(source) / pair.input))
    return [f"{pack} --channels {choice.channels}"], [
        f"gan-dist apply {run} {degraded} --out {shlex.quote(f'{name}-restored')}"
    ]


def lines(choice: Choice, shards: str, source: str) -> list[Line]:
    """Return the YAML of a restoration; `source` "": the shards are there, or `gan-dist pack` makes them."""
    length, border = _LENGTH[choice.gpu], choice.scale if choice.scale > 1 else 0
    batch = min(16 if choice.gpu else 8, 1 << (choice.count.bit_length() - 1))
    luma = f"channels: y, border: {border}" if choice.channels == 3 else f"border: {border}"
    ssim = f", ssim: {{{luma}}}" if min(choice.size) - 2 * border >= _WINDOW else ""
    deep = (64, 16) if choice.gpu else (24, 3)
    why = "" if choice.gpu else "small, as there is no GPU; 64 and 16 in papers"
    rate = "start: 2.0e-4, stop: 1.0e-7" if choice.gpu else "start: 1.0e-3, stop: 1.0e-5"
    periods = ", periods: 4" if choice.gpu else ""
    return [
        *_data(choice, shards, source),
        Line(
            "game: {kind: restoration}",
            "trained for PSNR. Sharper, and of less PSNR: a second phase, as configs/sr_x4_gan.yaml",
        ),
        Line("networks:"),
        Line(f"  generator: {{kind: msrresnet, base_channels: {deep[0]}, blocks: {deep[1]}}}", why),
        Line("optimizers:"),
        Line("  generator:"),
        Line(f"    learning_rate: {{kind: cosine, {rate}, end: {number(length)}{periods}}}"),
        Line("    beta1: 0.9"),
        Line("    beta2: 0.99"),
        Line(f"average: {{half_life: {number(11_085 if choice.gpu else 1_000)}}}"),
        Line("training:"),
        Line(
            f"  images: {number(length)}",
            "the papers' length" if choice.gpu else "for longer, raise learning_rate.end with it",
        ),
        Line(f"  batch: {batch}"),
        Line(
            f"  micro_batch: {min(4, batch) if choice.gpu else batch}",
            f"up to {batch // min(4, batch)} GPUs share a batch" if choice.gpu else "",
        ),
        Line(f"checkpoint: {{every: {number(length // 20)}}}"),
        Line(f"track: {{every: {number(length // 100)}}}"),
        Line(f"sample: {{every: {number(length // 20)}, count: {min(24, choice.count)}}}"),
        Line(
            f"evaluate: {{every: {number(length // 10)}, samples: {min(choice.count, 512)}, scores: {{psnr: {{{luma}}}{ssim}}}}}"
        ),
    ]


def _data(choice: Choice, shards: str, source: str) -> list[Line]:
    found = [Line("data:"), Line(f"  shards: {quoted(shards)}")]
    if source:
        found.append(Line(f"  source: {quoted(source)}", "packed into data.shards by the first start"))
    if pair := choice.pair:
        endings = ["jpg" if jpeg else "png" for jpeg in pair.jpeg]
        scale, times = (f", scale: {pair.scale}", f", {pair.scale} times smaller") if pair.scale > 1 else ("", "")
        found += [
            Line("  fields:"),
            Line(f"    target: {{member: target.{endings[0]}}}", f"of {pair.target}"),
            Line(f"    input: {{member: input.{endings[1]}{scale}}}", f"of {pair.input}{times}"),
        ]
    found.append(Line(f"  resolution: {units.pixels(choice.size)}", choice.why_size))
    if choice.crops:
        found.append(Line("  crop: random"))
    found += [Line(f"  channels: {choice.channels}"), Line("  flip: true")]
    if choice.pair is None:
        step = f"{{kind: downscale, factor: {choice.scale}}}" if choice.scale > 1 else "{kind: noise, sigma: [0, 50]}"
        found.append(
            Line(
                f"  degrade: [{step}]",
                "what is undone. Blur, noise, JPEG, grey, holes, photos of anywhere: docs/restoration.md",
            )
        )
    return found
