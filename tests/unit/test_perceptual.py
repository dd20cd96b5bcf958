"""The perceptual distance: torchvision's VGG-19 by layer, its file, and a game that trains with it."""

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gan_dist import config as config_module, generate
from gan_dist.checkpoint import format, store
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.errors import EXIT_FINISHED, InputError
from gan_dist.games.paired import PairedGame
from gan_dist.perceptual import CONVOLUTIONS, Distance, Perceptual
from gan_dist.trainer import Trainer
from tests import making

RECIPE = "configs/edges_digits.yaml"


def vgg19(real: int = 3) -> dict[str, Tensor]:
    """Seeded random weights in torchvision's format; those behind the first `real` convolutions are one number each."""
    made = {}
    for number, (place, before, after) in enumerate(CONVOLUTIONS):
        shape = (after, before, 3, 3)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(place)) * (2 / (9 * before)) ** 0.5
        made[f"features.{place}.weight"] = drawn if number < real else torch.full((1,), 1e-3).expand(shape)
        made[f"features.{place}.bias"] = torch.full((after,), 0.1)
    return made | {"classifier.6.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg19-dcbb9e9d.pth"
    torch.save(vgg19(), path)
    return path


def placed(keys: Perceptual) -> Distance:
    distance = keys.build()
    assert distance is not None
    distance.read()
    return distance


def test_layers_are_those_of_torchvision() -> None:
    from torchvision.models import vgg19 as torchvisions

    with torch.device("meta"):
        whole = torchvisions(weights=None)
    own = {name: tensor.shape for name, tensor in vgg19(0).items() if name.startswith("features")}
    assert own == {name: tensor.shape for name, tensor in whole.state_dict().items() if name.startswith("features")}
    assert sum(shape.numel() for shape in own.values()) == 20_024_384


@pytest.mark.parametrize(("layer", "end"), [("conv1_2", 3), ("relu1_2", 4), ("conv2_1", 6)])
def test_a_distance_is_that_of_torchvisions_features_before_and_after_activation(
    weights: Path, layer: str, end: int
) -> None:
    from torchvision.models import vgg19 as torchvisions
    from torchvision.transforms.functional import normalize

    with torch.device("meta"):
        layers = torchvisions(weights=None).features[:end]
    layers.load_state_dict(
        {name[9:]: each for name, each in vgg19().items() if name[9:] in layers.state_dict()}, assign=True
    )
    images, targets = torch.rand(2, 2, 3, 12, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images.requires_grad_()
    found = placed(Perceptual(weight=1, weights=str(weights), layers={layer: 2.0}))(images, targets)
    one, other = (
        layers[:end](normalize(each / 2 + 0.5, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        for each in (images, targets)
    )
    expected = 2 * (one - other).abs().mean()
    assert torch.allclose(found, expected)
    gradients = [torch.autograd.grad(each, images)[0] for each in (found, expected)]
    assert torch.allclose(*gradients)


def test_a_safetensors_file_grey_images_and_squares(weights: Path, tmp_path: Path) -> None:
    save_file({name: each.contiguous() for name, each in vgg19(1).items()}, tmp_path / "vgg.safetensors")
    keys = {"weight": 1, "layers": "relu1_1", "distance": "squared"}
    images, targets = torch.rand(2, 2, 1, 8, 8) * 2 - 1
    first, second = (
        placed(Perceptual(weights=str(path), **keys))(images, targets)
        for path in (weights, tmp_path / "vgg.safetensors")
    )
    assert first == second
    assert first != placed(Perceptual(weights=str(weights), **keys | {"distance": "l1"}))(images, targets)


def load(folder: Path, file: Path, **keys: object) -> Config:
    own: dict[str, object] = {
        "run.directory": folder / "run",
        "data.shards": folder / "data",
        "data.source": "",
        "data.workers": 0,
        "data.fields": "{input: {member: png, channels: 1}, target: {member: png, channels: 1}}",
        "networks.generator.base_channels": 4,
        "networks.discriminator.base_channels": 4,
        "game.warm_up": 16,
        "game.perceptual.weight": 0.5,
        "game.perceptual.weights": file,
        "game.perceptual.layers": "conv1_2",
        "training.images": 32,
        "training.batch": 8,
        "training.micro_batch": 4,
        "training.device": "cpu",
        "checkpoint.every": 16,
        "checkpoint.keep": 3,
        "sample.every": 32,
        "sample.count": 4,
        "track.every": 8,
        "track.wandb": "disabled",
        "evaluate": "{every: 0, scores: {}}",
    }
    return config_module.load(
        [RECIPE, *making.flags(own | {name.replace("__", "."): each for name, each in keys.items()})]
    )


def test_a_game_trains_with_it_and_its_file_counts_by_content(weights: Path, tmp_path: Path) -> None:
    making.data_set(tmp_path / "data", 32, 1, size=32)
    moved = tmp_path / "moved.pth"
    moved.write_bytes(weights.read_bytes())
    trainer = Trainer(config := load(tmp_path, weights, training__images=16), Engine(config, alone=True))
    game = trainer.game
    assert isinstance(game, PairedGame)
    assert game.perceptual is not None
    assert not list(game.perceptual.parameters()), "an optimizer or DDP would see them"
    assert trainer.train() == EXIT_FINISHED
    trainer = Trainer(config := load(tmp_path, moved), Engine(config, alone=True))
    assert trainer.train() == EXIT_FINISHED
    torch.save({name: each * 1.5 for name, each in vgg19().items()}, moved)
    with pytest.raises(InputError, match=r"game\.perceptual\.weights: the run has 'content with SHA-256"):
        Trainer(config := load(tmp_path, moved), Engine(config, alone=True))
    moved.unlink()
    assert isinstance(generate.load(tmp_path / "run")[0], PairedGame), "images are made without the file"
    folder = tmp_path / "run/checkpoints"
    manifests = [format.read_manifest(folder / name) for name in store.names(folder)]
    assert not [name for name in manifests[-1]["tensors"] if name.split("/")[0] not in ("G", "D")]
    first, last = (manifest["steps"] for manifest in (manifests[0], manifests[-1]))
    assert (first, last) == ({"G": 2, "D": 0}, {"G": 4, "D": 2}), "the discriminator waits for the end of the warm-up"
    gc.unfreeze()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no weights file"),
        (b"no weights", "is damaged, or no file of weights alone"),
        ("vgg16", "the file is not of VGG-19: features.16.bias is missing"),
        ("other sizes", "features.0.weight is 32x3x3x3, not 64x3x3x3: it is of another network"),
    ],
)
def test_a_file_that_is_no_vgg_is_one_line_and_leaves_no_run(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    making.data_set(tmp_path / "data", 32, 1, size=32)
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "vgg16":
        torch.save({name: each for name, each in vgg19(0).items() if ".16." not in name}, file)
    elif content:
        torch.save(vgg19(0) | {"features.0.weight": torch.zeros(32, 3, 3, 3)}, file)
    config = load(tmp_path, file)
    with pytest.raises(InputError, match=message) as caught:
        Trainer(config, Engine(config, alone=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layers": "conv1_2"}, "game.perceptual.layers has no effect without game.perceptual.weight"),
        ({"distance": "squared"}, "game.perceptual.distance has no effect without game.perceptual.weight"),
        ({"weight": 1, "layers": "{relu1_1: 1, conv5_4: 1}"}, "layers: conv5_4 needs images of 16 pixels at least"),
    ],
)
def test_keys_that_do_nothing_and_layers_that_see_nothing_are_refused(keys: dict[str, object], said: str) -> None:
    words = {f"game.perceptual.{name}": value for name, value in keys.items()} | {"data.resolution": 8}
    words |= {"networks.discriminator.layers": 1, "evaluate": "{every: 0, scores: {}}"}
    with pytest.raises(InputError, match=said):
        config_module.load([RECIPE, *making.flags(words)])
