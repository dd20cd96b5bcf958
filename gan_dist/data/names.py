"""Show names of shards without what may be a secret."""

import re
import urllib.parse

_PLAIN = re.compile(r"-{1,2}[A-Za-z-]{1,20}|\.{0,2}/\S*|\w+://\S*|\S+\.tar")
"""Words of a command that are shown: options without a value, paths and URLs."""


SIGNED = re.compile(
    r"(?i)x-(amz|goog|ms|oss|cos)-.*|.*signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|.*token"
    r"|sig|se|st|sp|spr|sr|sv|srt|ss|ske?|skoid|sktid|skt|sks|skv"
)
"""Words of a query that sign an address, and do not say which object it is."""


def is_remote(name: str) -> bool:
    """Say whether a shard is a URL or a command, and not a file here."""
    return "://" in name or name.startswith("pipe:")


def redact(name: str) -> str:
    """Return a shard's name without what may be a secret: a URL's query, fragment and user, and words of a command.

    Every message, log and record shows shards by this.
    """
    if name.startswith("pipe:"):
        first, *words = name.removeprefix("pipe:").split() or [""]
        return "pipe:" + re.sub(
            r"\*\*\*( \*\*\*)+",
            "***",
            " ".join([first if re.fullmatch(r"[\w./-]+", first) else "***", *map(_word, words)]),
        )
    return _url(name)


def secrets(name: str) -> list[str]:
    """Return what `redact` takes out of an address: what signs it, and its password, as they stand and decoded."""
    if name.startswith("pipe:") or "://" not in name:
        return []
    parts = urllib.parse.urlsplit(name)
    pairs = [each.partition("=") for each in parts.query.split("&")]
    values = [value for name, _, value in pairs if SIGNED.fullmatch(name)]
    if parts.scheme in ("http", "https"):
        values.append(parts.netloc.rpartition("@")[0].partition(":")[2])
    return [value for each in values if each for value in (each, urllib.parse.unquote(each))]


def _word(word: str) -> str:
    word = word.strip("'\"")
    return _url(word) if _PLAIN.fullmatch(word) else "***"


def _url(name: str) -> str:
    scheme, mark, rest = name.partition("://")
    if not mark:
        return name
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    if scheme in ("abfs", "abfss"):  # container@account
        return f"{scheme}://{rest}"
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
