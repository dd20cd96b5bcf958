"""ADA against figures of the original, its second derivatives, and the controller of its strength."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gan_dist import config as config_module, games, trial
from gan_dist.augment import ada, resampling
from gan_dist.augment.ada import COLOUR, GEOMETRY, Ada, AdaptiveAugment, Controller, Draws, Pipe
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from gan_dist.metrics import Metrics
from gan_dist.step import play_step
from tests import making

BLIT = GEOMETRY[:3]
WARP = GEOMETRY[3:]

FIGURES = {
    # the original's pipe in fp32, each draw at its quantile 0.7: mean, std, [0, 0, 0, 0] and [0, 1, 16, 16]
    (): (-0.000909, 0.176151, 0.183024, 0.117246),
    ("xflip",): (-0.000976, 0.175034, 0.138482, 0.161751),
    ("rotate90",): (-0.001065, 0.174122, 0.128318, 0.158780),
    ("xint",): (-0.005913, 0.162773, -0.044689, 0.206527),
    ("scale",): (-0.002193, 0.147756, -0.221475, 0.123394),
    ("rotate",): (-0.009720, 0.154078, -0.017654, 0.120905),
    ("aniso",): (-0.000199, 0.153098, -0.238638, 0.110586),
    ("xfrac",): (-0.004251, 0.158094, -0.167652, 0.223871),
    WARP: (-0.008810, 0.154877, -0.133745, 0.075053),
    BLIT: (-0.000010, 0.167572, -0.028697, -0.034578),
    ("brightness",): (0.073252, 0.176151, 0.257185, 0.191407),
    ("contrast",): (-0.001034, 0.200308, 0.208123, 0.133324),
    ("lumaflip",): (0.000909, 0.176151, 0.589832, 0.096087),
    ("hue",): (-0.000909, 0.176151, -0.179036, 0.057922),
    ("saturation",): (-0.000909, 0.202613, 0.296277, 0.148507),
    COLOUR: (-0.083298, 0.230398, 0.182797, -0.026749),
    ("filter",): (-0.000862, 0.166913, 0.173425, 0.111097),
    ("cutout",): (-0.000023, 0.161906, 0.183024, 0.000000),
    (*GEOMETRY, *COLOUR): (-0.082148, 0.201653, -0.176885, -0.032783),
}


class Quantile(Draws):
    """Every draw is at its quantile 0.7, and everything happens, but for a second turn."""

    def __init__(self, count: int) -> None:
        self.numbers = torch.full((count,), 0.7, dtype=torch.float64)

    def happens(self, name: str, probability: Tensor | float) -> Tensor:
        return torch.zeros_like(self.numbers) < probability

    def uniform(self, name: str) -> Tensor:
        return self.numbers if name != "rotate after" else torch.full_like(self.numbers, 0.5)

    def normal(self, name: str) -> Tensor:
        return torch.erfinv(2 * self.numbers - 1)


def pattern() -> Tensor:
    """(2, 3, 32, 32) float64, smooth."""
    numbers = (7919 * torch.arange(2 * 3 * 32 * 32) + 104729) % 10007 / 10007 - 0.5
    images = 2 * numbers.double().view(2, 3, 32, 32)
    return 4 * functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def noise(count: int = 4, channels: int = 3, size: tuple[int, int] = (12, 16)) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(**keys: object) -> AdaptiveAugment:
    augment = Ada(**{"target": 0, "probability": 0.8, **keys}).build(5)
    assert isinstance(augment, AdaptiveAugment)
    return augment.double()


def batch_of(positions: list[int]) -> Batch:
    return Batch({}, torch.tensor(positions))


ALL = dict.fromkeys(("filter", "noise", "cutout"), 1.0)


@pytest.mark.parametrize("operations", FIGURES, ids=lambda names: " ".join(names) or "none")
def test_an_operation_gives_the_originals_figures(operations: tuple[str, ...]) -> None:
    made = Pipe(dict.fromkeys(operations, 1.0))(pattern(), Quantile(2), 1.0)
    found = made.mean(), made.std(), made[0, 0, 0, 0], made[0, 1, 16, 16]
    assert [float(each) for each in found] == pytest.approx(FIGURES[operations], abs=2e-6)


@pytest.mark.parametrize("sample", [resampling.bilinear, resampling.bilinear_by_gathers])
def test_the_whole_pipe_is_twice_differentiable(monkeypatch: pytest.MonkeyPatch, sample: Callable[..., Tensor]) -> None:
    """By torch's grid_sample, and by what stands in for it where that has no second derivative."""
    if sample is resampling.bilinear and not resampling.takes_grid_sample(torch.zeros(())):
        pytest.skip("this torch has no second derivative of grid_sample")
    monkeypatch.setattr(resampling, "takes_grid_sample", lambda images: sample is resampling.bilinear)
    augment, images = build(**ALL), noise(2, size=(5, 6))

    def squared(x: Tensor) -> Tensor:
        return augment(x, batch_of([3, 8]), "real").square()

    assert torch.autograd.gradcheck(squared, images.requires_grad_(), fast_mode=True)
    assert torch.autograd.gradgradcheck(squared, images, fast_mode=True)


