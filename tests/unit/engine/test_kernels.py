"""A step starts no more kernels than it must, the host waits for none of them, and no position is frozen into one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gan_dist.config import Config, load
from tests.kernels import Steps, Waits, as_on_a_gpu

TRAINING = """
data: {shards: -, resolution: SIDE, channels: 3}
training: {images: 100_000, batch: 8, micro_batch: MICRO, device: cpu, strategy: ddp, micro_batches_per_pass: 1}
"""
DCGAN = "networks: {generator: {base_channels: 4}, discriminator: {base_channels: 4}}"
R3GAN = """\
networks: {generator: {kind: r3gan, widths: 16}, discriminator: {kind: r3gan, widths: 16}}
loss: relativistic
penalties: {r1: {weight: 0.05}, r2: {weight: 0.05}}
"""
STYLEGAN2 = """\
networks: {generator: {kind: stylegan2, style: 8, channel_maximum: 4}, discriminator: {kind: stylegan2, channel_maximum: 4}}
penalties: {r1: {weight: 1, every: 16}, path_length: {weight: 2, every: 4}}
"""


@pytest.fixture(autouse=True)
def on_a_gpu() -> Iterator[None]:
    with as_on_a_gpu():
        yield


def read(tmp_path: Path, text: str, side: int, micro: int, *words: str) -> Config:
    (tmp_path / "mine.yaml").write_text(text + TRAINING.replace("SIDE", str(side)).replace("MICRO", str(micro)))
    return load([str(tmp_path / "mine.yaml"), *words])


@pytest.mark.parametrize(
    ("text", "side", "micro", "most"),
    [
        (DCGAN, 64, 8, {"G": 135, "D": 110}),
        (DCGAN, 64, 2, {"G": 380, "D": 400}),
        (R3GAN, 32, 8, {"G": 410, "D": 860}),
        (STYLEGAN2, 64, 8, {"G": 1240, "D": 440, "D penalty": 450, "G penalty": 1860}),
    ],
    ids=["dcgan", "dcgan in four passes", "r3gan", "stylegan2"],
)
def test_a_step_has_few_kernels(tmp_path: Path, text: str, side: int, micro: int, most: dict[str, int]) -> None:
    steps = Steps(read(tmp_path, text, side, micro))
    found = {name: len(calls) for name, calls in steps.calls(8).items()}
    assert found.keys() == {*most, "average"}
    assert all(found[name] <= {**most, "average": 1}[name] for name in found), found


GAMES = {
    "labels, ADA, LeCam": (
        *("--data.labels=true", "--data.classes=3", "--augment.ada.interval=1", "--penalties.lecam.weight=0.1"),
        *("--penalties.r1.weight=1", "--optimizers.generator.clip_norm=1"),
    ),
    "spectral, fresh images": (
        *("--networks.generator=sngan", "--networks.discriminator=sngan", "--networks.generator.base_channels=8"),
        *("--networks.discriminator.base_channels=8", "--game.fakes=fresh", "--augment=diffaugment", "--loss=hinge"),
        *("--game.generator_batch=2", "--game.top_k=0.5"),
    ),
    "styles of classes": (
        *(
            "--data.labels=true",
            "--data.classes=3",
            "--networks.generator=stylegan2",
            "--networks.discriminator=stylegan2",
        ),
        *("--networks.generator.style=8", "--networks.generator.channel_maximum=4", "--penalties.r1.weight=1"),
        *("--networks.discriminator.channel_maximum=4", "--penalties.path_length.weight=1"),
    ),
    "bf16, pairs": ("--training.precision=bf16", "--loss=relativistic", "--penalties.wgan_gp.weight=1"),
}


@pytest.mark.parametrize("name", GAMES)
def test_the_host_waits_for_nothing_in_a_step_and_no_position_is_frozen_into_a_phase(tmp_path: Path, name: str) -> None:
    steps = Steps(read(tmp_path, "", 32, 4, *GAMES[name]))
    batch = steps.batch(8)
    with Waits() as waits:
        steps.play(batch, 8)
    assert waits.found == []
    early, late = (steps.calls(images) for images in (80, 8000))
    assert early.pop("average") != late.pop("average"), "its weight changes, so it stays outside of the phases"
    assert early == late


@pytest.mark.parametrize("wait", [torch.Tensor.item, lambda x: x.sum().cpu(), lambda x: x[x > 0], torch.nonzero])
def test_what_waits_is_found(wait: object) -> None:
    assert callable(wait)
    with Waits() as waits:
        wait(torch.ones(1))
    assert waits.found
