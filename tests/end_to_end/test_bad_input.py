"""Wrong input: one clear line, exit code 2, and nothing overwritten."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gan_dist import __version__
from tests import making
from tests.launching import REPOSITORY, run_ranks, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96)


def refused(capfd: pytest.CaptureFixture[str], keys: dict[str, object], config: str = "tests/data/digits.yaml") -> str:
    """The one line that the training command says in this process; it must end with code 2."""
    from gan_dist.train import main

    capfd.readouterr()
    assert main([config, *making.flags(keys)]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    return said


def bad_data(tmp_path: Path, kind: str) -> str:
    """A data set with one fault, as data.shards."""
    folder = tmp_path / "data"
    if kind == "empty folder":
        folder.mkdir()
    elif kind == "truncated":
        path = making.write_tar(folder / "0.tar", making.samples(32))
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "cut at a member":
        path = making.write_tar(folder / "0.tar", making.samples(1))
        path.write_bytes(path.read_bytes()[: -10240 + 512].rstrip(b"\0")[:1] + path.read_bytes()[1:1024])
    elif kind == "overwritten header":
        path = making.write_tar(folder / "0.tar", making.samples(32))
        content = bytearray(path.read_bytes())
        content[content.index(b"000010.png") :][:512] = b"\xff" * 512
        start = path.read_bytes().index(b"000010.png")
        content[start : start + 512] = b"\xff" * 512
        path.write_bytes(content)
    elif kind == "no tar":
        folder.mkdir()
        (folder / "0.tar").write_text("hello" * 1000)
    elif kind == "pattern":
        return str(folder / "train-{0000..0003}.tar")
    elif kind == "other size":
        making.write_tar(folder / "0.tar", [*making.samples(32), *making.samples(1, size=12, first=77)])
    elif kind == "other channels":
        making.write_tar(folder / "0.tar", [*making.samples(32), *making.samples(1, channels=3, first=77)])
    elif kind == "few":
        making.write_tar(folder / "0.tar", making.samples(15))
    elif kind == "undecodable":
        making.write_tar(folder / "0.tar", [*making.samples(32), ("000077.png", b"junk")])
    elif kind == "no images":
        making.write_tar(folder / "0.tar", [("a.txt", b"x")])
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nothing there", ["no shard", "gan-dist pack"]),
        ("empty folder", ["no .tar file", "gan-dist pack"]),
        ("truncated", ["0.tar", "truncated"]),
        ("overwritten header", ["0.tar", "damaged", "after 10 files"]),
        ("no tar", ["0.tar", "tar file"]),
        ("pattern", ["train-0000.tar", "from the pattern"]),
        ("other size", ["000077", "12x12", "data.resolution"]),
        ("other channels", ["000077", "RGB", "--channels 1"]),
        ("few", ["training.batch = 16", "15 samples"]),
        ("undecodable", ["000077", "1 of 33 images"]),
        ("no images", ["no sample"]),
    ],
)
def test_bad_data_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, words: list[str]) -> None:
    said = refused(capfd, making.tiny(bad_data(tmp_path, kind), tmp_path / "run"))
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_labels_asked_for_but_absent(tmp_path: Path, shards: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(capfd, making.tiny(shards, tmp_path / "run", data__labels=True))
    assert "000000 has no label" in said
    assert "data.labels: false" in said


def test_a_directory_that_holds_another_run_is_left_alone(
    tmp_path: Path, shards: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from gan_dist.train import main

    keys = making.tiny(shards, tmp_path / "run")
    assert main(["tests/data/digits.yaml", *making.flags(keys)]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capfd.readouterr()
    changed = {**keys, "training.batch": 32, "optimizers.generator.learning_rate": 0.1}
    assert main(["tests/data/digits.yaml", *making.flags(changed)]) == 2
    said = capfd.readouterr().err
    assert "training.batch: the run has 16, asked for is 32" in said
    assert "optimizers.generator.learning_rate: the run has 0.0002, asked for is 0.1" in said
    other = making.data_set(tmp_path / "other", 48)
    assert "other data" in refused(capfd, {**keys, "data.shards": other})
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_directory_that_is_no_run_is_left_alone(
    tmp_path: Path, shards: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("mine")
    assert "files that are no run" in refused(capfd, making.tiny(shards, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_no_permission_to_write(tmp_path: Path, shards: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")  # as root, permissions stop nobody, but no folder fits below a file
    said = refused(capfd, making.tiny(shards, tmp_path / "file/run"))
    assert "cannot be written" in said


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"training.bach": 3}, ["--training.bach", "did you mean --training.batch?"]),
        ({"training.batch": 10}, ["training.micro_batch = 4 does not divide training.batch = 10"]),
        ({"training.batch": "many"}, ["--training.batch", "'many'", "integer"]),
        ({"checkpoint.keep": 1}, ["checkpoint.keep", "2"]),
        ({"networks.generator.kind": "article", "networks.discriminator.kind": "article"}, ["28"]),
        ({"data.resolution": 12}, ["power of two"]),
        ({"training.device": "cuda"}, ["no GPU", "training.device"]),
        ({"data.classes": 3, "data.labels": False}, ["classes", "no effect"]),
    ],
)
def test_bad_keys_are_named(
    tmp_path: Path, shards: Path, capfd: pytest.CaptureFixture[str], keys: dict[str, object], words: list[str]
) -> None:
    import torch

    if keys.get("training.device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = f"configs/{'mnist' if 'networks.generator.kind' in keys else 'digits'}.yaml"
    said = refused(capfd, making.fit({**making.tiny(shards, tmp_path / "run"), **keys}), config)
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training:\n  images: [1", ["line 2", "not valid YAML"]),
        ("- a\n- b\n", ["sections"]),
        ("data:\n  resolution: 8\n  chanels: 1\n", ["line 3", "unknown key data.chanels", "data.channels"]),
        ("trainig:\n  batch: 1\n", ["line 1", "trainig"]),
    ],
)
def test_a_bad_file_is_named_with_the_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    from gan_dist.train import main

    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    said = capfd.readouterr().err
    assert all(word in said for word in words), said


def test_a_missing_config(capfd: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml cannot be read" in refused(capfd, {}, "nowhere.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"training.batch": 12},
            ["exact cannot sum 3 micro-batches over 2 processes in its tree", "start 1, 3 processes"],
        ),
        ({"data.shards": "nowhere"}, ["no shard nowhere"]),
        ({"training.bach": 1}, ["did you mean --training.batch?"]),
    ],
)
def test_two_processes_say_it_once_and_both_end(
    tmp_path: Path, shards: Path, keys: dict[str, object], words: list[str]
) -> None:
    done = train({**making.tiny(shards, tmp_path / "run"), **keys}, processes=2)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        line for line in done.stderr.splitlines() if all(word in line for word in words)
    ]
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "environment", "says"),
    [
        ({"training__precision": "fp16"}, {}, "training.precision = fp16 needs a GPU, and this runs on a CPU"),
        ({"training__precision": "fp64", "training__strategy": "zero1"}, {}, "fp64 has no ZeRO"),
        ({"training__compile": True, "training__strategy": "zero2"}, {}, "training.compile was not proved with"),
        ({"training__micro_batches_per_pass": 2, "training__strategy": "exact"}, {}, "would change the bits"),
        (
            {"training__micro_batches_per_pass": 5},
            {},
            "has no effect beyond the 4 micro-batch(es) of a batch",
        ),
        ({"training__tf32": True, "training__device": "auto"}, {}, "training.tf32 has no effect on a CPU"),
        (
            {"training__compile": True},
            {"CXX": "no-compiler"},
            "needs a C++ compiler on a CPU, and no-compiler is not here",
        ),
        ({"training__processes": 2}, {}, "training.processes = 2, but 1 started"),
        ({"penalties__r1__every": 4}, {}, "penalties.r1.weight is missing"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "accelerate was told use_fsdp = true"),
        ({}, {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "accelerate was told use_parallelism_config = true"),
        ({}, {"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "optimizers.discriminator.clip_norm decide about that"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "ZeRO stage 2, but training.strategy = ddp"),
        ({}, {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "set training.compile: true"),
        ({}, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "training.micro_batch decides"),
        ({}, {"WORLD_SIZE": "2"}, "the launcher started 2 processes (WORLD_SIZE), but they did not join"),
    ],
)
def test_strategy_precision_and_launcher_must_go_together(
    shards: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    keys: dict[str, object],
    environment: dict[str, str],
    says: str,
) -> None:
    import torch

    if keys.get("training__device") == "auto" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wanted = making.tiny(shards, tmp_path / "run", **{"training__strategy": "ddp", **keys})
    assert says in refused(capfd, wanted)
    assert not (tmp_path / "run").exists()


def test_fp16_is_refused_where_accelerate_takes_the_cpu_of_a_machine_with_gpus(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "yes")
    keys = making.tiny(shards, tmp_path / "run", training__strategy="ddp", training__precision="fp16")
    assert "needs a GPU, and this runs on a CPU" in refused(capfd, {**keys, "training.device": "auto"})


def test_a_missing_deepspeed_names_the_extra(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    said = refused(capfd, making.tiny(shards, tmp_path / "run", training__strategy="zero2"))
    assert "./launch/setup.sh deepspeed" in said
    assert "pip install 'gan_dist[deepspeed]'" in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, "clip_norm decides about that"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "training.precision decides about that"),
        ({"zero_optimization": {"stage": 2}, "amp": {"enabled": True}}, 'remove "amp"'),
        ({"zero_optimization": {"stage": 2}, "torch_autocast": {"enabled": True}}, 'remove "torch_autocast"'),
        ({"zero_optimization": {"stage": 2}, "gradient_predivide_factor": 2.0}, 'remove "gradient_predivide_factor"'),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            'remove "offload_optimizer" from zero_optimization, where allgather_bucket_size, ',
        ),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "big"}}, "'big' is no number of elements"),
        ({"zero_optimization": 2}, "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_deepspeed_settings_that_the_config_has_keys_for_or_that_were_not_proved_are_refused(
    shards: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: object,
    says: str,
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    said = refused(capfd, making.tiny(shards, tmp_path / "run", training__strategy="zero2"))
    assert str(path) in said
    assert says in said


def differing(tmp: str) -> str:
    """Two ranks whose configs differ: what each is told. Versions: a test by the real command follows."""
    from gan_dist import config as config_module
    from gan_dist.engine import AgreedError, Engine

    keys = making.tiny("unused", tmp, game__latent=8 + int(os.environ["RANK"]))
    try:
        Engine(config_module.load(["tests/data/digits.yaml", *making.flags(keys)]))
    except AgreedError as error:
        return str(error)
    return ""


@pytest.mark.dist
def test_ranks_with_other_configs_are_refused(tmp_path: Path) -> None:
    for said in run_ranks(2, differing, str(tmp_path)):
        assert f"game.latent is 8 on rank 0 ({platform.node()}) and 9 on rank 1" in said


def in_another_world(tmp: str) -> str:
    """What a rank is told whose DeepSpeed believes in another number of processes."""
    import deepspeed.utils.groups

    from gan_dist import config as config_module, games
    from gan_dist.engine import AgreedError, Engine

    deepspeed.utils.groups._get_data_parallel_world_size = lambda: 2
    config = config_module.load(
        ["tests/data/digits.yaml", *making.flags(making.tiny("unused", tmp, training__strategy="zero1"))]
    )
    try:
        Engine(config).wrap(games.build(config))
    except AgreedError as error:
        return str(error)
    return ""


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_deepspeed_that_believes_in_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    (said,) = run_ranks(1, in_another_world, str(tmp_path))
    assert "DeepSpeed believes to be one of 2 process(es), but 1 train together" in said


def alone(shards: Path, tmp_path: Path, fault: str) -> tuple[list[int], str]:
    """The training command on two ranks, of which the second has a machine of its own, with a fault: codes, output."""
    keys = making.tiny(shards, tmp_path / "run", training__strategy="zero2" if fault == "g++" else "ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(2):
        script, config = REPOSITORY / "gan_dist/train.py", str(REPOSITORY / "tests/data/digits.yaml")
        facts = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in facts.items()}}
        environment.pop("PYTHONPATH", None)
        if rank == 1 and fault == "g++":
            environment["PATH"] = str(tmp_path)
        elif rank == 1 and fault == "config":
            config = "nowhere.yaml"
        elif rank == 1:
            shutil.copytree(REPOSITORY / "gan_dist", tmp_path / "gan_dist")
            (tmp_path / "gan_dist/__init__.py").write_text('__version__ = "0.0.7"')
            script = tmp_path / "gan_dist/train.py"
        words = [sys.executable, str(script), config, *making.flags(keys)]
        running.append(subprocess.Popen(words, env=environment, cwd="/", text=True, stderr=subprocess.PIPE))
    try:
        said = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not (tmp_path / "run").exists()
    return [process.returncode for process in running], "".join(said)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param("g++", "training.strategy = zero2 on a CPU needs g++", marks=pytest.mark.deepspeed),
        ("config", "nowhere.yaml cannot be read"),
        ("version", f"gan_dist is {__version__} on rank 0 ({platform.node()}) and 0.0.7 on rank 1"),
    ],
)
def test_a_fault_of_one_machine_is_said_once_with_its_name_and_ends_all(
    shards: Path, tmp_path: Path, fault: str, says: str
) -> None:
    codes, said = alone(shards, tmp_path, fault)
    assert codes == [2, 2], said
    (line,) = [line for line in said.splitlines() if "error" in line.lower()]
    assert says in line
    assert line.startswith("error: the processes" if fault == "version" else f"error: on {platform.node()} (rank 1): ")
