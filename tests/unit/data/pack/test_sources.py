"""Every kind of source gives the images and labels that are in it, says what it leaves out, and refuses damage."""

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist.data import index
from gan_dist.data.pack.sources import Source, open_source, read
from gan_dist.errors import InputError


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tree(path: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(png(seed))
    return path


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def idx(pixels: np.ndarray) -> bytes:
    return bytes((0, 0, 8, pixels.ndim)) + b"".join(n.to_bytes(4, "big") for n in pixels.shape) + pixels.tobytes()


def contents(source: Source) -> dict[str, bytes]:
    return {item.name: np.asarray(read(item.place)).tobytes() for item in source.items}


def labels(source: Source) -> list[int | None]:
    return [item.label for item in source.items]


def opened(source: Path | str, tmp_path: Path) -> Source:
    return open_source(str(source), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("cat/1.png", "dog/1.png"), [0, 1]),
        (("data/train/cat/1.png", "data/train/dog/1.png"), [0, 1]),
        (("cat/tabby/1.png", "cat/tom/2.png", "dog/3.png"), [0, 0, 1]),
        (("1.png", "2.png"), [None, None]),
        (("photos/1.png", "photos/2.png"), [None, None]),
        (("cat/1.png", "dog/2.png", "stray.png"), [0, 1, None]),
        (("cat/1.png", "stray.png"), [None, None]),
        (("10/1.png", "2/2.png", "0/3.png"), [0, 10, 2]),  # items are in order of their names
        (("c10/1.png", "c2/2.png"), [1, 0]),  # natural order
        (("20240101/1.png", "20240102/2.png"), [0, 1]),  # dates are names
        (("0/1.png", "00/2.png"), [0, 1]),
    ],
)
def test_the_first_folder_below_what_all_share_is_the_class(
    tmp_path: Path, names: tuple[str, ...], expected: list[int | None]
) -> None:
    assert labels(opened(tree(tmp_path / "in", *names), tmp_path)) == expected


def test_a_folder_its_zip_and_its_tar_are_the_same_images_and_labels(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "b/1.png", "a/2.JPEG", "a/deep/3.webp")
    (folder / ".hidden.png").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    with tarfile.open(tmp_path / "in.tar", "w") as archive_tar:
        archive_tar.add(folder, arcname=".")
    found = [opened(path, tmp_path) for path in (folder, tmp_path / "in.zip", tmp_path / "in.tar")]
    assert [labels(source) for source in found] == [[0, 0, 1]] * 3
    assert [source.classes for source in found] == [{"a": 0, "b": 1}] * 3
    listed = [sorted(content for content in contents(source).values()) for source in found]
    assert listed[0] == listed[1] == listed[2] == sorted(png(seed) for seed in range(3))


def test_linked_class_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    real = tree(tmp_path / "real", "a/1.png", "b/2.png")
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / name).symlink_to(real / name)
    (real / "a/up").symlink_to(real)
    assert labels(opened(tmp_path / "in", tmp_path)) == [0, 1]
    assert len(opened(real, tmp_path).items) == 2


