"""The cluster of the tests, their data, and how they submit jobs."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests import making
from tests.slurm import cluster as slurm
from tests.slurm.cluster import Cluster, Job


@pytest.fixture(scope="session")
def cluster(need: Callable[[str, bool, str], None]) -> Iterator[Cluster]:
    need("slurm", not slurm.may_run(), slurm.may_run())
    with slurm.running() as found:
        yield found


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


def keys(shards: Path, run: Path, images: int, **more: object) -> dict[str, object]:
    """A checkpoint every 10 steps, the same bits at any process count."""
    return making.tiny(
        shards, run, training__images=images, checkpoint__every=160, sample__every=10**6, training__strategy="exact",
        control__hang_seconds=8, checkpoint__keep=3, **more,
    )  # fmt: skip


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """submit(keys, "--nodes=2", ...): a job of slurm/train.sbatch. What is left of it is cancelled at the end."""
    jobs: list[Job] = []

    def one(wanted: Mapping[str, object], *options: str, **environment: str) -> Job:
        jobs.append(slurm.submit(cluster, tmp_path, wanted, *options, log=f"job-{len(jobs)}.txt", **environment))
        return jobs[-1]

    try:
        yield one
    finally:
        for job in jobs:
            cluster.call("scancel", job.number, check=False)
        end = time.monotonic() + 30
        while time.monotonic() < end and cluster.call("squeue", "-h", check=False):
            time.sleep(0.2)
