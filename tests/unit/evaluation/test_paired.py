"""Scores of images with a target equal their formulas."""

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_dist.config import load
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS, evaluate, paired
from tests import making


def score(kind: str, fake: Tensor, real: Tensor, **keys: Any) -> float:
    metric = METRICS[kind](kind=kind, **keys)
    found = evaluate(
        {"it": metric}, lambda n: fake[n.start : n.stop], lambda n: real[n.start : n.stop], len(fake), len(real)
    )
    return found.scores["score/it"]


def noise(seed: int, *shape: int) -> Tensor:
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return levels.float() / 127.5 - 1


def test_psnr_is_of_8_bits_of_luma_where_asked_and_without_the_border() -> None:
    real = noise(0, 3, 3, 16, 16) * 0.8
    real = ((real + 1) * 127.5).round() / 127.5 - 1
    off = real + 10 / 127.5  # ten levels
    assert score("psnr", off, real) == pytest.approx(10 * math.log10(255**2 / 100), rel=1e-6)
    luma = 10 * (65.481 + 128.553 + 24.966) / 255
    assert score("psnr", off, real, channels="y") == pytest.approx(10 * math.log10(255**2 / luma**2), rel=1e-6)
    edge = real.clone()
    edge[..., 0, :] = -1
    assert score("psnr", edge, off, border=1) == pytest.approx(10 * math.log10(255**2 / 100), rel=1e-6)
    assert score("psnr", edge, off) < 20


def test_ssim_is_the_formula_with_a_gaussian_window_of_valid_positions() -> None:
    fake, real = noise(1, 2, 1, 11, 11), noise(2, 2, 1, 11, 11)
    assert score("ssim", real, real) == pytest.approx(1)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for a, b in zip(
        ((fake + 1) * 127.5).double().numpy()[:, 0], ((real + 1) * 127.5).double().numpy()[:, 0], strict=True
    ):
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb, ab = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2, (window * a * b).sum() - ma * mb
        c1, c2 = 2.55**2, 7.65**2
        values.append((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert score("ssim", fake, real) == pytest.approx(np.mean(values), rel=1e-4)


def test_a_game_without_targets_is_refused() -> None:
    game = SimpleNamespace(shows_data=False)
    for kind in ("psnr", "ssim", "lpips"):
        with pytest.raises(InputError, match=f"{kind} compares each image with its target"):
            METRICS[kind](kind=kind).for_game(game)


@pytest.mark.parametrize(
    ("scores", "keys", "said"),
    [
        ("{psnr: {border: 8}}", {}, "psnr needs sides of 1 pixels within its border of 8"),
        ("{ssim: {border: 3}}", {}, "ssim needs sides of 11 pixels within its border of 3"),
        ("ssim", {"data.resolution": 8}, "ssim needs sides of 11 pixels, and data.resolution = 8"),
        ("lpips", {}, "lpips needs sides of 31 pixels"),
        ("lpips", {"data.resolution": 32, "data.channels": 4}, "no images with transparency"),
        ("{psnr: {channels: y}}", {}, "the images have 1 channel"),
        ("{psnr: {channels: y, border: 2}, ssim: {border: 2}}", {"data.channels": 3}, ""),
    ],
)
def test_what_could_never_be_compared_is_refused_by_the_config(scores: str, keys: dict[str, object], said: str) -> None:
    words = ["configs/digits_denoise.yaml", *making.flags({"evaluate.scores": scores, **keys})]
    with pytest.raises(InputError, match=said) if said else nullcontext():
        load(words)


def test_images_are_looked_at_in_full_precision_whatever_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def distance(fake: Tensor, real: Tensor) -> Tensor:
        seen.append(torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype)
        return fake.flatten(1).mean(1)

    monkeypatch.setattr(paired, "_distance", lambda *files: distance)
    with torch.autocast("cpu", torch.bfloat16):
        METRICS["lpips"](kind="lpips").each(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert seen == [torch.float32]
