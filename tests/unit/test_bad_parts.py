"""A user's part that lacks what it needs is one line that names file, class and what is missing, before anything trains."""

from pathlib import Path

import pytest
import torch

from gan_dist import games, trial
from gan_dist.config import load
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.games.check import what_is_wrong
from gan_dist.interfaces import random_batch

TEXT = """\
data: {shards: -, resolution: 16, channels: 1}
training: {images: 32, batch: 16, micro_batch: 4, device: cpu}
"""
NETWORKS = """
import torch
from torch import nn
from gan_dist.networks import Network

class NoKeys(nn.Module):
    pass

class Discriminator(nn.Module):
    def __init__(self, layer, out=1):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), layer, nn.Linear(16, out))
    def forward(self, images, labels=None):
        return self.layers(images)[:, 0]

class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long), persistent=False)
    def forward(self, x):
        self.seen += 1
        return x

class Counting(Network):
    def discriminator(self, shape): return Discriminator(Counter())

class TorchNorm(Network):
    def discriminator(self, shape): return Discriminator(nn.BatchNorm1d(16))

class Spectral(Network):
    def discriminator(self, shape): return Discriminator(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)))

class OneLogit(Network):
    def discriminator(self, shape):
        network = Discriminator(nn.Identity())
        network.forward = lambda images, labels=None: network.layers(images).mean()
        return network

class Large(Network):
    def generator(self, shape):
        return nn.Sequential(nn.Linear(shape.latent, 1024), nn.Unflatten(1, (1, 32, 32)), Unlabelled())

class Unlabelled(nn.Module):
    def forward(self, x): return x

class Unused(Network):
    def discriminator(self, shape):
        network = Discriminator(nn.Identity())
        network.spare = nn.Linear(2, 2)
        return network

class BadBuild(Network):
    def discriminator(self, shape): return Discriminator(nn.Identity(), out="many")

class Broken(Network):
    def discriminator(self, shape):
        network = Discriminator(nn.Identity())
        network.forward = lambda images, labels=None: images.nothing()
        return network
"""
OTHERS = """
import torch
from gan_dist.augment import Augment, Augmentation
from gan_dist.losses import Loss
from gan_dist.optimizers import Optimizer

class Vector(Loss):
    def generator(self, fake, real): return -fake
    def discriminator(self, fake, real): return fake.mean() - real.mean()

class Fixed(Loss):
    def generator(self, fake, real): return fake.detach().mean()
    def discriminator(self, fake, real): return fake.mean() - real.mean()

class Counted(Optimizer):
    def build(self, parameters, slow=1.0): return Torch(parameters, **self.settings(0, slow))

class Torch(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["d"] = self.state[weight].get("d", 1.0) * 1.5

class Counter(Augmentation):
    def build(self, seed): return Count()

class Count(Augment):
    def __init__(self):
        super().__init__()
        self.p = 0.0
    def forward(self, images, batch, purpose): return images
    def observe(self, real, fake, batch): self.p += 0.1

class Pooled(Augmentation):
    def build(self, seed): return Pool()

class Pool(Augment):
    def __init__(self):
        super().__init__()
        self.pool = []
    def forward(self, images, batch, purpose): return images
    def observe(self, real, fake, batch): self.pool.append(real)

class Blur(Augmentation):
    width: int = 2
    def build(self, seed): return Blurred(self.width)

class Blurred(Augment):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, width, 1), torch.nn.Conv2d(width, 1, 1)).requires_grad_(False)
    def forward(self, images, batch, purpose): return self.layers(images)
"""


def try_game(*words: str) -> None:
    """What a training does with its game before it trains."""
    config = load(words)
    trial.build(config, Engine(config))


