"""The page's style and script: files beside this one, put into the page as they are."""

import base64
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


def style() -> str:
    """Return the page's style."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """Return the page's script."""
    return (_HERE / "page.js").read_text(encoding="utf-8")


def policy() -> str:
    """Return what the page may load and run: nothing from a network, and no script but its own."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
