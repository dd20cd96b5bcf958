"""The page of a W&B project is built without a network, and a sweep names keys that exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gan_dist import cli
from gan_dist.config import load
from gan_dist.config.control import Limits
from gan_dist.control import collapse
from gan_dist.evaluation import METRICS
from gan_dist.figures import LOGITS
from gan_dist.tracking import board

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # in wandb-workspaces

RULES = collapse.rules(Limits(), 0, 64, 12.0)
FIGURES = {
    *("loss/G", "loss/D", "grad_norm/G", "penalty/r1", "skipped/G", "speed/images_per_second", "speed/loader_share"),
    *("speed/evaluation_seconds", "memory/process_gib", "collapse/cells_kl", "score/kid/error", "score/fid/limit"),
    *("score/kid/subsets", "score/modes/kl", "score/modes/kl_above_floor", "score/modes/samples", "score/modes_b/kl"),
    *("score/modes/classifier_accuracy", "score/kid_random", "score/fd_mine", "score/neighbours-b"),
    *("score/psnr/input", "score/segmentation/miou", "score/segmentation/real_miou", "score/kid_A"),
    *("score/segmentation/segmenter_accuracy",),
    *(f"score/{name}" for name in LOGITS),
    *(rule.signal for rule in RULES),
    *(
        f"score/{kind}/{part}".rstrip("/")
        for kind, metric in METRICS.items()
        for part in ([""] if isinstance(metric.better, str) else metric.better)
    ),
}


def test_every_figure_of_ours_is_in_one_panel() -> None:
    sections = (board.QUALITY, board.COLLAPSE, board.PLAYERS, board.SPEED, board.EVENTS)
    panels = [(title, pattern) for section in sections for title, pattern, _ in section]
    for figure in sorted(FIGURES):
        assert len([title for title, pattern in panels if re.search(pattern, figure)]) == 1, figure


@pytest.mark.slow
def test_the_page_is_built_offline_and_every_figure_is_in_one_of_its_panels() -> None:
    page = board.workspace("me", "faces")
    sections = {section.name: section for section in page.sections}
    assert list(sections) == ["Pictures", "Quality", "Collapse", "Players", "Speed", "Events"]
    assert [name for name, section in sections.items() if section.is_open] == list(sections)[:4]
    patterns = [panel.metric_regex for each in page.sections for panel in each.panels if hasattr(panel, "metric_regex")]
    for figure in FIGURES:
        assert len([pattern for pattern in patterns if re.search(pattern, figure)]) == 1, figure
    keys = [key for panel in sections["Pictures"].panels for key in panel.media_keys]
    assert keys[:4] == ["samples/grid", "samples/reals", "samples/live", "samples/classes"]
    text = page._to_model().model_dump_json()
    assert all(key in text for key in (*keys, "grad_norm", "images"))


def test_without_a_key_and_without_the_package_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setattr(board, "_library", lambda: (None, None))
    monkeypatch.setattr(wandb, "setup", lambda settings: None)
    monkeypatch.setattr(wandb, "login", lambda **words: False)
    assert cli.main(["board", "faces"]) == 2
    assert capsys.readouterr().err == "error: W&B has no key here: run `wandb login`, or set WANDB_API_KEY\n"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert cli.main(["board", "faces"]) == 2
    assert "error: the package wandb-workspaces is needed" in capsys.readouterr().err


def test_the_sweep_s_keys_are_those_of_its_recipe_and_its_command_passes_them(tmp_path: Path, repository: Path) -> None:
    for path in (repository / "configs/sweeps").glob("*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        recipe = re.search(r"configs/\S+\.yaml", sweep["command"][2])
        assert recipe is not None
        values = {
            key: each.get("value", each.get("values", [each.get("min")])[0])
            for key, each in sweep["parameters"].items()
        }
        words = [f"--{key}={value}" for key, value in values.items()]  # as W&B's agent writes ${args}
        config = load([str(repository / recipe[0]), *words])
        assert sweep["metric"]["name"].removeprefix("score/").split("/")[0] in dict(config.evaluate.scores)
        program = tmp_path / "gan-dist"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)
        command = [word for part in sweep["command"] for word in (words if part == "${args}" else [part])]
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "id7"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["train", recipe[0], "--run.name", "sweep-id7", *words]
