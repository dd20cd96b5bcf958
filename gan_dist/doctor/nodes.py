"""Whether the nodes of a job are fit to train: what follows from the reports of nodes and ranks (check.py)."""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from gan_dist import units
from gan_dist.doctor.findings import Finding

MARK = "node report: "
"""Before a report (JSON) on a line of the output: libraries print there too."""

_CLOCK = 2.0  # seconds by which clocks may differ
_SLOW = 0.5  # of the median link


@dataclasses.dataclass(frozen=True)
class NodeReport:
    """One thing that a node, or a rank on it, found out about itself."""

    node: str
    what: str
    rank: int = -1
    """-1: the node itself."""
    problem: str = ""
    """Empty: all is well."""
    value: float = 0.0
    """clock: seconds since 1970, at one moment for all; link, network: GB/s; disk: free bytes."""
    kind: str = ""
    """device: what it is."""
    digest: str = ""
    """device: of numbers that devices of one kind compute alike."""

    def line(self) -> str:
        return MARK + json.dumps(dataclasses.asdict(self))


def parse(lines: Iterable[str]) -> list[NodeReport]:
    """The reports among the lines of an output."""
    found = []
    for line in lines:
        _, mark, text = line.partition(MARK)
        try:
            found += [NodeReport(**json.loads(text))] if mark else []
        except (ValueError, TypeError):
            continue  # two processes wrote at once
    return found


def judge(reports: Sequence[NodeReport], nodes: Sequence[str], processes: int) -> list[Finding]:
    """Findings on `nodes` with so many processes each; a node or rank that did not report is bad."""
    by: dict[str, list[NodeReport]] = {}
    for report in reports:
        by.setdefault(report.what, []).append(report)
    silent = [node for node in nodes if not any(report.node == node for report in reports)]
    findings = [_bad("answer", dict.fromkeys(silent, "gave no answer"), len(nodes), passing=True)] if silent else []
    if len(silent) == len(nodes):
        return findings
    for what in ("run directory", "disk", "data"):
        problems = {report.node: report.problem for report in by.get(what, ()) if report.problem}
        if problems:
            findings.append(_bad(what, problems, len(nodes)))
        elif what == "disk" and by.get(what):
            findings.append(
                Finding(what, True, f"{units.size(min(report.value for report in by[what]))} free at least")
            )
        elif by.get(what):
            findings.append(Finding(what, True, f"read on {len(by[what])} node(s)"))
    answering = [node for node in nodes if node not in silent]
    device = _ranks("device", by.get("device", []), answering, processes, len(nodes))
    findings.append(device or _devices(by["device"]))
    if by.get("input"):  # training says it better than a check
        return findings
    if all(finding.good for finding in findings):  # else it is the consequence of what was said already
        network = _ranks("network", by.get("network", []), answering, processes, len(nodes))
        findings.append(network or _network(by["network"]))
    return findings + _clocks(by.get("clock", ())) + _links(by.get("link", ()))


def exclude(findings: Iterable[Finding]) -> str:
    """The option of sbatch that leaves out the bad nodes; empty if there are none."""
    nodes = sorted({node for finding in findings for node in finding.nodes})
    return f"--exclude={','.join(nodes)}" if nodes else ""


def _bad(what: str, problems: dict[str, str], count: int, passing: bool = False) -> Finding:
    """What is wrong everywhere is no node's fault."""
    kinds = set(problems.values())
    if len(problems) == count and len(kinds) == 1:
        where = f"every one of {count} nodes" if count > 1 else next(iter(problems))
        return Finding(what, False, f"{where}: {kinds.pop()}", fatal=True, passing=passing)
    text = "; ".join(f"{node}: {problem}" for node, problem in sorted(problems.items()))
    return Finding(what, False, text, tuple(sorted(problems)), fatal=True, passing=passing)


def _ranks(what: str, found: Sequence[NodeReport], nodes: Sequence[str], processes: int, count: int) -> Finding | None:
    """Problems of ranks; None if every rank is well."""
    problems = {report.node: f"rank {report.rank}: {report.problem}" for report in found if report.problem}
    passing = what == "network" or not problems
    if not problems:
        heard = Counter(report.node for report in found)
        word = {"device": "did not get ready", "network": "did not find the others"}[what]
        problems = {
            node: f"{processes - heard[node]} of {processes} process(es) {word}"
            for node in nodes
            if heard[node] < processes
        }
    if what == "network" and len(problems) == count:  # one silent link stops all: nobody can be named
        text = "; ".join(f"{node}: {text}" for node, text in sorted(problems.items()))
        return Finding(what, False, text, fatal=True, passing=True)
    return _bad(what, problems, count, passing) if problems else None


def _devices(found: Sequence[NodeReport]) -> Finding:
    """Devices of one kind must compute the same numbers: one that does not is broken."""
    kinds: dict[str, Counter[str]] = {}
    for report in found:
        kinds.setdefault(report.kind, Counter())[report.digest] += 1
    words = ", ".join(f"{digests.total()} x {kind}" for kind, digests in kinds.items())
    odd = []
    for kind, digests in kinds.items():
        if len(digests) > 1:
            (usual, most), (_, next_most) = digests.most_common(2)
            usual = usual if most > next_most else ""
            odd += [report for report in found if report.kind == kind and report.digest != usual]
    if not odd:
        return Finding("device", True, f"{words} compute the same numbers" if len(found) > 1 else words)
    nodes = tuple(sorted({report.node for report in odd}))
    ranks = ", ".join(f"rank {report.rank} on {report.node}" for report in odd)
    everyone = {report.node for report in found}
    if set(nodes) == everyone:
        return Finding("device", False, f"{ranks} compute different numbers: one of them is broken", fatal=True)
    return Finding("device", False, f"{ranks}: computes other numbers than the rest ({words})", nodes, fatal=True)


def _network(found: Sequence[NodeReport]) -> Finding:
    rate = max(report.value for report in found)
    text = f"{len(found)} process(es) agree on a sum" + (f", all-reduce at {rate:.2f} GB/s" if rate else "")
    return Finding("network", True, text)


def _clocks(found: Sequence[NodeReport]) -> list[Finding]:
    if len({report.node for report in found}) < 2:
        return []
    middle = statistics.median_low(report.value for report in found)
    off = {report.node: report.value - middle for report in found if abs(report.value - middle) > _CLOCK}
    if not off:
        spread = max(report.value for report in found) - min(report.value for report in found)
        return [Finding("clock", True, f"at most {spread:.1f} s apart")]
    words = "; ".join(f"{node} is {seconds:+.0f} s off" for node, seconds in sorted(off.items()))
    return [Finding("clock", False, f"{words}: times in the logs cannot be compared", tuple(sorted(off)))]


def _links(found: Sequence[NodeReport]) -> list[Finding]:
    """A node whose better link, of the two to its neighbours, is slow is slow itself."""
    if len(found) < 3:
        return []
    middle = statistics.median(report.value for report in found)
    slow = {report.node: report.value for report in found if report.value < _SLOW * middle}
    if not slow:
        return [Finding("link", True, f"{min(report.value for report in found):.2f} GB/s between neighbours at least")]
    words = "; ".join(f"{node} at {rate:.2f} GB/s" for node, rate in sorted(slow.items()))
    return [Finding("link", False, f"{words}, the others at {middle:.2f}: all wait for it", tuple(sorted(slow)))]
