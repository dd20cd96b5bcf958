"""Show names of shards without what may be a secret."""

import re

_PLAIN = re.compile(r"-{1,2}[A-Za-z-]{1,20}|\.{0,2}/\S*|\w+://\S*|\S+\.tar")
"""Words of a command that are shown: options without a value, paths and URLs."""


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
