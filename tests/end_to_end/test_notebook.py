"""The notebook of the documents runs from its first cell to its last."""

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.launching import REPOSITORY

pytestmark = pytest.mark.slow


def test_the_notebook_trains_shows_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(REPOSITORY / "docs/digits.ipynb", as_version=4)
    assert "120_000" in notebook.cells[1].source
    notebook.cells[1].source = notebook.cells[1].source.replace("120_000", "512")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share/jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in output["data"] for output in shown) == 4
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "error:" not in text
    assert "finished" in text
