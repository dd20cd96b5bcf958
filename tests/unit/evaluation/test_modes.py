"""Modes are counted as the papers count them, alike on any number of ranks, and by a whole classifier only."""

import gzip
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_dist import cli
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS, check, digits, evaluate, modes
from tests.unit.data.pack.test_sources import idx
from tests.unit.evaluation.ranking import on_ranks


def digit(number: int) -> np.ndarray:
    """(28, 28) uint8: a bar at a place that is the digit's own."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4 + 2 * number : 6 + 2 * number, 4:24] = 255
    return pixels


class Places(torch.nn.Module):
    """A classifier that sees where the bar is."""

    def forward(self, images: Tensor) -> Tensor:
        bars = torch.from_numpy(np.stack([digit(number) for number in range(10)])).float() / 255
        return images.flatten(1) @ bars.flatten(1).T


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.pt"
    torch.manual_seed(0)
    digits.save(digits.Classifier(digits.network(), 0.9925, 10_000), path)
    return path


def test_the_scores_of_made_up_counts() -> None:
    even = modes.of_counts(torch.full((1000,), 26.0, dtype=torch.float64))
    assert even == {"covered": 1000, "covered_by_5": 1000, "kl": pytest.approx(0, abs=1e-12),
                    "kl_above_floor": pytest.approx(-999 / 52_000)}  # fmt: skip
    one = torch.zeros(1000, dtype=torch.float64)
    one[371] = 26_000
    assert modes.of_counts(one)["kl"] == pytest.approx(6.907755, abs=1e-6)
    assert modes.of_counts(one)["covered"] == 1
    few = torch.zeros(10, dtype=torch.float64)
    few[:3] = torch.tensor([4.0, 5.0, 7.0])
    assert modes.of_counts(few) == {
        "covered": 3,
        "covered_by_5": 2,
        "kl": pytest.approx(sum(n / 16 * math.log(10 * n / 16) for n in (4, 5, 7))),
        "kl_above_floor": pytest.approx(sum(n / 16 * math.log(10 * n / 16) for n in (4, 5, 7)) - 9 / 32),
    }


@pytest.mark.parametrize(("channels", "size"), [(3, 28), (3, 32), (1, 32)])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_digits_of_the_channels_are_the_mode_on_any_number_of_ranks(
    channels: int, size: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "_load", lambda path, device: digits.Classifier(Places(), 0.99, 100))
    count = 300
    drawn = np.random.default_rng(0).integers(0, 10, (count, channels))
    border = (size - 28) // 2

    def fake(numbers: range) -> Tensor:
        stacked = np.stack([[digit(n) for n in drawn[number]] for number in numbers])
        padded = np.pad(stacked, ((0, 0), (0, 0), (border, border), (border, border)))
        return torch.from_numpy(padded).float() / 127.5 - 1

    metric = METRICS["modes"].model_validate({"classifier": "x"})
    found = on_ranks(ranks, lambda own: evaluate({"modes": metric}, fake, None, count, ranks=own).scores)[0]
    counts = np.bincount(drawn @ 10 ** np.arange(channels - 1, -1, -1), minlength=10**channels)
    expected = modes.of_counts(torch.from_numpy(counts).double())
    assert found == {f"score/modes/{name}": value for name, value in expected.items()} | {
        "score/modes/samples": count,
        "score/modes/classifier_accuracy": 0.99,
    }


def test_a_mode_has_the_first_digit_in_the_hundreds_as_the_label_of_stacked_mnist_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modes, "_load", lambda path, device: digits.Classifier(Places(), 0.99, 100))
    metric = METRICS["modes"].model_validate({"classifier": "x"})
    images = torch.from_numpy(np.stack([digit(4), digit(0), digit(7)]))[None].float() / 127.5 - 1
    state = metric.begin()
    metric.add(state, images, None)
    assert state["counts"].dtype == torch.float64
    assert state["counts"].nonzero().tolist() == [[407]]
    metric.add(state, torch.full_like(images, torch.nan), None)
    scores = metric.value(state)
    assert isinstance(scores, dict)
    assert math.isnan(scores["kl"])
    assert math.isnan(scores["covered"])
    assert set(modes.Modes.better) <= set(scores)


@pytest.mark.parametrize(
    ("size", "channels", "fits"), [((64, 64), 3, False), ((28, 28), 4, False), ((32, 32), 1, True)]
)
def test_images_that_hold_no_digits_are_refused_by_the_config(size: tuple[int, int], channels: int, fits: bool) -> None:
    data = SimpleNamespace(size=size, channels=channels, resolution=size[0], drawn=False)
    metric = METRICS["modes"].model_validate({"classifier": "x"})
    with nullcontext() if fits else pytest.raises(ValueError, match="change them"):
        metric.check(SimpleNamespace(data=data))  # type: ignore[arg-type]


def test_the_network_is_that_of_pacgan() -> None:
    assert sum(weight.numel() for weight in digits.network().parameters()) == 1_199_882


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "another"])
def test_a_classifier_that_will_not_do_is_one_line_before_the_training(classifier: Path, damage: str) -> None:
    metric = METRICS["modes"].model_validate({"classifier": str(classifier)})
    check({"modes": metric}, {}, 1)
    data = bytearray(classifier.read_bytes())
    if damage == "gone":
        classifier.unlink()
    elif damage == "cut":
        classifier.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        classifier.write_bytes(data)
    else:
        torch.save({"weights": {}}, classifier)
    with pytest.raises(InputError) as refused:
        check({"modes": metric}, {}, 1)
    assert str(classifier) in str(refused.value)
    assert "gan-dist digit-classifier" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_training_learns_bars_and_writes_the_same_weights_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in (("train", 640), ("t10k", 40)):
        numbers = np.arange(count) % 10
        pixels = np.stack([digit(number) for number in numbers])
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(numbers.astype(np.uint8)))
    for name in ("a.pt", "b.pt"):
        assert cli.main(["digit-classifier", str(tmp_path), str(tmp_path / name), "--epochs", "1"]) == 0
    (mine := tmp_path / "mine.txt").write_text("not to be lost")
    assert cli.main(["digit-classifier", str(tmp_path), str(mine), "--epochs", "1"]) == 2
    assert mine.read_text() == "not to be lost"
    assert "100.00% of 40 test digits right" in capsys.readouterr().out
    one, other = (digits.load(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert (one.test_accuracy, one.test_digits) == (1.0, 40)
    weights = other.network.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in one.network.state_dict().items())
    images = torch.from_numpy(np.stack([digit(3), digit(8)]))[None].float() / 127.5 - 1
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), value=-1)
    for named in (images, padded, torch.nn.functional.avg_pool2d(padded, 2)):
        assert one.digits(named).tolist() == [[3, 8]]
