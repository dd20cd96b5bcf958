"""Schedules are pure functions of the images seen, and any scheduled key takes a number or one of them."""

import pytest
from pydantic import BaseModel, ValidationError

from gan_dist import schedules
from gan_dist.optimizers import OPTIMIZERS


class Keys(BaseModel):
    rate: schedules.ScheduledPositive = 1.0


def read(**keys: object) -> Keys:
    return Keys.model_validate({"rate": keys})


def test_each_kind_has_its_values() -> None:
    linear = read(kind="linear", start=1, stop=3, begin=100, end=300)
    assert [schedules.at(linear.rate, images) for images in (0, 100, 150, 300, 999)] == [1, 1, 1.5, 3, 3]
    cosine = read(kind="cosine", start=2, stop=1, end=100)
    assert [schedules.at(cosine.rate, images) for images in (0, 50, 100, 101)] == pytest.approx([2, 1.5, 1, 1])
    again = read(kind="cosine", start=2, stop=1, end=100, periods=4)
    assert [schedules.at(again.rate, images) for images in (0, 12.5, 25, 50, 99.999, 100, 101)] == pytest.approx(
        [2, 1.5, 2, 2, 1, 1, 1], abs=1e-4
    )
    held = read(kind="linear", start=2e-4, stop=0, begin=100, end=200)  # CycleGAN
    assert [schedules.at(held.rate, images) for images in (99, 100, 150, 199, 200)] == pytest.approx(
        [2e-4, 2e-4, 1e-4, 2e-6, 0]
    )
    steps = read(kind="steps", start=8, at_images=[10, 20], factor=0.5)
    assert [schedules.at(steps.rate, images) for images in (0, 9, 10, 20)] == [8, 8, 4, 2]
    fading = read(kind="exponential", start=1, factor=0.5, every=100, least=0.2)
    assert [schedules.at(fading.rate, images) for images in (0, 50, 100, 200, 300, 2**53)] == pytest.approx(
        [1, 0.5**0.5, 0.5, 0.25, 0.2, 0.2]
    )
    warm = read(kind="warm_up", stop=1, end=4)
    assert [schedules.at(warm.rate, images) for images in (0, 1, 3, 4)] == [0.25, 0.5, 1, 1]
    assert schedules.at(Keys(rate=5).rate, 10**9) == 5


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"cosin: there is no such kind; did you mean cosine"):
        read(kind="cosin")
    with pytest.raises(ValidationError, match="must end after it begins"):
        read(kind="linear", start=1, stop=2, begin=5, end=5)
    with pytest.raises(ValidationError):
        read(kind="linear", start=1, stop=2, end=5, middle=3)
    with pytest.raises(ValidationError):
        Keys(rate=-1)


def test_an_optimizer_has_the_settings_of_its_position() -> None:
    ramp = {"kind": "linear", "start": 1.0, "stop": 0.0, "end": 100}
    adam = OPTIMIZERS["adam"].model_validate({"learning_rate": ramp, "beta2": {**ramp, "start": 0.9, "stop": 0.99}})
    assert adam.settings(50) == {"lr": 0.5, "betas": (0.5, pytest.approx(0.945))}
    slow = adam.settings(0, slow=16 / 17)
    assert slow == {"lr": 16 / 17, "betas": (0.5 ** (16 / 17), 0.9 ** (16 / 17))}
    assert adam.model_dump()["learning_rate"]["stop"] == 0.0, "a schedule is recorded whole"
    cosine = {"kind": "cosine", "start": 1.0, "stop": 0.5, "begin": 0, "end": 9}
    assert read(**cosine).model_dump()["rate"] == cosine, "older runs would have another fingerprint"
