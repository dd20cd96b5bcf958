"""Uploads to a hub that answers on this machine, and what is refused before anything is written."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_dist import cli
from tests.unit.export.test_export import run_of


class Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the hub's interface for an upload; `requests` are those that it got."""

    requests: list[tuple[str, Any]]
    refuses: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        assert self.headers["Authorization"] == "Bearer hf_secret"
        lines = [json.loads(line) for line in body.decode().splitlines() if line]
        self.requests.append((self.path, lines))
        if self.refuses:
            self._answer({"error": "no"}, 403)
        elif self.path.endswith("/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/owner/digits", "name": "owner/digits", "id": "1"})
        elif "/preupload/" in self.path:
            given = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in lines[0]["files"]
            ]
            self._answer({"files": given})
        elif "/commit/" in self.path:
            self._answer(
                {
                    "success": True,
                    "commitOid": "a" * 40,
                    "commitUrl": f"http://{self.headers['Host']}/owner/digits/commit/a",
                    "hookOutput": "",
                }
            )
        else:
            self._answer({"errors": [], "warnings": []})  # validate-yaml

    def do_GET(self) -> None:
        self.requests.append((self.path, []))
        if self.refuses:
            self._answer({"error": "no"}, 403)
        else:  # the files of an upload before
            self._answer([{"type": "file", "path": name, "size": 1, "oid": "b"} for name in ("model.onnx", "mine.txt")])

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    kind = type("ThisHub", (Hub,), {"requests": [], "refuses": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def push(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Upload in a process of its own: huggingface_hub reads the environment when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }
    code = f"from gan_dist.export import hub; from pathlib import Path; print(hub.push(Path({str(folder)!r}), 'owner/digits'))"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_an_upload_is_one_commit_of_all_files(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    kind, address = hub
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n# digits\n")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    done = push(tmp_path, address)
    assert done.returncode == 0, done.stderr
    created = next(lines[0] for path, lines in kind.requests if path.endswith("/repos/create"))
    assert created.get("visibility") == "private" or created.get("private")
    commits = [lines for path, lines in kind.requests if "/commit/" in path]
    assert len(commits) == 1
    values = [line["value"] for line in commits[0] if line["key"] == "file"]
    sent = {value["path"]: base64.b64decode(value["content"]) for value in values}
    assert sent == {"README.md": (tmp_path / "README.md").read_bytes(), "model.safetensors": b"weights"}
    assert [line["value"]["path"] for line in commits[0] if line["key"] == "deletedFile"] == ["model.onnx"]


def test_a_refusal_is_one_line(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    kind, address = hub
    kind.refuses = True
    (tmp_path / "README.md").write_text("# digits\n")
    for where, sentence in ((address, "the token may not write there"), ("http://127.0.0.1:9", "cannot be reached")):
        done = push(tmp_path, where)
        last = done.stderr.splitlines()[-1]
        assert "InputError: --push owner/digits: the hub" in last
        assert sentence in last
        assert "hf_secret" not in done.stderr


@pytest.mark.parametrize(
    ("name", "token", "sentence"),
    [("owner/digits", "", "has no token for the hub; run `hf auth login`"), ("a/b/c", "x", "give OWNER/NAME")],
)
def test_what_cannot_be_uploaded_is_said_before_anything_is_written(
    name: str,
    token: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token or None)
    run, _ = run_of("digits", tmp_path / "run")
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--push", name]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
