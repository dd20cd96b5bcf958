"""The run directory is taken up, and moved aside once where that is asked for."""

from pathlib import Path

import pytest

from gan_dist import config as config_module
from gan_dist.run import STARTS, open_run
from tests.launching import REPOSITORY


def test_a_submission_begins_anew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(REPOSITORY / "configs/digits.yaml"), "--run.directory", str(tmp_path / "run"), "--run.fresh", "true"]
    config = config_module.load(words)

    def runs() -> int:
        """Runs that are there after a start."""
        open_run(config, "digest")
        (tmp_path / "run" / STARTS).touch()
        return len(list(tmp_path.glob("run*")))

    assert [runs(), runs()] == [1, 2]  # by hand: each time
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun starts it again by itself
    assert runs() == 2
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    for job in ("7", "8"):  # in another script than slurm/lib.sh
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        before = runs()
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert runs() == before
    monkeypatch.setenv("GAN_DIST_SUBMISSION", "chain-1")
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    before = runs()
    assert (tmp_path / "run" / STARTS).exists()  # the start that moved the old run aside is the new one's
    monkeypatch.setenv("SLURM_JOB_ID", "9")  # the next link
    assert runs() == before
    assert not list((tmp_path / "run").glob("checkpoints/*"))