def test_gathers_give_what_grid_sample_gives() -> None:
    images, places = noise(2), torch.rand(2, 2, 7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    places[:, :, 0, 0], places[:, :, 0, 1] = 0, 1  # the corners
    columns, rows = 15 * places[0], 11 * places[1]
    expected = resampling.bilinear(images, columns, rows)
    assert torch.allclose(resampling.bilinear_by_gathers(images, columns, rows), expected, atol=1e-12)


def test_an_older_torch_or_a_wish_for_determinism_takes_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    version = torch.torch_version.TorchVersion
    image = types.SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)  # a run in this process may have
    for number, takes in (("2.11.0", False), ("2.15.0+cu132", True), ("3.0", True)):
        monkeypatch.setattr(torch, "__version__", version(number))
        assert resampling.takes_grid_sample(image) == takes
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not resampling.takes_grid_sample(image)


def test_images_go_on_reflected_whatever_the_map() -> None:
    """An image gives what it gives as the middle of its own continuation, far outside and smaller than the filters too."""
    images = noise(size=(10, 14))
    larger = functional.pad(images, (13, 13, 9, 9), mode="reflect")
    linear = noise(4, 1, (2, 2))[:, 0]
    offset = 20 * noise(4, 1, (1, 2))[:, 0, 0]
    wavelet = Pipe({}).wavelet
    inner = (..., slice(9, 19), slice(13, 27))
    assert torch.allclose(
        resampling.affine(images, linear, offset, wavelet), resampling.affine(larger, linear, offset, wavelet)[inner]
    )
    filters = noise(4, 1, (1, 43))[:, 0, 0]
    assert torch.allclose(
        resampling.weigh_bands(images, filters), resampling.weigh_bands(larger, filters)[inner], atol=1e-10
    )


def test_an_image_gets_the_same_in_any_grouping_of_the_batch() -> None:
    augment, images, positions = build(**ALL), noise(6), [40, 41, 42, 43, 44, 10**12]
    together = augment(images, batch_of(positions), "fake")
    for group in ([5], [3, 1], [0, 2, 4]):
        alone = augment(images[group], batch_of([positions[place] for place in group]), "fake")
        assert torch.allclose(alone, together[group], atol=1e-12)
    assert not torch.allclose(augment(images, batch_of(positions), "real"), together)


def test_a_shift_of_an_image_that_is_no_square_is_exact() -> None:
    images = noise(2, size=(12, 40))
    expected = functional.pad(images, (2, 0, 1, 0), mode="reflect")[..., :12, :40]  # 0.4 / 8 of either side
    assert torch.allclose(Pipe({"xint": 1.0})(images, Quantile(2), 1.0), expected, atol=1e-10)
    holes = Pipe({"cutout": 1.0})(images, Quantile(2), 1.0) == 0
    assert holes.sum().item() == 2 * 3 * 6 * 20
    assert holes[..., 5:11, 18:38].all()


def test_grey_images_are_changed_as_colour_images_that_are_grey() -> None:
    augment, grey, batch = build(filter=1.0), noise(channels=1), batch_of([1, 2, 3, 4])
    expected = augment(grey.expand(-1, 3, -1, -1), batch, "real")
    assert torch.allclose(augment(grey, batch, "real").expand(-1, 3, -1, -1), expected, atol=1e-12)


def test_it_is_computed_in_fp32_whatever_surrounds_it() -> None:
    augment, images, batch = build(**ALL).float(), noise().float(), batch_of([1, 2, 3, 4])
    expected = augment(images, batch, "real")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, batch, "real"), expected)
        rounded = augment(images.bfloat16(), batch, "real")
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, augment(images.bfloat16().float(), batch, "real").bfloat16())


def test_each_operation_happens_as_often_as_its_probability_says() -> None:
    draws = Draws(1, "real", torch.arange(4000))
    for name in (*GEOMETRY, *COLOUR, "rotate after", "filter 3", "noise", "cutout"):
        assert draws.happens(name, 0.3).double().mean().item() == pytest.approx(0.3, abs=0.03)
    geometry = ada._geometry(draws, {"rotate": 0.3}, torch.empty(1, 1, 8, 8))[0]
    assert (geometry[:, 0, 1] != 0).double().mean().item() == pytest.approx(0.3, abs=0.03)  # by one of two turns


def controller(**keys: object) -> Controller:
    return Controller(**{"target": 0.6, "speed": 500_000, "interval": 4, "most": 1.0, **keys})


def update(state: Controller, *passes: Tensor, batch: int = 64, good: bool | None = None) -> float:
    """Play an update of the discriminator; p after it."""
    state.tracking = True
    for logits in passes:
        state.see(logits, batch)
    state.tracking = False
    state.commit(None if good is None else torch.tensor(good))
    return state.probability.item()


SURE, UNSURE = torch.tensor([3.0, 1.0, 2.0, 0.1]), torch.tensor([-3.0, 1.0, 2.0, 4.0])  # mean signs of 1 and 0.5


