"""The run directory is taken up, and moved aside once where that is asked for."""

import fcntl
from pathlib import Path

import pytest

from gan_dist import config as config_module, run_directory, train
from gan_dist.errors import InputError, RunError
from gan_dist.run_directory import LOCK, STARTS, open_run
from gan_dist.slurm_jobs.requeue import End
from tests.launching import REPOSITORY


def test_a_submission_begins_anew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        str(REPOSITORY / "tests/data/digits.yaml"),
        "--run.directory",
        str(tmp_path / "run"),
        "--run.fresh",
        "true",
    ]
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


@pytest.mark.parametrize(
    ("owner", "kind"),
    [
        ("process 7 on node3 of submission chain-1", RunError),
        ("process 7 on node3 of submission 12", InputError),  # a job of somebody who did not wait for this one
        ("process 7 on node3", InputError),
    ],
)
def test_an_earlier_start_that_lingers_is_nobodys_wrong_input_and_another_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, kind: type[Exception]
) -> None:
    words = [str(REPOSITORY / "tests/data/digits.yaml"), "--run.directory", str(tmp_path)]
    monkeypatch.setattr(run_directory, "_PATIENCE", 0.1)
    monkeypatch.setattr(run_directory, "_PATIENCE_WITH_OWN", 0.2)
    monkeypatch.setenv("GAN_DIST_SUBMISSION", "chain-1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(owner)
        lock.flush()
        with pytest.raises(kind, match="process 7 on node3") as caught:
            open_run(config_module.load(words), "digest")
    monkeypatch.setenv("GAN_DIST_REASONS", str(tmp_path / "reasons"))
    train.report(caught.value)
    reasons = (tmp_path / "reasons").read_text().splitlines()
    assert End(reasons=reasons).wrong_input == (kind is InputError)  # which is not started again
    (tmp_path / "reasons").unlink()
    open_run(config_module.load(words), "digest")
    assert (tmp_path / LOCK).read_text().endswith(" of submission chain-1\n")


def test_a_run_that_recorded_the_old_digest_of_its_data_goes_on_and_records_the_new_one(tmp_path: Path) -> None:
    words = [str(REPOSITORY / "tests/data/digits.yaml"), "--run.directory", str(tmp_path / "run")]
    config = config_module.load(words)
    open_run(config, "old")  # as an older version did
    open_run(config, "new", "old")
    assert config_module.read_run(tmp_path / "run")[1]["data"] == "new"
    for new, old in (("other", "old"), ("other", "")):
        with pytest.raises(InputError, match="was trained on other data"):
            open_run(config, new, old)
