"""Ranges come whole, from servers that fail now and then, and from clouds with the credentials that their tools use."""

import concurrent.futures
import itertools
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gan_dist import cli
from gan_dist.data import index, remote_index, shards, stores
from gan_dist.data.stores import (
    ONCE,
    STORE,
    ChangedError,
    Facts,
    Patience,
    RefusedError,
    StoppedError,
    UnreachableError,
)
from tests import making, serving

CONTENT = bytes(itertools.islice(itertools.cycle(range(251)), 100_000))
CLOUDS = ("AWS_", "GOOGLE_", "AZURE_")


@pytest.fixture
def odd() -> Iterator[serving.Odd]:
    with serving.Odd({"/0.tar": CONTENT}) as server:
        yield server


@pytest.fixture
def nginx(tmp_path: Path, need: Callable[[str, bool, str], None]) -> Iterator[serving.Nginx]:
    need("nginx", serving.find_nginx() is not None, "no nginx here (apt-get install nginx-light)")
    making.data_set(tmp_path / "www", 60, size=32, channels=3, classes=3)
    with serving.nginx(tmp_path / "www", tmp_path / "nginx") as server:
        yield server


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Starts that give up soon, and no credentials of this machine's."""
    monkeypatch.setattr(remote_index, "_BEGIN", ONCE)
    monkeypatch.setattr(shards, "_BEGIN", ONCE)
    for name in [name for name in os.environ if name.startswith(CLOUDS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    forget()


def forget() -> None:
    """Open all buckets anew: their credentials are other ones."""
    stores._own().opened.cache_clear()


def test_close_spans_share_a_request_and_large_ones_have_several() -> None:
    assert stores.merged([(100, 110), (0, 10), (5, 20)], gap=50) == [(0, 20), (100, 110)]
    assert stores.merged([(0, 10), (60, 70), (70, 70)], gap=50) == [(0, 70)]
    assert stores.merged([(0, 25), (3, 27)], largest=10) == [(0, 10), (10, 20), (20, 27)]


def test_spans_are_those_of_the_object(odd: serving.Odd) -> None:
    spans = [(5, 15), (99_990, 100_000), (0, 0), (10, 12), (10_000, 90_000)]
    assert pickle.loads(pickle.dumps(STORE)).read(f"{odd.url}/0.tar", spans) == [CONTENT[a:b] for a, b in spans]
    assert odd.counts["/0.tar"] == 1
    far = [(0, 10), (99_000, 99_010)]
    assert STORE.read(f"{odd.url}/0.tar", far) == [CONTENT[a:b] for a, b in far]
    assert odd.counts["/0.tar"] == 3


@pytest.mark.parametrize("kind", ["500", "429", "cut off", "less", "more"])
def test_what_fails_is_fetched_again(odd: serving.Odd, kind: str) -> None:
    def change(path: str, count: int, answer: serving.Answer) -> serving.Answer:
        status, headers, body = answer
        if count > 2:
            return answer
        if kind.isdigit():
            return int(kind), {}, b"<Error>token=SECRET</Error>"
        if kind == "cut off":
            return status, {**headers, "Content-Length": str(len(body))}, body[:100]
        other = "bytes 0-99/100000" if kind == "less" else headers["Content-Range"]
        return status, {**headers, "Content-Range": other}, body[:100] if kind == "less" else body + b"x"

    odd.change = change
    told: list[str] = []
    patience = Patience(20.0, failed=lambda url, reason: told.append(f"{url} {reason}"))
    assert STORE.read(f"{odd.url}/0.tar?sig=SECRET", [(0, 1000)], patience=patience) == [CONTENT[:1000]]
    assert len(told) == 2
    assert "SECRET" not in "".join(told)
    odd.counts.clear()
    with pytest.raises(UnreachableError) as caught:
        STORE.read(f"{odd.url}/0.tar?sig=SECRET", [(0, 1000)], patience=ONCE)
    assert "SECRET" not in str(caught.value)


def test_an_object_that_changed_is_named(odd: serving.Odd) -> None:
    facts = STORE.facts(f"{odd.url}/0.tar")
    assert facts == Facts(100_000, '"1"', "")
    odd.etags["/0.tar"] = 'W/"1"'  # a proxy that compresses says so; the bytes are the same
    assert STORE.read(f"{odd.url}/0.tar", [(0, 10)], facts) == [CONTENT[:10]]
    odd.etags["/0.tar"] = '"2"'
    with pytest.raises(ChangedError, match=r"/0.tar changed: its ETag is another one"):
        STORE.read(f"{odd.url}/0.tar", [(0, 10)], facts)
    odd.objects["/0.tar"] += b"x"
    with pytest.raises(ChangedError, match=r"it had 100,000 bytes, now 100,001"):
        STORE.read(f"{odd.url}/0.tar", [(0, 10)], facts)


def test_a_refusal_is_final_unless_it_is_to_be_waited_for_and_a_stop_ends_the_wait(odd: serving.Odd) -> None:
    odd.change = lambda path, count, answer: (403, {}, b"") if count < 3 else answer
    with pytest.raises(RefusedError, match=r"refuses access \(403\)"):
        STORE.facts(f"{odd.url}/0.tar", Patience(20.0))
    assert STORE.facts(f"{odd.url}/0.tar", Patience(20.0, refusals=True)).size == 100_000
    odd.change = lambda path, count, answer: (503, {}, b"")
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        read = pool.submit(STORE.facts, f"{odd.url}/0.tar", Patience(100.0, stopped=stop.is_set))
        stop.set()
        with pytest.raises(StoppedError):
            read.result(20)


def local_index(folder: Path, copy: Path) -> index.Index:
    """The index of the same shards as files."""
    shutil.copytree(folder, copy)
    names = sorted(str(path) for path in copy.glob("*.tar"))
    index.build(names, copy)
    return index.load(names, copy)


def test_an_index_is_made_without_copies_resumed_and_taken_from_beside_the_shards(
    nginx: serving.Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = local_index(tmp_path / "www", tmp_path / "local")
    urls = [f"{nginx.url}/signed/{number}.tar?sig=SECRETSECRET" for number in range(3)]
    monkeypatch.setattr("gan_dist.data.remote_file._SMALL", 0)
    scanned: list[str] = []

    def broken(url: str, image: str, facts: Facts) -> object:
        scanned.append(url)
        if "/2.tar" in url and len(scanned) < 4:
            raise UnreachableError(f"{url}: gone")
        return whole(url, image, facts)

    whole = remote_index.scan
    monkeypatch.setattr(remote_index, "scan", broken)
    with pytest.raises(index.InputError, match="gone"):
        index.build(urls, tmp_path / "far")
    index.build(urls, tmp_path / "far")
    assert len(scanned) == 4  # the parts that were done are not made again
    far = index.load(urls, tmp_path / "far")
    assert (far.digest, far.rows.tolist()) == (local.digest, local.rows.tolist())
    assert far.keys(2) == local.keys(2)
    assert "SECRET" not in repr((far.shards, far.bad, far.channels, far.key(30)))
    assert not list((tmp_path / "far").glob("shards/*"))
    for path in (tmp_path / "local").glob("*.index"):
        shutil.copy(path, tmp_path / "www" / path.name)
    index.build(urls, tmp_path / "beside")
    assert len(scanned) == 4
    assert index.load(urls, tmp_path / "beside").digest == local.digest
    # signed again, it is the same set
    index.build([url.replace("?sig", "?X-Amz-Signature=x&sig") for url in urls], tmp_path / "far", renew=False)
    making.write_tar(tmp_path / "www/1.tar", making.samples(3))
    with pytest.raises(
        index.InputError, match=r"signed/1.tar changed since it was indexed \(it had .* `gan-dist index`"
    ):
        index.build(urls, tmp_path / "far", renew=False)
    index.build(urls, tmp_path / "far")
    assert len(index.load(urls, tmp_path / "far")) == 43


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("denied/0.tar?sig=SECRET", "refuses access (403); a signed address may have expired"),
        ("gone.tar", "there is no such object (404)"),
        ("busy/0.tar", "the server answered 429"),
        ("broken/0.tar", "the server answered 500"),
        ("whole/0.tar", "does not read ranges of a file; set data.remote: copy (`gan-dist index`: --copy)"),
        ("page.html", "cannot be read as a tar file"),
        ("cut.tar", "is truncated"),
        ("empty.tar", "it is empty"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_code_2(
    nginx: serving.Nginx, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    (tmp_path / "www/page.html").write_text("<html>" * 1000)
    (tmp_path / "www/cut.tar").write_bytes((tmp_path / "www/0.tar").read_bytes()[:5000])
    (tmp_path / "www/empty.tar").touch()
    assert cli.main(["index", f"{nginx.url}/{name}", "--cache", str(tmp_path / "cache")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert words in said
    assert f"{nginx.url}/{name.partition('?')[0]}" in said
    assert "SECRET" not in said


def test_a_server_without_ranges_is_copied_where_that_is_asked(nginx: serving.Nginx, tmp_path: Path) -> None:
    words = ["index", f"{nginx.url}/whole/0.tar", "--cache", str(tmp_path / "cache"), "--copy"]
    assert cli.main(words) == 0
    (copy,) = (tmp_path / "cache/shards").glob("*.tar")
    assert copy.read_bytes() == (tmp_path / "www/0.tar").read_bytes()


def test_s3_with_keys_of_the_environment_or_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[str, bool, str], None]
) -> None:
    need("moto", serving.MOTO, "no moto here (pip install 'moto[server]')")
    import boto3

    local = local_index(making.data_set(tmp_path / "www", 60), tmp_path / "local")
    keys = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "SECRET"}
    with serving.s3() as address:
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="photos")
        for path in (tmp_path / "www").glob("*.tar"):
            client.upload_file(str(path), "photos", f"x/{path.name}")
        urls = [f"s3://photos/x/{number}.tar" for number in range(3)]
        for name, value in {**keys, "aws_endpoint_url": address}.items():
            monkeypatch.setenv(name.upper(), value)
        index.build(urls, tmp_path / "far")
        assert index.load(urls, tmp_path / "far").digest == local.digest
        assert cli.main(["index", *urls, "--cache", str(tmp_path / "far"), "--upload"]) == 0
        with monkeypatch.context() as patch:
            patch.setattr(remote_index, "scan", lambda *_: pytest.fail("the index beside the shard is not taken"))
            assert cli.main(["index", "s3://photos/x/", "--cache", str(tmp_path / "other")]) == 0
        assert shards.expand("s3://photos/x/") == urls
        assert shards.expand("s3://photos/x/*.tar") == urls
        for url, words in (("s3://nowhere/0.tar", "no such bucket"), ("s3://photos/9.tar", "there is no such object")):
            with pytest.raises(RefusedError, match=words):
                STORE.facts(url)
        for name in (*keys, "aws_endpoint_url"):
            monkeypatch.delenv(name.upper())
        (tmp_path / ".aws").mkdir()
        lines = "\n".join(f"{name} = {value}" for name, value in keys.items())
        (tmp_path / ".aws/credentials").write_text(f"[me]\n{lines}\n")
        (tmp_path / ".aws/config").write_text(f"[profile me]\nregion = us-east-1\nendpoint_url = {address}\n")
        monkeypatch.setenv("AWS_PROFILE", "me")
        forget()
        assert STORE.facts(urls[0]).size == (tmp_path / "www/0.tar").stat().st_size


def test_gs_and_az_with_keys_of_the_environment(
    odd: serving.Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd.objects = {"/photos/x/0.tar": CONTENT, "/me/photos/x/0.tar": CONTENT[:600]}
    odd.etags = dict.fromkeys(odd.objects, '"1"')
    date = {"Last-Modified": "Fri, 27 Nov 2026 10:00:00 GMT"}
    odd.change = lambda path, count, answer: (answer[0], {**answer[1], **date}, answer[2])
    account = {
        "gcs_base_url": odd.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    assert STORE.facts("gs://photos/x/0.tar").size == 100_000
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "me")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "U0VDUkVU")
    monkeypatch.setenv("AZURE_ENDPOINT", f"{odd.url}/me")
    assert STORE.read("az://photos/x/0.tar", [(1, 5)]) == [CONTENT[1:5]]
    assert STORE.facts("az://photos/x/0.tar") == Facts(600, '"1"', "2026-11-27T10:00:00+00:00")


def test_user_and_password_of_an_address_are_sent(odd: serving.Odd) -> None:
    STORE.facts(odd.url.replace("://", "://me:pass%21@") + "/0.tar")
    assert odd.headers[-1]["authorization"] == "Basic bWU6cGFzcyE="


def test_no_credentials_and_no_program_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match=r"none://x/0.tar: no program for this kind of address"):
        STORE.facts("none://user:SECRET@x/0.tar")
    with pytest.raises(RefusedError, match=r"no credentials were found; give them by AZURE_STORAGE_ACCOUNT_NAME"):
        STORE.facts("az://photos/0.tar")


@pytest.mark.parametrize("name", ["s3://bucket/0.tar", "s3://bucket/", "http://127.0.0.1:1/0.tar"])
def test_without_obstore_a_remote_shard_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert cli.main(["index", name, "--cache", str(tmp_path)]) == 2
    assert "obstore is not installed; `pip install obstore`" in capsys.readouterr().err


def test_a_copy_that_was_left_is_removed(tmp_path: Path, odd: serving.Odd) -> None:
    odd.objects["/1.tar"] = (making.data_set(tmp_path / "www", 6) / "0.tar").read_bytes()
    odd.etags["/1.tar"] = '"1"'
    left, growing = tmp_path / "shards/.0.tar.1-a.part", tmp_path / "shards/1.part"
    left.parent.mkdir()
    for path in (left, growing):
        path.write_bytes(b"a part")
    os.utime(left, (0, 0))
    shards.fetch([f"{odd.url}/1.tar"], tmp_path, copy=True)
    assert (left.exists(), growing.exists()) == (False, True)


def test_an_address_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", "http://[::1/0.tar?sig=SECRET"]) == 2
    assert capsys.readouterr().err == "error: data.shards: http://[::1/0.tar is no address; check its brackets\n"


def test_an_address_is_not_cut_at_colons() -> None:
    names = ["http://[::1]:80/0.tar?sig=a::b", "http://[::1]:80/1.tar?sig=a::b"]
    assert shards.expand("http://[::1]:80/{0..1}.tar?sig=a::b") == names
    assert shards.expand("s3://a/0.tar::s3://a/1.tar") == ["s3://a/0.tar", "s3://a/1.tar"]
