"""Files of a run that a kill, a full disk or an editor left: every command says something, and none ends in a traceback."""

import json
import struct
import zlib
from pathlib import Path

import pytest

from gan_dist import cli
from tests.unit.report.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", lines=4, grids=1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


HUGE = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")
)
LINE = '{"images": 64, "loss/G": 1, "speed/images_per_second": 5}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", '{"images": 64, "step": 1, "loss/G": null}\n'),
        ("metrics.jsonl", LINE + '{"images": NaN, "loss/G": 1}\n'),
        ("metrics.jsonl", LINE + '{"images": -5, "loss/G": 2}\n{"images": 1e300, "loss/G": 2}\n'),
        ("metrics.jsonl", '{"images": 64, "score/kid": NaN}\n' + LINE + '{"images": 128, "loss/G": 1e308}\n'),
        ("metrics.jsonl", LINE + '{"images": 70, "loss/G": -1e308}\n{"images": 71, "loss/G": 1e999}\n'),
        ("metrics.jsonl", LINE + '{"images": 65, "speed/images_per_second": "abc"}\n'),
        ("metrics.jsonl", LINE + '{"images": 65, "speed/images_per_second": 1e-300, "grad_norm/ratio": 1e9}\n'),
        ("status.json", '{"state": "stopped", "images": "many"}'),
        ("status.json", '{"state": "failed", "images": NaN, "time": "0001-01-01"}'),
        ("events.jsonl", '{"event": "failed", "images": "x"}\n{"event": "best", "value": NaN, "images": NaN}\n'),
        ("events.jsonl", '{"event": "saved", "time": "0001-01-01T00:00:00+14:00", "images": 1e999}\n'),
        ("environment.jsonl", '{"command": 5, "ranks": 5, "packages": [1]}\n{"command": "abc"}\n'),
        (
            "scores.jsonl",
            '{"metric": "kid", "error": 1e999, "images": 1600, "value": NaN}\n{"metric": 5, "images": []}\n',
        ),
        ("slurm.jsonl", '{"job": "1", "restart": 0, "images": 0, "time": "x"}\n'),
        ("config.yaml", "control: {limits: {diversity: much, gap: much}}\n"),
        ("samples/images-000000000.png", HUGE),
    ],
)
def test_no_file_of_a_run_makes_a_traceback(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | bytes
) -> None:
    path = run / name
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        assert cli.main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
        data = (tmp_path / "page.html").read_text().partition('type="application/json">')[2].partition("<")[0]
        json.loads(data, parse_constant=refuse)
        assert cli.main(["report", str(run), "--format", "md"]) == 0
        assert cli.main(["watch", str(run), "--once"]) == 0
        assert cli.main(["runs", str(run.parent)]) == 0
        capsys.readouterr()
        for words in (["status", str(run), "--json"], ["watch", str(run), "--once", "--json"]):
            assert cli.main(words) == 0
            json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert cli.main(["status", str(run)]) == 0
    finally:
        path.write_bytes(before)


def refuse(word: str) -> None:
    raise ValueError(f"JSON has no {word}")
