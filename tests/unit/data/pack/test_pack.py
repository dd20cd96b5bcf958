"""Sources become shards that WebDataset reads, the same bytes by any number of processes and after any kill."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import webdataset
from PIL import Image

from gan_dist.data import index
from gan_dist.data.pack.packing import is_packed, pack
from gan_dist.errors import InputError


def png(seed: int, size: int = 12, channels: int = 3) -> bytes:
    shape = (size, size, channels) if channels > 1 else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, classes: dict[str, int], size: int = 12) -> Path:
    number = 0
    for name, count in classes.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (path / name / f"{number}.png").write_bytes(png(number, size))
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


def test_what_is_left_out_is_counted_by_ending_and_classes_are_numbered(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"cat": 1, "10": 1})
    for name in ("a.txt", "b.TXT", "c.mp4", "README"):
        (source / name).write_text("x")
    lines = pack(str(source), tmp_path / "out", progress=False).lines()
    assert "2 classes: 0 = 10, 1 = cat" in lines
    assert "  4 are no image by its name: txt 2, no ending 1, mp4 1" in lines


@pytest.mark.parametrize("classes", ["none", "folder"])
def test_classes_are_chosen_and_are_part_of_the_plan(tmp_path: Path, classes: str) -> None:
    source, out = str(folder(tmp_path / "in", {"cat": 1, "dog": 1})), tmp_path / "out"
    report = pack(source, out, classes=classes, progress=False)
    assert report.classes == ({"cat": 0, "dog": 1} if classes == "folder" else {})
    with pytest.raises(InputError, match="classes"):
        pack(source, out, classes={"none": "folder", "folder": "none"}[classes], progress=False)


def test_deep_images_that_come_out_dark_are_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, most in (("dark", 4095), ("bright", 65535)):
        values = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
        (tmp_path / f"in/{name}.png").write_bytes(encoded(Image.fromarray(values)))
    (note,) = pack(str(tmp_path / "in"), tmp_path / "out", progress=False).notes
    assert (
        "1 images of more than 8 bits are nearly black; the brightest pixel of them is 16 of 255, in dark.png" in note
    )


def test_digits_come_with_the_package(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    report = pack("digits", tmp_path / "out", resolution=16, progress=False)
    assert (report.images, report.enlarged, len(report.classes)) == (1797, 1797, 10)
    assert is_packed(tmp_path / "out")


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_dist.data.pack.write._WORTH_A_POOL", (0, 0))
    source = folder(tmp_path / "in", {"a": 20, "b": 20})
    (source / "a/3.png").write_bytes(b"junk")
    for processes in (1, 3):
        out = tmp_path / str(processes)
        report = pack(str(source), out, resolution=8, shard_size=7, processes=processes, progress=False)
        assert report.skipped == [("a/3.png", "not an image")]
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")
    assert len(hashes(tmp_path / "1")) == 6


def start(source: Path, out: Path, cwd: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    """A pack in a process of its own; alone it takes a hundredth of a second an image."""
    code = f"""
import sys, time
from pathlib import Path
from gan_dist.data.pack import write, packing
if {processes} > 1:
    write._WORTH_A_POOL = 0, 0
else:
    convert = write.convert
    write.convert = lambda *given, **named: (time.sleep(0.01), convert(*given, **named))[1]
packing.pack({str(source)!r}, Path({str(out)!r}), shard_size=20, processes={processes}, progress=False)
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=cwd, start_new_session=True)


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    while not what() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_pack_goes_on_to_the_same_bytes(tmp_path: Path, repository: Path, processes: int) -> None:
    source = folder(tmp_path / "in", {"a": 300}, size=12 if processes == 1 else 200)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    pack(str(source), whole, shard_size=20, progress=False)
    process = start(source, cut, repository, processes)
    wait_for(lambda: len(list(cut.glob("*.tar"))) >= 3, process)
    process.kill()
    process.wait()
    family = [member for member in psutil.process_iter() if _session(member.pid) == process.pid]
    _, orphans = psutil.wait_procs(family, timeout=10)
    assert not orphans
    done = {path.name: path.stat().st_mtime_ns for path in cut.glob("*.tar")}
    assert 3 <= len(done) < 15
    assert not is_packed(cut)
    report = pack(str(source), cut, shard_size=20, progress=False)
    assert report.resumed == len(done)
    assert report.images == 300
    assert hashes(cut) == hashes(whole)
    assert {name: (cut / name).stat().st_mtime_ns for name in done} == done
    assert sorted(path.name for path in cut.iterdir()) == sorted(path.name for path in whole.iterdir())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


@pytest.mark.slow
def test_a_second_pack_at_the_same_time_waits_and_repeats_nothing(tmp_path: Path, repository: Path) -> None:
    source, out = folder(tmp_path / "in", {"a": 200}), tmp_path / "out"
    process = start(source, out, repository)
    wait_for(lambda: list(out.glob("*.tar")), process)
    assert process.poll() is None
    assert pack(str(source), out, shard_size=20, progress=False).resumed == 10
    assert process.wait() == 0
    pack(str(source), tmp_path / "alone", shard_size=20, progress=False)
    assert hashes(out) == hashes(tmp_path / "alone")


