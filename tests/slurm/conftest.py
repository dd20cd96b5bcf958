"""The cluster of the tests, their data, and how they submit jobs."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gan_dist.data.pack import pack
from tests import making
from tests.slurm import cluster as slurm
from tests.slurm.cluster import Cluster, Job

STEP = 8  # images
IMAGES = STEP * 120
SLOW = STEP * 6000
Submit = Callable[..., Job]


@pytest.fixture(scope="session")
def cluster(need: Callable[[str, bool, str], None]) -> Iterator[Cluster]:
    need("slurm", not slurm.may_run(), slurm.may_run())
    with slurm.running() as found:
        yield found


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, in three shards."""
    folder = tmp_path_factory.mktemp("data")
    pack("digits", folder, resolution=16, shard_size=600, progress=False)
    return folder


def keys(shards: Path, run: Path, images: int, **more: object) -> dict[str, object]:
    """A checkpoint every 10 steps, the same bits at any process count."""
    return making.tiny(
        shards, run, training__images=images, training__batch=STEP, track__every=STEP, training__strategy="exact",
        checkpoint__every=10 * STEP, sample__every=10**6,
        control__hang_seconds=8, checkpoint__keep=3, **more,
    )  # fmt: skip


@pytest.fixture
def cancel(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """cancel(number): what is left of this job at the end of the test is cancelled."""
    numbers: list[str] = []

    def one(number: str) -> str:
        numbers.append(number)
        return number

    try:
        yield one
    finally:
        cluster.cancel(numbers)


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path, cancel: Callable[[str], str]) -> Submit:
    """submit(keys, "--nodes=2", ...): a job of slurm/train.sbatch. What is left of it is cancelled at the end."""
    count = itertools.count()

    def one(wanted: Mapping[str, object], *options: str, **environment: str) -> Job:
        job = slurm.submit(cluster, tmp_path, wanted, *options, log=f"job-{next(count)}.txt", **environment)
        cancel(job.number)
        return job

    return one