def test_what_is_no_image_is_named_with_a_reason(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "1.png")
    (folder / "notes.txt").write_text("x")
    (folder / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    assert dict(opened(folder, tmp_path).skipped) == {
        "notes.txt": "no image by its name",
        "gone.png": "No such file or directory",
        "pipe.png": "no regular file",
    }


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_tars_of_samples_keep_their_labels(tmp_path: Path, kind: str) -> None:
    members = {
        name: content
        for number in range(4)
        for name, content in ((f"x/{number}.png", png(number)), (f"x/{number}.cls", str(number % 2 * 7).encode()))
    }
    source = opened(tar(tmp_path / "in.tar", members, f"w:{kind}"), tmp_path)
    assert (labels(source), source.classes, source.skipped) == ([0, 7, 0, 7], {"0": 0, "7": 7}, [])
    assert contents(source) == {f"x/{number}.png": png(number) for number in range(4)}


def test_a_label_in_json_is_read(tmp_path: Path) -> None:
    source = opened(tar(tmp_path / "in.tar", {"1.png": png(1), "1.json": b'{"label": 3, "by": "me"}'}), tmp_path)
    assert (labels(source), source.skipped) == ([3], [])


def test_links_in_a_tar_are_not_lost_in_silence(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(tree(tmp_path / "in", "1.png") / "1.png", arcname="1.png")
        entry = tarfile.TarInfo("2.png")
        entry.type, entry.linkname = tarfile.LNKTYPE, "1.png"
        archive.addfile(entry)
        entry = tarfile.TarInfo("3.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/elsewhere/1.png"
        archive.addfile(entry)
    source = opened(tmp_path / "in.tar", tmp_path)
    assert contents(source) == {"1.png": png(0), "2.png": png(0)}
    assert source.skipped == [("3.png", "a symbolic link out of the archive")]


@pytest.mark.parametrize(
    ("labels_of", "expected", "note"),
    [
        ([["0/1.png", 3], ["1/2.png", 0], ["1/3.png", 3]], [3, 0, 3], None),
        (None, [None, None, None], None),
        ([["0/1.png", 3]], [3, None, None], "2 of 3 images have no label in x/dataset.json, first x/1/2.png"),
        ([["0/1.png", [0.1, 0.2]]], None, "the label of 0/1.png is [0.1, 0.2]; only whole numbers"),
        ([["0/1.png", True]], None, "the label of 0/1.png is True"),
        ([3], None, "labels holds 3, which is not [image, class]"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_labels_of_dataset_json_go_before_folders(
    tmp_path: Path, labels_of: object, expected: list[int | None] | None, note: str | None, kind: str
) -> None:
    folder = tree(tmp_path / "in", "x/0/1.png", "x/1/2.png", "x/1/3.png")
    (folder / "x/dataset.json").write_text(json.dumps({"labels": labels_of}))
    source = folder
    if kind == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "z"), "zip", folder))
    elif kind == "tar":
        source = Path(shutil.make_archive(str(tmp_path / "t"), "tar", folder))
    if expected is None:
        with pytest.raises(InputError) as caught:
            opened(source, tmp_path)
        assert note in str(caught.value)
    else:
        found = opened(source, tmp_path)
        assert (labels(found), found.skipped) == (expected, [])
        assert [line.replace("./", "") for line in found.notes] == ([note] if note else [])
    assert labels(open_source(str(source), tmp_path, "folder")) == [0, 1, 1]
    assert labels(open_source(str(source), tmp_path, "none")) == [None] * 3


def test_another_dataset_json_is_a_file_like_others(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "a/1.png", "b/2.png")
    (folder / "dataset.json").write_text('{"name": "pets"}')
    assert labels(opened(folder, tmp_path)) == [0, 1]
    assert opened(folder, tmp_path).skipped == [("dataset.json", "no image by its name")]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("cat/1.png", "dog/2.png", "x.png"),
            ["1 of 3 images lie in no class folder", "first x.png", "--classes none"],
        ),
        (("train/cat/1.png", "val/cat/2.png"), ["the classes train, val are named as the parts of a data set"]),
        (("trainA/1.png", "testB/2.png"), ["the classes testB, trainA are named as the parts"]),
        (("00000/1.png", "00001/2.png"), ["the folders 00000, 00001 ... look like running numbers"]),
        (("0/1.png", "1/2.png"), []),
        (("train/1.png", "cat/2.png"), []),
    ],
)
def test_what_folders_were_taken_for_is_said_where_it_is_a_guess(
    tmp_path: Path, names: tuple[str, ...], words: list[str]
) -> None:
    notes = opened(tree(tmp_path / "in", *names), tmp_path).notes
    assert len(notes) == bool(words)
    assert all(word in notes[0] for word in words), notes


