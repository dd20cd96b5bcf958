"""Names of shards lead to files, or to an error that says what to do."""

import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_dist.data import shards
from gan_dist.errors import InputError
from tests import making


def test_folders_patterns_files_and_lists(tmp_path: Path) -> None:
    for name in ("b/1.tar", "a-0.tar", "a-1.tar", ".hidden.tar", "x.txt"):
        making.write_tar(tmp_path / name, making.samples(1))
    everything = [str(tmp_path / name) for name in ("a-0.tar", "a-1.tar", "b/1.tar")]
    assert shards.expand(str(tmp_path)) == everything
    assert shards.expand(f"{tmp_path}/a-{{0..1}}.tar") == everything[:2]
    assert shards.expand([everything[2], f"{tmp_path}/a-{{0..1}}.tar"]) == [everything[2], *everything[:2]]
    assert shards.expand(f"file://{tmp_path}/a-{{0..1}}.tar") == everything[:2]
    with pytest.raises(InputError, match="only buckets list what they hold"):
        shards.expand("http://127.0.0.1/photos/?sig=1")
    assert shards.expand("http://127.0.0.1/x-{0..1}.tar") == ["http://127.0.0.1/x-0.tar", "http://127.0.0.1/x-1.tar"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.tar", "no shard .*gone.tar; .*gan-dist pack"),
        ("empty", "no .tar file in the folder"),
        ("x-{0..2}.tar", "no shard .*x-0.tar .from the pattern"),
        ("zipped.tar.gz", "compressed.*gan-dist pack"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zipped.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=words):
        shards.expand(str(tmp_path / name))


def test_a_shard_named_twice_is_an_error(tmp_path: Path) -> None:
    path = str(making.write_tar(tmp_path / "0.tar", making.samples(1)))
    with pytest.raises(InputError, match="twice"):
        shards.expand([path, path])


def fetched(name: str, tmp_path: Path) -> Path:
    (path,) = shards.fetch([name], tmp_path / "cache", copy=True)
    assert Path(path) == shards.local(name, tmp_path / "cache")
    return Path(path)


def test_what_is_not_local_is_fetched_once_and_whole(tmp_path: Path) -> None:
    path = making.write_tar(tmp_path / "0.tar", making.samples(3))
    local = fetched(f"pipe:cat {path}", tmp_path)
    assert local.read_bytes() == path.read_bytes()
    path.unlink()
    assert fetched(f"pipe:cat {path}", tmp_path) == local
    with pytest.raises(InputError, match=r"pipe:cat /gone.tar cannot be fetched: its command ended with exit code 1"):
        fetched("pipe:cat /gone.tar", tmp_path)
    assert len(list((tmp_path / "cache/shards").iterdir())) == 2


def test_a_pattern_is_sorted_and_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    for name in ("b-1.tar", "b-0.tar", "b-0.txt", "a*.tar", "ab.tar"):
        making.write_tar(tmp_path / name, making.samples(1))
    assert shards.expand(f"{tmp_path}/b-*.tar") == [f"{tmp_path}/b-0.tar", f"{tmp_path}/b-1.tar"]
    assert shards.expand(f"{tmp_path}/b-?.tar") == [f"{tmp_path}/b-0.tar", f"{tmp_path}/b-1.tar"]
    assert shards.expand(f"{tmp_path}/a*.tar") == [f"{tmp_path}/a*.tar"]
    with pytest.raises(InputError, match=r"no file matches .*c-\*\.tar; fix data.shards"):
        shards.expand(f"{tmp_path}/c-*.tar")


@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch run",
        "http://127.0.0.1/a::pipe:touch run",
        "{http://127.0.0.1/a,pipe:touch run}",
        "a*.tar::pipe:touch run",
    ],
)
def test_a_command_runs_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    making.write_tar(tmp_path / "a1.tar", making.samples(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"pipe:touch \*\*\* is a shell command.*--data.allow_pipe true") as caught:
        shards.expand(name)
    assert len(str(caught.value).splitlines()) == 1
    assert shards.expand(name, allow_pipe=True)[-1] == "pipe:touch run"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("data/0.tar", "data/0.tar"),
        ("data/what?#.tar", "data/what?#.tar"),
        ("https://host/a/0.tar?X-Amz-Signature=SECRET&x=1", "https://host/a/0.tar"),
        ("https://me:SECRET@host:80/0.tar#SECRET", "https://host:80/0.tar"),
        ("https://host?token=SECRET/0.tar", "https://host"),
        ("s3://bucket/0.tar", "s3://bucket/0.tar"),
        (
            "pipe:curl -s -H 'Authorization: Bearer SECRET' https://me:SECRET@h/0.tar?k=SECRET",
            "pipe:curl -s -H *** https://h/0.tar",
        ),
        ("pipe:TOKEN=SECRET fetch /x/0.tar --key=SECRET", "pipe:*** *** /x/0.tar ***"),
        ("pipe:aws s3 cp s3://b/0.tar -", "pipe:aws *** s3://b/0.tar ***"),
    ],
)
def test_no_message_shows_what_may_be_a_secret(name: str, shown: str) -> None:
    assert re.sub(r"\*\*\*( \*\*\*)+", "***", shown) == shards.redact(name)
    assert "SECRET" not in shards.redact(name)


def test_a_failing_fetch_shows_no_secret(tmp_path: Path) -> None:
    for name in ("http://127.0.0.1:9/0.tar?sig=SECRET", "pipe:false SECRET", "none://u:SECRET@h/0.tar"):
        with pytest.raises(InputError, match="cannot be fetched") as caught:
            fetched(name, tmp_path)
        assert "SECRET" not in str(caught.value)
    assert list((tmp_path / "cache/shards").iterdir()) == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server of tmp_path/www."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_shard_that_changed_at_its_source_is_fetched_again(tmp_path: Path, served: str) -> None:
    path = making.write_tar(tmp_path / "www/0.tar", making.samples(3))
    name = f"{served}/0.tar?sig=1"
    local = fetched(name, tmp_path)
    made = local.stat().st_mtime_ns
    assert fetched(name, tmp_path).stat().st_mtime_ns == made
    making.write_tar(path, making.samples(4))  # of another size or time
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 5))
    assert fetched(name, tmp_path).read_bytes() == path.read_bytes()
    made = local.stat().st_mtime_ns
    path.unlink()  # a source that cannot be asked leaves the copy as it is
    assert fetched(name, tmp_path).stat().st_mtime_ns == made


def test_an_upload_that_was_not_whole_does_not_stick(tmp_path: Path, served: str) -> None:
    whole = making.write_tar(tmp_path / "0.tar", making.samples(3)).read_bytes()
    for path, name in (
        (tmp_path / "www/0.tar", f"{served}/0.tar"),
        (tmp_path / "www/1.tar", f"pipe:cat {tmp_path}/www/1.tar"),
    ):
        path.write_bytes(whole[:600])
        for _ in range(2):
            with pytest.raises(InputError, match="is truncated") as caught:
                fetched(name, tmp_path)
            assert f"data.shards: {name} is truncated" in str(caught.value)
        path.write_bytes(whole)
        assert fetched(name, tmp_path).read_bytes() == whole
