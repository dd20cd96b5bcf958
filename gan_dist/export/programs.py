"""Write a network as a program that needs no code of ours: torch.export's .pt2, and ONNX."""

import contextlib
import copy
import dataclasses
import importlib.util
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as _sizes

from gan_dist.errors import InputError
from gan_dist.export import draw
from gan_dist.export.model import Encoder, Generator

Exported = Generator | Encoder
_TOLERANCE = 1e-4
"""Largest difference from the network's own outputs, in parts of the largest of them, with which a program is kept."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a program."""

    difference: float = 0.0
    """The largest difference of an output from the network's, at another batch and size than it was traced at."""
    any_size: bool = False
    """Whether it takes images of any size."""
    problem: str = ""
    """Why there is none; "" where there is."""


def example(config: Mapping[str, Any], count: int, times: int = 1, more: int = 0, seed: int = 1) -> dict[str, Tensor]:
    """Return inputs for a network, by name: `count` of them.

    Images have `times` the training's size, and `more` times `multiple` rows beyond it.
    """
    inputs, dtype = config["inputs"], draw.dtype_of(dict(config))
    numbers = torch.arange(seed * 1000, seed * 1000 + count)
    if "images" in inputs:
        generator = torch.Generator().manual_seed(seed)
        height, width = (times * side // config["scale"] for side in config["shape"]["size"])
        height += more * inputs["images"]["multiple"]
        images = 2 * torch.rand(count, config["shape"]["inputs"], height, width, generator=generator, dtype=dtype) - 1
        return {"inputs": images, **({"numbers": numbers} if "numbers" in inputs else {})}
    given = {"inputs": draw.latents(dict(config), seed, numbers)}
    if "labels" in inputs:
        given["labels"] = numbers % inputs["labels"]["classes"]
    if "truncation" in inputs:
        given["truncation"] = torch.tensor(0.7, dtype=dtype)
    return given


def _free(config: Mapping[str, Any], any_size: bool) -> dict[str, Any]:
    """Return which sizes of the inputs may change, as torch.export wants to be told."""
    count = torch.export.Dim("count", min=1)
    found: dict[str, Any] = {"inputs": {0: count}}
    if "images" in config["inputs"] and any_size:
        multiple = config["inputs"]["images"]["multiple"]
        sides = [torch.export.Dim(name, min=1) for name in ("rows", "columns")]
        found["inputs"] |= {
            axis: multiple * side if multiple > 1 else side for axis, side in zip((2, 3), sides, strict=True)
        }
    for name in ("labels", "numbers"):
        if name in config["inputs"]:
            found[name] = {0: count}
    if "truncation" in config["inputs"]:
        found["truncation"] = {}
    return found


def write_pt2(network: Exported, path: Path) -> Written:
    """Write torch.export's program of a network, after it was loaded again and compared with the network.

    One for images of any size is tried first, then one for those of the training's size, unless the config says a size. Raises
    OSError where the disk refuses it.
    """
    problem = ""
    given_images = network.config["inputs"].get("images")
    any_sizes = given_images is not None and not given_images["size"]
    ways = ((True, False), (True, True), (False, False)) if any_sizes else ((False, False),)
    for any_size, plain_sizes in ways:
        given = example(network.config, 3, 2 if any_size else 1)
        inputs = given.pop("inputs")
        seen = _contiguous(network) if plain_sizes else network
        written = io.BytesIO()  # torch ends the process where a disk is full
        try:
            with _quiet(plain_sizes):
                free = _free(network.config, any_size)
                program = torch.export.export(seen, (inputs,), given, dynamic_shapes=free, strict=False)
                _forget_places(program)
                torch.export.save(program, written)
                written.seek(0)
                loaded = torch.export.load(written).module()
            difference = _difference(network, lambda given, run=loaded: run(given.pop("inputs"), **given), any_size)
        except Exception as error:  # of any kind: it reads code that may be a user's
            problem = problem or _first_line(error)
            continue
        return _judged(difference, any_size, written.getvalue(), path)
    return Written(problem=problem)


def _forget_places(program: torch.export.ExportedProgram) -> None:
    """Remove what torch notes of each operation: the lines of code, with the folders of this machine that they lie in."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _contiguous(network: Exported) -> Exported:
    """Return a copy with weights in torch's usual order: in the order of pixels, a batch of 1 is a case of its own."""
    made: Exported = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    return made


def need_onnx() -> None:
    """Raise InputError where the packages for ONNX are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--onnx needs {', '.join(missing)}; pip install 'gan_dist[onnx]'")


def write_onnx(network: Exported, path: Path, any_size: bool) -> Written:
    """Write a network as ONNX, after it was run by onnxruntime and compared. Raises OSError where the disk refuses it."""
    import onnxruntime

    given = example(network.config, 3, 2 if any_size else 1)
    names = ["images" if network.takes_images else "latents", *(name for name in given if name != "inputs")]
    made = ["means", "log_variances"] if isinstance(network, Encoder) else ["output"]
    inputs = given.pop("inputs")
    try:
        with _quiet(network.takes_images):
            program: Any = torch.onnx.export(
                _contiguous(network), (inputs,), kwargs=given, input_names=names, output_names=made,
                dynamic_shapes=_free(network.config, any_size), dynamo=True, verbose=False,
            )  # fmt: skip
            content = program.model_proto
            for node in itertools.chain(content.graph.node, *(each.node for each in content.functions)):
                del node.metadata_props[:]  # lines of code, as in `_forget_places`
            written: bytes = content.SerializeToString()
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])

        def run(given: dict[str, Tensor]) -> list[Tensor]:
            fed = dict(zip(names, (tensor.numpy() for tensor in given.values()), strict=True))
            return [torch.from_numpy(each) for each in session.run(None, fed)]

        difference = _difference(network, run, any_size)
    except Exception as error:
        return Written(problem=_first_line(error))
    return _judged(difference, any_size, written, path)


@torch.no_grad()
def _difference(network: Exported, run: Any, any_size: bool) -> float:
    """Return the largest difference at other numbers of inputs, and another size."""
    worst = 0.0
    # few and not much larger: a translation at 256 pixels takes a CPU seconds
    for count, more, seed in ((1, 0, 2), (2, int(any_size), 3)):
        given = example(network.config, count, 1, more, seed)
        expected = _joined(network(**given))
        scale = max(1.0, float(expected.abs().max()))
        worst = max(worst, float((_joined(run(given)) - expected).abs().max()) / scale)
    return worst


def _joined(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Return one output, or all numbers of several."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs[0] if len(outputs) == 1 else torch.cat([each.flatten() for each in outputs])


def _judged(difference: float, any_size: bool, content: bytes, path: Path) -> Written:
    if not difference <= _TOLERANCE:  # NaN too
        return Written(difference, problem=f"its outputs differ by {difference:.2g} from the network's")
    path.write_bytes(content)
    return Written(difference, any_size)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet(plain_sizes: bool = False) -> Iterator[None]:
    """Keep the exporters' notes to their developers away from the terminal.

    `plain_sizes`: a size of 1 is a size as any other, for networks whose smallest layer has a single pixel.
    """
    level = logging.root.manager.disable
    with warnings.catch_warnings(), _sizes.patch(backed_size_oblivious=plain_sizes):  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