SPELLINGS: dict[str, tuple[str, bytes, int | None]] = {
    "three": ("cls", b"3\n", 3),
    "zeros": ("cls", b"007", 7),
    "part": ("cls", b"0.7", None),
    "json_part": ("json", b'{"label": 0.7}', None),
    "json_true": ("json", b'{"label": true}', None),
    "negative": ("cls", b"-1", None),
    "json_text": ("json", b'{"label": "4"}', 4),
    "word": ("cls", b"cat", None),
    "power": ("cls", b"1e1", None),
    "mark": ("cls", b"\xef\xbb\xbf5", None),
    "json_whole": ("json", b'{"label": 2.0}', 2),
    "deep": ("json", b"[" * 100_000, None),
}


def test_pack_and_index_read_the_same_label_of_every_spelling(tmp_path: Path) -> None:
    members = {name: png(1) for name in (f"{key}.png" for key in SPELLINGS)}
    members |= {f"{key}.{ending}": content for key, (ending, content, _) in SPELLINGS.items()}
    members |= {"both.png": png(1), "both.json": b'{"label": 8}', "both.cls": b"1"}  # .cls counts
    path = tar(tmp_path / "in.tar", members)
    expected = {key: label for key, (_, _, label) in SPELLINGS.items()} | {"both": 1}
    source = opened(path, tmp_path)
    assert {item.name.removesuffix(".png"): item.label for item in source.items} == expected
    assert source.classes == {str(label): label for label in (1, 2, 3, 4, 7)}
    assert "8 of 13 images have no label" in source.notes[0]
    index.build([str(path)], tmp_path, progress=False)
    found = index.load([str(path)], tmp_path)
    by_index = dict(zip(found.keys(0), found.label.tolist(), strict=True))
    assert by_index == {key: -1 if label is None else label for key, label in expected.items()}


def test_names_with_dots_are_samples_of_their_own_with_their_own_labels(tmp_path: Path) -> None:
    members = {
        f"img_0.{number}.{ending}": content
        for number in range(3)
        for ending, content in (("png", png(number)), ("cls", b"%d" % number))
    }
    assert labels(opened(tar(tmp_path / "in.tar", members), tmp_path)) == [0, 1, 2]


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png", "./a.png"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match=r"a\.png .at byte 0. and \./a\.png .at byte 1024. have the same name"):
        opened(path, tmp_path)
    compressed = tmp_path / "in.tar.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=rf"^{compressed}: "):
        opened(compressed, tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.png", b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", b"x")
    with pytest.raises(InputError, match=r"holds a\.png twice"):
        opened(tmp_path / "in.zip", tmp_path)


def test_joined_zips_are_refused(tmp_path: Path) -> None:
    parts = []
    for number in range(2):
        with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
            archive.writestr(f"{number}.png", png(number))
        parts.append((tmp_path / "part.zip").read_bytes())
    (tmp_path / "in.zip").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="several zip files joined"):
        opened(tmp_path / "in.zip", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hardlinks.tar", [0, 1, 0, 1, 1]),
        ("stray_picture.zip", [0, 0, 0, 1, 1, 1, None]),
        ("number_folders.zip", sorted(range(12), key=str)),
        ("dotted_keys.tar", [None] * 3),
    ],
)
def test_odd_sources_of_others_keep_their_labels(
    tmp_path: Path, shared: Path, name: str, expected: list[int | None]
) -> None:
    found = labels(opened(shared / "data/odd" / name, tmp_path))
    assert (found if name != "number_folders.zip" else list(dict.fromkeys(found))) == expected


