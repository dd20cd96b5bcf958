"""The run directory: created for a new run, recognised for one that continues, refused where it holds anything else."""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import shutil
import socket
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_dist import __version__, files
from gan_dist.errors import InputError, RunError

if TYPE_CHECKING:
    from gan_dist.config import Config

LOCK = ".lock"
STARTS = "slurm.jsonl"
"""Which Slurm jobs started the run, and at how many images (gan_dist/slurm_jobs/records.py); it may exist before the run does."""
CHOICES = "choices.json"
"""What the run measured and chose by itself; later starts keep it."""
_NAMED = 8  # runs in one message
_PATIENCE = 5.0  # seconds to wait for a run that is just ending
_PATIENCE_WITH_OWN = 60.0  # for an earlier start of the same submission, which may hang on a node that Slurm gave up
_held: list[int] = []
"""Descriptors of the locks that this process holds until it ends, however it ends."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run is kept, and the name under which W&B knows it across all resumes."""

    directory: Path
    wandb_id: str

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"

    def choose(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Record what this start chose, so that later starts compute the same bits; returns what the first start chose."""
        known = chosen(self.directory)
        if not own.keys() <= known.keys():
            files.write_json(self.directory / CHOICES, {**own, **known})
        return {**own, **known}


def locate(run: Path) -> Path:
    """Return the run directory of RUN, which is a run directory or a checkpoint in it.

    Raises InputError where it is neither; a folder of runs is told its runs.
    """
    if (run / "manifest.json").exists():
        run = (Path(os.path.abspath(run)) if len(run.parts) < 3 or ".." in run.parts else run).parent.parent
    if (run / "config.yaml").exists():
        return run
    if not run.exists():
        raise InputError(f"there is no run directory {run}; `gan-dist runs` lists the runs in the folder runs")
    if inside := runs_in(run):
        names = ", ".join(str(path) for path in inside[:_NAMED])
        more = f" and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
        raise InputError(f"{run} is no run directory, but holds the runs {names}{more}; give one of them")
    raise InputError(f"{run} is no run directory (no config.yaml in it); give a folder that training made")


def runs_in(folder: Path, depth: int = 3) -> list[Path]:
    """Return the run directories in a folder and up to `depth` levels below it, by name."""
    found = []
    with contextlib.suppress(PermissionError):
        for path in sorted(folder.iterdir()):
            if (path / "config.yaml").exists():
                found.append(path)
            elif depth > 1 and path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                found += runs_in(path, depth - 1)
    return found


def chosen(directory: Path) -> dict[str, Any]:
    """Return what earlier starts of a run chose by themselves. Raises InputError where that cannot be read."""
    path = directory / CHOICES
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"{path}, which says how the run began, cannot be read; restore it, or remove it to choose again, which may change bits"
        ) from None


def open_run(config: "Config", data_digest: str, old_data_digest: str = "") -> Run:
    """Create or reopen the run directory of `config`, and record the resolved config in it.

    `old_data_digest` is the same data's digest as older versions computed it: a run that recorded it is accepted, and then
    records `data_digest`.

    Raises InputError, with nothing overwritten, where the directory holds another run or other files, where
    the data is not the run's, or where it cannot be written.
    """
    from gan_dist import config as config_module  # commands that only look for a run must not wait for it

    directory = config.directory
    recorded: dict[str, str] = {}
    if directory.exists() and (not directory.is_dir() or is_foreign(directory)):
        raise InputError(f"{directory} holds files that are no run; give --run.directory another folder")
    if directory.is_dir():
        _lock(directory)
        if starts_fresh(config):
            _move_aside(directory)
    if (directory / "config.yaml").exists():
        before, recorded = config_module.read_run(directory)
        if changed := config_module.differences(before, config):
            raise InputError(
                f"{directory} holds a run of another config; give --run.directory another folder, "
                "or undo:\n  " + "\n  ".join(changed)
            )
        if recorded.get("data", data_digest) not in (data_digest, old_data_digest):
            raise InputError(
                f"{directory} was trained on other data (digest {recorded['data'][:12]}, data.shards has "
                f"{data_digest[:12]}); give the old shards, or --run.directory another folder"
            )
        if refused := config_module.other_bits(chosen(directory), config):
            raise InputError(f"{directory}: {refused}")
    files.make_directory(directory, "the run directory")
    _lock(directory)
    for folder in ("checkpoints", "samples", "logs"):
        files.make_directory(directory / folder, "the run's folder")
    recorded = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wandb_id": _sweep_id(os.environ) or uuid.uuid4().hex[:8],
        "submission": _submission(os.environ)[0],
        **recorded,
        "version": __version__,
        "fingerprint": config.fingerprint(),
        "data": data_digest,
    }
    kept = config.with_({"run.fresh": False})
    config_module.keep_parts(directory, config.sources)
    files.write_atomic(directory / "config.yaml", config_module.to_yaml(kept, recorded))
    return Run(directory, recorded["wandb_id"])


def _sweep_id(environment: Mapping[str, str]) -> str:
    """Return the id that W&B's agent gave to this trial of a sweep, which takes no other; empty outside of a sweep."""
    return environment.get("WANDB_RUN_ID", "") if environment.get("WANDB_SWEEP_ID") else ""


def is_foreign(directory: Path) -> bool:
    """Say whether a directory holds something other than a run."""
    if not directory.is_dir() or (directory / "config.yaml").exists():
        return False
    return any(path.name not in (LOCK, STARTS) for path in directory.iterdir())


def _lock(directory: Path) -> None:
    """Keep other runs out of the directory until this process ends.

    Raises InputError where another run is in it, and RunError where that is an earlier start of the same submission to
    Slurm: no input is wrong then.
    """
    path = directory / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return  # not writable: reported where the directory is created
    for held in _held:
        if os.path.samestat(os.fstat(held), os.fstat(descriptor)):
            os.close(descriptor)
            return
    submission, began = _submission(os.environ)[0], time.monotonic()
    mark = f" of submission {submission}" if submission else ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                warnings.warn(f"{directory}: no file locks here; start only one run in it", stacklevel=2)
                break
            owner = os.pread(descriptor, 500, 0).decode(errors="replace").strip() or "another process"
            own = bool(mark) and owner.endswith(mark)
            if time.monotonic() > began + (_PATIENCE_WITH_OWN if own else _PATIENCE):
                os.close(descriptor)
                if own:
                    raise RunError(f"{directory} is still held by an earlier start: {owner}") from None
                raise InputError(
                    f"{directory} is in use by {owner}; wait for it, stop it (touch {directory}/STOP), "
                    "or give --run.directory another folder"
                ) from None
            time.sleep(0.2)
    with contextlib.suppress(OSError):  # a full disk loses the owner's name, not the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}{mark}\n".encode(), 0)
    _held.append(descriptor)


def starts_fresh(config: "Config", environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether `run.fresh` moves the run directory's content aside; not where a start of the same submission did it before.

    Raises InputError where the directory's config.yaml cannot be read.
    """
    if not config.run.fresh or not (config.directory / "config.yaml").exists():
        return False
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0"):
        return False
    from gan_dist import config as config_module

    submission, again = _submission(environment)
    return not again or config_module.read_run(config.directory)[1].get("submission") != submission


def _submission(environment: Mapping[str, str]) -> tuple[str, bool]:
    """Return the name of what a person submitted to Slurm once, and whether this may be a later start of it (slurm/lib.sh)."""
    name = environment.get("GAN_DIST_SUBMISSION", "")
    restarted = environment.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
    return name or environment.get("SLURM_JOB_ID", ""), bool(name) or restarted


def _move_aside(directory: Path) -> None:
    """Rename the run directory, and keep the list of Slurm's starts in a new one."""
    if not (directory / "config.yaml").exists():
        return
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    aside = directory.with_name(f"{directory.name}.before-{stamp}")
    try:
        directory.rename(aside)
    except OSError as error:
        raise InputError(f"{directory} cannot be moved to {aside} ({error.strerror}); move it yourself") from None
    with contextlib.suppress(OSError):  # the start that moves the old run belongs to the new one
        directory.mkdir()
        shutil.copy2(aside / STARTS, directory / STARTS)
    print(f"{directory} was moved to {aside}", flush=True)
