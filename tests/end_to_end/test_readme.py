"""The README's commands, one after another in an empty folder, as a reader copies them; trainings are short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import making
from tests.documents import commands
from tests.launching import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.dist]

LEFT_OUT = {
    "gan-dist board": "talks to W&B",
    "gan-dist slurm": "talks to Slurm (tests/slurm)",
    "accelerate launch": "needs GPUs",
    "gan-dist apply": "of a run that the README does not train (test_restoration, test_paired)",
    "gan-dist psnr": "of a run that the README does not train (test_restoration)",
}
SHORT = {
    "configs/digits.yaml": ["--training.images", "256"],
    "configs/photos.yaml": ["--training.images", "64"],
    "configs/dcgan.yaml": [
        *("--training.images", "16", "--training.batch", "16", "--training.micro_batch", "8"),
        *("--networks.generator.base_channels", "4", "--networks.discriminator.base_channels", "4"),
    ],
}
"""What is added to a training of a config: a few steps of it."""


def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        (photos / f"{number}.png").write_bytes(making.encode(making.picture(number, 72, channels=3)))
    names = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    ran = []
    for words in commands((REPOSITORY / "README.md").read_text()):
        if " ".join(words[:2]) in LEFT_OUT or words[0] in ("./launch/test.sh", "python") or len(words) < 2:
            continue
        words = ["gan-dist", "train", *words[1:]] if words[0] == "./launch/run.sh" else words
        words = [str(REPOSITORY / word) if word.startswith("gan_dist/") else word for word in words]
        if words[1] == "train" or words[0] == "torchrun":
            words += [word for name in words if name in SHORT for word in SHORT[name]]
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **names}, capture_output=True, text=True)
        assert done.returncode == (words[1:3] == ["config", "diff"]), f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        ran.append(words[1])
    assert {"init", "train", "generate", "walk", "export", "report", "watch", "status", "evaluate", "config"} <= set(
        ran
    )
    assert (tmp_path / "runs/digits/report.html").exists()
