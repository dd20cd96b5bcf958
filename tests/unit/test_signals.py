"""The signals of collapse: 1 for real images, low for one shape with ever new speckle, and free of traces."""

import math

import pytest
import torch
from torch import Tensor

from gan_dist import config as config_module, games, losses, signals, trial
from gan_dist.engine import Engine
from tests import making


def smooth(count: int, seed: int, channels: int = 1, size: int = 16) -> Tensor:
    """Blobs of 4x4 random numbers: (count, channels, size, size)."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="nearest")


def test_other_real_images_are_as_diverse_as_the_real_ones() -> None:
    found = signals.Variety(smooth(256, 0)).of(smooth(64, 1))
    assert found["diversity"] == pytest.approx(1, abs=0.1)
    assert found["duplicates"] < 0.01


def test_one_shape_with_new_speckle_is_a_collapse_though_its_pixels_differ() -> None:
    speckle = smooth(1, 2) + 0.8 * torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    of_pixels = torch.pdist(speckle.flatten(1)).mean() / torch.pdist(smooth(256, 0).flatten(1)).mean()
    found = signals.Variety(smooth(256, 0)).of(speckle)
    assert of_pixels > 0.9
    assert found["diversity"] < 0.45
    assert found["duplicates"] > 0.02


def test_one_picture_a_class_is_told_from_variety_within_the_classes() -> None:
    reals, classes = smooth(256, 0), torch.arange(256) % 4
    variety = signals.Variety(reals, classes)
    assert variety.of(smooth(64, 1), classes[:64])["diversity_in_class"] == pytest.approx(1, abs=0.2)
    alike = variety.of(smooth(4, 2).repeat(16, 1, 1, 1), classes[:64])
    assert alike["diversity_in_class"] == pytest.approx(0, abs=1e-4)
    assert alike["diversity"] > 0.45  # no alarm
    assert "diversity_in_class" not in variety.of(smooth(64, 1), torch.arange(64))  # no two of a class
    assert "diversity_in_class" not in signals.Variety(reals).of(smooth(64, 1), classes[:64])


def test_data_without_variety_is_refused() -> None:
    with pytest.raises(ValueError, match="no two different images"):
        signals.Variety(torch.zeros(9, 1, 16, 16))


def test_cells_are_filled_by_real_images_and_half_empty_without_half_of_the_modes() -> None:
    modes = smooth(16, 5)

    def drawn(of: int, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(of, (count,), generator=generator)
        return modes[chosen] + 0.05 * torch.randn(count, 1, 16, 16, generator=generator)

    cells = signals.Cells.of_reals(drawn(16, 1024, 0), seed=0)
    assert cells is not None
    whole, half = cells.of(drawn(16, 512, 1)), cells.of(drawn(8, 512, 2))
    assert whole["cells"] <= 0.05
    assert whole["cells_kl"] < 0.3
    assert half["cells"] == pytest.approx(0.5, abs=0.15)
    assert half["cells_kl"] > whole["cells_kl"] + 0.4


def test_few_images_make_no_cells() -> None:
    assert signals.Cells.of_reals(smooth(31, 0), seed=0) is None


@pytest.mark.parametrize(("true", "low", "high"), [(True, 5.0, math.inf), (False, 0.6, 1.5)])
def test_labels_at_random_say_nothing_about_images(true: bool, low: float, high: float) -> None:
    labels = torch.arange(400) % 4
    images = smooth(400, 7) + (smooth(4, 8)[labels] if true else 0)
    found = signals.information(images, labels)
    assert found is not None
    assert low < found < high
    assert signals.information(images[:60], labels[:60]) is None


def test_gap_and_ratio_follow_from_the_means_of_an_interval() -> None:
    means = {"score/real": 1.5, "score/fake": -1.0, "grad_norm/D": 20.0, "grad_norm/G": 2.0}
    of_logits = {"score/gap": 2.5, "score/level": 1.5}
    assert signals.of_figures(means, ("D", "G")) == {**of_logits, "grad_norm/ratio": pytest.approx(1.0)}
    assert signals.of_figures({**means, "grad_norm/G": 0.0}, ("D", "G")) == of_logits
    assert signals.of_figures({"loss/G": 1.0}, None) == {}


def test_accuracy_counts_by_what_a_loss_compares() -> None:
    fake, real = torch.tensor([-1.0, 0.2, 0.7, 3.0]), torch.tensor([1.0, 0.3, -2.0, 4.0])

    def found(kind: str, fake: Tensor = fake, real: Tensor = real) -> dict[str, float]:
        means = {
            f"score/{n}": float(each.mean()) for n, each in losses.signs(losses.LOSSES[kind](), fake, real).items()
        }
        return {**means, **signals.of_figures(means, None)}

    assert found("nonsaturating") == {"score/sign_real": 0.5, "score/sign_fake": 0.5, "score/accuracy": 0.5}
    assert found("least_squares") == {"score/sign_real": 0.0, "score/sign_fake": 0.0, "score/accuracy": 0.5}
    assert found("relativistic") == {"score/sign_pair": 0.5, "score/accuracy": 0.75}
    assert found("hinge", torch.zeros(4), torch.zeros(4))["score/accuracy"] == 0.5
    assert found("hinge", -torch.ones(4), torch.ones(4))["score/accuracy"] == 1


@pytest.mark.parametrize("labels", [False, True])
def test_the_live_generator_is_asked_as_in_training_and_keeps_no_trace(labels: bool) -> None:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", data__labels=labels)
    if labels:
        wanted["data.classes"] = 3
    config = config_module.load(["tests/data/digits.yaml", *making.flags(wanted)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    before = {name: tensor.clone() for name, tensor in game.players[0].network.state_dict().items()}
    drawn = game.live(7, 10)
    assert drawn is not None
    assert len(drawn) == 8  # whole micro-batches of 4
    network = game.players[0].network
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    # the first micro-batch, normalised by itself
    assert isinstance(game, games.generation.GenerationGame)
    latents, classes = game._asked(7, torch.arange(4), torch.float32)
    assert torch.equal(network(latents, classes), drawn[:4])
