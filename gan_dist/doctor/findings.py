"""What a check found, and how the processes that `gan-dist doctor` starts hand it to `gan-dist doctor`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    what: str
    good: bool
    text: str
    """What was found; where it is bad, also what to change."""


MARK = "finding: "
"""Before a finding (JSON) on a line of the output: libraries print there too."""
