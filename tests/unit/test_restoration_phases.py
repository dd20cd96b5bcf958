"""Super-resolution in two runs: one for PSNR, then one with a perceptual and an adversarial loss from its weights."""

import gc
from pathlib import Path

import torch

from gan_dist import config as config_module
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import EXIT_FINISHED
from gan_dist.trainer import Trainer
from tests import making
from tests.unit.test_perceptual import vgg19


def load(folder: Path, run: str, recipe: str, **keys: object) -> Config:
    own: dict[str, object] = {
        "run.directory": folder / run,
        "data.shards": folder / "data",
        "data.resolution": 32,
        "data.workers": 0,
        "networks.generator.base_channels": 4,
        "networks.generator.blocks": 1,
        "training.images": 8,
        "training.batch": 4,
        "training.micro_batch": 4,
        "training.device": "cpu",
        "sample.count": 4,
        "track.wandb": "disabled",
        "evaluate": "{every: 0, scores: {}}",
    }
    own |= {name.replace("__", "."): value for name, value in keys.items()}
    return config_module.load([f"configs/{recipe}.yaml", *making.flags(own)])


def test_the_second_phase_begins_with_the_first_ones_generator(tmp_path: Path) -> None:
    making.data_set(tmp_path / "data", 16, 1, size=40, channels=3)
    torch.save(vgg19(1), tmp_path / "vgg.pth")
    first = Trainer(config := load(tmp_path, "psnr", "sr_x4_psnr"), Engine(config, alone=True))
    assert first.train() == EXIT_FINISHED
    keys = {
        "start__from": tmp_path / "psnr",
        "networks__discriminator__kind": "unet_discriminator",
        "networks__discriminator__base_channels": 4,
        "game__perceptual__weight": 1,
        "game__perceptual__weights": tmp_path / "vgg.pth",
        "game__perceptual__layers": "conv1_1",
    }
    second = Trainer(config := load(tmp_path, "gan", "sr_x4_gan", **keys), Engine(config, alone=True))
    generators = [trainer.game.players[0].network.state_dict() for trainer in (first, second)]
    assert all(torch.equal(each, generators[1][name]) for name, each in generators[0].items())
    assert second.train() == EXIT_FINISHED
    assert '"distance/perceptual"' in (tmp_path / "gan/metrics.jsonl").read_text()
    gc.unfreeze()
