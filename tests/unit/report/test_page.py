"""The page and the Markdown of a run: what is in them, and what must not be."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gan_dist import cli
from gan_dist.report import writing
from tests.unit.report.runs import NASTY, make_run


class Page(HTMLParser):
    """Texts, elements and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.kinds: list[str] = []
        self.addresses: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.kinds.append(tag)
        self.attributes.append(dict(attributes))
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_what_the_files_say_and_takes_nothing_from_a_network(tmp_path: Path) -> None:
    text = writing.make([make_run(tmp_path / "run", NASTY)], "html")[0]
    page = Page(text)
    for words in (
        NASTY,
        "kid 1 -> 0.025",
        "lower is better",
        "score/gap is 0.05, the threshold is 0.1",
        "diversity 0.9",
        "loss/G",
        "grad_norm/D",
        "mine/brightness",
        "images-000003200 (kid 0.04)",
        "of a later version",
        f"thing {NASTY} & more",
        *("started", "saved", "stopped", "resumed", "suspect", "best", "finished"),
        "training.images",
        "command line",
        "train.py c.yaml",
    ):
        assert words in page.text, words
    assert page.kinds.count("script") == 2  # data and ours
    assert page.kinds.count("img") == 3
    assert all(address.startswith(("data:", "#")) for address in page.addresses), page.addresses
    policy = next(each["content"] for each in page.attributes if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in text.replace("http-equiv", "").partition("<script")[0].partition("</style>")[2]


def test_several_runs_share_charts_and_pictures_stay_within_their_number(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "same", grids=45) for name in ("a", "b")]
    page = Page(writing.make(runs, "html")[0])
    one = Page(writing.make(runs[:1], "html")[0])
    assert page.kinds.count("figure") == one.kinds.count("figure") + 1  # a slider more, no chart
    assert page.kinds.count("img") == 2 * 40
    assert f"loss/G of {runs[1]}" in page.text  # two of one name are told apart


def test_an_old_run_and_a_torn_one_have_a_page(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tests/data/run-0.1.0/run", tmp_path / "old")
    old = Page(writing.make([tmp_path / "old"], "html")[0])
    assert "not measured" in old.text
    assert "loss/D" in old.text
    run = make_run(tmp_path / "torn")
    for name in ("events.jsonl", "environment.jsonl", "status.json", "samples/images-000000100.png"):
        (run / name).write_text('{"torn')
    (run / "config.yaml").write_text("run: {name: known}\nof: another version\n")
    page = Page(writing.make([run], "html")[0])
    assert "known" in page.text
    assert page.kinds.count("img") == 2


def test_thousands_of_events_stay_a_short_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    line = '{"time": "2026-01-01T00:00:00+00:00", "rank": 0, "images": 64, "event": "skipped a step", "player": "D", "total": 1}\n'
    with (run / "events.jsonl").open("a") as file:
        file.write(line * 5000)
    text = writing.make([run], "html")[0]
    assert "skipped a step, 5,000 times" in text
    assert len(text) < 400_000


def test_markdown_holds_the_same_words_and_no_html(tmp_path: Path) -> None:
    text = writing.make([make_run(tmp_path / "run", NASTY)], "md")[0]
    assert "kid 1 -\\> 0.025" in text
    assert "| suspect |" in text
    # the command line is a block of code
    assert not [line for line in text.splitlines() if re.search(r"(?<!\\)<", line) and not line.startswith("    ")]


def test_the_command_writes_the_page_and_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}/report.html (")
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    (run / "metrics.jsonl").write_text("")
    for words, says in (
        ([str(run)], "has no figures yet (metrics.jsonl)"),
        ([str(tmp_path / "samples")], "there is no run directory"),
        ([str(run / "samples")], "give a folder that training made"),
    ):
        assert cli.main(["report", *words]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), says in said) == (1, True), said


def test_what_fails_at_the_end_of_a_run_changes_nothing_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = make_run(tmp_path / "run"), []
    with writing.at_the_end(run, said.append, wanted=True):
        pass
    monkeypatch.setattr(writing.page, "html", lambda runs: 1 / 0)
    with pytest.raises(ValueError, match="of the run"), writing.at_the_end(run, said.append, wanted=True):
        raise ValueError("of the run")
    assert said[0].startswith(f"Report: {run}/report.html (")
    assert said[1].startswith("No report: ZeroDivisionError")


AGAIN = """<script>
const numbers = (path) => path.getAttribute("d").match(/-?[0-9]+/g).map(Number);
const paths = () => figures.map((figure) => [...figure.querySelectorAll(".plot path")].map(numbers));
const before = paths();
figures.forEach((figure, n) => draw(figure, data.charts[n]));
const far = paths().flatMap((chart, n) => chart.flatMap((path, m) => path.map((v, i) => Math.abs(v - before[n][m][i]))));
document.body.dataset.far = Math.max(...far);
show(4850);
</script></body>"""


@pytest.mark.slow
def test_a_browser_shows_it_without_a_request_and_draws_what_python_drew(tmp_path: Path, need) -> None:  # type: ignore[no-untyped-def]
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), "")
    need("chromium", bool(browser), "no Chromium here")
    text = writing.make([make_run(tmp_path / "run", NASTY, lines=2000)], "html")[0]
    charts = text.count('class="chart"')
    attack = text.replace(
        "<main>", '<main><script>document.title = "taken"</script><img src="http://here.invalid/x">', 1
    )
    shown = dom(browser, tmp_path, attack)
    assert f'data-ready="{charts}"' in shown  # the page's own script ran, under its policy
    assert "<title>taken" not in shown
    assert "here.invalid" not in (tmp_path / "net.json").read_text().partition('"events"')[2]
    drawn = dom(browser, tmp_path, re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", AGAIN))
    far = re.search(r'data-far="(\d+)"', drawn)
    assert far is not None
    assert int(far[1]) <= 2  # of 1000 units
    assert "4,850 images · suspect: score/gap is 0.05" in drawn


def dom(browser: str, folder: Path, text: str) -> str:
    """What a browser makes of a page that it opens from a file, with what it asked of networks in net.json."""
    (folder / "page.html").write_text(text)
    words = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile"),
        *(f"--log-net-log={folder}/net.json", "--dump-dom", f"file://{folder}/page.html"),
    ]
    return subprocess.run([browser, *words], capture_output=True, text=True, timeout=120).stdout
