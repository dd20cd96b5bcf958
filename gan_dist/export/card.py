"""Write the model card of an export (README.md), from the run's own figures."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gan_dist import units
from gan_dist.export import model
from gan_dist.export.model import Generator

_SPECIAL = re.compile(r"([\\`*\[\]<>|&])")
_NO_LICENCE = {"license": "other", "license_name": "not-chosen-yet"}


def licence(folder: Path) -> dict[str, Any]:
    """Return the licence that somebody wrote into the card of an earlier export; nothing where nobody did."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        before, front, _ = (folder / model.CARD).read_text().split("---\n", 2)
        found = yaml.safe_load(front)
        if not before and isinstance(found, dict):
            keys = {key: value for key, value in found.items() if str(key).startswith("license")}
            if keys.get("license") != "other" and keys.get("license_name") == _NO_LICENCE["license_name"]:
                del keys["license_name"]
            return {} if keys == _NO_LICENCE else keys
    return {}


def write(
    network: Generator, folder: Path, name: str, known: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
) -> str:
    """Return the card of what lies in a folder. `chosen` are the keys of a licence, where one was chosen before."""
    parts = [
        _front(network, name, known, chosen or _NO_LICENCE),
        f"# {_plain(name)}",
        _pictures(folder),
        _about(network, known),
        _use(network, folder),
    ]
    parts += [
        _inputs(network.config),
        _training(known),
        _scores(known),
        _files(network.config, folder),
        _limits(known, bool(chosen)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(network: Generator, name: str, known: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """Return the front matter that the hub reads."""
    kind = network.config["network"]["kind"]
    tag = "image-to-image" if network.takes_images else "unconditional-image-generation"
    front: dict[str, Any] = {
        "library_name": "gan_dist",
        "pipeline_tag": tag,
        **chosen,
        "tags": ["gan", "gan_dist", kind, "safetensors"],
    }
    results = [{"type": score["metric"], "name": score["metric"], "value": score["value"]} for score in known["scores"]]
    if results:
        data = {"type": "image-folder", "name": f"shards of digest {known['data']['digest'][:12]}"}
        front["model-index"] = [
            {"name": name, "results": [{"task": {"type": tag}, "dataset": data, "metrics": results}]}
        ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _plain(value: object) -> str:
    """Return a name from outside, of a class or a file, as Markdown shows it: no table ends in it, and no HTML begins."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _pictures(folder: Path) -> str:
    shown = [name for name in (model.GRID, "walk.webp") if (folder / name).exists()]
    return "\n\n".join(f"![{name}]({name})" for name in shown)


def _about(network: Generator, known: Mapping[str, Any]) -> str:
    config, shape = network.config, network.config["shape"]
    what = (
        "points"
        if shape["points"]
        else f"images of {units.pixels(tuple(shape['size']))} pixels, {shape['channels']} channels"
    )
    verb = "turns images into" if network.takes_images else "draws"
    weights = "the moving average of its weights" if config["weights"] == "averaged" else "its weights as trained"
    encoder = " It is the decoder of an autoencoder, whose encoder is here too." if "encoder" in config else ""
    return (
        f"A generator ({config['network']['kind']}) that {verb} {what}: {weights} after {known['images']:,} images. "
        f"Trained by gan_dist {known['gan_dist'] or config['gan_dist']}.{encoder}"
    )


def _use(network: Generator, folder: Path) -> str:
    """Return how to load it: by plain torch, with keyed latents, and with the package."""
    config = network.config
    call, keyed = _call(config), "translate" if network.takes_images else "draw"
    lines = ["## Use it", ""]
    if (folder / model.PROGRAM).exists():
        lines += [
            "By torch and safetensors alone:",
            "",
            "```python",
            "import torch",
            "from safetensors.torch import load_file",
            "",
            'network = torch.export.load("model.pt2").module()',
            'network.load_state_dict(load_file("model.safetensors"))  # the weights that model.pt2 has too',
            f"output = network({call})",
            "```",
            "",
            "`model.pt2` is a program of torch "
            f"{_torch_version()}; other versions of torch may not read it. Reading it may run code, as reading a pickle does: "
            "take it from people whom you trust. The weights are plain safetensors.",
            "",
            "`draw.py` in this folder needs no other code either. Sample i of a seed is always the same:",
            "",
            "```python",
            f"from draw import {keyed}, load",
            "",
            'network, config = load(".")',
            "images = draw(network, config, seed=0, count=16)"
            if keyed == "draw"
            else f"images = translate(network, config, torch.rand(1, {config['shape']['inputs']}, 100, 60) * 2 - 1, numbers=[0])",
            "```",
            "",
        ]
        if keyed == "translate":
            lines.insert(lines.index("from draw import translate, load"), "import torch")
    if (folder / model.PROGRAM).exists() and (folder / model.ENCODER_PROGRAM).exists():
        lines += [
            "Encode images, and reconstruct them:",
            "",
            "```python",
            "import torch",
            "from draw import encode, load, load_encoder, reconstruct",
            "",
            'network, config = load(".")',
            'encoder = load_encoder(".")',
            f"images = {_images(config['encoder'], 4)}",
            "latents = encode(encoder, config, images)",
            "images = reconstruct(network, encoder, config, images)",
            "```",
            "",
            "`encoder(images)` gives the means and the log-variances of the latents; `encode` takes the means. `python draw.py "
            "--image PICTURE` reconstructs a picture.",
            "",
        ]
    lines += [
        "With the package (`pip install gan_dist`), from this folder or by its name on the hub:",
        "",
        "```python",
        "import gan_dist",
        "",
        'generator = gan_dist.load(".")',
        "images = generator.draw(seed=0, count=16)"
        if keyed == "draw"
        else "images = generator.translate(images)  # (N, C, H, W) in [-1, 1]",
        *(["images = generator.reconstruct(images)  # (N, C, H, W) in [-1, 1]"] if "encoder" in config else []),
        "```",
    ]
    if (folder / "app.py").exists():
        lines += ["", "`app.py` is a page to try it: `pip install -r requirements.txt && python app.py`."]
    return "\n".join(lines)


def _call(config: Mapping[str, Any]) -> str:
    """Return the arguments of a call of the network, as Python."""
    inputs, shape = config["inputs"], config["shape"]
    dtype = "" if config["dtype"] == "float32" else f", dtype=torch.{config['dtype']}"
    if "images" in inputs:
        words = [_images(config, 4)]
    elif inputs["latents"]["distribution"] == "uniform":
        words = [f"torch.rand(16, {shape['latent']}{dtype}) * 2 - 1"]
    else:
        words = [f"torch.randn(16, {shape['latent']}{dtype})"]
    if "labels" in inputs:
        words.append(f"labels=torch.arange(16) % {inputs['labels']['classes']}")
    if "truncation" in inputs:
        words.append(f"truncation=torch.tensor({inputs['truncation']['default']}{dtype})")
    if "numbers" in inputs:
        words.append("numbers=torch.arange(4)")
    return ", ".join(words)


def _images(config: Mapping[str, Any], count: int) -> str:
    """Return images for a network, as Python."""
    height, width = (side // config["scale"] for side in config["shape"]["size"])
    dtype = "" if config["dtype"] == "float32" else f", dtype=torch.{config['dtype']}"
    return f"torch.rand({count}, {config['shape']['inputs']}, {height}, {width}{dtype}) * 2 - 1"


def _inputs(config: Mapping[str, Any]) -> str:
    """Return the table of what goes in and comes out."""
    inputs = config["inputs"]
    rows = []
    if "latents" in inputs:
        which = "uniform in [-1, 1]" if inputs["latents"]["distribution"] == "uniform" else "standard normal"
        rows.append(("latents", inputs["latents"]["shape"], f"{which} numbers"))
    if "images" in inputs:
        given = inputs["images"]
        colours = "a channel of 0 and 1 for each class" if given["label_map"] else "[-1, 1]"
        sides = f"sides are {given['size']}" if given["size"] else f"sides are multiples of {given['multiple']}"
        rows.append(("images", given["shape"], f"{colours}; {sides}"))
    if "labels" in inputs:
        names = ", ".join(f"{number} {_plain(name)}" for number, name in enumerate(inputs["labels"]["names"][:20]))
        rows.append(("labels", ["N"], f"int64, 0..{inputs['labels']['classes'] - 1}" + (f": {names}" if names else "")))
    if "truncation" in inputs:
        rows.append(("truncation", [], "a number: 1 draws all kinds of images, less draws those nearer to the mean"))
    if "numbers" in inputs:
        rows.append(("numbers", ["N"], "int64: keys of the dropout; the same number drops the same"))
    rows.append(("output", config["output"]["shape"], "points" if config["shape"]["points"] else "about in [-1, 1]"))
    if encoder := config.get("encoder"):
        given, made = encoder["inputs"]["images"]["shape"], encoder["output"]["means"]["shape"]
        rows.append(("images of the encoder", given, "[-1, 1]; of this size only"))
        rows.append(("its outputs", made, "means and log-variances of the latents, two such tensors"))
    table = [f"| {name} | ({', '.join(map(str, shape))}) | {text} |" for name, shape, text in rows]
    text = "\n".join(["## Inputs and output", "", "| name | shape | meaning |", "|---|---|---|", *table])
    if config["network"]["kind"] == "stylegan2":
        text += "\n\nThe noise of its layers is fixed, a part of the weights: a latent gives one image."
    return text


def _training(known: Mapping[str, Any]) -> str:
    data, keys = known["data"], known["training"]
    rows = [
        ("images shown to the discriminator", f"{known['images']:,}"),
        ("recipe", known["recipe"]),
        ("game", keys["game"]["kind"]),
        ("loss", (keys.get("loss") or {}).get("kind")),
        ("penalties", ", ".join(keys.get("penalties") or ())),
        ("augmentations", ", ".join(keys.get("augment") or ())),
        ("batch", keys["training"]["batch"]),
        ("precision", keys["training"]["precision"]),
        ("seed", known["seed"]),
        ("data", f"digest {data['digest'][:16]}" if data["digest"] else None),
        ("samples in the data", f"{data['samples']:,}" if data["samples"] else None),
        ("commit", known["commit"]),
        ("digest of the checkpoint", known["digest"][:16]),
    ]
    table = [f"| {name} | {_plain(value)} |" for name, value in rows if value not in (None, "")]
    keys_text = yaml.safe_dump(dict(keys), sort_keys=False, width=110)
    hidden = f"<details><summary>All keys that decide about it</summary>\n\n```yaml\n{keys_text}```\n\n</details>"
    return "\n".join(["## Training", "", "| | |", "|---|---|", *table, "", hidden])


def _scores(known: Mapping[str, Any]) -> str:
    rows = []
    for score in known["scores"]:
        error = f" ± {score['error']:.3g}" if isinstance(score.get("error"), int | float) else ""
        extractor = (score.get("extractor") or {}).get("kind", "")
        real = "held out" if score.get("against") else "real"
        counts = f"{score.get('n_generated')} generated, {score.get('n_real')} {real}"
        rows.append(
            f"| {_plain(score['metric'])} | {score['value']:.4g}{error} | {score.get('better', '')} | {_plain(extractor)} | {counts} |"
        )
    if not rows:
        return "## Scores\n\nThis checkpoint has not been scored (`gan-dist evaluate`)."
    head = ["## Scores", "", "| score | value | better | features | images |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", "Their whole records are in config.json, under `run.scores`."])


def _files(config: Mapping[str, Any], folder: Path) -> str:
    rows = []
    for path in sorted(folder.iterdir()):
        about = config["files"].get(path.name)
        text = (
            f"outputs differ from the trained network's by at most {about['largest_difference']:.2g}" if about else ""
        )
        rows.append(f"| {path.name} | {units.size(path.stat().st_size)} | {text} |")
    return "\n".join(["## Files", "", "| file | size | |", "|---|---|---|", *rows])


def _limits(known: Mapping[str, Any], chosen: bool) -> str:
    checked = any("neighbours" in score["metric"] for score in known["scores"])
    memory = "" if checked else " It has not been checked for images that it remembers from the data."
    first = (
        "The licence stands at the top of this page."
        if chosen
        else "**No licence has been chosen yet**: set `license` at the top of this page, and name the data and their licence."
    )
    return f"## Licence and limits\n\n{first} It draws what its data hold, and leaves out what they lack.{memory}"


def _torch_version() -> str:
    import torch

    return str(torch.__version__).partition("+")[0]
