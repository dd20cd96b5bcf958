"""Sources become shards that WebDataset reads, the same bytes by any number of processes and after any kill."""

import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from gan_dist.data import index
from gan_dist.data.pack import is_packed, pack
from gan_dist.errors import InputError


def png(seed: int, size: int = 12, channels: int = 3) -> bytes:
    shape = (size, size, channels) if channels > 1 else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, classes: dict[str, int]) -> Path:
    number = 0
    for name, count in classes.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (path / name / f"{number}.png").write_bytes(png(number))
            number += 1
    return path


def hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.glob("*.tar"))}


def samples(path: Path) -> list[dict]:
    names = [str(file) for file in sorted(path.glob("*.tar"))]
    return list(webdataset.WebDataset(names, shardshuffle=False).decode("pil"))


def test_folders_are_classes_and_webdataset_reads_the_shards(tmp_path: Path) -> None:
    report = pack(str(folder(tmp_path / "in", {"cat": 3, "dog": 4})), tmp_path / "out", progress=False)
    assert (report.images, report.classes, report.kept) == (7, {"cat": 0, "dog": 1}, 7)
    assert json.loads((tmp_path / "out/classes.json").read_text()) == {"cat": 0, "dog": 1}
    found = samples(tmp_path / "out")
    assert sorted(sample["cls"] for sample in found) == [0] * 3 + [1] * 4
    assert {np.asarray(sample["png"]).tobytes() for sample in found} == {
        np.asarray(Image.open(io.BytesIO(png(number)))).tobytes() for number in range(7)
    }


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    report = pack(str(folder(tmp_path / "in", {".": 3})), tmp_path / "out", progress=False)
    assert (report.images, report.classes) == (3, {})
    assert all("cls" not in sample for sample in samples(tmp_path / "out"))


def test_junk_is_left_out_and_reported_and_moves_no_other_image(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"a": 5, "b": 5})
    clean = pack(str(source), tmp_path / "clean", shard_size=4, progress=False)
    (source / "a/1.png").write_bytes(b"junk")
    (source / "b/7.png").write_bytes(b"")
    (source / "b/notes.txt").write_text("hello")
    report = pack(str(source), tmp_path / "out", shard_size=4, progress=False)
    assert report.images == clean.images - 2
    assert dict(report.skipped).keys() == {"a/1.png", "b/7.png", "b/notes.txt"}
    keys = [{sample["__key__"] for sample in samples(tmp_path / name)} for name in ("clean", "out")]
    assert keys[1] < keys[0]
    assert json.loads((tmp_path / "out/pack.json").read_text())["report"]["skipped"]


