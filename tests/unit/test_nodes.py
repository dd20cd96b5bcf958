"""Nodes that are not fit to train are named; what is wrong everywhere is no node's fault."""

import pytest

from gan_dist.doctor import nodes
from gan_dist.doctor.nodes import NodeReport

NAMES = ("node1", "node2", "node3")


def good() -> list[NodeReport]:
    found = []
    for rank, node in enumerate(NAMES):
        found += [NodeReport(node, what) for what in ("run directory", "data")]
        found += [NodeReport(node, "disk", value=2.0**34), NodeReport(node, "device", rank, kind="H200", digest="a")]
        found += [
            NodeReport(node, "network", rank, value=9.0),
            NodeReport(node, "clock", rank, value=100.0 + rank / 10),
        ]
        found += [NodeReport(node, "link", rank, value=10.0)]
    return found


def changed(what: str, node: str, **values: object) -> list[NodeReport]:
    return [
        NodeReport(**{**vars(report), **values}) if (report.what, report.node) == (what, node) else report  # type: ignore[arg-type]
        for report in good()
    ]


def test_good_nodes_are_fit() -> None:
    verdicts = nodes.judge(good(), NAMES, 1)
    assert all(verdict.good for verdict in verdicts)
    assert [verdict.what for verdict in verdicts] == [
        "run directory", "disk", "data", "device", "network", "clock", "link",
    ]  # fmt: skip
    assert nodes.exclude(verdicts) == ""


@pytest.mark.parametrize("what", ["run directory", "disk", "data", "device", "network"])
def test_a_bad_node_is_named_with_the_option_that_leaves_it_out(what: str) -> None:
    verdicts = nodes.judge(changed(what, "node2", problem="is broken"), NAMES, 1)
    (bad,) = [verdict for verdict in verdicts if verdict.fatal]
    assert bad.what == what
    assert "node2: " in bad.text
    assert nodes.exclude(verdicts) == "--exclude=node2"


def test_what_is_wrong_everywhere_excludes_nobody() -> None:
    found = [NodeReport(node, "data", problem="no .tar file") for node in NAMES]
    verdicts = nodes.judge(found + [report for report in good() if report.what != "data"], NAMES, 1)
    (bad,) = [verdict for verdict in verdicts if not verdict.good]
    assert bad.text == "every one of 3 nodes: no .tar file"
    assert nodes.exclude(verdicts) == ""


def test_a_node_that_is_silent_and_a_rank_that_does_not_come_are_named() -> None:
    silent = [report for report in good() if report.node != "node3"]
    assert nodes.exclude(nodes.judge(silent, NAMES, 1)) == "--exclude=node3"
    (nobody,) = nodes.judge([], NAMES, 1)
    assert (nobody.text, nobody.passing) == ("every one of 3 nodes: gave no answer", True)
    hung = [report for report in good() if (report.what, report.node) != ("device", "node1")]
    assert nodes.exclude(nodes.judge(hung, NAMES, 1)) == "--exclude=node1"


def test_a_device_that_computes_other_numbers_is_named_and_of_two_none() -> None:
    verdicts = nodes.judge(changed("device", "node2", digest="b"), NAMES, 1)
    assert nodes.exclude(verdicts) == "--exclude=node2"
    pair = [report for report in changed("device", "node2", digest="b") if report.node != "node3"]
    verdicts = nodes.judge(pair, NAMES[:2], 1)
    assert any(verdict.fatal for verdict in verdicts)
    assert nodes.exclude(verdicts) == ""


def test_slow_links_and_wrong_clocks_are_named_and_do_not_stop() -> None:
    for what, value in (("link", 2.0), ("clock", 160.0)):
        verdicts = nodes.judge(changed(what, "node2", value=value), NAMES, 1)
        assert not any(verdict.fatal for verdict in verdicts)
        assert [verdict.what for verdict in verdicts if not verdict.good] == [what]
        assert nodes.exclude(verdicts) == "--exclude=node2"


def test_reports_are_found_among_other_lines() -> None:
    report = NodeReport("node1", "disk", value=1.0)
    assert nodes.parse(["a warning", f"[0]: {report.line()}", f"{nodes.MARK}{{torn"]) == [report]
