"""Weights of StyleGAN2-ADA and R3GAN: toy networks whose outputs their own code computed once (tests/data/foreign.safetensors).

Every tensor is a function of its name, so the file holds names, shapes and outputs alone.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_dist import cli, generate, rng
from gan_dist.errors import InputError
from gan_dist.foreign import writing

DATA = Path(__file__).parents[1] / "data/foreign.safetensors"
LAYOUTS = ("stylegan2-ada", "r3gan")
CLASSES = 3


def value(name: str, shape: list[int], layout: str) -> Tensor:
    numbers = rng.normal(rng.key(0, name), torch.arange(1), max(1, math.prod(shape)))[0].reshape(shape)
    if layout == "r3gan" and len(shape) > 1:
        numbers = numbers / math.sqrt(math.prod(shape[1:]))
    return 100 * numbers if "mapping.fc" in name else numbers  # which StyleGAN2 stores so


def state(layout: str) -> dict[str, Tensor]:
    with safe_open(DATA, "pt") as file:
        shapes = json.loads(file.metadata()[layout])
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    lowpass = torch.outer(row, row) / 64
    return {
        name: lowpass.clone() if shape == "filter" else value(name, shape, layout) for name, shape in shapes.items()
    }


def expected(layout: str) -> dict[str, Tensor]:
    found = load_file(DATA)
    return {name.partition("/")[2]: tensor for name, tensor in found.items() if name.startswith(f"{layout}/")}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    latents = rng.normal(rng.key(0, "z"), torch.arange(4), 6)
    images = rng.normal(rng.key(0, "images"), torch.arange(4), 3 * 16 * 16).reshape(4, 3, 16, 16)
    return latents, torch.arange(4) % CLASSES, images


def close(found: Tensor, wanted: Tensor) -> bool:
    return float((found[: len(wanted)] - wanted).abs().max()) < 2e-6 * max(1.0, float(wanted.abs().max()))


def imported(layout: str, tmp_path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    save_file(state(layout) if tensors is None else tensors, file)
    assert cli.main(["import", str(file), "--as", layout, str(run)]) == 0
    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_outputs_are_those_of_the_code_that_the_weights_come_from(layout: str, tmp_path: Path) -> None:
    game, config, name = generate.load(imported(layout, tmp_path), live=False)
    latents, labels, _ = inputs()
    wanted = expected(layout)
    network: Any = game.players[0].average.network
    assert close(network(latents, labels), wanted["images"])
    if layout == "stylegan2-ada":
        assert close(network(latents, labels, truncation=torch.tensor(0.5)), wanted["truncated"])
    game, *_ = generate.load(tmp_path / "run", live=True)
    assert name == "images-000000000"
    assert config.data.classes == CLASSES


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_discriminator_gives_the_logits_of_the_code_it_comes_from(layout: str) -> None:
    known = writing._read(Path("x"), writing.networks_in(state(layout))["D"], layout, "discriminator")
    best = writing._read(Path("x"), writing.networks_in(state(layout))["G_ema"], layout, "generator")
    from gan_dist import games

    game = games.build(writing._config(best, known, "x", Path("x")))
    network = game.players[1].network
    writing._fill(network, known, Path("x"))
    _, labels, images = inputs()
    assert close(network(images, labels), expected(layout)["logits"])


def without_classes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """G_ema alone, under plain names, of a network without classes."""
    plain = {name.removeprefix("G_ema."): tensor for name, tensor in tensors.items() if name.startswith("G_ema.")}
    if "mapping.fc0.weight" in plain:
        plain["mapping.fc0.weight"] = plain["mapping.fc0.weight"][:, :6].contiguous()
        return {name: tensor for name, tensor in plain.items() if "embed" not in name}
    first = "Model.MainLayers.0.Layers.0.LinearLayer.weight"
    plain[first] = plain[first][:, :6].contiguous()
    return {name: tensor for name, tensor in plain.items() if "Embedding" not in name}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_imported_draws_and_is_exported(layout: str, tmp_path: Path) -> None:
    run = imported(layout, tmp_path, without_classes(state(layout)))
    assert cli.main(["generate", str(run), "--n", "2"]) == 0
    assert (run / "generated/seed-0/000001.png").exists()
    import gan_dist

    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    game, *_ = generate.load(run)
    assert torch.equal(gan_dist.load(tmp_path / "out").draw(3, 4), game.samples(3, 0, 4))


def change(tensors: dict[str, Tensor], name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    left = {key: each for key, each in tensors.items() if key != name}
    return left if tensor is None else {**left, name: tensor}


@pytest.mark.parametrize(
    ("layout", "name", "tensor", "sentence"),
    [
        ("stylegan2-ada", "G_ema.synthesis.b8.conv0.weight", None, "synthesis.b8.conv0.weight is missing"),
        ("stylegan2-ada", "G_ema.synthesis.b4.const", torch.zeros(2, 4, 4), "the shape"),
        ("stylegan2-ada", "G_ema.extra", torch.zeros(2), "extra: unknown in the layout stylegan2-ada"),
        ("stylegan2-ada", "augment_pipe.p", torch.zeros(2), "augment_pipe.p is of no network that is known here"),
        ("stylegan2-ada", "G_ema.synthesis.b8.conv1.bias", torch.full((16,), torch.nan), "what is no number"),
        ("stylegan2-ada", "G_ema.synthesis.b8.conv1.weight", torch.zeros(7, 16, 3, 3), "channel_base"),
        ("stylegan2-ada", "G_ema.synthesis.b8.resample_filter", torch.ones(4, 4), "another filter"),
        ("stylegan2-ada", "G_ema.synthesis.b8.conv1.weight", torch.zeros(()), "other shapes"),
        ("r3gan", "G_ema.Model.MainLayers.1.Layers.1.NonLinearity1.Bias", None, "NonLinearity1.Bias is missing"),
        ("r3gan", "G_ema.Model.AggregationLayer.Layer.weight", torch.zeros(3, 5, 1, 1), "the shape"),
    ],
)
def test_another_layout_is_one_line_and_writes_nothing(
    layout: str, name: str, tensor: Tensor | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.safetensors"
    save_file(change(state(layout), name, tensor), file)
    assert cli.main(["import", str(file), "--as", layout, str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors"]


def test_wrong_files_folders_and_layouts_are_one_line_each(tmp_path: Path) -> None:
    other, pickled = tmp_path / "r3.safetensors", tmp_path / "network.pkl"
    save_file(state("r3gan"), other)
    pickled.write_bytes(b"\x80\x04abc")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    for file, layout, folder, sentence in (
        (other, "stylegan2-ada", "new", "is missing; the layout stylegan2-ada has it"),
        (pickled, "r3gan", "new", "a pickle"),
        (tmp_path / "none.safetensors", "r3gan", "new", "there is no file"),
        (other, "stylegan3", "new", "known are stylegan2-ada, r3gan"),
        (other, "r3gan", "used", "is in use"),
    ):
        with pytest.raises(InputError, match=sentence) as raised:
            writing.take_in(file, layout, tmp_path / folder)
        assert "\n" not in str(raised.value)
    generator = tmp_path / "g.safetensors"
    save_file({name: each for name, each in state("r3gan").items() if name.startswith("G_ema.")}, generator)
    with pytest.raises(InputError, match="holds no discriminator: its tensors begin with G_ema"):
        writing.take_in(other, "r3gan", tmp_path / "new", generator)
    assert not (tmp_path / "new").exists()
