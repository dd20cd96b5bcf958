"""Try this model in a browser: `pip install -r requirements.txt`, then `python app.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio
import torch
from draw import ENCODER_PROGRAM, LEAST, draw, from_picture, grid, load, load_encoder, reconstruct, to_encode, translate

MOST = 64
"""Samples drawn at once."""
ALL = "(all)"
"""Of every class: no name of a folder."""
FOLDER = Path(__file__).resolve().parent
network, config = load(FOLDER)
encoder = load_encoder(FOLDER) if (FOLDER / ENCODER_PROGRAM).exists() else None
inputs = config["inputs"]
torch.set_grad_enabled(False)


def drawn(seed: float, count: float, *more: Any) -> Any:
    """Return a picture of the samples of a seed; `more` are the values of `further`."""
    given = dict(zip(further, more, strict=True))
    label = choices.index(given.get("label", ALL)) - 1
    truncation = given.get("truncation")
    made = draw(network, config, int(seed), int(count), label=None if label < 0 else label, truncation=truncation)
    return grid(made, LEAST)


def translated(picture: Any, number: float = 0) -> Any:
    """Return what the network makes of a picture."""
    if picture is None:
        return None
    return grid(translate(network, config, from_picture(config, picture), [int(number)]))


def reconstructed(picture: Any) -> Any:
    """Return what an autoencoder makes of a picture, which is cropped and resized to the training's size before."""
    if picture is None or encoder is None:
        return None
    return grid(reconstruct(network, encoder, config, to_encode(config, picture)), LEAST)


choices, further = [ALL], list[str]()
answer: Callable[..., Any] = translated if "images" in inputs else drawn
if "images" in inputs:
    # as it is: else transparency, label maps and 16 bits would be lost
    fields = [gradio.Image(type="pil", image_mode=None, label="picture")]
    if "numbers" in inputs:
        fields.append(gradio.Slider(0, 100, value=0, step=1, label="number of the dropout"))
else:
    fields = [
        gradio.Slider(0, 10_000, value=0, step=1, label="seed"),
        gradio.Slider(1, MOST, value=16, step=1, label="samples"),
    ]
    if "labels" in inputs:
        names = inputs["labels"]["names"] or [str(number) for number in range(inputs["labels"]["classes"])]
        choices += names
        further.append("label")
        fields.append(gradio.Dropdown(choices, value=ALL, label="class"))
    if "truncation" in inputs:
        further.append("truncation")
        default = inputs["truncation"]["default"]
        fields.append(gradio.Slider(0, 1.2, value=default, step=0.05, label="truncation"))


def paged(answers: Callable[..., Any], given: list[Any]) -> Any:
    """Return a page that shows what a function makes of some fields."""
    shown = gradio.Image(type="pil", format="png")  # pixels as they are: gradio's own is a lossy webp
    return gradio.Interface(answers, given, shown, title=config["run"]["name"], flagging_mode="never")


page = paged(answer, fields)
if encoder is not None:
    pages = [page, paged(reconstructed, [gradio.Image(type="pil", label="picture")])]
    page = gradio.TabbedInterface(pages, ["draw", "reconstruct"])

if __name__ == "__main__":
    page.launch()