def test_p_rises_above_the_target_and_falls_below_it() -> None:
    state = controller()
    assert [update(state, SURE) for _ in range(8)] == pytest.approx([0, 0, 0, 5.12e-4, *3 * [5.12e-4], 1.024e-3])
    # two of each: 0.75, above the target
    assert [update(state, each) for each in (UNSURE, SURE, UNSURE, SURE)][-1] == pytest.approx(1.536e-3)
    assert [update(state, UNSURE) for _ in range(4)][-1] == pytest.approx(1.024e-3)


def test_p_stays_between_0_and_its_cap() -> None:
    state = controller(interval=1, speed=100, most=0.75)
    assert [update(state, SURE) for _ in range(3)] == pytest.approx([0.64, 0.75, 0.75])
    assert [update(state, UNSURE) for _ in range(3)] == pytest.approx([0.11, 0, 0])


def test_four_micro_batches_count_the_same_in_one_pass() -> None:
    parts = [torch.randn(3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    one, four = controller(), controller()
    one.parts = 4
    update(one, torch.cat(parts))
    update(four, *parts)
    assert one.signs.item() == four.signs.item() != 0


def test_a_skipped_update_and_an_untracked_forward_leave_no_trace() -> None:
    state = controller(interval=2)
    update(state, SURE)
    before = {name: value.clone() for name, value in state.state_dict().items()}
    update(state, torch.full((4,), torch.nan), good=False)
    state.see(SURE, 64)
    assert not state.gathered
    assert sorted(before) == ["probability", "signs", "updates"]
    assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())
    assert update(state, SURE, good=True) == pytest.approx(2.56e-4)


def test_a_checkpoint_between_two_changes_of_p_goes_on_the_same() -> None:
    first, second = controller(), controller()
    for _ in range(6):
        update(first, SURE)
    second.load_state_dict(first.state_dict())
    assert [update(first, SURE) for _ in range(2)] == [update(second, SURE) for _ in range(2)] != [0, 0]


def test_a_scheduled_strength_follows_the_images_seen() -> None:
    augment = build(probability={"kind": "cosine", "start": 0, "stop": 0.55, "end": 20_000_000})
    augment.images = 5_000_000
    assert augment.strength() == pytest.approx(0.55 * 0.1464466)
    images = noise()
    augment.images = 0
    assert torch.allclose(augment(images, batch_of([1, 2, 3, 4]), "real"), images, atol=1e-10)


def config_of(channels: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(data=types.SimpleNamespace(channels=channels), key_of=lambda section: "augment.ada")


@pytest.mark.parametrize(
    ("keys", "channels", "said"),
    [
        ({}, 4, "changes colours of 1 or 3 channels, and the images have 4; set brightness: 0"),
        (
            {"probability": 0.3},
            3,
            "probability has no effect while p follows the discriminator; set augment.ada.target: 0",
        ),
        ({"target": 0}, 3, "set augment.ada.probability"),
        (
            {"target": 0, "probability": 0.3, "most": 0.8},
            3,
            "augment.ada.most has no effect with augment.ada.target: 0",
        ),
        (dict.fromkeys((*GEOMETRY, *COLOUR), 0), 3, "all operations have multiplier 0"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, object], channels: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ada(kind="ada", **keys).check(config_of(channels))


def test_other_channels_take_all_but_colour() -> None:
    keys = dict.fromkeys(COLOUR, 0)
    Ada(**keys).check(config_of(4))
    images, batch = noise(channels=4), batch_of([1, 2, 3, 4])
    assert build(**keys, **ALL)(images, batch, "real").shape == images.shape
    with pytest.raises(InputError, match="the images have 4"):
        build()(images, batch, "real")


def test_noise_is_an_images_own() -> None:
    made = Pipe({"noise": 1.0})(torch.zeros(4000, 1, 4, 4).double(), Draws(1, "real", torch.arange(4000)), 1.0)
    # 0.1 |N| times N: of variance 0.01
    assert made.std().item() == pytest.approx(0.1, rel=0.1)


def test_a_game_moves_p_once_a_step_and_says_where_it_is() -> None:
    keys = {"augment.ada.target": 0.001, "augment.ada.speed": 100, "augment.ada.interval": 1}
    wanted = making.tiny("unused", "unused", training__strategy="ddp")
    config = config_module.load(["tests/data/digits.yaml", *making.flags({**wanted, **keys})])
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    (augment,) = game.modules
    assert isinstance(augment, AdaptiveAugment)
    assert isinstance(augment.controller, Controller)
    micros = trial.random_batches(config, game.fields, 0, engine.slots)
    for micro in micros:
        micro.fields["image"] = micro["image"].float()
    with torch.no_grad():
        list(game.players[1].network.parameters())[-1].fill_(100)  # surely real
    play_step(engine, game, micros, 32, 16)
    assert augment.images == 32
    assert game.state()["ada/controller.probability"].item() == pytest.approx(0.16)
    assert isinstance(game.metrics, Metrics)
    assert "augment/ada/probability" in game.metrics.totals()[0]
