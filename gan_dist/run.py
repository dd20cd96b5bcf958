"""The run directory: made for a new run, recognised for one that goes on, and refused for anything else."""

import dataclasses
import datetime
import uuid
from pathlib import Path

from gan_dist import __version__, config as config_module, files
from gan_dist.config import Config
from gan_dist.errors import InputError


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run is kept, and the name under which W&B knows it over all resumes."""

    directory: Path
    wandb_id: str

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"


def open_run(config: Config, data_digest: str) -> Run:
    """Make or take up the run directory of `config`, and record the resolved config in it.

    Raises InputError, with nothing overwritten, where the directory holds another run or other files, where
    the data is not the run's, or where it cannot be written.
    """
    directory = config.directory
    recorded: dict[str, str] = {}
    if (directory / "config.yaml").exists():
        before, recorded = config_module.read_run(directory)
        if changed := config_module.differences(before, config):
            raise InputError(
                f"{directory} holds a run of another config; give --run.directory another folder, "
                "or undo:\n  " + "\n  ".join(changed)
            )
        if recorded.get("data", data_digest) != data_digest:
            raise InputError(
                f"{directory} was trained on other data (digest {recorded['data'][:12]}, data.shards has "
                f"{data_digest[:12]}); give the old shards, or --run.directory another folder"
            )
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} holds files that are no run; give --run.directory another folder")
    files.make_directory(directory, "the run directory")
    for folder in ("checkpoints", "samples", "logs"):
        files.make_directory(directory / folder, "the run's folder")
    recorded = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wandb_id": uuid.uuid4().hex[:8],
        **recorded,
        "version": __version__,
        "fingerprint": config.fingerprint(),
        "data": data_digest,
    }
    files.write_atomic(directory / "config.yaml", config_module.to_yaml(config, recorded))
    return Run(directory, recorded["wandb_id"])
