"""Turn the names in `data.shards` into shards: files on this machine, whole copies of remote ones, or addresses."""

import concurrent.futures
import contextlib
import glob
import hashlib
import http.client
import itertools
import json
import os
import re
import shutil
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls

from gan_dist import files, redaction
from gan_dist.data import backends, parts, stores, tar
from gan_dist.data.names import is_remote, redact, secrets
from gan_dist.data.stores import StoreError
from gan_dist.errors import InputError

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_ENDINGS = (".tar",)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
_PATIENCE = 30.0  # seconds for a server to say what it holds
_BEGIN = stores.Patience(20.0)
_ASKED_AT_ONCE = 16
_LEFT = 6 * 3600.0  # seconds after which a copy that does not grow has been left by a process that was killed
_REMEMBERED = 1000  # addresses whose signatures are looked for in all that is recorded; the same key signs most of them


def expand(shards: str | Sequence[str] | Mapping[str, str | Sequence[str]], allow_pipe: bool = False) -> list[str]:
    """Return the shards that `data.shards` names, in order: folders are listed, patterns expanded, URLs kept.

    Raises InputError where a name leads to nothing or to something that is not a tar file, and for a shell command
    without `allow_pipe`.
    """
    if isinstance(shards, Mapping):  # of all sets
        return [shard for each in shards.values() for shard in expand(each, allow_pipe)]
    names = [name for name in ([shards] if isinstance(shards, str) else shards) if name]  # "" is the folder of today
    found = [shard for name in names for shard in _expand_one(name)]
    for shard in found[:_REMEMBERED]:
        try:
            redaction.remember(*secrets(shard))
        except ValueError:
            raise InputError(f"data.shards: {redact(shard)} is no address; check its brackets") from None
    if not found:
        raise InputError("data.shards names nothing; give a folder, a brace pattern or a list of .tar files")
    # after the expansion: a pattern may make a command of what did not look like one
    if not allow_pipe and (commands := [shard for shard in found if shard.startswith("pipe:")]):
        raise InputError(
            f"data.shards: {redact(commands[0])} is a shell command; if you trust it, allow it on the command line by "
            "--data.allow_pipe true (`gan-dist index`: --allow-pipe)"
        )
    if doubled := sorted({shard for shard in found if found.count(shard) > 1}) if len(set(found)) < len(found) else []:
        raise InputError(f"data.shards names {redact(doubled[0])} twice; name each shard once")
    return found


def _expand_one(name: str) -> list[str]:
    if name.startswith("file://"):
        name = urllib.request.url2pathname(urllib.parse.urlparse(name).path)
    if is_remote(name):
        # webdataset cuts names at each ::, and so addresses with an IPv6 host or such a query: here only before another name
        names = re.split(r"::(?=\w+:|\.{0,2}/)", name)
        found = [each.replace("\0", "::") for one in names for each in expand_urls(one.replace("::", "\0"))]
        return [shard for each in found for shard in _listed(each)]
    if Path(name).is_dir():
        shards = sorted(
            str(path) for path in Path(name).rglob("*.tar") if not tar.is_hidden(str(path.relative_to(name)))
        )
        if not shards and any(path.suffix.lower() in _IMAGES for path in itertools.islice(Path(name).rglob("*"), 1000)):
            new = f"data/{Path(name).resolve().name}"
            raise InputError(
                f"data.shards: the folder {name} holds images and no .tar file; pack them with `gan-dist pack {name} {new}`, "
                f"then set data.shards: {new}"
            )
        if not shards:
            raise InputError(
                f"data.shards: no .tar file in the folder {name}; make some with `gan-dist pack SOURCE {name}`"
            )
        return shards
    if Path(name).is_file():  # its name may hold signs of a pattern
        shards = [name]
    else:
        shards = [shard for each in expand_urls(name) for shard in _globbed(each)]
    for shard in shards:
        if is_remote(shard):
            continue
        if shard.endswith(_COMPRESSED):
            raise InputError(f"data.shards: {tar.compressed(shard)}")
        if not Path(shard).is_file():
            pattern = f" (from the pattern {name})" if shard != name else ""
            raise InputError(
                f"data.shards: no shard {shard}{pattern}; fix data.shards, or make the shards with "
                f"`gan-dist pack SOURCE {Path(shard).parent if shard.endswith(_ENDINGS) else shard}`"
            )
    return shards


def _listed(name: str) -> list[str]:
    """Return what a folder or a pattern of a bucket holds; other addresses stand for themselves."""
    path = name.partition("?")[0] if name.startswith(("http:", "https:")) else name
    if name.startswith("pipe:") or not (path.endswith("/") or re.search(r"[*?]", path)):
        return [name]
    if not backends.is_in_bucket(name):
        raise InputError(
            f"data.shards: {redact(name)} is a folder or a pattern, and only buckets list what they hold (s3, gs, az); name "
            "the shards: train-{000000..000099}.tar"
        )
    if not (found := stores.found(name)):
        raise InputError(f"data.shards: no .tar file in {redact(name)}; fix data.shards, or copy your shards there")
    return found


def _globbed(name: str) -> list[str]:
    if is_remote(name) or not re.search(r"[*?]", name) or Path(name).exists():
        return [name]
    if not (found := sorted(glob.glob(name))):
        raise InputError(f"data.shards: no file matches {name}; fix data.shards")
    return found


