"""Any WebDataset is indexed as it is, damage is found before training, and an old index never serves a new file."""

import contextlib
import gzip
import io
import multiprocessing.reduction
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from webdataset import WebDataset

from gan_dist.data import index as index_module, scan as scan_module
from gan_dist.data.index import Index
from gan_dist.errors import InputError
from tests import making

PNG = making.encode(making.picture(0))
OTHER = making.encode(making.picture(1, (20, 24), 3))


def indexed(*shards: Path, image: str = "auto", cache: Path | None = None) -> Index:
    cache = cache or shards[0].parent / "cache"
    names = [str(shard) for shard in shards]
    index_module.build(names, cache, image, progress=False)
    return index_module.load(names, cache, image)


def keys(index: Index) -> list[str]:
    return [key for shard in range(len(index.shards)) for key in index.keys(shard)]


def content(index: Index, sample: int) -> bytes:
    """The image's bytes, read where the index says."""
    with open(index.shards[index.shard_of(sample)], "rb") as file:
        file.seek(int(index.offset[sample]))
        return file.read(int(index.size[sample]))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        indexed(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of one's own as a user whom permissions stop (root they do not)."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    try:
        if is_root:
            shutil.chown(folder, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


# --- what others write


@pytest.mark.parametrize(
    ("members", "found"),
    [
        (["a.png", "a.cls", "b.png", "b.cls"], {"a": 1, "b": 2}),
        (["a.cls", "a.png", "b.cls", "b.png"], {"a": 1, "b": 2}),  # label before image
        (["a.png", "b.png", "b.cls", "a.cls"], {"a": 1, "b": 2}),  # members of a sample apart
        (["x/a.png", "x/a.cls", "y/a.png", "y/a.cls"], {"x/a": 1, "y/a": 2}),  # one name in two folders
        (["./a.png", "./a.cls", "./b.png", "./b.cls"], {"./a": 1, "./b": 2}),  # tar cf x.tar ./
        (["v1.0/x.y/a.png", "v1.0/x.y/a.cls"], {"v1.0/x.y/a": 1}),  # dots in folders
        (["a.rgb.png", "a.cls"], {"a": 1}),  # several dots
        (["A.PNG", "A.CLS"], {"A": 1}),
        (["a.png", "a.txt", "a.json5", "README", "note.txt", "b.png"], {"a": -1, "b": -1}),  # extra members
        (["._a.png", "a.png", "a.cls", "x/._b.png", "x/b.png", ".DS_Store"], {"a": 1, "x/b": -1}),  # macOS
        (["ä ö/日本.png", "ä ö/日本.cls"], {"ä ö/日本": 1}),
    ],
)
def test_samples_of_others_are_found_with_their_labels(
    tmp_path: Path, members: list[str], found: dict[str, int]
) -> None:
    order = sorted({name.rsplit(".", 1)[0] for name in members if name.lower().endswith(".cls")})
    contents = [
        (name, str(order.index(name.rsplit(".", 1)[0]) + 1).encode() if name.lower().endswith(".cls") else PNG)
        for name in members
    ]
    index = indexed(making.write_tar(tmp_path / "0.tar", contents))
    assert dict(zip(keys(index), index.label.tolist(), strict=True)) == found
    assert all(content(index, sample) == PNG for sample in range(len(index)))
    assert index.bad == ()


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_of_any_tar_format_are_read(tmp_path: Path, kind: int) -> None:
    name = "/".join(["a" * 90] * 3)
    members = [(f"{name}/{number}.png", making.encode(making.picture(number))) for number in range(3)]
    index = indexed(making.write_tar(tmp_path / "0.tar", members, format=kind))
    assert keys(index) == [f"{name}/{number}" for number in range(3)]
    assert [content(index, number) for number in range(3)] == [image for _, image in members]


def test_names_in_no_known_encoding_are_read(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    index = indexed(making.write_tar(tmp_path / "0.tar", [(f"{name}.png", PNG)], format=tarfile.GNU_FORMAT))
    assert keys(index) == [name]
    assert index.channels == {"1": f"{tmp_path}/0.tar: {name}"}


def entry(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_folders_and_devices_are_no_samples_and_links_within_the_archive_are(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind, target in (
            ("d.png", tarfile.DIRTYPE, ""),
            ("f.png", tarfile.FIFOTYPE, ""),
            ("l.png", tarfile.SYMTYPE, "x/a.png"),  # it comes before what it leads to
            ("x/up.png", tarfile.SYMTYPE, "../l.png"),
            ("out.png", tarfile.SYMTYPE, "/etc/a.png"),
            ("circle.png", tarfile.SYMTYPE, "circle.png"),
        ):
            archive.addfile(entry(name, kind, target))
        for name, data in (("x/a.png", PNG), ("x/a.cls", b"1")):
            made = tarfile.TarInfo(name)
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
        archive.addfile(entry("hard.png", tarfile.LNKTYPE, "x/a.png"))
        archive.addfile(entry("hard.cls", tarfile.LNKTYPE, "x/a.cls"))
    index = indexed(tmp_path / "0.tar")
    assert dict(zip(keys(index), index.label.tolist(), strict=True)) == {"l": -1, "x/up": -1, "x/a": 1, "hard": 1}
    assert {content(index, sample) for sample in range(4)} == {PNG}
    assert index.left_out == {"symbolic link out of the archive": 2, "device": 1}


def test_sparse_members_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 1024 1024 255\n")
    os.truncate(tmp_path / "a.pgm", 17 + (1 << 20))
    for kind in ("gnu", "posix"):
        path = tmp_path / f"{kind}.tar"
        words = ["tar", f"--format={kind}", "--sparse", "-cf", path, "-C", tmp_path, "a.pgm"]
        subprocess.run(words, check=True)
        assert "a.pgm is a sparse member" in refusal(path)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (["a.png", "b.png", "a.png"], ["a.png (at byte 0)", "a.png (at byte 2048)", "the same name"]),
        (["a.png", "./a.png"], ["a.png (at byte 0)", "./a.png (at byte 1024)"]),
        (["a.png", "a.PNG"], ["a.png (at byte 0)", "a.PNG (at byte 1024)", "both the .png of sample a"]),
        (["a.png", "a.cls", "a.cls"], ["a.cls (at byte 1024)", "a.cls (at byte 2048)"]),
    ],
)
def test_a_member_that_comes_twice_is_refused_with_both_places(
    tmp_path: Path, members: list[str], named: list[str]
) -> None:
    said = refusal(making.write_tar(tmp_path / "0.tar", [(name, b"1") for name in members]))
    assert all(words in said for words in named), said


def test_what_has_no_image_is_counted_by_ending(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "b.gif",
        "c.avif",
        "d.jfif",
        "e.jpe",
        "f.img",
        "g",
        "h.JPEG",
        "i.gif",
        "k.txt",
        "._a.jpg",
        "a.txt",
    ]
    jpeg = making.encode(making.picture(0), "JPEG")
    index = indexed(making.write_tar(tmp_path / "0.tar", [(name, jpeg) for name in names]))
    assert keys(index) == ["a", "d", "e", "h"]
    assert index.left_out == {"gif": 2, "hidden file": 1, "no ending": 1, "avif": 1, "img": 1, "txt": 1}


def test_gzip_under_the_name_tar_is_told_as_tar_gz_is(tmp_path: Path) -> None:
    path = making.write_tar(tmp_path / "0.tar", making.samples(2))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "is compressed (gzip)" in refusal(path)
    assert f"gan-dist pack {path} FOLDER" in refusal(path)


def test_keys_with_dots_are_told_how_to_become_samples(tmp_path: Path) -> None:
    said = refusal(making.write_tar(tmp_path / "0.tar", [(f"img_0.{number}.png", PNG) for number in range(3)]))
    assert "sample img_0 has 3 images (0.png, 1.png, 2.png)" in said
    assert f"gan-dist pack {tmp_path / '0.tar'} FOLDER" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sparse", "is a sparse member"),
        ("joined_by_tar_A", "have the same name"),
        ("gzip_named", "is compressed (gzip)"),
        ("dotted_keys", "has 3 images"),
    ],
)
def test_odd_tars_of_others_are_refused(tmp_path: Path, shared: Path, name: str, said: str) -> None:
    assert said in refusal(Path(shutil.copy(shared / f"data/odd/{name}.tar", tmp_path)))


def test_odd_tars_of_others_are_read(tmp_path: Path, shared: Path) -> None:
    for name in ("hardlinks", "endings"):
        shutil.copy(shared / f"data/odd/{name}.tar", tmp_path)
    assert indexed(tmp_path / "hardlinks.tar").label.tolist() == [0, 1, 0, 1, 1]
    assert indexed(tmp_path / "endings.tar").left_out == {"no ending": 1, "gif": 1, "avif": 1, "img": 1, "image": 1}


def test_the_same_samples_are_found_as_webdataset_finds(tmp_path: Path) -> None:
    names = ["x/a.png", "x/a.cls", "b.left.png", "b.cls", "c.txt", "._d.png", "d.png", "e.v1.png"]
    members = [(name, b"3" if name.endswith("cls") else making.encode(making.picture(len(name)))) for name in names]
    path = making.write_tar(tmp_path / "0.tar", members)
    theirs = {
        sample["__key__"]: next(value for name, value in sample.items() if name.endswith("png"))
        for sample in WebDataset(str(path), shardshuffle=False, empty_check=False)
        if any(name.endswith("png") for name in sample)
    }
    index = indexed(path)
    assert {key: content(index, number) for number, key in enumerate(keys(index))} == theirs


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"cls": b"3"}, 3),
        ({"cls": b"3\n"}, 3),
        ({"cls": b" 12 "}, 12),
        ({"cls": b"007"}, 7),
        ({"cls": b"+7"}, 7),
        ({"json": b'{"label": 3, "text": "a cat"}'}, 3),
        ({"json": b'{"label": "3"}'}, 3),
        ({"json": b'{"label": 3.0}'}, 3),
        ({"json": b"3"}, 3),
        ({"cls": b"1", "json": b'{"label": 2}'}, 1),
        ({}, -1),
        ({"cls": b""}, -1),
        ({"cls": b"cat"}, -1),
        ({"cls": b"-2"}, -1),
        ({"cls": b"\xff\xfe"}, -1),
        ({"cls": b"99999999999"}, -1),
        ({"json": b'{"label": 2.5}'}, -1),
        ({"json": b'{"label": Infinity}'}, -1),
        ({"json": b'{"label": NaN}'}, -1),
        ({"json": b'{"label": true}'}, -1),
        ({"json": b'{"label": null}'}, -1),
        ({"json": b'{"label": [1]}'}, -1),
        ({"json": b'{"other": 1}'}, -1),
        ({"json": b"[1]"}, -1),
        ({"json": b"{"}, -1),
        ({"txt": b"3"}, -1),
    ],
)
def test_labels_are_whole_numbers_in_cls_or_json(tmp_path: Path, members: dict[str, bytes], label: int) -> None:
    contents = [("a.png", PNG), *((f"a.{extension}", text) for extension, text in members.items())]
    assert indexed(making.write_tar(tmp_path / "0.tar", contents)).label.tolist() == [label]


