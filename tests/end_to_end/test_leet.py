"""What a person sees in a terminal: `wandb leet` of a run that was trained offline."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gan_dist import cli, config as config_module
from gan_dist.tracking import save_grid

KEYS = {
    "run": {"name": "seen"},
    "data": {"shards": "x", "resolution": 8, "channels": 1},
    "training": {"images": 100, "batch": 10, "micro_batch": 10},
}


@pytest.fixture
def pane(tmp_path: Path, need: Callable[[str, bool, str], None]) -> Iterator[Callable[..., str]]:
    """A terminal that shows a run; it is called with a key to press and what must appear, and returns what is shown."""
    need("tmux", shutil.which("tmux") is not None, "no tmux here")
    (tmp_path / "config.yaml").write_text(config_module.to_yaml(config_module.validate(KEYS, "x"), {"wandb_id": "abc"}))
    lines = [
        {"images": n, "step": n, "loss/G": n / 9, "grad_norm/G": 1.0, "score/real": 1.0, "speed/images_per_second": 5.0}
        for n in range(10, 60, 10)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "samples").mkdir()
    save_grid(
        torch.linspace(-1, 1, 16).view(16, 1, 1, 1).expand(16, 1, 8, 8), tmp_path / "samples/images-000000050.png"
    )
    assert cli.main(["track", str(tmp_path), "--wandb", "offline"]) == 0
    socket = f"gan_dist-{uuid.uuid4().hex[:8]}"
    wandb = Path(sys.executable).with_name("wandb")
    environment = {**os.environ, "WANDB_CONFIG_DIR": str(tmp_path / "settings"), "COLORTERM": "truecolor"}

    def tmux(*words: str) -> str:
        command = ["tmux", "-L", socket, "-f", "/dev/null", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def press(key: str, wanted: str) -> str:
        if key:
            tmux("send-keys", key)
        end, shown = time.monotonic() + 120, ""
        while wanted not in shown and time.monotonic() < end:
            time.sleep(0.3)
            # the charts and pictures; right of them is an overview, which names every figure
            shown = "\n".join(line[:120] for line in tmux("capture-pane", "-p").splitlines())
        assert wanted in shown, shown
        return shown

    tmux("new-session", "-d", "-x", "160", "-y", "50", f"{wandb} leet {tmp_path / 'wandb'}")
    yield press
    tmux("kill-server")


@pytest.mark.slow
def test_leet_opens_with_losses_and_speed_and_shows_nine_samples_at_the_key(pane: Callable[..., str]) -> None:
    first = pane("", "speed/im")
    assert "loss/G" in first
    assert "grad_norm" not in first
    assert "Runs [1 items]" in first
    assert "▄" in pane("3", "samples/9")
    assert "grad_norm/G" in pane("C-l", "grad_norm/G")
