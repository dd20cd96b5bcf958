"""Wrong input: one clear line, exit code 2, and nothing overwritten."""

import time
from pathlib import Path

import pytest

from tests import making
from tests.launching import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96)


def refused(capfd: pytest.CaptureFixture[str], keys: dict[str, object], config: str = "configs/digits.yaml") -> str:
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
        ("overwritten header", ["0.tar", "damaged", "after 10 samples"]),
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
    assert main(["configs/digits.yaml", *making.flags(keys)]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capfd.readouterr()
    changed = {**keys, "training.batch": 32, "game.generator.learning_rate": 0.1}
    assert main(["configs/digits.yaml", *making.flags(changed)]) == 2
    said = capfd.readouterr().err
    assert "training.batch: the run has 16, asked for is 32" in said
    assert "game.generator.learning_rate: the run has 0.0002, asked for is 0.1" in said
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
        ({"game.networks": "article"}, ["28"]),
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
    said = refused(capfd, {**making.tiny(shards, tmp_path / "run"), **keys})
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
        ({"training.batch": 12}, ["3 micro-batches of 4, which 2 processes cannot share", "start 1, 3 processes"]),
        ({"data.shards": "nowhere"}, ["no shard nowhere"]),
        ({"training.bach": 1}, ["did you mean --training.batch?"]),
    ],
)
def test_two_processes_say_it_once_and_both_end(
    tmp_path: Path, shards: Path, keys: dict[str, object], words: list[str]
) -> None:
    begin = time.monotonic()
    done = train({**making.tiny(shards, tmp_path / "run"), **keys}, processes=2)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        line for line in done.stderr.splitlines() if all(word in line for word in words)
    ]
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert time.monotonic() - begin < 60
    assert not (tmp_path / "run").exists()
