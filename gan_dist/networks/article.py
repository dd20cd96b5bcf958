"""Make the two networks of the article that this project starts from, for 28x28 grey digits (docs/article.md)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from gan_dist.config.common import Config
from gan_dist.networks import initialisation
from gan_dist.networks.base import Network, Shape
from gan_dist.networks.statistics import BatchNorm


class Generator(nn.Module):
    """(N, latent) normal numbers [and (N,) classes] -> (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self, latent: int, classes: int = 0) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, latent) if classes else None
        self.dense = nn.Sequential(
            nn.Linear(2 * latent if classes else latent, 7 * 7 * 256, bias=False),
            BatchNorm(7 * 7 * 256),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (256, 7, 7)),
        )
        self.convolutions = nn.Sequential(
            nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1, bias=False),  # 14x14
            BatchNorm(128),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(128, 1, 4, stride=2, padding=1),  # 28x28
            nn.Tanh(),
        )
        initialisation.dcgan(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.classes is not None:
            latents = torch.cat([latents, self.classes(labels)], dim=1)
        images: Tensor = self.convolutions(self.dense(latents))
        return images


class Discriminator(nn.Module):
    """(N, 1, 28, 28) images [and (N,) classes] -> (N,) logits: the article's sigmoid lives in the loss."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, 1024),
            nn.LeakyReLU(0.2),
            nn.Linear(1024, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
        )
        self.logit = nn.Linear(256, 1)
        initialisation.dcgan(self)
        self.classes = nn.Embedding(classes, 256) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images)
        logits: Tensor = self.logit(features)[:, 0]
        if self.classes is not None:  # projection (Miyato and Koyama, 2018)
            logits = logits + (self.classes(labels) * features).sum(1)
        return logits


class Article(Network):
    """The article's networks for 28x28 grey digits (docs/article.md)."""

    of_latents: ClassVar[bool] = True

    def check(self, config: Config) -> None:
        if (config.data.resolution, config.data.channels) != (28, 1):
            raise ValueError(
                "networks.*.kind = article draws 28x28 grey images only; set data.resolution: 28 and data.channels: 1, "
                "or networks.*.kind: dcgan"
            )
        networks = config.networks
        if getattr(networks, "discriminator", None) is self and getattr(config.game, "pack", 1) > 1:
            raise ValueError(
                f"networks.discriminator.kind = article judges one grey image at a time, and game.pack = {config.game.pack}; set "
                "game.pack: 1, or networks.discriminator.kind: r3gan"
            )
        if config.training.micro_batch == 1:
            raise ValueError(
                "networks.*.kind = article normalises single numbers over the samples of a micro-batch, which takes two; "
                "set training.micro_batch: 2 or more"
            )

    def generator(self, shape: Shape) -> nn.Module:
        return Generator(shape.latent, shape.classes)

    def discriminator(self, shape: Shape) -> nn.Module:
        return Discriminator(shape.classes)
