"""Judge by the reports of nodes and ranks (node_reports.py) whether the nodes of a job are fit to train."""

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
    """One measurement of a node, or of a rank on it; `judge` makes findings of all of them."""

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
    """Return the reports among the lines of an output."""
    reports = []
    for line in lines:
        _, mark, text = line.partition(MARK)
        try:
            reports += [NodeReport(**json.loads(text))] if mark else []
        except (ValueError, TypeError):
            continue  # two processes wrote at once
    return reports


def judge(reports: Sequence[NodeReport], nodes: Sequence[str], processes: int) -> list[Finding]:
    """Return findings on `nodes` with so many ranks each; a node or rank that did not report is bad."""
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
    if by.get("input"):  # training reports it better than a check
        return findings
    if all(finding.good for finding in findings):  # otherwise it follows from another finding
        network = _ranks("network", by.get("network", []), answering, processes, len(nodes))
        findings.append(network or _network(by["network"]))
    return findings + _clocks(by.get("clock", ())) + _links(by.get("link", ()))


def exclude(findings: Iterable[Finding]) -> str:
    """Return the option of sbatch that leaves out the bad nodes; empty if there are none."""
    nodes = sorted({node for finding in findings for node in finding.nodes})
    return f"--exclude={','.join(nodes)}" if nodes else ""


def _bad(what: str, problems: dict[str, str], count: int, passing: bool = False) -> Finding:
    """Return the finding on bad nodes, which names none of them where the same is wrong on all."""
    kinds = set(problems.values())
    if len(problems) == count and len(kinds) == 1:
        where = f"every one of {count} nodes" if count > 1 else next(iter(problems))
        return Finding(what, False, f"{where}: {kinds.pop()}", fatal=True, passing=passing)
    text = "; ".join(f"{node}: {problem}" for node, problem in sorted(problems.items()))
    return Finding(what, False, text, tuple(sorted(problems)), fatal=True, passing=passing)


def _ranks(
    what: str, reports: Sequence[NodeReport], nodes: Sequence[str], processes: int, count: int
) -> Finding | None:
    """Return the finding on ranks with a problem; None where there is none."""
    problems = {report.node: f"rank {report.rank}: {report.problem}" for report in reports if report.problem}
    passing = what == "network" or not problems
    if not problems:
        heard = Counter(report.node for report in reports)
        word = {"device": "did not get ready", "network": "did not find the others"}[what]
        problems = {
            node: f"{processes - heard[node]} of {processes} rank(s) {word}"
            for node in nodes
            if heard[node] < processes
        }
    if what == "network" and len(problems) == count:  # one silent link stops all: nobody can be named
        text = "; ".join(f"{node}: {text}" for node, text in sorted(problems.items()))
        return Finding(what, False, text, fatal=True, passing=True)
    return _bad(what, problems, count, passing) if problems else None


def _devices(reports: Sequence[NodeReport]) -> Finding:
    """Find the devices that compute other numbers than most of their kind: they are broken."""
    kinds: dict[str, Counter[str]] = {}
    for report in reports:
        kinds.setdefault(report.kind, Counter())[report.digest] += 1
    words = ", ".join(f"{digests.total()} x {kind}" for kind, digests in kinds.items())
    odd = []
    for kind, digests in kinds.items():
        if len(digests) > 1:
            (usual, most), (_, next_most) = digests.most_common(2)
            usual = usual if most > next_most else ""
            odd += [report for report in reports if report.kind == kind and report.digest != usual]
    if not odd:
        return Finding("device", True, f"{words} compute the same numbers" if len(reports) > 1 else words)
    nodes = tuple(sorted({report.node for report in odd}))
    ranks = ", ".join(f"rank {report.rank} on {report.node}" for report in odd)
    everyone = {report.node for report in reports}
    if set(nodes) == everyone:
        return Finding("device", False, f"{ranks} compute different numbers: one of them is broken", fatal=True)
    return Finding("device", False, f"{ranks}: computes other numbers than the rest ({words})", nodes, fatal=True)


def _network(reports: Sequence[NodeReport]) -> Finding:
    rate = max(report.value for report in reports)
    text = f"{len(reports)} rank(s) agree on a sum" + (f", all-reduce at {rate:.2f} GB/s" if rate else "")
    return Finding("network", True, text)


def _clocks(reports: Sequence[NodeReport]) -> list[Finding]:
    if len({report.node for report in reports}) < 2:
        return []
    middle = statistics.median_low(report.value for report in reports)
    off = {report.node: report.value - middle for report in reports if abs(report.value - middle) > _CLOCK}
    if not off:
        spread = max(report.value for report in reports) - min(report.value for report in reports)
        return [Finding("clock", True, f"at most {spread:.1f} s apart")]
    words = "; ".join(f"{node} is {seconds:+.0f} s off" for node, seconds in sorted(off.items()))
    return [Finding("clock", False, f"{words}: times in the logs cannot be compared", tuple(sorted(off)))]


def _links(reports: Sequence[NodeReport]) -> list[Finding]:
    """Find slow nodes: those whose better link, of the two to their neighbours, is slow."""
    if len(reports) < 3:
        return []
    middle = statistics.median(report.value for report in reports)
    slow = {report.node: report.value for report in reports if report.value < _SLOW * middle}
    if not slow:
        return [
            Finding("link", True, f"{min(report.value for report in reports):.2f} GB/s between neighbours at least")
        ]
    words = "; ".join(f"{node} at {rate:.2f} GB/s" for node, rate in sorted(slow.items()))
    return [Finding("link", False, f"{words}, the others at {middle:.2f}: all wait for it", tuple(sorted(slow)))]
