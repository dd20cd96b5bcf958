"""The Inception network of FID and KID, by the blocks of torch-fidelity and in its file format."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.errors import InputError
from gan_dist.evaluation.features import Extractor, Resize, read_weights

_LAYERS = {"64": ("MaxPool_1", 64), "192": ("MaxPool_2", 192), "768": ("Mixed_6e", 768), "2048": ("AvgPool", 2048)}
"""Layer -> the block after which it is read, and its width."""


class Inception(Extractor):
    """Inception v3 of 2015, TensorFlow's and not torchvision's: the features of FID, KID and the inception score.

    Images of 299x299, (x - 128) / 128. The file is torch-fidelity's, which is converted from the original.
    """

    resize: Resize = "pil-bicubic"
    """How images come to 299x299 pixels. pil-bicubic: clean-fid. tf1-bilinear: StyleGAN, torch-fidelity and the first FID."""
    layer: Literal["64", "192", "768", "2048"] = "2048"
    """Where features are read: 2048, the last one before the classes, is what FID means; smaller ones are for few images."""

    file: ClassVar[str] = "weights-inception-2015-12-05-6726825d.pth"
    digest: ClassVar[str] = "6726825d"
    fetch: ClassVar[str] = (
        "python -c \"import torch; torch.hub.load_state_dict_from_url('https://github.com/toshas/torch-fidelity/releases/"
        f"download/v0.2.0/{file}')\""
    )
    side: ClassVar[int] = 299

    @property
    def width(self) -> int:
        return _LAYERS[self.layer][1]

    @property
    def may_name_classes(self) -> bool:
        return self.layer == "2048"

    def network(self, device: torch.device) -> "InceptionNetwork":
        state = read_weights(self.path())
        network = InceptionNetwork(_LAYERS[self.layer][0])
        self.load_into(network, state)
        return network.to(device)


class InceptionNetwork(nn.Module):
    """The blocks in the order in which they are run, under the names that the file gives them."""

    def __init__(self, last: str = "AvgPool") -> None:
        super().__init__()
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as blocks
        except ImportError:
            raise InputError(
                "evaluate.features: inception needs torch-fidelity, which is not installed: pip install "
                "'gan_dist[evaluation]'; `--features random` needs nothing and shows a trend"
            ) from None
        conv = blocks.BasicConv2d
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self.AvgPool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, 1008)
        self.last = last
        if last == "AvgPool":
            self.logits: Callable[[Tensor], Tensor] = self._logits

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (N, D) of pixels (N, 3, 299, 299) of 0..255."""
        found = (pixels - 128) / 128
        for name, block in self.named_children():
            found = block(found)
            if name == self.last:
                break
        return F.adaptive_avg_pool2d(found, 1).flatten(1)

    def _logits(self, features: Tensor) -> Tensor:
        """Return the logits of 1,008 classes without their biases, as the inception score has them."""
        weight = self.fc.weight
        return features.to(weight.device) @ weight.T
