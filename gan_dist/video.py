"""Write frames as a file that browsers play, or as a folder of PNGs: whole or absent."""

import fractions
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan_dist import files
from gan_dist.errors import InputError
from gan_dist.tracking import grid

PICTURES = {".webp": "WEBP", ".gif": "GIF"}
"""Endings that Pillow writes."""
VIDEOS = {
    ".webm": ("webm", "libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1"}, {}),
    ".mp4": ("mp4", "libx264", {"crf": "18"}, {"movflags": "faststart"}),
}
"""Endings that the package av writes: container, codec, options of the codec and of the container."""
_WEBP: tuple[dict[str, Any], ...] = ({"lossless": True, "quality": 50}, {"quality": 80})
_READABLE = 192  # pixels: narrower frames are enlarged
_MOST = 2 << 30  # bytes of the frames that Pillow holds at once
_FASTEST_GIF = 50  # frames a second: browsers slow what is faster down to 10
_FRAME = re.compile(r"\d{6,}\.png")


def check(out: Path, fps: float, replace: bool, name: str = "OUT") -> None:
    """Prove that frames can be written to `out`, before they are drawn.

    Raises InputError for an ending that is not known, a missing package, and for what is there already and is not to be
    replaced.
    """
    if not 0.1 <= fps <= 1000:
        raise InputError(f"--fps {fps:g}: give a number from 0.1 to 1000")
    ending = out.suffix.lower()
    if _is_folder(out):
        others = [path for path in _entries(out) if not _FRAME.fullmatch(path.name)]
        if others:
            raise InputError(
                f"{out} holds other files than frames, {others[0].name} for example; choose another folder"
            )
        if _entries(out) and not replace:
            raise InputError(f"{out} holds frames already; add --replace to replace them, or choose another folder")
        files.make_directory(out, name)
        return
    if ending not in PICTURES and ending not in VIDEOS:
        known = ", ".join((*PICTURES, *VIDEOS))
        raise InputError(
            f"{out}: frames are not written as {ending}; give a name with {known}, or a folder without a dot"
        )
    if out.exists() and not replace:
        raise InputError(f"{out} exists already; add --replace to replace it, or choose another name")
    if ending == ".gif" and fps > _FASTEST_GIF:
        raise InputError(f"--fps {fps:g}: a GIF has at most {_FASTEST_GIF} frames a second; choose fewer, or .webp")
    if ending in VIDEOS:
        _library()
    files.make_directory(out.parent, "the folder of the file")


def write(frames: Iterable[np.ndarray], out: Path, fps: float, count: int) -> None:
    """Write `count` frames, (H, W, C) uint8 with 1, 3 or 4 channels, all of one size. Small ones are enlarged.

    A video has even sides: the last row or column is doubled. Raises InputError where it cannot be written.
    """
    enlarged = (_enlarged(frame) for frame in frames)
    try:
        if _is_folder(out):
            _write_folder(enlarged, out)
            return
        ending = out.suffix.lower()
        part = files.temporary(out)
        try:
            if ending in PICTURES:
                part.write_bytes(_animated(enlarged, PICTURES[ending], fps, count))
            else:
                _encode(enlarged, part, fps, *VIDEOS[ending])
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from None


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder} is no folder for frames: {error.strerror}") from None


def _write_folder(frames: Iterable[np.ndarray], folder: Path) -> None:
    for path in _entries(folder):
        path.unlink()
    for number, frame in enumerate(frames):
        buffer = io.BytesIO()
        Image.fromarray(grid.squeezed(frame)).save(buffer, "PNG")
        path = folder / f"{number:06d}.png"
        try:
            path.write_bytes(buffer.getvalue())
        except OSError:
            path.unlink()  # a part of a frame
            raise


def _enlarged(frame: np.ndarray) -> np.ndarray:
    scale = max(1, -(-_READABLE // frame.shape[1]))
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def _opaque(frame: np.ndarray) -> np.ndarray:
    """(H, W, 1), (H, W, 3) or (H, W, 4) -> (H, W, 3): what is transparent is white."""
    if frame.shape[2] == 4:
        alpha = frame[..., 3:].astype(np.uint16)
        return ((frame[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return frame.repeat(3, axis=2) if frame.shape[2] == 1 else frame


def _animated(frames: Iterator[np.ndarray], kind: str, fps: float, count: int) -> bytes:
    first = next(frames)
    if count * first.nbytes > _MOST:
        raise InputError(
            f"{count} frames of {first.shape[1]}x{first.shape[0]} pixels are more than a .{kind.lower()} file should hold: "
            "write .webm, .mp4 or a folder"
        )
    pictures = [
        Image.fromarray(grid.squeezed(_opaque(frame) if kind == "GIF" and frame.shape[2] == 4 else frame))
        for frame in itertools.chain([first], frames)
    ]
    unit = 10 if kind == "GIF" else 1  # milliseconds
    ends = [round(number * 1000 / fps / unit) * unit for number in range(len(pictures) + 1)]
    durations = [max(unit, after - before) for before, after in itertools.pairwise(ends)]
    more: dict[str, Any] = {}
    if kind == "WEBP":  # enlarged pixels are smaller without loss, photos by far with it
        more = min(_WEBP, key=lambda options: len(_encoded(pictures[:1], kind, options)))
    return _encoded(pictures, kind, {"duration": durations, "loop": 0, **more})


def _encoded(pictures: Sequence[Image.Image], kind: str, options: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], **options)
    return buffer.getvalue()


def _encode(
    frames: Iterator[np.ndarray], path: Path, fps: float, container: str, codec: str, options: Any, of_container: Any
) -> None:
    av = _library()
    first = next(frames)
    height, width = first.shape[:2]
    try:
        with av.open(str(path), "w", format=container, container_options=of_container) as file:
            stream = file.add_stream(codec, rate=fractions.Fraction(fps).limit_denominator(1001), options=options)
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            for frame in itertools.chain([first], frames):
                even = np.pad(_opaque(frame), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            file.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from None


def _library() -> Any:
    try:
        import av
    except ImportError:
        endings = " and ".join(VIDEOS)
        raise InputError(
            f"{endings} need the package av: pip install 'gan_dist[video]', or write {' or '.join(PICTURES)}"
        ) from None
    return av