def test_odd_sources_of_others_are_refused_or_told(tmp_path: Path, shared: Path) -> None:
    odd = shared / "data/odd"
    for name, said in (("sparse.tar", "is a sparse member"), ("joined_by_tar_A.tar", "have the same name")):
        with pytest.raises(InputError, match=said):
            opened(odd / name, tmp_path)
    style = opened(odd / "stylegan_labels.zip", tmp_path)
    assert (sorted(labels(style)), style.skipped) == ([label for label in range(4) for _ in range(6)], [])
    assert "parts of a data set" in opened(odd / "splits.zip", tmp_path).notes[0]
    assert len(opened(odd / "endings.tar", tmp_path).items) == 6


@pytest.mark.parametrize("images", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("beside", ["train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"])
def test_idx_images_find_their_labels_compressed_or_not(tmp_path: Path, images: str, beside: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
    for name, array in ((images, pixels), (beside, np.array([7, 2, 1, 0, 4], np.uint8))):
        (tmp_path / name).write_bytes(gzip.compress(idx(array)) if name.endswith("gz") else idx(array))
    for source in (opened(tmp_path, tmp_path), opened(tmp_path / images, tmp_path)):
        assert labels(source) == [7, 2, 1, 0, 4]
        assert all((read(item.place) == pixels[i]).all() for i, item in enumerate(source.items))


@pytest.mark.parametrize(("split", "expected"), [(None, [1, 2]), ("train", [1, 2]), ("test", [3]), ("all", [1, 2, 3])])
def test_training_images_or_test_images_or_both(tmp_path: Path, split: str | None, expected: list[int]) -> None:
    for part, numbers in (("train", [1, 2]), ("t10k", [3])):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((len(numbers), 4, 4), np.uint8)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(numbers, np.uint8)))
    batches: dict[str, object] = {"batches.meta": {b"label_names": [b"a", b"b", b"c", b"d"]}}
    for part, numbers in (("data_batch_1", [1, 2]), ("test_batch", [3])):
        batches[part] = {b"data": np.full((len(numbers), 3072), numbers[0], np.uint8), b"labels": numbers}
    for source in (tmp_path, cifar(tmp_path / "c.tar.gz", batches)):
        found = open_source(str(source), tmp_path / "scratch", split=split)
        assert labels(found) == expected
        assert len({item.name for item in found.items}) == len(expected)
        assert bool(found.notes) == (split is None)  # says that there is more
    if split is not None:
        with pytest.raises(InputError, match=f"split {split} has no effect"):
            open_source(str(tree(tmp_path / "in", "1.png")), tmp_path / "scratch", split=split)


def test_a_folder_of_shards_gives_their_images_in_the_order_of_their_keys(tmp_path: Path) -> None:
    for name, keys in (("a", (3, 1)), ("b", (2, 0))):
        members = {f"{key}.{end}": png(key) if end == "png" else b"%d" % key for key in keys for end in ("png", "cls")}
        tar(tmp_path / f"in/{name}.tar", members)
    (tmp_path / "in/classes.json").write_text('{"cat": 0, "dog": 1, "cow": 2, "hen": 3}')
    found = opened(tmp_path / "in", tmp_path)
    assert (labels(found), found.classes["hen"], found.skipped) == ([0, 1, 2, 3], 3, [])
    assert contents(found)["a.tar/3.png"] == png(3)


def test_a_folder_with_idx_files_both_compressed_and_not_is_one_source(tmp_path: Path) -> None:
    for name, array in (("images-idx3", np.zeros((3, 4, 4), np.uint8)), ("labels-idx1", np.arange(3, dtype=np.uint8))):
        (tmp_path / f"train-{name}-ubyte").write_bytes(idx(array))
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        (tmp_path / f"t10k-{name}-ubyte").write_bytes(idx(array))
    assert labels(opened(tmp_path, tmp_path)) == [0, 1, 2]


def test_idx_labels_of_another_count_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 4, 4), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(2, dtype=np.uint8)))
    with pytest.raises(InputError, match="2 labels for 3 images"):
        opened(tmp_path, tmp_path)


