"""Names of shards lead to files, or to an error that says what to do."""

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


def test_what_is_not_local_is_fetched_once_and_whole(tmp_path: Path) -> None:
    path = making.write_tar(tmp_path / "0.tar", making.samples(3))
    local = shards.localise(f"pipe:cat {path}", tmp_path / "cache")
    assert local.read_bytes() == path.read_bytes()
    path.unlink()
    assert shards.localise(f"pipe:cat {path}", tmp_path / "cache") == local
    with pytest.raises(InputError, match="gone"):
        shards.localise("pipe:cat /gone.tar", tmp_path / "cache")
    assert len(list((tmp_path / "cache/shards").iterdir())) == 1
