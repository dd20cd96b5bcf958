"""`gan-dist psnr`: score a restoration run on whole clean images, beside their degraded inputs."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from gan_dist.restored import Restored

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
    channels = options.channels or ("y" if config.data.seen("target") == 3 else "rgb")
    border = game.scale if options.border is None else options.border
    record = {"run": str(options.run), "checkpoint": checkpoint, "channels": channels, "border": border}
    record["scale"] = game.scale
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as rows:
        items = restored.listed(options.images, Path(scratch))
        if options.out:
            _check_names([item.name for item in items], options.out)
        found = restored.restored(
            game, config, options.images, items, Path(scratch), options.inputs, options.channels, options.border
        )
        sums = dict[str, float]()
        for number, each in enumerate(found):  # nothing is kept of an image: sets may be larger than the memory
            sums = {key: sums.get(key, 0.0) + score for key, score in each.scores.items()}
            if options.json:
                rows.write(
                    f"{',' if number else ''}\n  {json.dumps(each.name)}: {json.dumps(files.plain(each.scores))}"
                )
            else:
                if not number:
                    print(
                        f"{checkpoint}, {channels}, border {border}:  PSNR input -> output (dB)   SSIM input -> output"
                    )
                _print(each.name, each.scores)
            if options.out:
                _write(options.out, each)
        means = {key: total / len(items) for key, total in sums.items()}
        if not options.json:
            _print(f"mean of {len(items)}", means)
            return
        rows.seek(0)
        print(f'{{\n "scores": {json.dumps(files.plain(means))},\n "images": {{', end="")
        shutil.copyfileobj(rows, sys.stdout)
        print(f'\n }},\n "record": {json.dumps(record)}\n}}')


def _print(label: str, row: Mapping[str, float]) -> None:
    print(
        f"  {label:24s} {row['psnr/input']:6.2f} -> {row['psnr']:6.2f}   {row['ssim/input']:.4f} -> {row['ssim']:.4f}",
        flush=True,
    )


def _write(out: Path, each: "Restored") -> None:
    """Write the PNGs of an image. Raises InputError where they cannot be."""
    from gan_dist import files

    for kind, content in (("input", each.low), ("output", each.made)):
        path = out / kind / _relative(each.name)
        files.make_directory(path.parent, "--out")
        try:
            files.write_atomic(path, content)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}): make room, or give --out another folder"
            ) from None


def _check_names(names: Sequence[str], out: Path) -> None:
    """Raise InputError where the PNGs of two images would have one name."""
    written: dict[Path, str] = {}
    for name in names:
        if (earlier := written.setdefault(_relative(name), name)) != name:
            raise InputError(f"--out {out}: {earlier} and {name} would both be {_relative(name)}; rename one of them")


def _relative(name: str) -> Path:
    """Return where in --out the PNG of an image lies: below it, whatever an archive calls the image."""
    path = Path(name).with_suffix(".png")
    return Path(*(part for part in path.parts if part not in (path.anchor, "..")))