def cifar(path: Path, batches: dict[str, object]) -> Path:
    return tar(path, {f"c/{name}": pickle.dumps(batch, protocol=2) for name, batch in batches.items()}, "w:gz")


@pytest.mark.parametrize(
    ("batches", "key"), [(("data_batch_2", "data_batch_1"), b"labels"), (("train",), b"fine_labels")]
)
def test_the_original_cifar_archives(tmp_path: Path, batches: tuple[str, ...], key: bytes) -> None:
    data = {
        name: np.random.default_rng(i).integers(0, 256, (3, 3072), dtype=np.uint8) for i, name in enumerate(batches)
    }
    names = {key[:-6] + b"label_names" if key[0] == 102 else b"label_names": [b"cat", b"dog"]}
    about = {"batches.meta" if key == b"labels" else "meta": names, "test_batch": {b"data": 0}}
    source = opened(
        cifar(tmp_path / "c.gz", {n: {b"data": data[n], key: [1, 0, 1]} for n in batches} | about), tmp_path
    )
    assert source.classes == {"cat": 0, "dog": 1}
    assert labels(source) == [1, 0, 1] * len(batches)
    for item in source.items:
        name, _, number = item.name.partition("/")
        assert (read(item.place) == data[name][int(number)].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_all_cifar_batches_stay_loaded_as_shuffled_images_come_from_each(tmp_path: Path) -> None:
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
    source = opened(cifar(tmp_path / "c.gz", {f"data_batch_{number}": batch for number in range(1, 6)}), tmp_path)
    shown = [read(item.place).base for item in source.items]  # type: ignore[union-attr]
    again = [read(item.place).base for item in source.items]  # type: ignore[union-attr]
    assert all(one is other for one, other in zip(shown, again, strict=True))


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": 1, b"labels": [os.system]},
        {b"data": np.zeros((2, 10), np.uint8), b"labels": [0, 1]},
        {b"labels": [0]},
        [1, 2],
    ],
)
def test_a_pickle_with_anything_but_images_is_refused(tmp_path: Path, batch: object) -> None:
    with pytest.raises(InputError, match="CIFAR"):
        opened(cifar(tmp_path / "c.tar.gz", {"data_batch_1": batch}), tmp_path)


def test_no_code_in_a_pickle_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    with pytest.raises(InputError, match="mkdir"):
        opened(cifar(tmp_path / "c.tar.gz", {"data_batch_1": Evil()}), tmp_path)
    assert not (tmp_path / "run").exists()


def test_digits_fill_the_range_of_eight_bits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    source = opened("digits", tmp_path)
    assert (len(source.items), source.classes) == (1797, {str(digit): digit for digit in range(10)})
    for number in (0, 1, 1796):
        expected = np.rint(datasets.load_digits().images[number] * 255 / 16)
        assert (read(source.items[number].place) == expected).all()
    assert max(int(np.max(read(item.place))) for item in source.items) == 255


def test_a_folder_named_digits_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "digits", "1.png")
    monkeypatch.chdir(tmp_path)
    assert len(opened("digits", tmp_path).items) == 1


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut between files", "cut", "flipped"])
def test_a_damaged_archive_is_refused_and_never_read_in_part(tmp_path: Path, kind: str, damage: str) -> None:
    path = tar(tmp_path / "in.tar", {f"{number}.png": png(number) for number in range(50)}, f"w:{kind}")
    data = bytearray(path.read_bytes())
    if damage.startswith("cut"):
        assert len(data) > 20 * 1024 or kind
        del data[20 * 1024 + 700 * (damage == "cut") if not kind else len(data) // 3 :]
    else:  # of the uncompressed: in the header of the 21st file
        place = 20 * 1024 + 5 if not kind else len(data) // 2
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"in\.tar cannot be read"):
        opened(path, tmp_path)


