"""The page and the command in an export's folder, without gradio and without the package."""

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gan_dist
from gan_dist.export import draw, writing
from tests.unit.export.test_export import run_of


class Recorded:
    """Stands for any component: it keeps what it was made with."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """The app turns them off for its process, which is this one here."""
    yield
    torch.set_grad_enabled(True)


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stub = types.ModuleType("gradio")
    for name in ("Image", "Slider", "Dropdown", "Interface", "TabbedInterface"):
        setattr(stub, name, type(name, (Recorded,), {}))
    monkeypatch.setitem(sys.modules, "gradio", stub)
    yield
    sys.modules.pop("draw", None)


def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module app.py of a folder, as `python app.py` would run it."""
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("draw", None)
    spec = importlib.util.spec_from_file_location("app_of_an_export", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("gradio")
def test_a_page_draws_classes_and_truncates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = run_of("stylegan2_ffhq256", tmp_path / "run", **{"data.labels": True, "data.resolution": 8})
    writing.export(run, tmp_path / "out", writing.Options())
    app = page(tmp_path / "out", monkeypatch)
    answer, fields, _ = app.page.given
    assert [type(field).__name__ for field in fields] == ["Slider", "Slider", "Dropdown", "Slider"]
    assert fields[2].given[0] == ["(all)", "0", "1", "2"]
    made = [answer(3, 4, label, truncation) for label, truncation in (("(all)", 1.0), ("2", 1.0), ("2", 0.3))]
    assert all(isinstance(each, Image.Image) and each.size == (96, 96) for each in made)
    assert len({each.tobytes() for each in made}) == 3
    assert app.page.named["title"] == "stylegan2_ffhq256"


@pytest.mark.usefixtures("gradio")
def test_a_page_of_an_autoencoder_draws_and_reconstructs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = run_of("digits_vae", tmp_path / "run")
    writing.export(run, tmp_path / "out", writing.Options())
    pages, names = page(tmp_path / "out", monkeypatch).page.given
    assert names == ["draw", "reconstruct"]
    (drawn, *_), (reconstructed, *_) = (each.given for each in pages)
    assert drawn(3, 4).size == (96, 96)
    assert reconstructed(None) is None
    made = reconstructed(Image.new("L", (22, 17), 255))  # cropped and resized, and shown enlarged
    wanted = gan_dist.load(tmp_path / "out").reconstruct(torch.ones(1, 1, 16, 16))
    assert made.size == (48, 48)
    assert np.abs(np.asarray(made, int)[::3, ::3] - draw.to_pixels(wanted)[0, ..., 0].astype(int)).max() <= 1


@pytest.mark.usefixtures("gradio")
def test_a_page_translates_a_picture_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = run_of("horse2zebra", tmp_path / "run")
    writing.export(run, tmp_path / "out", writing.Options(way="BA"))
    app = page(tmp_path / "out", monkeypatch)
    answer, fields, _ = app.page.given
    assert [type(field).__name__ for field in fields] == ["Image"]
    assert fields[0].named["image_mode"] is None  # gradio's own takes transparency and the numbers of label maps away
    assert answer(None) is None
    assert answer(Image.new("RGB", (22, 17))).size == (22, 17)