def test_sizes_and_kinds_are_those_of_the_images(tmp_path: Path) -> None:
    kinds = {"grey": ("L", "1"), "rgb": ("RGB", "3"), "rgba": ("RGBA", "4"), "bits": ("1", "1"), "palette": ("P", "3")}
    members = []
    for number, (name, (mode, _)) in enumerate(kinds.items()):
        buffer = io.BytesIO()
        Image.new(mode, (10 + number, 30 - number)).save(buffer, "PNG")
        members.append((f"{name}.png", buffer.getvalue()))
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 9)).save(cmyk, "JPEG")
    index = indexed(making.write_tar(tmp_path / "0.tar", [*members, ("cmyk.jpg", cmyk.getvalue())]))
    assert index.width.tolist() == [10, 11, 12, 13, 14, 8]
    assert index.height.tolist() == [30, 29, 28, 27, 26, 9]
    shown = {kind: key.rsplit(" ", 1)[-1] for kind, key in index.channels.items()}
    assert shown == {"1": "grey", "3": "rgb", "4": "rgba"}
    for name, (_, kind) in kinds.items():
        alone = indexed(
            making.write_tar(tmp_path / name / "0.tar", [each for each in members if each[0] == f"{name}.png"])
        )
        assert list(alone.channels) == [kind]


