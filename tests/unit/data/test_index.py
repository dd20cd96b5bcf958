"""WebDatasets of any maker are indexed once, rightly, and damage is found."""

import gzip
import io
import json
import os
import tarfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from gan_dist.data import index, shards
from gan_dist.errors import InputError
from tests import making

PNG = making.encode(making.picture(0))


def indexed(path: Path, image: str = "auto") -> index.Index:
    names = shards.expand(str(path))
    index.build(names, path.parent / "cache", image, progress=False)
    return index.load(names, path.parent / "cache", image)


def test_samples_are_found_where_they_lie(tmp_path: Path) -> None:
    folder = making.data_set(tmp_path / "data", 30, 3, classes=4)
    found = indexed(folder)
    assert len(found) == 30
    assert found.label.tolist() == [number % 4 for number in range(30)]
    for sample in (0, 9, 10, 29):
        shard = found.shards[found.shard_of(sample)]
        with open(shard, "rb") as file:
            file.seek(int(found.offset[sample]))
            assert file.read(int(found.size[sample])) == making.encode(making.picture(sample))
        assert found.key(sample) == f"{shard}: {sample:06d}"


def test_members_in_any_order_nested_keys_several_dots_and_extras(tmp_path: Path) -> None:
    members = [
        ("b/0.cls", b"7"),
        ("a/0.JPG", making.encode(making.picture(1), "JPEG")),
        ("readme.txt", b"hello"),
        ("._a/0.png", b"resource fork"),
        ("b/._0.png", b"resource fork"),
        ("b/0.png", PNG),
        ("a/0.json", json.dumps({"label": 3, "caption": "x"}).encode()),
        ("a/0.txt", b"caption"),
        ("c.0.json", b'{"label": 1}'),
        ("c.0.png", PNG),
    ]
    making.write_tar(tmp_path / "data/0.tar", members)
    found = indexed(tmp_path / "data")
    assert {found.key(sample).split(": ")[1]: int(found.label[sample]) for sample in range(len(found))} == {
        "b/0": 7,
        "a/0": 3,
        "c": -1,  # the .json of this key is named 0.json: another extension
    }


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path: Path, style: int) -> None:
    name = "x" * 180 + "/" + "ü" * 60
    making.write_tar(tmp_path / "data/0.tar", [(f"{name}.png", PNG), ("short.png", PNG)], format=style)
    assert [indexed(tmp_path / "data").key(sample).split(": ")[1] for sample in (0, 1)] == [name, "short"]


def test_several_images_a_sample_need_a_choice(tmp_path: Path) -> None:
    making.write_tar(
        tmp_path / "data/0.tar", [("0.a.png", PNG), ("0.b.jpg", making.encode(making.picture(1, 20), "JPEG"))]
    )
    with pytest.raises(InputError, match=r"2 images \(a.png, b.jpg\).*data.image"):
        indexed(tmp_path / "data")
    assert indexed(tmp_path / "data", "b.jpg").width.tolist() == [20]
    assert indexed(tmp_path / "data", "a.png").width.tolist() == [16]


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in making.samples(20):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = [member.offset_data + -(-member.size // 512) * 512 for member in archive.getmembers()]
    if kind == "cut inside a member":
        return whole[: ends[10] + 700]
    if kind == "cut between members":
        return whole[: ends[10]]
    if kind == "overwritten header":
        return whole[: ends[10]] + b"\xaa" * 512 + whole[ends[10] + 512 :]
    return {"empty": b"", "text": b"no tar at all\n" * 100, "gzip": gzip.compress(whole)}[kind]


@pytest.mark.parametrize(
    "kind", ["cut inside a member", "cut between members", "overwritten header", "empty", "text", "gzip"]
)
def test_a_damaged_tar_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/0.tar").write_bytes(damaged(kind))
    with pytest.raises(InputError, match=r"0\.tar"):
        indexed(tmp_path / "data")


def test_images_that_cannot_be_read_are_kept_in_the_index_as_bad(tmp_path: Path) -> None:
    making.write_tar(tmp_path / "data/0.tar", [*making.samples(2), ("7.png", b"junk"), ("8.png", b"")])
    found = indexed(tmp_path / "data")
    assert len(found) == 4
    assert [bad.split(": ")[1] for bad in found.bad] == ["7.png", "8.png"]


def test_kinds_of_images_are_told_apart(tmp_path: Path) -> None:
    colour = making.picture(0, channels=3)
    alpha = np.dstack([colour, colour[..., 0]])
    members = [("0.png", PNG), ("1.png", making.encode(colour)), ("2.png", making.encode(alpha))]
    making.write_tar(tmp_path / "data/0.tar", members)
    assert {kind: key.split(": ")[1] for kind, key in indexed(tmp_path / "data").channels.items()} == {
        "1": "0",
        "3": "1",
        "4": "2",
    }


def test_a_shard_that_changed_is_indexed_anew(tmp_path: Path) -> None:
    folder = making.data_set(tmp_path / "data", 6, 1)
    first = indexed(folder)
    making.write_tar(folder / "0.tar", making.samples(6, first=100))
    os.utime(folder / "0.tar", ns=(1, 1))
    second = indexed(folder)
    assert second.key(0).endswith("000100")
    assert first.digest != second.digest


def test_the_digest_knows_the_data_and_not_its_place(tmp_path: Path) -> None:
    one = indexed(making.data_set(tmp_path / "one", 6, 2))
    making.write_tar(tmp_path / "two/x.tar", making.samples(3))
    making.write_tar(tmp_path / "two/y.tar", making.samples(3, first=3))
    assert one.digest == indexed(tmp_path / "two").digest


def test_a_torn_index_file_is_made_anew_and_is_no_shard(tmp_path: Path) -> None:
    folder = making.data_set(tmp_path / "data", 6, 1)
    indexed(folder)
    place = folder / "0.tar.index"
    place.write_bytes(place.read_bytes()[:50])
    assert len(indexed(folder)) == 6
    assert shards.expand(str(folder)) == [str(folder / "0.tar")]


def test_a_folder_that_cannot_be_written_leaves_the_index_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = making.data_set(tmp_path / "data", 6, 1)
    write = index.files.write_atomic

    def refusing(path: Path, content: bytes) -> None:
        if path.parent == folder:
            raise PermissionError(13, "Permission denied")
        write(path, content)

    monkeypatch.setattr(index.files, "write_atomic", refusing)  # root may write anywhere
    found = indexed(folder)
    assert len(found) == 6
    assert found.key(3).endswith("000003")
    assert not list(folder.glob("*.index"))
    assert len(list((tmp_path / "cache/index").iterdir())) == 1


def test_workers_get_handles_and_not_copies(tmp_path: Path) -> None:
    found = indexed(making.data_set(tmp_path / "data", 300, 1))
    assert found.offset.nbytes + found.size.nbytes + found.label.nbytes > 4000
    assert len(ForkingPickler.dumps(found)) < 4000
    assert ForkingPickler.loads(ForkingPickler.dumps(found)).offset.tolist() == found.offset.tolist()
