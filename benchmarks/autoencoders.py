"""Show an autoencoder and a GAN of the same data side by side: the picture of docs/autoencoders.md.

    python benchmarks/autoencoders.py OUT.png --vae RUN [--vae-gan RUN] --gan RUN

Rows from above: real images, reconstructions of the VAE and of VAE-GAN, then samples of the VAE, of VAE-GAN and of the GAN.
Without --vae-gan its rows are left out.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gan_dist import generate, rng
from gan_dist.config import Config
from gan_dist.data import loader, order
from gan_dist.interfaces import Batch
from gan_dist.tracking import save_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--vae-gan", type=Path)
    parser.add_argument("--gan", type=Path, required=True)
    parser.add_argument("--shards", default="", help="default: those of the VAE's run")
    parser.add_argument("--columns", type=int, default=16)
    options = parser.parse_args()
    count = options.columns
    torch.set_num_threads(1)
    named = (options.vae, options.vae_gan, options.gan)
    loaded = [generate.load(run) for run in named if run is not None]
    games, config = [game for game, *_ in loaded], loaded[0][1]
    shown = real_images(config.with_({"data.shards": options.shards}) if options.shards else config, count)
    rows = [shown["image"], *(game.infer(shown) for game in games[:-1])]
    rows += [game.samples(0, 0, count) for game in games]
    save_grid(torch.cat([row.cpu().float() for row in rows]), options.out, count)
    print(f"{options.out}: {len(rows)} rows of {count}")


def real_images(config: Config, count: int) -> Batch:
    """Return images of the data set in a fixed shuffled order."""
    index = loader.open_index(config)
    chosen: list[int] = order.permute(rng.key(0, "autoencoders"), len(index), torch.arange(count).numpy()).tolist()
    return loader.load(index, config, chosen, torch.device("cpu"))


if __name__ == "__main__":
    main()
