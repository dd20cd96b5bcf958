"""`gan-dist index`: build or check the index of shards, and print what they hold."""

import argparse
import json
from collections import Counter
from pathlib import Path

HELP = "build or check the index of shards, and print what they hold"
EXAMPLES = "gan-dist index data/photos\n  gan-dist index 'data/train-{000000..000099}.tar'\n  gan-dist index 's3://bucket/train-{000000..000099}.tar'"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="folder, .tar file, brace pattern or URL")
    parser.add_argument("--image", default="auto", help="extension of the image, where samples have several")
    parser.add_argument("--allow-pipe", action="store_true", help="run the shell commands among SHARDS (pipe:COMMAND)")
    parser.add_argument("--copy", action="store_true", help="copy remote shards whole (a training: data.remote: copy)")
    parser.add_argument("--upload", action="store_true", help="put each index beside its shard in the bucket")
    parser.add_argument("--cache", default="", help="folder for what cannot lie beside the shards")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> None:
    """Build what is missing of the index, and print its facts."""
    from gan_dist.config import default_cache
    from gan_dist.data import index, remote_index, shards

    cache = Path(options.cache) if options.cache else default_cache()
    local = shards.fetch(shards.expand(options.shards, options.allow_pipe), cache, options.copy)
    index.build(local, cache, options.image, progress=not options.json)
    if options.upload:
        remote_index.upload(local, cache, options.image, progress=not options.json)
    loaded = index.load(local, cache, options.image)
    labels = {str(label): count for label, count in sorted(Counter(loaded.label.tolist()).items()) if label >= 0}
    facts = {
        "samples": len(loaded),
        "shards": len(loaded.shards),
        "classes": labels,
        "width": [int(loaded.width.min()), int(loaded.width.max())] if len(loaded) else [],
        "height": [int(loaded.height.min()), int(loaded.height.max())] if len(loaded) else [],
        "kinds": loaded.channels,
        "bad": list(loaded.bad),
        "left_out": loaded.left_out,
        "digest": loaded.digest,
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return
    names = {"1": "grey", "3": "RGB", "4": "with transparency or CMYK"}
    print(f"samples  {facts['samples']:,} in {facts['shards']} shards")
    if len(loaded):
        print("size     {}..{} x {}..{} pixels".format(*facts["width"], *facts["height"]))  # type: ignore[misc]
        print("kind     " + ", ".join(names[kind] for kind in sorted(loaded.channels)))
    print("classes  " + (", ".join(f"{label}: {count:,}" for label, count in labels.items()) or "none"))
    print(f"bad      {len(loaded.bad)}" + "".join(f"\n  {bad}" for bad in loaded.bad))
    if left_out := loaded.left_out:
        reasons = ", ".join(f"{why} {count:,}" for why, count in left_out.items())
        print(f"unused   {sum(left_out.values()):,} members that belong to no image: {reasons}")
    print(f"digest   {loaded.digest}")
