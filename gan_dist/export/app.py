"""Try this model in a browser: `pip install -r requirements.txt`, then `python app.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio
import torch
from draw import LEAST, draw, from_picture, grid, load, translate

MOST = 64
"""Samples drawn at once."""
ALL = "(all)"
"""Of every class: no name of a folder."""
network, config = load(Path(__file__).resolve().parent)
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

page = gradio.Interface(
    answer, fields, gradio.Image(type="pil", format="png"), title=config["run"]["name"], flagging_mode="never"
)

if __name__ == "__main__":
    page.launch()
