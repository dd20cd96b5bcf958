"""The commands that documents show."""

import re
import shlex
from collections.abc import Iterator

PROGRAMS = re.compile(r"(gan-dist|python|torchrun|accelerate|sbatch|(\./)?launch/\S+|(\./)?slurm/\S+) ")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a document: in blocks of code, and between backticks."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    for line in [*lines, *re.findall(r"`([^`]+)`", prose)]:
        line = re.sub(r"^(\$ )?([A-Z_]+=\S+ )*", "", line.strip()).replace("\n", " ")
        if PROGRAMS.match(line + " "):
            for part in re.split(r" (?:&&|\||;) ", line):
                if PROGRAMS.match(part + " "):
                    yield shlex.split(part, comments=True)
