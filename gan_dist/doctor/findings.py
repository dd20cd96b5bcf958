"""Define what a check finds, and how processes hand findings to the one that started them."""

import dataclasses
import json

_MARK = "finding: "
"""Before a finding (JSON) on a line of the output: libraries print there too."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check found, good or bad."""

    what: str
    good: bool
    text: str
    """What was found; where it is bad, also what to change."""
    nodes: tuple[str, ...] = ()
    """Nodes to leave out."""
    fatal: bool = False
    """Whether training there would fail or be wrong."""
    passing: bool = False
    """Whether another try may be all that it takes: something did not answer in time."""

    def row(self, width: int = 14) -> str:
        """Return it as a line for a person; `width` is that of the column `what`."""
        return f"{'ok     ' if self.good else 'PROBLEM'}  {self.what:{width}s}  {self.text}"

    def line(self) -> str:
        """Return it as a line for the process that reads this one's output."""
        return _MARK + json.dumps(dataclasses.asdict(self))


def of_line(line: str) -> Finding | None:
    """Return the finding that `Finding.line` wrote somewhere in a line; None where there is none."""
    _, mark, text = line.partition(_MARK)
    if not mark:
        return None
    try:
        finding = Finding(**json.loads(text))
    except (ValueError, TypeError):  # two processes wrote at once
        return None
    return dataclasses.replace(finding, nodes=tuple(finding.nodes))