def probe(shard: str) -> None:
    """Read the beginning of a shard. Raises OSError or ValueError where that cannot be done, or it is no tar file."""
    try:
        if not is_remote(shard):
            with Path(shard).open("rb") as source:
                block = source.read(512)
        elif shard.startswith("pipe:"):
            with gopen(shard, "rb") as source:
                block = source.read(512)
        else:
            (block,) = stores.STORE.read(shard, [(0, 512)], patience=_BEGIN)
    except StoreError as error:
        raise OSError(str(error)) from None
    except (OSError, ValueError) as error:
        raise OSError(_reason(error)) from None
    if kind := tar.compression(block):
        raise ValueError(f"it is compressed ({kind})")
    if len(block) < 512 or block[257:262] != b"ustar":
        raise ValueError("it does not begin as a tar file does")


def local(shard: str, cache: Path) -> Path:
    """Return the file of a shard on this machine: itself, or where `fetch` puts the copy of a remote one."""
    if not is_remote(shard):
        return Path(shard)
    name = "" if shard.startswith("pipe:") else re.sub(r"[^\w.-]", "_", Path(redact(shard)).name)[-60:]
    name = f"-{name.removesuffix('.tar')}" if name else ""
    known = hashlib.sha256(parts.identity(shard).encode()).hexdigest()[:24]
    return cache / "shards" / f"{known}{name}.tar"


def is_copied(shard: str, copy: bool) -> bool:
    """Say whether a shard is read from a whole copy: the output of a command always, what is on a server where asked."""
    return is_remote(shard) and (copy or shard.startswith("pipe:"))


def places(shards: Sequence[str], cache: Path, copy: bool = False) -> list[str]:
    """Return where each shard is read: a file here, or its address. `copy`: from whole copies of what is remote."""
    return [str(local(shard, cache)) if is_copied(shard, copy) else shard for shard in shards]


def fetch(shards: Sequence[str], cache: Path, copy: bool = False) -> list[str]:
    """Copy what is to be read from whole copies into `cache`, and return where each shard is read.

    A copy whose source says that it changed (size, ETag, time) is made again. A source that cannot be asked leaves the copy
    as it is, and so does a command. Raises InputError, and keeps nothing, where a copy is no whole tar file.
    """
    wanted = [shard for shard in shards if is_copied(shard, copy)]
    with concurrent.futures.ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        states = list(pool.map(_state, wanted))
    for shard, state in zip(wanted, states, strict=True):
        if not _is_current(local(shard, cache), state):
            _copy(shard, local(shard, cache), state)
    return places(shards, cache, copy)


def _state(shard: str) -> dict[str, Any] | None:
    """Return what the source says of a shard, to be compared with what it said before; None where it cannot be asked."""
    if shard.startswith("pipe:"):
        return None
    if shard.startswith(("http:", "https:")):  # of a server without ranges, too
        try:
            # GET, as a signed URL is refused for HEAD; the content is not read
            with urllib.request.urlopen(shard, timeout=_PATIENCE) as answer:
                names = {"bytes": "Content-Length", "etag": "ETag", "modified": "Last-Modified"}
                told = {name: answer.headers[header] for name, header in names.items() if answer.headers[header]}
                return told or None
        except (OSError, ValueError, http.client.HTTPException):
            return None
    try:
        facts = stores.STORE.facts(shard, stores.ONCE)
    except StoreError:
        return None
    return {"bytes": facts.size, "etag": facts.etag, "modified": facts.modified}


def _is_current(copy: Path, state: dict[str, Any] | None) -> bool:
    try:
        kept = json.loads(_about(copy).read_text())
        return bool(copy.stat().st_size == kept["copy_bytes"]) and (state is None or kept["state"] == state)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _about(copy: Path) -> Path:
    return copy.with_suffix(".json")


def _copy(shard: str, copy: Path, state: dict[str, Any] | None) -> None:
    files.make_directory(copy.parent, "the cache for remote shards (data.cache)")
    for left in copy.parent.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT:
                left.unlink()
    part = copy.with_suffix(f".{uuid.uuid4().hex}.part")
    try:
        if shard.startswith("pipe:"):
            with gopen(shard, "rb") as source, part.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        else:
            stores.STORE.fetch(shard, part, patience=_BEGIN, ranges=False)
        size = part.stat().st_size
        if size == 0:
            raise InputError(f"data.shards: {redact(shard)} gave no data; check the address and its permissions")
        if state and int(state.get("bytes", size)) != size:
            raise InputError(
                f"data.shards: {redact(shard)} ended after {size:,} of {int(state['bytes']):,} bytes; start again"
            )
        tar.samples(part, tar.members(part)[0])
        part.replace(copy)
        files.write_json(_about(copy), {"shard": redact(shard), "copy_bytes": size, "state": state})
    except tar.DamagedError as error:
        raise InputError(f"data.shards: {redact(shard)} {error}; copy or pack it again there") from None
    except StoreError as error:
        raise InputError(f"data.shards: {error}; it cannot be fetched") from None
    except InputError as error:
        raise InputError(str(error).replace(str(part), redact(shard))) from None
    except (OSError, ValueError) as error:
        raise InputError(f"data.shards: {redact(shard)} cannot be fetched: {_reason(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return why a source failed, without the words of the command, which may hold a token."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"exit (-?\d+)", str(error))
    return f"its command ended with exit code {code[1]}" if code else type(error).__name__
