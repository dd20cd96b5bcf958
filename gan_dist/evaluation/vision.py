"""Features of other published networks, from a weights file: VGG16, DINOv2, CLIP."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_dist.errors import InputError
from gan_dist.evaluation.features import Extractor, Resize, read_weights

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Normalised(nn.Module):
    """A network after (x / 255 - mean) / deviation of each channel."""

    def __init__(
        self, network: nn.Module, moments: tuple[tuple[float, ...], tuple[float, ...]], unit: bool = False
    ) -> None:
        super().__init__()
        self.network, self.unit = network, unit
        self.mean, self.deviation = (nn.Buffer(torch.tensor(values).view(3, 1, 1)) for values in moments)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.network((pixels / 255 - self.mean) / self.deviation)
        return nn.functional.normalize(found.flatten(1)) if self.unit else found


class Vgg16(Extractor):
    """VGG16 on ImageNet, the second fully connected layer after its ReLU: 4,096 numbers, for precision and recall."""

    resize: Resize = "pil-bicubic"
    """How images come to 224x224 pixels."""

    file: ClassVar[str] = "vgg16-397923af.pth"
    digest: ClassVar[str] = "397923af"
    fetch: ClassVar[str] = "python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\""
    side: ClassVar[int] = 224

    @property
    def width(self) -> int:
        return 4096

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        from torchvision.models import vgg16

        state = read_weights(self.path())
        with torch.device("meta"):  # the file has the weights
            model = vgg16(weights=None)
        self.load_into(model, state)
        model.classifier = nn.Sequential(*list(model.classifier.children())[:-2])
        return Normalised(model, _IMAGENET).to(device)


class DinoV2(Extractor):
    """DINOv2's vision transformer, the class token: the features of FD-DINOv2 (Stein et al., 2023).

    It agrees with people where Inception does not. Values are of another size than FID's.
    """

    resize: Resize = "pil-bicubic"
    """How images come to 224x224 pixels."""
    size: Literal["small", "base", "large"] = "large"
    """large: as published, 1,024 numbers. base: a quarter of the work. Each has a weights file of its own."""

    file: ClassVar[str] = "dinov2_vitl14_pretrain.pth"
    side: ClassVar[int] = 224

    @property
    def width(self) -> int:
        return {"small": 384, "base": 768, "large": 1024}[self.size]

    def usual(self) -> tuple[str, str]:
        name = f"dinov2_vit{self.size[0]}14"
        file = f"{name}_pretrain.pth"
        address = f"https://dl.fbaipublicfiles.com/dinov2/{name}/{file}"
        return file, f"python -c \"import torch; torch.hub.load_state_dict_from_url('{address}')\""

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        name = f"vit_{self.size}_patch14_dinov2"
        return Normalised(_transformer(self, name, img_size=self.side, num_classes=0), _IMAGENET).to(device)


class Clip(Extractor):
    """CLIP's ViT-L/14 for 336x336 pixels, its image embedding of length 1: the features of CMMD (Jayasumana et al., 2024).

    The file is a state_dict with the names of OpenAI's model or of timm's.
    """

    resize: Resize = "pil-bicubic"
    """How images come to 336x336 pixels."""

    file: ClassVar[str] = "vit_large_patch14_clip_336.openai.safetensors"
    side: ClassVar[int] = 336

    @property
    def width(self) -> int:
        return 768

    def network(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        name = "vit_large_patch14_clip_quickgelu_336.openai"
        return Normalised(_transformer(self, name), _CLIP, unit=True).to(device)


def _transformer(extractor: Extractor, name: str, **keys: Any) -> nn.Module:
    """Return timm's network of a name with the extractor's weights."""
    state = read_weights(extractor.path())
    try:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn
    except ImportError:
        raise InputError(
            f"evaluate.features: {extractor.kind} needs timm, which is not installed: pip install 'gan_dist[evaluation]'"
        ) from None
    model: Any = timm.create_model(name, pretrained=False, **keys)
    try:
        state = dict(checkpoint_filter_fn(state, model))
    except Exception as error:  # it expects the names and shapes of its own network
        raise InputError(
            f"evaluate.features: {extractor.path()} holds the weights of another network than {extractor.kind} ({error})"
        ) from None
    return extractor.load_into(model, state)