def test_a_header_behind_long_metadata_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    image = making.encode(making.picture(0, (40, 48), 3), "JPEG", exif=exif)
    assert image.index(b"x" * 1000) < scan_module._HEADER < image.rindex(b"x" * 1000)
    index = indexed(making.write_tar(tmp_path / "0.tar", [("a.jpg", image)]))
    assert (index.width[0], index.height[0]) == (48, 40)


def test_images_that_cannot_be_read_are_listed_with_the_reason(tmp_path: Path) -> None:
    path = making.write_tar(
        tmp_path / "0.tar", [("a.png", PNG), ("b.png", b"junk"), ("c.png", b""), ("d.png", PNG[:20])]
    )
    index = indexed(path)
    assert [bad.split(": ", 2)[1:] for bad in index.bad] == [
        ["b.png", "not an image (UnidentifiedImageError)"],
        ["c.png", "empty"],
        ["d.png", index.bad[2].split(": ", 2)[2]],
    ]
    assert all(bad.startswith(str(path)) for bad in index.bad)


def test_a_choice_of_images_must_be_made(tmp_path: Path) -> None:
    path = making.write_tar(tmp_path / "0.tar", [("k.a.png", PNG), ("k.b.png", OTHER), ("l.a.png", PNG)])
    said = refusal(path)
    assert "sample k has 2 images (a.png, b.png)" in said
    assert "choose one with data.image" in said
    assert content(indexed(path, image="b.png"), 0) == OTHER
    assert keys(indexed(path, image="b.png")) == ["k"]
    assert content(indexed(path, image="a.png"), 0) == PNG
    assert keys(indexed(path, image="a.png")) == ["k", "l"]


