"""Extractors: the same features as other libraries from the same file, and a clear word for a file that will not do."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gan_dist.config import parts
from gan_dist.errors import InputError
from gan_dist.evaluation import EXTRACTORS, METRICS, Extractor, Labelled, check, extractors
from gan_dist.evaluation.features import quantised, resized
from gan_dist.evaluation.inception import InceptionNetwork
from tests import making

CPU = torch.device("cpu")


def pictures(count: int, size: int = 24, channels: int = 3) -> Tensor:
    found = np.stack([making.picture(seed, size, channels) for seed in range(count)])
    return torch.from_numpy(found.reshape(count, size, size, channels)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded random weights in the file's format. BatchNorm's statistics come from noise, or features die over 90 layers."""
    generator = torch.Generator().manual_seed(0)
    network = InceptionNetwork().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(
                torch.randn(module.weight.shape, generator=generator) * (2 / module.weight[0].numel()) ** 0.5
            )
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(255 * torch.rand(2, 3, 299, 299, generator=generator))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_gives_the_features_and_logits_of_torch_fidelity_from_the_same_file(inception_file: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers = ["64", "2048", "logits_unbiased"]
    known = FeatureExtractorInceptionV3(
        "inception-v3-compat", layers, feature_extractor_weights_path=str(inception_file)
    )
    images = pictures(2)
    of_64, of_2048, logits = known(images)
    keys = {"kind": "inception", "weights": str(inception_file), "resize": "tf1-bilinear"}
    for layer, wanted in (("64", of_64), ("2048", of_2048)):
        features = EXTRACTORS["inception"](**keys, layer=layer).build(CPU)
        assert torch.allclose(features.of(images), wanted, rtol=1e-5, atol=1e-6)
        assert float(wanted.std()) > 1e-3
    assert features.logits is not None
    assert torch.allclose(features.logits(of_2048), logits, rtol=1e-5, atol=1e-5)
    assert features.facts["sha256"]
    assert features.facts["resize"] == "tf1-bilinear"
    clean = EXTRACTORS["inception"](**{**keys, "resize": "pil-bicubic"}, layer="64").build(CPU)
    assert not torch.allclose(clean.of(images), of_64, rtol=1e-3)
    grey = pictures(2, channels=1)
    assert torch.equal(clean.of(grey), clean.of(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("size", "side"), [(24, 299), (300, 64)])
def test_the_resizer_is_pillow_s_bicubic(size: int, side: int) -> None:
    image = making.picture(3, size)
    wanted = np.asarray(Image.fromarray(image).convert("F").resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)
    found = resized(torch.from_numpy(image)[None, None], side, "pil-bicubic")[0, 0].numpy()
    assert np.abs(found - wanted).max() < 0.01


def test_images_are_rounded_and_not_cut_to_8_bits() -> None:
    assert quantised(torch.tensor([-1.2, -1.0, 0.0, 0.0039, 1.0, 2.0]).view(6, 1, 1, 1)).flatten().tolist() == [
        0,
        0,
        128,
        128,
        255,
        255,
    ]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantised(levels.float() / 127.5 - 1), levels)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no weights file"),
        (lambda path: path.write_bytes(b"nothing"), "is damaged, or no file of weights alone"),
        (lambda path: path.write_bytes(pickle.dumps(print)), "is damaged, or no file of weights alone"),
        (
            lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
            "holds the weights of another network than inception",
        ),
    ],
)
def test_a_weights_file_that_will_not_do_is_one_line(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    path = tmp_path / "file.pth"
    make(path)
    with pytest.raises(InputError, match=said) as caught:
        EXTRACTORS["inception"](kind="inception", weights=str(path)).build(CPU)
    assert "\n" not in str(caught.value)


def test_weights_are_looked_for_in_the_folder_of_the_variable_and_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("GAN_DIST_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("socket.socket", None)  # whatever wants the network fails
    for kind, extractor in EXTRACTORS.items():
        if not extractor.file:
            continue
        with pytest.raises(InputError, match=f"no weights {extractor.file}") as caught:
            check({}, {kind: extractor(kind=kind)}, 1)
        assert str(tmp_path) in str(caught.value)
        assert f"give the file as evaluate.features.{kind}.weights" in str(caught.value)
        (tmp_path / extractor.file).write_bytes(b"")
        with pytest.raises(InputError, match="is damaged"):  # before a training, and not at its first evaluation
            check({}, {kind: extractor(kind=kind)}, 1)
    with pytest.raises(
        InputError, match=r"no weights dinov2_vitb14_pretrain\.pth .*/dinov2_vitb14/dinov2_vitb14_pretrain"
    ):
        check({}, {"small": EXTRACTORS["dinov2"](kind="dinov2", size="base")}, 1)
    with pytest.raises(InputError, match=r"evaluate\.scores\.lpips\.weights: no weights alexnet"):
        METRICS["lpips"](kind="lpips").prepare()


def test_weights_of_another_network_or_of_none_are_refused_before_a_training(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    other = {"weights": str(tmp_path / "other.pth")}
    with pytest.raises(InputError, match="holds the weights of another network than inception"):
        check({}, {"mine": EXTRACTORS["inception"](kind="inception", **other)}, 1)
    for kind in ("random", "pixels", "classifier"):
        with pytest.raises(ValueError, match=f"has no effect on {kind} features"):
            EXTRACTORS[kind](kind=kind, **other).check(None)


def test_features_of_a_user_s_class_are_known_by_the_content_of_its_file_and_weights(tmp_path: Path) -> None:
    text = """
from gan_dist.evaluation import Extractor
class Mine(Extractor):
    def network(self, device): return lambda pixels: pixels.flatten(1)[:, :64] * FACTOR
"""

    def identity(folder: str, factor: int, weights: bytes = b"") -> dict[str, Any]:
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("FACTOR", str(factor)))
        with parts.reading(None):
            kind, found = parts.find(f"{path}:Mine", Extractor, {}, "--features")
        path.write_text("")  # what runs is what was loaded
        path.with_name("weights").write_bytes(weights)
        made = found(kind=kind, **({"weights": str(path.with_name("weights"))} if weights else {}))
        return made.build(CPU).identity

    first = identity("a", 1)
    assert identity("b", 1) == first  # wherever it lies
    assert identity("a", 3) != first
    assert identity("a", 1, b"one") != identity("a", 1, b"other")


def test_a_score_by_a_random_network_must_say_so_in_its_name() -> None:
    metric = METRICS["kid"](kind="kid", features="random")
    assert list(extractors({"kid_random": metric}, {})) == ["random"]
    with pytest.raises(InputError, match=r"call it kid_random: \{kind: kid, features: random\}"):
        extractors({"kid": metric}, {})
    with pytest.raises(InputError, match=r"evaluate\.scores\.kid\.features = nothing is no name"):
        extractors({"kid": METRICS["kid"](kind="kid", features="nothing")}, {})


def test_random_features_are_the_same_everywhere_and_of_another_seed_others() -> None:
    images = pictures(3, 16, 1)
    found = [EXTRACTORS["random"](kind="random", seed=seed).build(CPU).of(images) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert found[0].shape == (3, 256)
    assert float(found[0].double().sum()) == pytest.approx(float(found[1].double().sum()))


def test_a_classifier_learns_from_the_labels_once_and_its_accuracy_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(numbers: range) -> Tensor:  # class 0 is bright on the left, class 1 on the right
        found = torch.full((len(numbers), 1, 8, 8), -1.0)
        for row, number in zip(found, numbers, strict=True):
            row[..., 4 * (number % 2) : 4 * (number % 2) + 4] = 0.5 + 0.01 * (number % 7)
        return found

    data = Labelled(draw, torch.arange(80) % 2, "digest", tmp_path)
    extractor: Extractor = EXTRACTORS["classifier"](kind="classifier", steps=20)
    features = extractor.build(CPU, data)
    assert features.facts["accuracy"] == 1.0
    assert features.of(quantised(draw(range(3)))).shape == (3, 128)
    monkeypatch.setattr(type(extractor), "_train", None)
    assert extractor.build(CPU, data).facts == features.facts
    with pytest.raises(InputError, match="learns from the labels of the real images"):
        extractor.build(CPU, Labelled(draw, torch.zeros(0, dtype=torch.int64), "digest", tmp_path))


@pytest.mark.parametrize("kind", ["vgg16", "dinov2", "clip", "lpips"])
def test_other_networks_take_a_file_in_its_published_format(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real networks are large: the same code runs on smaller ones of the same names."""
    import timm.models.vision_transformer as transformers
    import torchvision

    path = tmp_path / "weights.pt"
    if kind == "lpips":
        with torch.device("meta"):
            convolutions = torchvision.models.alexnet(weights=None).features.state_dict()
        published = {f"features.{name}": 0.02 * torch.randn(each.shape) for name, each in convolutions.items()}
        torch.save({**published, "classifier.6.bias": torch.zeros(1000)}, path)
        heads = {
            f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))
        }
        torch.save(heads, tmp_path / "heads.pt")
        metric: Any = METRICS["lpips"](kind="lpips", weights=str(path), heads=str(tmp_path / "heads.pt"))
        one, other = (255 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        assert metric.each(one, one).tolist() == [0, 0]
        assert float(metric.each(one, other).min()) > 0
        return
    if kind == "vgg16":
        monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: _SmallVgg())
        torch.save(_SmallVgg().state_dict(), path)
        width = 4
    else:
        size = {"dinov2": (14, 224), "clip": (14, 336)}[kind]
        small = transformers.VisionTransformer(
            img_size=size[1], patch_size=14, embed_dim=8, depth=1, num_heads=2, num_classes=0 if kind == "dinov2" else 6,
            pre_norm=kind == "clip", init_values=1e-5 if kind == "dinov2" else None,
        )  # fmt: skip
        state = small.state_dict()
        published = {**state, "mask_token": torch.zeros(1, 8)} if kind == "dinov2" else _as_openai(state)
        torch.save(published, path)
        monkeypatch.setattr("timm.create_model", lambda name, pretrained, **keys: small)
        width = 8 if kind == "dinov2" else 6
    features = EXTRACTORS[kind](kind=kind, weights=str(path)).build(CPU)
    found = features.of(pictures(2))
    assert found.shape == (2, width)
    assert bool(found.isfinite().all())
    if kind == "clip":
        assert torch.allclose(found.norm(dim=1), torch.ones(2))


class _SmallVgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(2, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 9)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.features(pixels))


def _as_openai(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that OpenAI's CLIP gives to the tensors of a transformer of timm."""
    names = {
        "blocks.": "transformer.resblocks.",
        "norm_pre": "ln_pre",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
    }
    names |= {
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "patch_embed.proj": "conv1",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "head.bias":
            continue
        if name == "head.weight":
            name, tensor = "proj", tensor.T
        elif name == "cls_token":
            name, tensor = "class_embedding", tensor[0, 0]
        elif name == "pos_embed":
            name, tensor = "positional_embedding", tensor[0]
        elif name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        for own, published in names.items():
            name = name.replace(own, published)
        found[f"visual.{name}"] = tensor
    return found