def test_a_kill_before_the_first_shard_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out/.source").mkdir(parents=True)
    (tmp_path / "out/.source/source.tar").write_bytes(b"half")
    (tmp_path / "out/.pack.json.123.part").write_bytes(b"{")
    assert not is_packed(tmp_path / "out")
    pack(str(folder(tmp_path / "in", {"a": 2})), tmp_path / "out", progress=False)
    assert is_packed(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 1024)], ids=["lost", "cut"])
def test_a_shard_that_was_lost_or_cut_is_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    source, out = str(folder(tmp_path / "in", {"a": 6})), tmp_path / "out"
    first = pack(source, out, shard_size=2, progress=False)
    before = hashes(out)
    harm(out / "shard-000001.tar")
    assert not is_packed(out)
    again = pack(source, out, shard_size=2, progress=False)
    assert hashes(out) == before
    assert is_packed(out)
    assert (again.images, again.bytes, again.resumed) == (first.images, first.bytes, 2)


def test_the_same_pack_again_does_nothing(tmp_path: Path) -> None:
    source, out = str(folder(tmp_path / "in", {"a": 3, "b": 3})), tmp_path / "out"
    pack(source, out, shard_size=2, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pack(source, out, shard_size=2, progress=False).resumed == 3
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_strange_shard_among_ours_is_refused(tmp_path: Path) -> None:
    source, out = str(folder(tmp_path / "in", {"a": 3})), tmp_path / "out"
    pack(source, out, progress=False)
    (out / "other.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"other\.tar"):
        pack(source, out, progress=False)


def test_a_source_that_changed_since_is_refused(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in", {"a": 3}), tmp_path / "out"
    pack(str(source), out, progress=False)
    before = hashes(out)
    (source / "a/0.png").write_bytes(png(99, size=30))
    with pytest.raises(InputError, match="another way: other images"):
        pack(str(source), out, progress=False)
    assert hashes(out) == before


def test_a_destination_within_the_source_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"a": 3})
    with pytest.raises(InputError, match="lies within"):
        pack(str(source), source / "out", progress=False)
    assert not (source / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_destination_that_cannot_be_a_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        pack(str(folder(tmp_path / "in", {"a": 1})), tmp_path / place, progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_said_in_a_line_and_loses_no_shard(tmp_path: Path, repository: Path) -> None:
    source, out = folder(tmp_path / "in", {"a": 40}, size=40), tmp_path / "out"
    limit = 60_000  # bytes a file may have: more fails a write as a full disk does
    code = f"""
import resource, signal
from pathlib import Path
from gan_dist.data.pack.packing import pack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)
pack({str(source)!r}, Path({str(out)!r}), shard_size=38, progress=False)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert "InputError" in result.stderr.splitlines()[-1]
    assert "cannot be written" in result.stderr.splitlines()[-1]
    assert not list(out.glob("*.tar"))
    assert pack(str(source), out, shard_size=38, progress=False).images == 40


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
    with pytest.raises(InputError, match="resolution default there, 8 now"):
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


def packed(tmp_path: Path, name: str, content: bytes, **settings: int) -> np.ndarray:
    """What a reader of the shards sees of one image."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    pack(str(tmp_path / "in"), tmp_path / "out", progress=False, **settings)  # type: ignore[arg-type]
    (found,) = webdataset.WebDataset([str(tmp_path / "out/shard-000000.tar")], shardshuffle=False)
    (extension,) = found.keys() & {"png", "jpg"}
    return np.asarray(Image.open(io.BytesIO(found[extension])))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
GREY = np.array([[0, 200, 255]], np.uint8)  # 200: where / 257 and / 256 differ


def palette() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    return image


def with_alpha(pixels: np.ndarray, alpha: list[int]) -> Image.Image:
    return Image.fromarray(np.dstack([pixels, np.array([alpha], np.uint8)]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(encoded(Image.fromarray(RED_GREEN)), RED_GREEN, id="RGB"),
        pytest.param(encoded(Image.fromarray(GREY)), GREY, id="L"),
        pytest.param(encoded(Image.fromarray(GREY > 50)), np.array([[0, 255, 255]]), id="1"),
        pytest.param(encoded(with_alpha(RED_GREEN, [255, 0])), [[[255, 0, 0], [255, 255, 255]]], id="RGBA"),
        pytest.param(encoded(with_alpha(GREY, [255, 0, 255])), [[0, 255, 255]], id="LA"),
        pytest.param(encoded(palette()), RED_GREEN, id="P"),
        pytest.param(encoded(palette(), transparency=1), [[[255, 0, 0], [255, 255, 255]]], id="P-transparent"),
        pytest.param(encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), GREY, id="16-bit"),
        pytest.param(encoded(Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"), GREY, id="I"),
        pytest.param(encoded(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), [[[255, 0, 0]] * 2], id="CMYK"),
    ],
)
def test_every_kind_of_image_keeps_its_colours(tmp_path: Path, content: bytes, expected: object) -> None:
    assert packed(tmp_path, "x.png", content).tolist() == np.asarray(expected).tolist()


def test_a_cmyk_photo_keeps_its_colours(tmp_path: Path) -> None:
    photo = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(packed(tmp_path, "x.jpg", photo).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_stands_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # the left upper quarter
    undo = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T}
    undo |= {6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    result = packed(tmp_path, "x.jpg", encoded(stored, "JPEG", exif=exif, quality=95))
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).max() < 10


def test_reduction_is_by_area_and_keeps_what_is_even(tmp_path: Path) -> None:
    board = (np.indices((60, 60)).sum(0) % 2 * 255).astype(np.uint8)
    board[:, :30] = 70
    result = packed(tmp_path, "x.png", encoded(Image.fromarray(board)), resolution=15)
    assert (result[:, :7] == 70).all()
    assert np.abs(result[:, 8:].astype(int) - 127).max() <= 1


def test_grey_and_colour_together_are_colour_however_rare(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(250):
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(png(number, 4, channels=3 if number == 151 else 1))
    pack(str(tmp_path / "in"), tmp_path / "out", progress=False)
    assert {np.asarray(sample["png"]).shape for sample in samples(tmp_path / "out")} == {(4, 4, 3)}
    assert json.loads((tmp_path / "out/pack.json").read_text())["plan"]["channels"] == 3


def test_a_header_that_claims_a_huge_image_ends_no_process(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {".": 2})
    bomb = bytearray(cv2.imencode(".bmp", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    bomb[18:26] = (200_000).to_bytes(4, "little") * 2
    (source / "bomb.bmp").write_bytes(bomb)
    report = pack(str(source), tmp_path / "out", progress=False)
    assert report.images == 2
    assert "exceeds limit" in dict(report.skipped)["bomb.bmp"]


def test_damage_within_a_zip_costs_that_image_only(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    data = bytearray((tmp_path / "in.zip").read_bytes())
    data[100] ^= 0xFF
    (tmp_path / "in.zip").write_bytes(data)
    report = pack(str(tmp_path / "in.zip"), tmp_path / "out", progress=False)
    assert (report.images, [name for name, _ in report.skipped]) == (2, ["0.png"])


def test_names_that_are_no_text_can_be_packed_and_reported(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {".": 1})
    Path(os.fsdecode(os.fsencode(source) + b"/\xff.png")).write_bytes(b"junk")
    report = pack(str(source), tmp_path / "out", progress=False)
    assert report.images == 1
    assert "\n".join(report.lines()).encode()
    assert json.loads((tmp_path / "out/pack.json").read_text())["state"] == "done"


def test_shards_of_large_images_are_cut_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "in", {".": 12})
    size = max(file.stat().st_size for file in source.iterdir())
    monkeypatch.setattr("gan_dist.data.pack.packing._SHARD_BYTES", 4 * size)
    report = pack(str(source), tmp_path / "out", progress=False)
    assert (report.images, report.shards) == (12, 3)


def test_a_class_sorted_source_is_not_class_sorted_in_the_shards(tmp_path: Path) -> None:
    pack(str(folder(tmp_path / "in", {"a": 50, "b": 50})), tmp_path / "out", shard_size=50, progress=False)
    first = webdataset.WebDataset([str(tmp_path / "out/shard-000000.tar")], shardshuffle=False)
    assert 10 < sum(int(sample["cls"]) for sample in first) < 40


def test_nothing_of_machine_or_hour_is_in_a_shard(tmp_path: Path) -> None:
    pack(str(folder(tmp_path / "in", {"a": 2, "b": 2})), tmp_path / "out", progress=False)
    with tarfile.open(tmp_path / "out/shard-000000.tar", format=tarfile.USTAR_FORMAT) as archive:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in archive}
        assert not archive.pax_headers
    assert facts == {(0, 0, 0, "0", "0", 0o644, tarfile.REGTYPE)}


def test_progress_goes_to_the_error_stream_alone(tmp_path: Path, repository: Path) -> None:
    source = folder(tmp_path / "in", {".": 2})
    code = f"from pathlib import Path; from gan_dist.data.pack.packing import pack; pack({str(source)!r}, Path({str(tmp_path / 'out')!r}))"
    terminal, end = os.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, stderr=end, check=True, env=environment
    )
    os.close(end)
    assert b"packing" in os.read(terminal, 1 << 16)
    os.close(terminal)
    assert result.stdout == b""


def test_real_photos_keep_their_bytes_and_index_well(tmp_path: Path, shared: Path) -> None:
    report = pack(str(shared / "data/flowers/flowers-128-test.tar"), tmp_path / "out", progress=False)
    assert (report.images, report.kept, report.skipped) == (429, 429, [])
    names = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    index.build(names, tmp_path, progress=False)
    found = index.load(names, tmp_path)
    assert (len(found), int(found.label.max()), found.bad) == (429, 4, ())