def test_a_tar_that_shrinks_while_it_is_packed_is_noticed(tmp_path: Path) -> None:
    path = tar(tmp_path / "in.tar", {"1.png": png(1)})
    (item,) = opened(path, tmp_path).items
    os.truncate(path, 530)
    with pytest.raises(InputError, match="became shorter"):
        read(item.place)


def test_a_changed_source_has_other_items(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "1.png", "2.png")
    before = opened(folder, tmp_path).items
    assert opened(folder, tmp_path).items == before
    state = (folder / "1.png").stat()
    (folder / "1.png").write_bytes(bytes(state.st_size))
    os.utime(folder / "1.png", (state.st_atime, state.st_mtime + 2))
    assert opened(folder, tmp_path).items != before
    images = tmp_path / "images-idx3-ubyte"
    images.write_bytes(idx(np.zeros((3, 4, 4), np.uint8)))
    before = opened(images, tmp_path).items
    images.write_bytes(idx(np.ones((3, 4, 4), np.uint8)))
    assert opened(images, tmp_path).items != before


def test_real_sources_have_the_counts_that_their_readme_names(tmp_path: Path, shared: Path) -> None:
    mnist = opened(shared / "data/mnist", tmp_path)
    assert np.bincount(np.array(labels(mnist), int)).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    cifar10 = opened(shared / "data/cifar10/cifar10-test.tar.gz", tmp_path)
    assert np.bincount(np.array(labels(cifar10), int)).tolist() == [1000] * 10
    horses = opened(shared / "data/horse2zebra/horse2zebra-256-testA.tar", tmp_path)
    assert (len(horses.items), set(labels(horses))) == (50, {None})


@pytest.mark.parametrize(
    ("table", "numbers", "classes"),
    [
        ("file,label\na.png,1\nx/b.png,0\n", [1, 0], {"0": 0, "1": 1}),
        ("\ufefffilename;label;name\r\na.png;7;cat\r\nx/b.png;3;dog\r\n", [7, 3], {"dog": 3, "cat": 7}),
        ("a.png\tdog\nx\\b.png\tcat\n", [1, 0], {"cat": 0, "dog": 1}),
        ("a.png,dog\ngone.png,dog\n", [0, None], {"dog": 0}),
        ("id_code,breed\na,dog\nx/b,cat\n", [1, 0], {"cat": 0, "dog": 1}),  # a header of any words is no class
        ("file,label\n", [None, 0], {}),  # an empty table says nothing: the folders do
    ],
)
def test_labels_csv_goes_before_folders(
    tmp_path: Path, table: str, numbers: list[int | None], classes: dict[str, int]
) -> None:
    (tree(tmp_path / "in", "a.png", "x/b.png") / "labels.csv").write_text(table, "utf-8", newline="")
    found = opened(tmp_path / "in", tmp_path)
    if classes:
        assert (labels(found), found.classes) == (numbers, classes)
    assert not [name for name, _ in found.skipped if name == "labels.csv"] or not classes
    assert bool(found.notes) == (None in numbers and bool(classes))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("a.png\n", "line 1: 1 column; write file,label"),
        ("a.png,cat\nx/b.png,\n", "line 2: a cell is empty; write file,label"),
        ("a.png,0\na.png,1\n", "line 2: a.png has the label 0 already"),
        ("a.png,0,cat\nx/b.png,1,cat\n", "do not belong to each other alone"),
        ("a.png,-1\nx/b.png,2\n", "the label -1 is a number, no whole number from 0"),
        ("a.png,cat\nx/b.png,2\n", "the label 2 is a number; give all whole numbers, or all words"),
    ],
)
def test_a_labels_csv_that_contradicts_itself_is_refused(tmp_path: Path, table: str, says: str) -> None:
    (tree(tmp_path / "in", "a.png", "x/b.png") / "labels.csv").write_text(table)
    with pytest.raises(InputError) as refused:
        opened(tmp_path / "in", tmp_path)
    assert says in str(refused.value)
