"""Write a choice as a commented YAML file: each key that was decided has its reason beside or above it."""

import dataclasses
import math
import sys
import textwrap
from collections.abc import Sequence

import yaml

from gan_dist import units
from gan_dist.augment.ada import COLOUR
from gan_dist.recipes.choose import MANY, SOME, Choice

_WIDTH = 118
_R3GAN = {32: 0.05, 64: 2.0, 128: 15.0, 256: 150.0}
"""Weights of R1 and R2 at the start, a tenth of it at the end, by pixels (docs/recipes.md)."""
_SHAPES = (
    "R3GAN's, as DCGAN's make squares of 8, 16, 32 ... pixels only. They are about 5 times as slow: --resolution 32 trains on the "
    "middle squares"
)
_LENGTH = {"r3gan": 100_000_000, "small_data": 25_000_000, "few_shot": 300_000, "small_network": 200_000}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of YAML with its reason."""

    text: str
    why: str = ""

    def lines(self) -> list[str]:
        """Return it with the reason at its end, or above where it does not fit."""
        if not self.why:
            return [self.text]
        why = printable(self.why)
        if len(self.text) + 4 + len(why) <= _WIDTH:
            return [f"{self.text}  # {why}"]
        indent = " " * (len(self.text) - len(self.text.lstrip()))
        return [*(f"{indent}# {part}" for part in textwrap.wrap(why, _WIDTH - len(indent) - 2)), self.text]


def of_generation(choice: Choice, shards: str, source: str, header: Sequence[str]) -> str:
    """Return the YAML of a generation game; `source` "": the shards are there."""
    body = {
        "r3gan": _r3gan,
        "small_data": _stylegan2,
        "few_shot": _stylegan2,
        "small_network": _small_network,
    }[choice.kind](choice)
    every = _LENGTH[choice.kind]
    ends = [
        Line(f"checkpoint: {{every: {number(max(1, every // 20))}}}"),
        Line(f"track: {{every: {number(max(1, every // 100))}}}"),
        Line(f"sample: {{every: {number(max(1, every // 20))}, count: {_samples(choice)}}}"),
    ]
    return join(header, [*data(choice, shards, source), *body, *ends])


def _samples(choice: Choice) -> int:
    """Return how many images a grid has: eight of each column, and classes in columns of their own."""
    classes = len(choice.images.classes) if choice.labels else 0
    return 8 * classes * max(1, round(8 / classes)) if 0 < classes <= 20 else 64


def join(header: Sequence[str], lines: Sequence[Line]) -> str:
    """Return a YAML file."""
    top = [part for each in header for part in comment(each)]
    return "\n".join([*top, *(text for line in lines for text in line.lines())]) + "\n"


def comment(text: str) -> list[str]:
    """Return a paragraph as comments; a command, which is indented, stays on its line."""
    text = printable(text)
    if text.startswith("  "):
        return [f"# {text}"]
    return [f"# {part}" for part in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)]


def printable(text: str) -> str:
    """Return a text without what would end a comment or cannot be written: names of files may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def quoted(text: str) -> str:
    """Return a text as a YAML scalar, within braces too."""
    listed: str = yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    return listed.strip()[1:-1]


def number(value: float) -> str:
    """Return a number as YAML 1.1 reads it: 200_000, 0.0512, 2.0e-4."""
    if float(value).is_integer():
        return f"{int(value):_}"
    return f"{value:.4g}" if value >= 1e-3 else f"{value:.1e}"


def data(choice: Choice, shards: str, source: str) -> list[Line]:
    """Return the section data of a set of single images."""
    size = units.pixels(choice.size)
    lines = [Line("data:"), Line(f"  shards: {quoted(shards)}")]
    if source:
        lines.append(Line(f"  source: {quoted(source)}", "packed into data.shards by the first start"))
    lines += [
        Line(f"  resolution: {size}", choice.why_size),
        Line(f"  channels: {choice.channels}", choice.why_channels),
    ]
    if choice.why_labels:
        lines.append(Line(f"  labels: {str(choice.labels).lower()}", choice.why_labels))
    lines.append(Line(f"  flip: {str(choice.flip).lower()}", choice.why_flip))
    return lines


def _penalties(start: float, end: int, why: str) -> list[Line]:
    weight = f"{{kind: cosine, start: {number(start)}, stop: {number(start / 10)}, end: {number(end)}}}"
    return [
        Line("penalties:"),
        Line(f"  r1: {{weight: {weight}, full_precision: false}}", why),
        Line(f"  r2: {{weight: {weight}, full_precision: false}}"),
    ]


def _gamma(size: tuple[int, int]) -> tuple[float, str]:
    side = math.sqrt(size[0] * size[1])
    nearest = min(_R3GAN, key=lambda known: abs(math.log(known / side)))
    whose = {32: "CIFAR-10's", 64: "FFHQ's", 128: "our guess between 64 and 256", 256: "FFHQ's"}[nearest]
    why = f"for {nearest} pixels, {whose}. Diverges, or the discriminator wins: 2 or 4 times as much; blur: a half or a quarter"
    return _R3GAN[nearest], why


