"""From the names in `data.shards` to tar files on this machine."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls

from gan_dist import files
from gan_dist.errors import InputError

_ENDINGS = (".tar",)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


def expand(shards: str | Sequence[str]) -> list[str]:
    """The shards that `data.shards` names, in order: folders are listed, brace patterns expanded, URLs kept.

    Raises InputError where a name leads to nothing or to something that is not a tar file.
    """
    names = [shards] if isinstance(shards, str) else list(shards)
    found = [shard for name in names for shard in _expand_one(name)]
    if not found:
        raise InputError("data.shards names nothing; give a folder, a brace pattern or a list of .tar files")
    if doubled := sorted({shard for shard in found if found.count(shard) > 1}) if len(set(found)) < len(found) else []:
        raise InputError(f"data.shards names {doubled[0]} twice; name each shard once")
    return found


def _expand_one(name: str) -> list[str]:
    if is_remote(name):
        return list(expand_urls(name))
    if Path(name).is_dir():
        shards = sorted(str(path) for path in Path(name).rglob("*.tar") if not _hidden(path.relative_to(name)))
        if not shards:
            raise InputError(
                f"data.shards: no .tar file in the folder {name}; make some with `gan-dist pack SOURCE {name}`"
            )
        return shards
    shards = list(expand_urls(name))
    for shard in shards:
        if shard.endswith(_COMPRESSED):
            raise InputError(
                f"data.shards: {shard} is compressed, so no sample can be read from its middle; "
                f"unpack it, or make shards with `gan-dist pack {shard} FOLDER`"
            )
        if not Path(shard).is_file():
            pattern = f" (from the pattern {name})" if shard != name else ""
            raise InputError(
                f"data.shards: no shard {shard}{pattern}; mend data.shards, or make the shards with "
                f"`gan-dist pack SOURCE {Path(shard).parent if shard.endswith(_ENDINGS) else shard}`"
            )
    return shards


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def is_remote(name: str) -> bool:
    return "://" in name or name.startswith("pipe:")


def probe(shard: str) -> None:
    """Read the beginning of a shard. Raises OSError or ValueError where that cannot be done, or it is no tar file."""
    with gopen(shard, "rb") if is_remote(shard) else Path(shard).open("rb") as source:
        block = source.read(512)
    if len(block) < 512 or block[257:262] != b"ustar":
        raise ValueError("it does not begin as a tar file does")


def localise(shard: str, cache: Path) -> Path:
    """The local file of a shard: itself, or a whole copy of a remote one in `cache`, made on first use."""
    if not is_remote(shard):
        return Path(shard)
    target = cache / "shards" / f"{hashlib.sha256(shard.encode()).hexdigest()[:24]}.tar"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = files.temporary(target)
    try:
        with gopen(shard, "rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        if part.stat().st_size == 0:
            raise InputError(f"data.shards: {shard} gave no data; check the address and its permissions")
        part.replace(target)
    except (OSError, ValueError) as error:
        raise InputError(f"data.shards: {shard} cannot be fetched: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return target
