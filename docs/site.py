"""Make the site of MkDocs: README.md is its first page, and the documents stand in the order of the README's table."""

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parent.parent / "README.md"
FIRST = ("first-run.md", "your-images.md", "many-ranks.md", "cluster.md", "is-it-working.md")
"""What a reader needs first; the README's table comes next, then what neither names."""


def on_config(config: Any) -> Any:
    """Put all documents into the navigation."""
    named = [*FIRST, *re.findall(r"\]\(docs/([\w-]+\.md)\)", README.read_text())]
    there = sorted(path.name for path in README.parent.glob("docs/*.md"))
    config.nav = ["index.md", *dict.fromkeys(name for name in [*named, *there] if name in there)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the README, with its links as they are from within docs/, and the change log."""
    from mkdocs.structure.files import File

    text = re.sub(r"\]\(docs/", "](", README.read_text())
    files.append(File.generated(config, "index.md", content=text))
    return files
