"""What the tests of the doctor share: the words of its command line, and what it finds without starting ranks."""

from pathlib import Path

from gan_dist import config as config_module
from gan_dist.doctor import local
from tests import making
from tests.launching import REPOSITORY


def arguments(directory: Path, **keys: object) -> list[str]:
    """Return the words of a small run in `directory`; `keys` with __ for a dot override them."""
    wanted = making.tiny("unused", directory, **keys)
    return [str(REPOSITORY / "tests/data/digits.yaml"), *making.flags(wanted)]


def found(directory: Path, **keys: object) -> dict[str, local.Finding]:
    """Return the findings about the place of such a run by name; looking must change no file."""
    before = sorted(directory.rglob("*")) if directory.exists() else None
    config = config_module.load(arguments(directory, **keys))
    findings = {finding.what: finding for finding in local.place(config)}
    assert (sorted(directory.rglob("*")) if directory.exists() else None) == before
    return findings
