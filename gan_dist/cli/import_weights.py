"""`gan-dist import`: make a run of weights that another system trained."""

import argparse
from pathlib import Path

HELP = "make a run of StyleGAN2-ADA's or R3GAN's weights (safetensors)"
EXAMPLES = (
    "gan-dist import ffhq.safetensors --as stylegan2-ada runs/ffhq\n"
    "  gan-dist import G_ema.safetensors --as r3gan runs/r3 --discriminator D.safetensors\n"
    "  gan-dist generate runs/ffhq"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="state dictionaries: G_ema alone, or G_ema., G. and D. in front"
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="the run directory to write: a new or empty folder")
    parser.add_argument("--as", dest="layout", required=True, metavar="LAYOUT", help="stylegan2-ada or r3gan")
    parser.add_argument("--discriminator", type=Path, metavar="FILE", help="a discriminator in a file of its own")


def run(options: argparse.Namespace) -> None:
    """Write the run."""
    from gan_dist.foreign import writing

    config = writing.take_in(options.file, options.layout, options.folder, options.discriminator)
    size, kind = config.data.resolution, config.networks.generator.kind
    print(
        f"{options.folder}: a {kind} for {size} pixels at 0 images; `gan-dist generate {options.folder}` draws from it"
    )
