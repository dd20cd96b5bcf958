"""Degradation: what each step does, that it depends on seed and position alone, and how it fits the other keys."""

import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli, config as config_module, games
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.degrade import Draws, Pipeline
from gan_dist.degrade.resample import resample
from gan_dist.errors import InputError
from gan_dist.interfaces import Batch
from tests import making

ALL = (
    "[{kind: blur, anisotropic: true}, {kind: motion, probability: 0.5}, {kind: resize}, {kind: downscale, factor: 2}, "
    "{kind: noise, sigma: [1, 30], shot: 0.1, grey: 0.4}, jpeg, grey, {kind: mask, pixels: 0.1}]"
)


def load(folder: Path, **keys: object) -> Config:
    chosen: dict[str, object] = {
        "data.shards": folder,
        "data.degrade": ALL,
        "data.resolution": 32,
        "data.channels": 3,
        "data.workers": 0,
        "networks.generator.base_channels": 4,
        "networks.generator.blocks": 1,
        "training.images": 64,
        "training.batch": 8,
        "training.micro_batch": 4,
        "training.device": "cpu",
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    path = folder / "run.yaml"
    path.write_text("game: {kind: restoration}\n")
    return config_module.load([str(path), *making.flags(chosen)])


def degraded(folder: Path, steps: str, image: np.ndarray, position: int = 0, seed: int = 0) -> np.ndarray:
    channels = image.shape[2]
    config = load(folder, data__degrade=steps, data__channels=channels, run__seed=seed)
    return Pipeline(config)(image, position)


def picture(size: tuple[int, int] = (32, 48), channels: int = 3) -> np.ndarray:
    """A smooth image with an edge."""
    y, x = np.mgrid[: size[0], : size[1]]
    plane = 128 + 60 * np.sin(x / 7) + 40 * np.cos(y / 5) - 50 * (x > 20)
    return np.stack([plane * factor for factor in (1, 0.8, 0.6)[:channels]], -1).clip(0, 255).astype(np.uint8)


def test_downscaling_has_the_kernel_of_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for size, kind, pillow in (
        ((16, 24), "bicubic", Image.Resampling.BICUBIC),
        ((21, 32), "bicubic", Image.Resampling.BICUBIC),
        ((32, 48), "bilinear", Image.Resampling.BILINEAR),
        ((16, 24), "area", Image.Resampling.BOX),
    ):
        wanted = np.asarray(Image.fromarray(image).resize(size[::-1], pillow)).astype(float)
        inner = (slice(3, -3), slice(3, -3))  # Pillow has no mirrored edges
        assert np.abs(resample(image, size, kind).clip(0, 255) - wanted)[inner].max() <= 1, (size, kind)


def test_bicubic_has_the_values_of_matlab_s_imresize_at_edges_too() -> None:
    square = np.arange(64.0).reshape(8, 8, 1)  # imresize(reshape(0:63, 8, 8)', SIZE, 'bicubic')
    by_2 = [
        [4.042969, 6.082031, 8.105469, 10.144531],
        [20.355469, 22.394531, 24.417969, 26.457031],
        [36.542969, 38.582031, 40.605469, 42.644531],
        [52.855469, 54.894531, 56.917969, 58.957031],
    ]
    uneven = [
        [6.472529, 8.511591, 10.535029, 12.574091],
        [28.449219, 30.488281, 32.511719, 34.550781],
        [50.425909, 52.464971, 54.488409, 56.527471],
    ]
    for wanted in (by_2, uneven):
        assert np.abs(resample(square, (len(wanted), 4))[..., 0] - wanted).max() < 1e-6


def test_steps_depend_on_seed_and_position_alone(tmp_path: Path) -> None:
    image = picture()
    made = degraded(tmp_path, ALL, image, 5)
    assert made.shape == (16, 24, 2)
    assert made.dtype == np.uint8
    assert np.array_equal(made, degraded(tmp_path, ALL, image, 5))
    assert not np.array_equal(made, degraded(tmp_path, ALL, image, 6))
    assert not np.array_equal(made, degraded(tmp_path, ALL, image, 5, seed=1))
    pipeline = Pipeline(load(tmp_path))
    assert not np.array_equal(made, pipeline(image, 5, "shown"))
    assert np.array_equal(made, pickle.loads(pickle.dumps(pipeline))(image, 5))


def test_noise_blur_and_jpeg_are_as_strong_as_they_say(tmp_path: Path) -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    noise = degraded(tmp_path, "[{kind: noise, sigma: 20}]", flat).astype(float)
    assert noise.std() == pytest.approx(20, rel=0.03)
    assert np.ptp(noise, axis=2).max() > 0
    assert np.ptp(degraded(tmp_path, "[{kind: noise, sigma: 20, grey: 1}]", flat), axis=2).max() == 0
    assert degraded(tmp_path, "[{kind: noise, sigma: 0, shot: 2}]", flat).std() == pytest.approx(16, rel=0.03)
    assert np.array_equal(degraded(tmp_path, "[{kind: blur, sigma: 3}, motion]", flat), flat)
    blurred = degraded(tmp_path, "[{kind: blur, sigma: 2}]", picture())
    wanted = cv2.GaussianBlur(picture().astype(float), (13, 13), 2, borderType=cv2.BORDER_REFLECT)
    assert np.abs(blurred - wanted).max() < 0.6
    errors = [
        np.abs(degraded(tmp_path, f"[{{kind: jpeg, quality: {quality}}}]", picture()).astype(float) - picture()).mean()
        for quality in (95, 5)
    ]
    assert errors[0] < 3 < errors[1]


def test_a_probability_and_a_range_are_met(tmp_path: Path) -> None:
    flat = np.full((16, 16, 1), 128, np.uint8)
    pipeline = Pipeline(
        load(tmp_path, data__channels=1, data__degrade="[{kind: noise, sigma: [5, 30], probability: 0.4}]")
    )
    strengths = np.array([pipeline(flat, position).std() for position in range(300)])
    assert 0.3 < (strengths > 0).mean() < 0.5
    done = strengths[strengths > 0]
    assert 4 < done.min() < 8 < 25 < done.max() < 36


def test_a_mask_says_what_is_lost_and_grey_is_the_luma(tmp_path: Path) -> None:
    image = picture()
    made = degraded(tmp_path, "[{kind: mask, boxes: 2, size: 0.25, fill: 7}]", image)
    lost = made[..., 3] == 0
    assert set(np.unique(made[..., 3])) == {0, 255}
    assert 96 <= lost.sum() <= 192
    assert (made[lost][:, :3] == 7).all()
    assert np.array_equal(made[~lost][:, :3], image[~lost])
    grey = degraded(tmp_path, "[grey]", image)
    assert np.abs(grey[..., 0] - image @ np.array([0.299, 0.587, 0.114])).max() <= 0.5


def test_boxes_lie_within_the_image_everywhere_as_often_and_every_number_of_them_as_often(tmp_path: Path) -> None:
    numbers = np.array([Draws(1, position).count("boxes", [1.0, 4.0]) for position in range(2000)])
    assert np.abs(np.bincount(numbers, minlength=5)[1:] - 500).max() < 80  # 4 deviations
    pipeline = Pipeline(load(tmp_path, data__degrade="[{kind: mask, boxes: 1, size: 0.5}]", data__channels=1))
    flat, places = np.zeros((4, 6, 1), np.uint8), np.zeros((4, 6), int)
    for position in range(1200):
        lost = np.argwhere(pipeline(flat, position)[..., 1] == 0)
        assert len(lost) == 2 * 3
        places[tuple(lost.min(0))] += 1
    assert np.abs(places[:3, :4] - 100).max() < 40  # of the places where it fits
    assert places.sum() == places[:3, :4].sum()


def shards(folder: Path, write: Callable[[int], list[tuple[str, bytes]]]) -> Path:
    making.write_tar(folder / "0.tar", [member for key in range(16) for member in write(key)])
    return folder


def batches(config: Config, start: int = 0) -> list[Batch]:
    loader.prepare(config, progress=False)
    index = loader.open_index(config, games.build(config).fields)
    steps = loader.micro_batches(index, config, start, range(8), torch.device("cpu"))
    return [micro for step in islice(steps, 4) for micro in step]


def joined(found: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([micro[name] for micro in found])


def test_a_mask_after_a_resize_has_no_half_pixels(tmp_path: Path) -> None:
    for position in range(4):
        made = degraded(tmp_path, "[{kind: resize, scale: [0.5, 1.5]}, mask]", picture(), position)
        assert made.shape == (32, 48, 4)
        assert set(np.unique(made[..., 3])) == {0, 255}
        assert (made[made[..., 3] == 0, :3] == 128).all()


def test_a_resume_and_other_micro_batches_see_the_same_inputs(tmp_path: Path) -> None:
    shards(tmp_path, lambda key: [(f"{key:04d}.png", making.encode(picture((40, 56)) // (1 + key % 3)))])
    keys = {"data__crop": "random", "data__flip": True}
    whole = batches(load(tmp_path, **keys))
    assert whole[0]["input"].shape == (4, 2, 16, 16)
    again = batches(load(tmp_path, **keys, training__micro_batch=2, data__workers=1), 8)
    for name in ("input", "target"):
        assert torch.equal(joined(whole, name)[8:], joined(again, name)[:24])
    # each by its own position in the run, in every epoch again
    config = load(tmp_path, data__crop="random")
    plain, pipeline = batches(config), Pipeline(config)
    clean, made = (
        ((joined(plain, name) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy() for name in ("target", "input")
    )
    assert all(np.array_equal(pipeline(clean[position], position), made[position]) for position in range(32))
    shown = loader.load(loader.open_index(config), config, [3, 1], torch.device("cpu"))
    alone = loader.load(loader.open_index(config), config, [1], torch.device("cpu"))
    assert torch.equal(shown["input"][1:], alone["input"])


PAIRS: dict[str, object] = {
    "data__degrade": "[]",
    "data__fields": "{target: {member: hr.png}, input: {member: lr.png, scale: 2}}",
    "data__crop": "random",
    "data__resolution": 16,
}


def pair(key: int, size: tuple[int, int] = (28, 40), small: tuple[int, int] = (14, 20)) -> list[tuple[str, bytes]]:
    low = np.random.default_rng(key).integers(0, 256, (*small, 3), dtype=np.uint8)
    high = low.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]]
    return [(f"{key:04d}.hr.png", making.encode(high)), (f"{key:04d}.lr.png", making.encode(low))]


def test_stored_pairs_are_cut_out_at_the_same_place(tmp_path: Path) -> None:
    found = batches(load(shards(tmp_path, pair), **PAIRS, data__flip=True))
    low, high = joined(found, "input"), joined(found, "target")
    assert (low.shape, high.shape) == ((32, 3, 8, 8), (32, 3, 16, 16))
    assert torch.equal(low.repeat_interleave(2, 2).repeat_interleave(2, 3), high)
    config = load(tmp_path, **PAIRS)
    shown = loader.shown(loader.open_index(config), config, 3, torch.device("cpu"))
    assert torch.equal(shown["input"].repeat_interleave(2, 2).repeat_interleave(2, 3), shown["target"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data__resolution": 31}, "data.resolution = 31 is no multiple of 2, by which input is smaller"),
        ({"data__degrade": "[{kind: blurr}]"}, "data.degrade.0.kind = blurr: there is no such kind; did you mean blur"),
        ({"data__degrade": "[{sigma: 3}]"}, "data.degrade.0 must be a step with its kind"),
        ({"data__degrade": "[{kind: blur, sigma: [3, 1]}]"}, r"\[3, 1\] is no range"),
        ({"data__degrade": "[{kind: noise, sigma: -1}]"}, "-1 is no range; write a number from 0"),
        ({"data__degrade": "[{kind: noise, sigma: abc}]"}, "'abc' is no range; write a number, or"),
        ({"data__degrade": "[{kind: noise, strength: 1}]"}, "strength"),
        ({"data__degrade": "[mask, jpeg]"}, "mask must be the last step|jpeg takes 1 or 3 channels, not 4"),
        ({"data__degrade": "[mask, noise]"}, "mask must be the last step"),
        ({"data__degrade": "[{kind: mask, pixels: 2}]"}, "2.* is outside of 0 to 1"),
        ({"data__degrade": "[{kind: jpeg, quality: [0, 50]}]"}, r"\[0.*, 50.*\] is outside of 1 to 100"),
        ({"data__degrade": "[{kind: blur, sigma: 100_000}]"}, "is outside of 0 to 100"),
        ({"data__shards": "{input: a, target: b}", "data__degrade": "[]"}, "names sets, each in an order of its own"),
        ({"data__degrade": "[grey]", "data__channels": 1}, "grey takes 3 channels, not 1"),
        ({"data__degrade": "[{kind: downscale, probability: 0.5}]"}, "changes size or channels"),
        ({"data__degrade": "[]"}, "wants data.degrade, which makes the input of each image"),
        ({"data__resident": "host"}, "data.degrade makes others of them each time; set data.resident: no"),
        ({"data__fields": "{a: {member: a.png}}"}, "remove one of them"),
        ({**PAIRS, "data__crop": "centre"}, "set data.crop: random"),
        ({**PAIRS, "data__fields": "{target: {member: h.png, scale: 2}, input: {member: l.png}}"}, "remove its scale"),
        ({"game__pixel": 0}, "nothing is learnt"),
    ],
)
def test_keys_that_do_not_fit_are_one_line(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        load(tmp_path, **keys)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda key: pair(key, (26, 40)) if key == 9 else pair(key),
            "0009.* is a pair whose sizes do not fit: target is 40x26",
        ),
        (lambda key: pair(key)[:1] if key == 9 else pair(key), r"sample 0009 of .* has no member .lr.png \(input\)"),
        (lambda key: pair(key, (14, 20), (7, 10)), "is 20x14, smaller than data.resolution = 16"),
        (
            lambda key: [pair(key)[0], (f"{key:04d}.lr.png", making.encode(making.picture(key, (14, 20))))],
            "is grey, but data.fields.input.channels = 3",
        ),
    ],
)
def test_stored_pairs_that_do_not_fit_name_a_sample(
    tmp_path: Path, write: Callable[[int], list[tuple[str, bytes]]], said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        batches(load(shards(tmp_path, write), **PAIRS))
    assert len(str(raised.value).splitlines()) == 1


def test_folders_of_large_and_small_images_are_packed_as_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in range(16):
        for (_, content), path in zip(pair(key), (f"HR/{key:04d}.png", f"LR/X2/{key:04d}x2.png"), strict=True):
            (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / path).write_bytes(content)
    words = ["pack", str(tmp_path / "in"), str(tmp_path / "out"), "--fields", "target=HR,input=LR/X2:{}x2"]
    assert cli.main(words) == 0
    fields = "{target: {member: target.png}, input: {member: input.png, scale: 2}}"
    found = batches(load(tmp_path / "out", **{**PAIRS, "data__fields": fields}))
    low, high = joined(found, "input"), joined(found, "target")
    assert torch.equal(low.repeat_interleave(2, 2).repeat_interleave(2, 3), high)
    capsys.readouterr()
    (tmp_path / "in/LR/X2/0003x2.png").unlink()
    assert cli.main([*words[:2], str(tmp_path / "new"), *words[3:]]) == 2
    assert "0003.png has no counterpart in LR/X2 (input)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_old_runs_with_fields_keep_their_fingerprints(tmp_path: Path) -> None:
    config = load(shards(tmp_path, pair), **PAIRS)
    assert config.model_dump(mode="json")["data"]["fields"]["target"] == {"member": "hr.png", "channels": 0}
    assert config.model_dump(mode="json")["data"]["fields"]["input"] == {"member": "lr.png", "channels": 0, "scale": 2}


def test_a_user_s_step_is_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_step.py").write_text(
        "from gan_dist.degrade import Degradation\n\n\nclass Invert(Degradation):\n    by: float = 255\n\n"
        "    def degrade(self, image, draws, size):\n        return self.by - image\n"
    )
    config = load(tmp_path, data__degrade="[{kind: my_step.py, by: 200}]")
    assert Pipeline(config)(np.full((4, 4, 3), 50, np.uint8), 0).max() == 150
    (kind,) = (step["kind"] for step in config.mathematics()["data.degrade"])
    assert kind.startswith("Invert of a file with SHA-256")
    for body, said in (
        ("image[..., 0]", r"fails at position 3: it gives an array of \(4, 4\)"),
        ("image / None", "fails at position 3: TypeError"),
    ):
        text = (tmp_path / "my_step.py").read_text().replace("self.by - image", body)
        (tmp_path / "other.py").write_text(text)
        with pytest.raises(InputError, match=rf"data.degrade: other.py:Invert {said}"):
            Pipeline(load(tmp_path, data__degrade="[other.py]"))(np.zeros((4, 4, 3), np.uint8), 3)