# --- damage


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return making.write_tar(tmp_path / "0.tar", making.samples(20, classes=3))


def ends(path: Path) -> list[int]:
    """Where each member's content ends, with its padding."""
    with tarfile.open(path) as archive:
        return [member.offset_data + -(-member.size // 512) * 512 for member in archive]


def test_a_file_cut_anywhere_is_refused(whole: Path, tmp_path: Path) -> None:
    data, members = whole.read_bytes(), ends(whole)
    places = {1, 100, 511, 512, 513, 1024, members[0], members[-1], members[-1] - 1, members[-1] + 511}
    places |= set(members[3:9]) | {place + 512 for place in members[3:9]} | {place - 600 for place in members[3:9]}
    for place in sorted(places):
        cut = tmp_path / f"cut-{place}.tar"
        cut.write_bytes(data[:place])
        said = refusal(cut)
        assert "truncated" in said or "cannot be read as a tar file" in said, (place, said)
        assert not list(tmp_path.glob("cut-*.index")), "a damaged file has an index"


def test_a_whole_file_needs_no_padding_to_ten_kilobytes(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes()[: ends(whole)[-1] + 1024])
    assert len(indexed(whole)) == 20


@pytest.mark.parametrize("filling", [b"\xff", b"\0"])
def test_an_overwritten_header_is_found(whole: Path, filling: bytes) -> None:
    data = bytearray(whole.read_bytes())
    place = data.index(b"000010.png")
    data[place : place + 512] = filling * 512
    whole.write_bytes(data)
    assert "damaged after 20 files" in refusal(whole)


def test_a_hole_in_the_middle_is_found(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    place = data.index(b"000010.png")
    data[place : place + 4096] = bytes(4096)
    whole.write_bytes(data)
    assert "damaged after 20 files" in refusal(whole)


def test_what_is_no_tar_file_is_refused(tmp_path: Path, whole: Path) -> None:
    compressed = io.BytesIO()
    with tarfile.open(fileobj=compressed, mode="w:gz"):
        pass
    for name, data in {
        "text": b"hello " * 1000,
        "zeros": b"",
        "image": PNG * 20,
        "gz": compressed.getvalue(),
        "gz of a tar": zlib.compress(whole.read_bytes()),
        "block": bytes(512),
    }.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        refusal(path)
    (tmp_path / "folder.tar").mkdir()
    refusal(tmp_path / "folder.tar")


def test_a_tar_without_members_has_no_samples(tmp_path: Path) -> None:
    assert len(indexed(making.write_tar(tmp_path / "0.tar", []))) == 0


def test_a_missing_file_and_one_without_permission_are_named() -> None:
    assert "cannot be read (No such file" in refusal(Path("nowhere/0.tar"))
    with as_nobody() as folder:
        path = making.write_tar(folder / "0.tar", making.samples(1))
        path.chmod(0)
        assert "cannot be read (Permission denied)" in refusal(path)


# --- the index on disk


def test_an_index_is_made_once(whole: Path) -> None:
    indexed(whole)
    made = (whole.parent / "0.tar.index").stat()
    indexed(whole)
    again = (whole.parent / "0.tar.index").stat()
    assert (made.st_ino, made.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert sorted(path.name for path in whole.parent.iterdir()) == ["0.tar", "0.tar.index"]


def test_a_changed_file_is_indexed_again(whole: Path) -> None:
    assert len(indexed(whole)) == 20
    making.write_tar(whole, making.samples(30, classes=3))  # another size
    assert len(indexed(whole)) == 30
    state, data = whole.stat(), bytearray(whole.read_bytes())
    place = data.index(b"000010.cls") + 512
    assert data[place : place + 1] == b"1"
    data[place : place + 1] = b"7"
    whole.write_bytes(data)  # the same size, another time
    os.utime(whole, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))
    assert whole.stat().st_size == state.st_size
    assert indexed(whole).label[10] == 7


def test_a_file_that_changes_behind_a_run_is_noticed(whole: Path) -> None:
    names, cache = [str(whole)], whole.parent / "cache"
    index = indexed(whole)
    making.write_tar(whole, making.samples(30))
    with pytest.raises(InputError, match="changed while its index was made"):
        index_module.load(names, cache)
    with pytest.raises(InputError, match="changed since the run began"):
        index.key(0)


def test_a_torn_foreign_or_old_index_is_made_again(whole: Path) -> None:
    expected = keys(indexed(whole))
    place = whole.parent / "0.tar.index"
    good = place.read_bytes()
    foreign = whole.parent / "foreign"
    save_file({"offset": np.zeros(3)}, foreign)
    version = f'"version":"{index_module.VERSION}"'.encode()
    assert version in good
    for bad in (
        b"",
        b"x",
        good[:100],
        good[:-1],
        good + b"x",
        bytes(len(good)),
        struct.pack("<Q", 2**60) + good[8:],
        foreign.read_bytes(),
        good.replace(version, b'"version":"0"'),
    ):
        place.write_bytes(bad)
        assert keys(indexed(whole)) == expected
        assert len(place.read_bytes()) == len(good)
        assert version in place.read_bytes()


def test_an_index_is_read_beside_its_shard_wherever_both_are_moved(whole: Path, tmp_path: Path) -> None:
    indexed(whole)
    (tmp_path / "moved").mkdir()
    for path in (whole, tmp_path / "0.tar.index"):
        path.rename(tmp_path / "moved" / path.name)
    assert index_module._read(str(tmp_path / "moved/0.tar"), tmp_path / "nowhere", "auto") is not None


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(tmp_path: Path) -> None:
    with as_nobody() as folder:
        first = making.write_tar(folder / "a/0.tar", making.samples(3))
        second = making.write_tar(folder / "b/0.tar", making.samples(5))
        for path in (first, second):
            path.parent.chmod(0o555)
        try:
            index = indexed(first, second, cache=folder / "cache")
            assert [len(index.keys(0)), len(index.keys(1))] == [3, 5]
            assert [path.name for path in first.parent.iterdir()] == ["0.tar"]
            made = {path: path.stat().st_mtime_ns for path in (folder / "cache/index").iterdir()}
            assert len(made) == 2
            indexed(first, second, cache=folder / "cache")
            assert {path: path.stat().st_mtime_ns for path in made} == made
            (folder / "file").write_text("")
            with pytest.raises(InputError, match=r"index cache \(data.cache\) .* cannot be written"):
                indexed(first, cache=folder / "file")
        finally:
            for path in (first, second):
                path.parent.chmod(0o755)


def test_many_threads_and_processes_may_index_at_once(tmp_path: Path) -> None:
    shards = [making.write_tar(tmp_path / f"{number}.tar", making.samples(30)) for number in range(3)]
    workers = [threading.Thread(target=indexed, args=shards) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(indexed(*shards)) == 90


def test_big_data_sets_are_scanned_by_several_processes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making.data_set(tmp_path / "a", 24, classes=3)
    making.data_set(tmp_path / "b", 24, classes=3)
    alone = indexed(*sorted((tmp_path / "a").glob("*.tar")))
    monkeypatch.setattr(index_module, "_WORTH_A_POOL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    pooled = indexed(*sorted((tmp_path / "b").glob("*.tar")))
    assert pooled.digest == alone.digest
    assert np.array_equal(pooled.offset, alone.offset)
    making.write_tar(tmp_path / "b/1.tar", [("a.png", PNG)]).write_bytes(b"junk")
    with pytest.raises(InputError, match=r"1\.tar cannot be read as a tar file"):
        indexed(*sorted((tmp_path / "b").glob("*.tar")))


# --- all shards together


def test_samples_are_numbered_over_the_shards(tmp_path: Path) -> None:
    counts = [3, 0, 5, 1]
    shards = []
    for number, count in enumerate(counts):
        shards.append(
            making.write_tar(tmp_path / f"{number}.tar", making.samples(count, first=100 * number, classes=7))
        )
    index = indexed(*shards)
    assert len(index) == 9
    assert index.first.tolist() == [0, 3, 3, 8, 9]
    assert [index.shard_of(sample) for sample in range(9)] == [0, 0, 0, 2, 2, 2, 2, 2, 3]
    numbers = [0, 1, 2, 200, 201, 202, 203, 204, 300]
    assert [index.key(sample) for sample in range(9)] == [
        f"{shards[index.shard_of(sample)]}: {number:06d}" for sample, number in enumerate(numbers)
    ]
    assert index.label.tolist() == [number % 7 for number in numbers]
    for sample, number in enumerate(numbers):
        assert content(index, sample) == making.encode(making.picture(number))


def test_the_digest_knows_keys_sizes_labels_and_order_but_no_paths(tmp_path: Path) -> None:
    members = making.samples(6, classes=3)

    def digest(name: str, *parts: list[tuple[str, bytes]]) -> str:
        paths = [making.write_tar(tmp_path / f"{name}-{number}.tar", part) for number, part in enumerate(parts)]
        return indexed(*paths).digest

    base = digest("a", members[:6], members[6:])
    assert digest("elsewhere/b", members[:6], members[6:]) == base
    assert digest("c", members[6:], members[:6]) != base
    assert digest("d", members[:6], members[6:10]) != base
    assert digest("e", [("other.png", members[0][1]), *members[1:6]], members[6:]) != base
    assert digest("f", [members[0], ("000000.cls", b"2"), *members[2:6]], members[6:]) != base
    assert digest("g", [("000000.png", OTHER), *members[1:6]], members[6:]) != base


def test_the_digest_knows_other_pictures_of_the_same_size_and_the_old_digest_is_as_it_was(tmp_path: Path) -> None:
    digests = []
    for seed in (0, 100):
        members = [(f"{number}.bmp", making.encode(making.picture(seed + number), "BMP")) for number in range(5)]
        digests.append(indexed(making.write_tar(tmp_path / f"{seed}.tar", members)))
    assert len({index.digest for index in digests}) == 2
    assert len({index.old_digest for index in digests}) == 1
    # what version 2 of the index gave for these
    assert digests[0].old_digest == "8639e213e36336da7eec8e81270a3bc7aae23e01f6241c887dea312a2cda6b98"


def test_a_node_has_a_large_table_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_WORTH_A_FILE", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = making.write_tar(tmp_path / "0.tar", [(f"{number:05d}.png", PNG) for number in range(3000)])
    index, other_rank = indexed(path), indexed(path)
    assert index.rows.nbytes == 3000 * 20
    assert index.table == other_rank.table
    assert [file.name for file in tmp_path.glob("gan_dist-*/*.rows")] == [index.table.name]
    pickled = bytes(multiprocessing.reduction.ForkingPickler.dumps(index))
    assert len(pickled) < 3000
    copy = multiprocessing.reduction.ForkingPickler.loads(pickled)
    assert len(copy) == len(index)
    assert np.array_equal(copy.offset, index.offset)
    assert {type(each.rows.base).__name__ for each in (index, other_rank, copy)} == {"memmap"}
    index.table.unlink()  # by a cleaner of temporary folders
    assert np.array_equal(
        multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(index)).rows,
        copy.rows,
    )
    os.utime(path)
    assert indexed(path).table != index.table


def test_all_data_sets_of_the_shared_folder_are_indexed(shared: Path) -> None:
    tars = sorted((shared / "data").rglob("*.tar"))
    assert tars
    for path in [*tars[:3], *(path for path in tars if path.stat().st_size < 20 << 20)]:
        with tarfile.open(path) as archive:
            members = {Path(member).suffix for member in archive.getnames()[:4]}
        with contextlib.suppress(InputError):  # two images a sample: the user must choose
            arrays, summary = index_module.scan(str(path))
            assert len(arrays["offset"]) > 0, (path, members)
            assert summary["bad"] == []
