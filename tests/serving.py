"""Real servers on 127.0.0.1 for tests: nginx, moto's S3, and one that misbehaves on request."""

import contextlib
import fcntl
import functools
import http.server
import importlib.util
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

_PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MOTO = importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None
_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}; root {root};
    location /denied/ {{ return 403; }}
    location /busy/ {{ return 429; }}
    location /broken/ {{ return 500; }}
    location /whole/ {{ alias {root}/; max_ranges 0; }}
    location /slow/ {{ alias {root}/; limit_rate {rate}; }}
    location /signed/ {{ alias {root}/; if ($arg_sig != "SECRETSECRET") {{ return 403; }} }}
  }}
}}
"""


@functools.cache
def find_nginx() -> str | None:
    """The program, which is installed where GAN_DIST_REQUIRE asks for it and that can be done."""
    found = shutil.which("nginx", path=_PLACES)
    wanted = "nginx" in os.environ.get("GAN_DIST_REQUIRE", "").split(",")
    if found is not None or not wanted or not shutil.which("apt-get") or os.geteuid() != 0:
        return found
    with open("/tmp/gan_dist-nginx-install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of the tests may be at it
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 300}
        # its package would start it
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, **quiet)  # type: ignore[call-overload]
        words = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "nginx-light"]
        subprocess.run(words, env=environment, **quiet)  # type: ignore[call-overload]
        return shutil.which("nginx", path=_PLACES)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """nginx that serves a folder: `url` as it is, and under /denied/, /busy/, /broken/, /whole/, /slow/, /signed/."""

    def __init__(self, root: Path, folder: Path, rate: str = "1m") -> None:
        self._program = find_nginx()
        assert self._program, "no nginx here"
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"
        user = "user root;" if os.getuid() == 0 else ""
        text = _CONFIG.format(folder=folder, root=root, port=self.port, rate=rate, user=user)
        (folder / "nginx.conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        words = [str(self._program), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_port(self.port)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    @property
    def requests(self) -> list[str]:
        """The lines of its log."""
        return (self.folder / "access.log").read_text().splitlines()


def await_port(port: int, seconds: float = 20.0) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def nginx(root: Path, folder: Path, rate: str = "1m") -> Iterator[Nginx]:
    """Serve `root` while it lasts."""
    server = Nginx(root, folder, rate)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """moto's S3 server in this process: its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, and the body, which may be shorter than Content-Length says."""


class Odd:
    """A server of bytes by path, with ranges. `change(path, count, answer)` may replace an answer; count begins at 1."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects, self.etags = dict(objects), dict.fromkeys(objects, '"1"')
        self.change: Callable[[str, int, Answer], Answer] = lambda path, count, answer: answer
        self.counts: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                path = urllib.parse.unquote(self.path.partition("?")[0])
                outer.counts[path] = outer.counts.get(path, 0) + 1
                outer.headers.append(dict(self.headers))
                answer = outer.answer(path, self.headers.get("Range"))
                status, headers, body = outer.change(path, outer.counts[path], answer)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = int(headers.get("Content-Length", len(body))) != len(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, span: str | None) -> Answer:
        """The right answer."""
        if path not in self.objects:
            return 404, {}, b"not here"
        content, headers = self.objects[path], {"ETag": self.etags[path]}
        if span is None:
            return 200, headers, content
        first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
        if first >= len(content):
            return 416, {}, b""
        part = content[first : last + 1]
        return 206, {**headers, "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}, part

    def __enter__(self) -> "Odd":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
