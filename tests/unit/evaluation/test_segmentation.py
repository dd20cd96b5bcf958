"""A segmenter reads the classes of outputs; it is trained once, and its own accuracy is told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gan_dist.errors import InputError
from gan_dist.evaluation import Examples, Ranks, ScoreError, evaluate
from gan_dist.evaluation.segmentation import Segmentation, mean_iou
from gan_dist.interfaces import Batch

CLASSES = 3
COLOURS = torch.tensor([[-0.8, -0.8, 0.5], [0.6, -0.5, -0.5], [0.2, 0.9, 0.1]])
GAME = SimpleNamespace(
    fields={"input": SimpleNamespace(kind="labels"), "target": SimpleNamespace(kind="image")},
    judged="target",
    has_targets=True,
    shows_data=True,
)


def numbers_of(count: int) -> Tensor:
    """Label maps (N, 10, 14) of squares, whose first row is of no class."""
    drawn = torch.randint(0, CLASSES, (count, 5, 7), generator=torch.Generator().manual_seed(0))
    maps = drawn.repeat_interleave(2, 1).repeat_interleave(2, 2)
    maps[:, 0] = CLASSES
    return maps


def photos(maps: Tensor) -> Tensor:
    return COLOURS[maps % CLASSES].permute(0, 3, 1, 2)


def samples(count: int = 20) -> Batch:
    maps = numbers_of(count)
    one_hot = functional.one_hot(maps, CLASSES + 1)[..., :CLASSES].permute(0, 3, 1, 2).float()
    return Batch({"input": one_hot, "target": photos(maps)}, torch.arange(count))


def part(batch: Batch, numbers: range) -> Batch:
    chosen = slice(numbers.start, numbers.stop)
    return Batch({name: each[chosen] for name, each in batch.fields.items()}, batch.positions[chosen])


def learnt(folder: Path) -> Segmentation:
    whole = samples()
    examples = Examples(lambda numbers: part(whole, numbers), 20, "digest", folder, Ranks(), lambda: None)
    metric = Segmentation(kind="segmentation", steps=60, base_channels=4).for_game(GAME).learn(examples)
    assert isinstance(metric, Segmentation)
    return metric


def test_outputs_are_read_against_their_maps_and_targets_beside_them(tmp_path: Path) -> None:
    metric, whole = learnt(tmp_path), samples()
    wrong = whole["target"].clone()
    wrong[:10] = photos((numbers_of(20) + 1) % CLASSES)[:10]  # half of the images say other classes

    def scores(fake: Tensor) -> dict[str, float]:
        found = evaluate(
            {"seen": metric},
            lambda n: fake[n.start : n.stop],
            None,
            20,
            shown=lambda n: part(whole, n),
        ).scores
        return {name.removeprefix("score/seen/"): value for name, value in found.items()}

    right = scores(whole["target"])
    assert right["accuracy"] == right["real_accuracy"] > 0.95
    assert right["miou"] == right["real_miou"] > 0.9
    assert right["segmenter_accuracy"] > 0.9
    half = scores(wrong)
    assert half["real_accuracy"] == right["real_accuracy"]
    assert 0.4 < half["accuracy"] < 0.6
    assert half["miou"] < 0.5


def test_it_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = learnt(tmp_path)

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Segmentation, "_train", never)
    again = learnt(tmp_path)
    assert again._accuracy == first._accuracy
    for name, weight in first._network.state_dict().items():
        assert torch.equal(weight, again._network.state_dict()[name])


def test_mean_iou_is_over_all_pixels_and_classes_that_are_there() -> None:
    # of 4 pixels of class 0 one was read as 1; both of class 1 were read right; no class 2
    assert mean_iou(torch.tensor([[3.0, 1, 0], [0, 2, 0], [0, 0, 0]])) == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_games_without_label_maps_are_refused() -> None:
    game = SimpleNamespace(**{**vars(GAME), "fields": {"input": SimpleNamespace(kind="image")}})
    with pytest.raises(InputError, match="this game has none"):
        Segmentation(kind="segmentation").for_game(game)
    config = SimpleNamespace(data=SimpleNamespace(fields={}))
    with pytest.raises(ValueError, match=r"data\.fields has none"):
        Segmentation(kind="segmentation").check(config)  # type: ignore[arg-type]


def test_two_samples_are_needed(tmp_path: Path) -> None:
    whole = samples(1)
    examples = Examples(lambda numbers: part(whole, numbers), 1, "", tmp_path, Ranks(), lambda: None)
    with pytest.raises(ScoreError, match="needs two samples or more"):
        Segmentation(kind="segmentation").for_game(GAME).learn(examples)
