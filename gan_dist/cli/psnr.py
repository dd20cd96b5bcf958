"""`gan-dist psnr`: score a restoration run on whole clean images, beside their degraded inputs."""

import argparse
import json
import tempfile
from pathlib import Path

from gan_dist.errors import InputError

HELP = "score a restoration run on whole clean images, beside their degraded inputs"
EXAMPLES = (
    "gan-dist psnr runs/sr_x4_psnr Set5.tar                          Y channel, border as wide as the scale\n"
    "  gan-dist psnr runs/sr_x4_psnr Set14 --channels rgb --out restored\n"
    "  gan-dist psnr runs/denoise clean --inputs noisy:{}_noisy"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run of game.kind: restoration, or a checkpoint in it")
    parser.add_argument("images", metavar="IMAGES", help="a folder, zip or tar of clean images of any size")
    parser.add_argument(
        "--inputs",
        default="",
        metavar="FOLDER[:TEMPLATE]",
        help="degraded images (default: made by the run's data.degrade)",
    )
    parser.add_argument("--channels", choices=("y", "rgb"), default="", help="y: luma of BT.601 (default for colour)")
    parser.add_argument("--border", type=int, metavar="N", help="pixels left out at each edge (default: the scale)")
    parser.add_argument("--out", type=Path, help="folder for a PNG of each input and output")
    parser.add_argument("--checkpoint", default="", help="name of a checkpoint (default: the newest whole one)")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Print PSNR and SSIM of each image and their means."""
    from gan_dist import files, generate, restored

    if options.out and options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise InputError(f"--out {options.out} is there already, and is no empty folder; give another folder")
    if options.border is not None and options.border < 0:
        raise InputError(f"--border {options.border}: give a number of pixels, from 0")
    game, config, checkpoint = generate.load(options.run, options.checkpoint)
    rows, written = dict[str, dict[str, float]](), dict[Path, str]()
    with tempfile.TemporaryDirectory() as scratch:
        found = restored.restored(
            game, config, options.images, Path(scratch), options.inputs, options.channels, options.border
        )
        for each in found:
            if each.name in rows:
                raise InputError(f"{options.images} has two images {each.name}; rename one")
            rows[each.name] = dict(each.scores)
            if options.out:
                name = _relative(each.name)
                if (earlier := written.setdefault(name, each.name)) != each.name:
                    raise InputError(
                        f"--out {options.out}: {earlier} and {each.name} would both be {name}; rename one of them"
                    )
                for kind, content in (("input", each.low), ("output", each.made)):
                    path = options.out / kind / name
                    files.make_directory(path.parent, "--out")
                    try:
                        files.write_atomic(path, content)
                    except OSError as error:
                        raise InputError(
                            f"{path} cannot be written ({error.strerror}): make room, or give --out another folder"
                        ) from None
    means = {key: sum(row[key] for row in rows.values()) / len(rows) for key in next(iter(rows.values()))}
    channels = options.channels or ("y" if config.data.seen("target") == 3 else "rgb")
    border = game.scale if options.border is None else options.border
    record = {
        "run": str(options.run),
        "checkpoint": checkpoint,
        "channels": channels,
        "border": border,
        "scale": game.scale,
    }
    if options.json:
        print(json.dumps({"scores": means, "images": rows, "record": record}, indent=1))
        return
    print(f"{checkpoint}, {channels}, border {border}:  PSNR input -> output (dB)   SSIM input -> output")
    for label, row in {**rows, f"mean of {len(rows)}": means}.items():
        print(
            f"  {label:24s} {row['psnr/input']:6.2f} -> {row['psnr']:6.2f}   {row['ssim/input']:.4f} -> {row['ssim']:.4f}"
        )


def _relative(name: str) -> Path:
    """Return where in --out the PNG of an image lies: below it, whatever an archive calls the image."""
    path = Path(name).with_suffix(".png")
    return Path(*(part for part in path.parts if part not in (path.anchor, "..")))
