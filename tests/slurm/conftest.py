"""The cluster of the tests, their data, and how they submit jobs."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gan_dist.data.pack.packing import pack
from tests import making
from tests.launching import digests, lines, start
from tests.slurm import cluster as slurm
from tests.slurm.cluster import Cluster, Job

STEP = 8  # images
IMAGES = STEP * 120
LONG = STEP * 200  # what is to happen during the training has seconds for it, and comes within 60 steps
SLOW = STEP * 6000  # does not end by itself
Submit = Callable[..., Job]
Check = Callable[..., None]
Figures = dict[int, list[tuple[str, float]]]
"""Losses, scores and gradient norms, by images."""


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


def figures(run: Path) -> Figures:
    found: Figures = {}
    for line in lines(run / "metrics.jsonl"):
        assert line["images"] not in found
        found[line["images"]] = sorted(
            item for item in line.items() if item[0].startswith(("loss/", "score/", "grad_"))
        )
    return found


@pytest.fixture(scope="session")
def check(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """check(job, images): the job's run is finished, and as an undisturbed one without Slurm: each step's figures, which
    none is missing of and none has twice, and the checkpoints that are left to the bit."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    undisturbed = start({**keys(shards, run, LONG), "checkpoint.keep": 1000})  # while the first job waits for Slurm

    @functools.cache
    def expected() -> tuple[Figures, dict[str, str]]:
        assert undisturbed.end() == 0
        return figures(run), digests(run)

    def one(job: Job, images: int = IMAGES) -> None:
        assert job.status()["state"] == "finished"
        steps, checkpoints = expected()
        assert figures(job.run) == {at: found for at, found in steps.items() if at <= images}
        saved = digests(job.run)
        assert f"images-{images:09d}" in saved
        # one of a signal lies between those that the undisturbed run has
        assert {name: digest for name, digest in saved.items() if name in checkpoints}.items() <= checkpoints.items()

    try:
        yield one
    finally:
        undisturbed.kill()


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