def _r3gan(choice: Choice) -> list[Line]:
    gamma, why = _gamma(choice.size)
    fade = 40_000_000
    colours = [] if choice.channels == 4 else COLOUR
    return [
        Line("networks:"),
        Line("  generator: {kind: r3gan, widths: 768}"),
        Line("  discriminator: {kind: r3gan, widths: 768}"),
        Line("game:"),
        Line("  latent: 64"),
        Line(
            "  batches: separate", "each player has images of its own, as in the paper: two steps where it counts one"
        ),
        Line("loss: relativistic"),
        *_penalties(gamma, fade, why),
        Line("augment:"),
        Line("  ada:"),
        Line("    target: 0", "on a schedule, as in the paper"),
        Line(f"    probability: {{kind: cosine, start: 0, stop: 0.3, end: {number(fade)}}}"),
        Line("    cutout: 1"),
        *(Line(f"    {name}: 0.5") for name in colours),
        *_no_colour(choice, "    "),
        *_adam(
            "{kind: cosine, start: 2.0e-4, stop: 5.0e-5, end: 40_000_000}",
            "{kind: cosine, start: 0.9, stop: 0.99, end: 40_000_000}",
        ),
        Line(
            "average: {half_life: {kind: cosine, start: 0, stop: 1_000_000, end: 40_000_000}, ramp: 0}",
        ),
        *_training(choice, "bf16"),
    ]


def _no_colour(choice: Choice, indent: str) -> list[Line]:
    """Return ADA's keys that leave the colours of images with transparency as they are."""
    if choice.channels != 4:
        return []
    first, *others = COLOUR
    return [
        Line(f"{indent}{first}: 0", "ADA changes colours of 1 or 3 channels"),
        *(Line(f"{indent}{name}: 0") for name in others),
    ]


def _stylegan2(choice: Choice) -> list[Line]:
    few = choice.kind == "few_shot"
    height, width = choice.size
    base = ", channel_base: 32768" if few else ""
    if few:
        weight = float(f"{10 * height * width / 256**2:.3g}")
        why = "10 at 256 pixels, as in the paper of DiffAugment, less with fewer pixels"
        augment = [
            Line("augment:"),
            Line("  diffaugment: {}", f"fewer than {SOME:,} images are soon known by heart without it"),
        ]
        average, rate = "average: {half_life: 10_000, ramp: 0}", "0.002"
    else:
        weight = float(f"{0.0002 * height * width / choice.batch:.3g}")
        why = "0.0002 x pixels / batch, StyleGAN2-ADA's auto. Collapse: 2 or 4 times as much; blur: a half or a quarter"
        off = _no_colour(choice, "    ")
        augment = [
            Line("augment:"),
            Line("  ada:"),
            Line("    target: 0.6", "stronger while the discriminator is too sure of the real images"),
            *off,
        ]
        average, rate = "average: {half_life: 20_000}", "0.0025"
    return [
        Line("networks:"),
        Line(f"  generator: {{kind: stylegan2, mapping_layers: 2{base}}}"),
        Line(f"  discriminator: {{kind: stylegan2{base}}}"),
        Line("game:"),
        Line("  latent: 512"),
        Line("  fakes: fresh"),
        Line("penalties:"),
        Line(f"  r1: {{weight: {number(weight)}, every: 16, full_precision: false}}", why),
        Line("  path_length: {weight: 2, every: 4, full_precision: false}"),
        *augment,
        *_adam(rate, "0.99"),
        Line(average),
        *_training(choice, "bf16"),
    ]


def _small_network(choice: Choice) -> list[Line]:
    few = choice.images.images < SOME
    end = number(_LENGTH["small_network"])
    if choice.square:
        networks = [
            Line("networks:"),
            Line("  generator: {kind: dcgan, base_channels: 32}", "64: about 4 times the work"),
            Line("  discriminator: {kind: dcgan, base_channels: 32, normalisation: none}"),
        ]
    else:
        networks = [
            Line("networks:", _SHAPES),
            Line("  generator: {kind: r3gan, widths: 32, blocks: 1}", "64: about 4 times the work"),
            Line("  discriminator: {kind: r3gan, widths: 32, blocks: 1}"),
        ]
    seldom = "" if choice.square else ", every: 4"  # half the time of these networks
    augment = []
    if choice.images.images < MANY:
        colour = "color: false, " if choice.channels == 4 else ""
        why = "the discriminator would soon know so few images by heart"
        augment = [
            Line("augment:"),
            Line(
                f"  diffaugment: {{{colour}cutout: false}}" if not few else f"  diffaugment: {{{colour.rstrip(', ')}}}",
                why,
            ),
        ]
    return [
        *networks,
        Line("game:"),
        Line("  latent: 64"),
        Line("loss: relativistic"),
        Line("penalties:"),
        Line(f"  r1: {{weight: 2{seldom}}}", "blur: 1; a loss that grows or flickers: 4"),
        Line(f"  r2: {{weight: 2{seldom}}}"),
        *augment,
        *_adam(f"{{kind: cosine, start: 5.0e-4, stop: 5.0e-5, end: {end}}}", "0.99"),
        Line("average: {half_life: 10_000}"),
        *_training(choice, ""),
    ]


def _adam(rate: str, beta2: str) -> list[Line]:
    return [
        Line("optimizers:"),
        Line("  generator: &adam"),
        Line("    kind: adam"),
        Line(f"    learning_rate: {rate}"),
        Line("    beta1: 0"),
        Line(f"    beta2: {beta2}"),
        Line("  discriminator: *adam"),
    ]


def _training(choice: Choice, precision: str) -> list[Line]:
    usual = {"r3gan": 256, "small_data": 64, "few_shot": 8, "small_network": 64}[choice.kind]
    less = f"not more than there are images; {usual} otherwise" if choice.batch < usual else ""
    lines = [
        Line("training:"),
        Line(f"  images: {number(_LENGTH[choice.kind])}", "when to stop: it may be raised later, and the run goes on"),
        Line(f"  batch: {choice.batch}", less),
        Line(f"  micro_batch: {choice.micro_batch}"),
    ]
    if precision:
        lines.append(Line(f"  precision: {precision}", "in 16 bits where the original is; not measured on a GPU yet"))
    else:
        lines.append(Line("  threads: 1", "networks as small as these gain little by more"))
    return lines