def refusal(tmp_path: Path, *words: str) -> str:
    """What is said of a config with a user's part."""
    (tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "nets.py").write_text(NETWORKS)
    (tmp_path / "others.py").write_text(OTHERS)
    with pytest.raises(InputError) as caught:
        try_game(str(tmp_path / "mine.yaml"), *words)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("key", "part", "words"),
    [
        ("networks.discriminator", "nets.py:NoKeys", "NoKeys has no config class: let it inherit gan_dist.networks"),
        ("networks.discriminator", "nets.py:Countin", "has no class Countin; did you mean Counting?"),
        (
            "networks.discriminator",
            "nets.py:Counting",
            "layer layers.2 (Counter) changes its buffer seen in a training",
        ),
        ("networks.discriminator", "nets.py:TorchNorm", "use gan_dist.networks.statistics.BatchNorm"),
        ("networks.discriminator", "nets.py:Spectral", "SpectralConv2d, SpectralLinear or SpectralEmbedding"),
        ("networks.discriminator", "nets.py:Large", "has no discriminator; choose another kind"),
        ("networks.discriminator", "nets.py:OneLogit", "gives (); a tensor of 4 is needed"),
        ("networks.discriminator", "nets.py:Broken", "AttributeError: 'Tensor' object has no attribute 'nothing'"),
        ("networks.discriminator", "nets.py:Unused", "the weight spare.weight of D has no gradient in a turn of D"),
        ("networks.discriminator", "nets.py:BadBuild", "line 12, fails: TypeError"),
        ("networks.generator", "nets.py:Large", "takes"),
        ("loss", "others.py:Vector", "the loss of G is a tensor of (4,); the mean over the samples is needed"),
        ("loss", "others.py:Fixed", "the loss of G does not depend on the weights of G"),
        ("optimizers.generator", "others.py:Counted", "its state `d` would not be saved"),
        ("augment.pool.kind", "others.py:Pooled", "Pool.pool changes in a step, and would not be saved"),
        ("augment.count.kind", "others.py:Counter", "Count.p changes in a step, and would not be saved"),
    ],
)
def test_a_part_that_lacks_something_is_one_line(tmp_path: Path, key: str, part: str, words: str) -> None:
    said = refusal(tmp_path, f"--{key}", part)
    assert words in said
    assert part.partition(":")[0] in said


def test_trying_a_game_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    config = load([str(tmp_path / "mine.yaml"), "--penalties.r1.weight", "1"])
    engine = Engine(config)
    game = games.build(config)
    engine.place(game)
    before = [tensor.clone() for player in game.players for tensor in player.network.state_dict().values()]
    state = torch.get_rng_state()
    (batch,) = trial.on_device(config, engine, [random_batch(game.fields, 0, torch.arange(4))])
    assert what_is_wrong(game, config, batch) == ""
    after = [tensor for player in game.players for tensor in player.network.state_dict().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(weight.grad is None for player in game.players for weight in player.network.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert engine.read_metrics() == {}
    assert not any(statistics.gathered for player in game.players for statistics in player.statistics)


def test_modules_of_one_class_may_differ_in_size(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "others.py").write_text(OTHERS)
    blurs = ["--augment.a.kind", "others.py:Blur", "--augment.b.kind", "others.py:Blur", "--augment.b.width", "3"]
    try_game(str(tmp_path / "mine.yaml"), *blurs)


def test_a_score_that_the_game_has_nothing_for_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{TEXT}evaluate: {{every: 16, scores: ssim}}\n")
    config = load([str(path), "--networks.generator.base_channels", "2", "--networks.discriminator.base_channels", "2"])
    with pytest.raises(InputError, match="ssim compares each image with its target, and this game draws from latents"):
        trial.build(config, Engine(config))


@pytest.mark.parametrize(
    ("game", "data"),
    [
        ("paired", "shards: -, fields: {input: {member: a.png}, target: {member: b.png}}"),
        ("restoration", "shards: -, degrade: [grey]"),
        ("unpaired", "shards: {A: -, B: -}"),
        ("contrastive", "shards: {A: -, B: -}"),
    ],
)
def test_networks_of_latents_and_of_points_are_refused_by_games_of_images(game: str, data: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for role, kind, said in (
        ("generator", "r3gan", f"draws from latents, and game.kind: {game} turns images into images; set networks.gen"),
        (
            "generator",
            "mlp",
            f"is for points, and game.kind: {game} is played with images; set networks.generator.kind",
        ),
        ("discriminator", "mlp", "is for points"),
    ):
        path.write_text(
            f"data: {{{data}, resolution: 32, channels: 3}}\ngame: {{kind: {game}}}\n"
            f"networks: {{{role}: {{kind: {kind}}}}}\n"
            "training: {images: 32, batch: 16, micro_batch: 4, device: cpu}\n"
        )
        with pytest.raises(InputError, match=f"networks.{role}.kind = {kind} {said}"):
            load([str(path)])