def test_zip_equals_folder(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"a": 3, "b": 2})
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in source.rglob("*.png"):
            archive.write(file, file.relative_to(source))
    pack(str(source), tmp_path / "one", progress=False)
    report = pack(str(tmp_path / "in.zip"), tmp_path / "two", progress=False)
    assert report.classes == {"a": 0, "b": 1}
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_webdataset_tars_keep_their_labels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    with tarfile.open(path, f"w:{ending.partition('.')[2]}") as archive:
        for number in range(4):
            for name, content in ((f"x/{number}.png", png(number)), (f"x/{number}.cls", str(number % 2).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    pack(str(path), tmp_path / "out", progress=False)
    assert sorted(sample["cls"] for sample in samples(tmp_path / "out")) == [0, 0, 1, 1]
    assert not list((tmp_path / "out").glob(".*"))


def test_idx_files_with_labels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    header = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in pixels.shape)
    labels = bytes((0, 0, 8, 1)) + (5).to_bytes(4, "big") + bytes((7, 2, 1, 0, 4))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    pack(str(tmp_path), tmp_path / "out", progress=False)
    found = {sample["__key__"]: sample for sample in samples(tmp_path / "out")}
    assert [found[f"{i:08d}"]["cls"] for i in range(5)] == [7, 2, 1, 0, 4]
    assert (np.asarray(found["00000003"]["png"])[..., 0] == pixels[3]).all()


def test_the_original_cifar_archive_and_nothing_else_out_of_a_pickle(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)

    def archive(name: str, batch: object) -> str:
        content = pickle.dumps(batch, protocol=2)
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        return str(tmp_path / name)

    good = archive("good.tar.gz", {b"data": data, b"labels": [3, 1, 4, 1, 5, 9]})
    pack(good, tmp_path / "out", progress=False)
    found = {sample["__key__"]: sample for sample in samples(tmp_path / "out")}
    assert [found[f"{i:08d}"]["cls"] for i in range(6)] == [3, 1, 4, 1, 5, 9]
    assert (np.asarray(found["00000002"]["png"]) == data[2].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    evil = archive("evil.tar.gz", {b"data": data, b"labels": [os.system]})
    with pytest.raises(InputError, match="system"):
        pack(evil, tmp_path / "evil", progress=False)


def test_digits_come_with_the_package(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    report = pack("digits", tmp_path / "out", resolution=16, progress=False)
    assert (report.images, report.enlarged, len(report.classes)) == (1797, 1797, 10)
    assert is_packed(tmp_path / "out")


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_dist.data.pack._WORTH_A_POOL", 0)
    source = str(folder(tmp_path / "in", {"a": 20, "b": 20}))
    for processes in (1, 3):
        pack(source, tmp_path / str(processes), resolution=8, shard_size=7, processes=processes, progress=False)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")
    assert len(hashes(tmp_path / "1")) == 6


@pytest.mark.slow
def test_a_killed_pack_goes_on_to_the_same_bytes(tmp_path: Path, repository: Path) -> None:
    source = folder(tmp_path / "in", {"a": 300})
    whole = tmp_path / "whole"
    pack(str(source), whole, shard_size=20, progress=False)
    code = f"from pathlib import Path; from gan_dist.data.pack import pack; pack({str(source)!r}, Path({str(tmp_path / 'cut')!r}), shard_size=20, progress=False)"
    slow = "import time; import gan_dist.data.pack as p; old = p.convert; p.convert = lambda *a: (time.sleep(0.02), old(*a))[1]; "
    process = subprocess.Popen([sys.executable, "-c", slow + code], cwd=repository)
    while len(hashes(tmp_path / "cut")) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cut = hashes(tmp_path / "cut")
    assert 3 <= len(cut) < 15
    assert not is_packed(tmp_path / "cut")
    before = {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in cut}
    pack(str(source), tmp_path / "cut", shard_size=20, progress=False)
    assert hashes(tmp_path / "cut") == hashes(whole)
    assert {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in cut} == before
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_folder_that_holds_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    source = str(folder(tmp_path / "in", {"a": 2}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    with pytest.raises(InputError, match="did not make"):
        pack(source, tmp_path / "out", progress=False)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    source = str(folder(tmp_path / "in", {"a": 2}))
    pack(source, tmp_path / "out", progress=False)
    before = hashes(tmp_path / "out")
    with pytest.raises(InputError, match="resolution differ"):
        pack(source, tmp_path / "out", resolution=8, progress=False)
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("source", ["nowhere", "empty", "text.txt"])
def test_sources_without_images_are_refused_and_leave_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(InputError, match=source):
        pack(str(tmp_path / source), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_source_of_junk_alone_says_why(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"x\.png: not an image"):
        pack(str(tmp_path / "in"), tmp_path / "out", progress=False)


def test_real_photos_keep_their_bytes_and_index_well(tmp_path: Path, shared: Path) -> None:
    report = pack(str(shared / "data/flowers/flowers-128-test.tar"), tmp_path / "out", progress=False)
    assert (report.images, report.kept, report.skipped) == (429, 429, [])
    names = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    index.build(names, tmp_path, progress=False)
    found = index.load(names, tmp_path)
    assert (len(found), int(found.label.max()), found.bad) == (429, 4, ())
