"""A step starts no more kernels than it must, the host waits for none of them, and no position is frozen into one."""

from pathlib import Path
from unittest import mock

import pytest

from gan_dist import games, interfaces
from gan_dist.config import Config, load
from gan_dist.engine import Engine, launch
from tests.kernels import DEVICE, Calls, Step, Waits, as_on_a_gpu, fake_step

DDP = "training: {images: 100_000, batch: BATCH, micro_batch: MICRO, device: cpu, strategy: ddp, micro_batches_per_pass: 1}\n"
DCGAN = "data: {shards: -, resolution: 64, channels: 3}\n" + DDP.replace("BATCH", "128")
R3GAN = """\
data: {shards: -, resolution: 32, channels: 3, labels: true, classes: 10}
networks: {generator: {kind: r3gan, widths: 768}, discriminator: {kind: r3gan, widths: 768}}
game: {latent: 64}
loss: relativistic
penalties: {r1: {weight: 0.05}, r2: {weight: 0.05}}
""" + DDP.replace("BATCH", "64").replace("MICRO", "64")
STYLEGAN2 = """\
data: {shards: -, resolution: 64, channels: 3}
networks: {generator: {kind: stylegan2}, discriminator: {kind: stylegan2}}
game: {latent: 512}
penalties: {r1: {weight: 1, every: 16}, path_length: {weight: 2, every: 4}}
""" + DDP.replace("BATCH", "32").replace("MICRO", "32")
SMALL = "data: {shards: -, resolution: 16, channels: 3, labels: true, classes: 3}\n" + DDP.replace("BATCH", "8")


def read(tmp_path: Path, text: str, micro: int, *words: str) -> Config:
    (tmp_path / "mine.yaml").write_text(text.replace("MICRO", str(micro)))
    return load([str(tmp_path / "mine.yaml"), *words])


def calls_of(step: Step, images: int) -> dict[str, list[str]]:
    """The kernels of each phase of the step at a position, whether it is due or not, and of the averages after them."""
    found: dict[str, list[str]] = {}
    engine, game, batch = step.engine, step.game, step.batch(images)
    interfaces.draw_together(batch)
    engine.at(images)
    game.images = images
    for phase in game.phases:
        with engine.turn(phase), Calls() as calls:
            for loss, micro in engine.share(batch):
                engine.backward(loss(micro))
            engine.update(images)
        found[f"{phase.player.name}{'' if phase.loss else ' penalty'}"] = calls.found
    with Calls() as calls:
        game.average(images, step.config.training.batch)
    return {**found, "average": calls.found}


def kernels(config: Config) -> dict[str, int]:
    """How many kernels the phases of a step have, once what is made in the first step is there."""
    with fake_step(config) as step:
        step.play(0)
        return {name: len(calls) for name, calls in calls_of(step, config.training.batch).items()}


@pytest.mark.parametrize(
    ("text", "micro", "most"),
    [
        (DCGAN, 128, {"G": 160, "D": 190, "average": 1}),
        (DCGAN, 32, {"G": 400, "D": 500, "average": 1}),
        (R3GAN, 64, {"G": 600, "D": 1000, "average": 1}),
        (STYLEGAN2, 32, {"G": 1000, "D": 1000, "D penalty": 1000, "G penalty": 1000, "average": 1}),
    ],
    ids=["dcgan", "dcgan by 32", "r3gan", "stylegan2"],
)
def test_a_step_has_few_kernels(tmp_path: Path, text: str, micro: int, most: dict[str, int]) -> None:
    found = kernels(read(tmp_path, text, micro))
    assert found.keys() == most.keys()
    assert all(found[name] <= most[name] for name in most), found


GAMES = {
    "labels, ADA, LeCam": (
        *("--data.labels=true", "--augment.ada.interval=1", "--penalties.lecam.weight=0.1", "--penalties.r1.weight=1"),
        "--optimizers.generator.clip_norm=1",
    ),
    "spectral, fresh images": (
        *("--networks.generator=sngan", "--networks.discriminator=sngan", "--game.fakes=fresh"),
        *("--augment=diffaugment", "--game.generator_batch=2", "--loss=hinge", "--game.top_k=0.5"),
    ),
    "styles": (
        *(
            "--networks.generator=stylegan2",
            "--networks.discriminator=stylegan2",
            "--networks.generator.mapping_layers=2",
        ),
        *("--networks.generator.style=8", "--networks.generator.channel_maximum=8"),
        *("--networks.discriminator.channel_maximum=8", "--penalties.path_length.weight=1", "--penalties.r1.weight=1"),
    ),
    "bf16, pairs": ("--training.precision=bf16", "--loss=relativistic", "--penalties.wgan_gp.weight=1"),
}


@pytest.mark.parametrize("name", GAMES)
def test_the_host_waits_for_nothing_in_a_step_and_no_position_is_frozen(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, SMALL, 4, *GAMES[name])
    with as_on_a_gpu(), mock.patch.object(launch, "start_alone", return_value=DEVICE):
        engine, game = Engine(config, alone=True), games.build(config)
        engine.wrap(game)
        step = Step(engine, game, config)
        step.begin()
        step.play(0)
        batch = step.batch(8)
        with Waits() as waits:
            step.play(8, batch)
    assert waits.found == []
    with fake_step(config) as step:
        step.play(0)
        early, late = (calls_of(step, images) for images in (80, 8000))
    assert early.pop("average") != late.pop("average"), "its weight changes, so it stays outside of the phases"
    assert early == late


@pytest.mark.parametrize("spoil", ["lambda t: t.item()", "lambda t: t.sum().cpu()", "lambda t: t[t > 0]"])
def test_what_waits_is_found(spoil: str) -> None:
    import torch

    with Waits() as waits:
        eval(spoil)(torch.ones(1))
    assert waits.found
