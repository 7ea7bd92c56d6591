"""The page: self-contained, escaped, honest about simulated data, and sortable in a real browser."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest

from panmodal._version import __version__
from panmodal.insight.leaderboard import leaderboard, overall, summary
from panmodal.insight.page import render_page

NASTY = '<b>&"x'
METHODS = {
    (NASTY, "knn"): [6.0, 6.5, 7.0],
    ("alpha", "knn"): [5.0, 5.5, 6.0],
    ("Zeta", "knn"): [9.0, 9.5, 10.0],
    ("undefined", "knn"): [float("nan")] * 3,
    ("none", "train mean", "baseline"): [8.0, 8.5, 9.0],
    ("random", "knn", "control"): [8.1, 8.4, 9.1],
    ("idealised", "knn", "oracle"): [4.0, 4.5, 5.0],
}
RUN = {
    "screen": {"name": "scr<i>een", "response": "lfc", "description": "a & b", "simulated": True},
    "split": {"name": "unseen", "unseen": "perturbation", "seed": None, "digest": "0123456789abcdef"},
    "embeddings": [
        {"role": "embedding", "digest": "fedcba9876543210", "card": {
            "name": NASTY, "modality": "<m>", "dims": 7, "id_namespace": "symbol", "licence": "CC <0>", "description": "<d>",
            "simulated": False, "trained_on": ["<t>"], "recipe": "<r>"}},
        {"role": "control", "digest": "x", "card": {"name": "must not be listed"}},
    ],
}  # fmt: skip


class Page(HTMLParser):
    """Every tag with its attributes; tags that are opened and closed must nest."""

    VOID = {"meta", "br", "path", "use", "line", "rect"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def scores(make_scores):
    mirrored = {method: [-v for v in values] for method, values in METHODS.items()}
    return pd.concat([
        make_scores(METHODS, covered={"alpha": 6}),
        make_scores(METHODS, context="sim", simulated=True),
        make_scores(mirrored, metric="Pearson"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def source(scores):
    return render_page(scores, runs=[RUN, RUN], title="A & B <title>")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_nothing_is_loaded_from_elsewhere(source, page):
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "img", "iframe", "object", "embed", "image", "base", "video", "audio", "source"}
    assert not page.attributes("src") and not page.attributes("srcset")
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", source)
    for tag, attrs in page.tags:
        for where in (attrs.get("href"), attrs.get("xlink:href")):
            assert where is None or where.startswith(("#", "data:") if tag == "a" else "#"), (tag, where)


def test_references_within_the_page_have_one_target(source, page):
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = {w[1:] for w in page.attributes("href") + page.attributes("xlink:href") if w.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", source))
    assert wanted and wanted <= set(ids)


def test_names_are_escaped_everywhere(source, page):
    assert not {tag for tag, _ in page.tags} & {"b", "i", "d", "m"}
    assert "<title>A &amp; B &lt;title&gt;</title>" in source
    text = "".join(page.text)
    assert text.count(NASTY) >= 5  # over tasks, two tasks, two figures, the card
    assert "scr<i>een" in text and "CC <0>" in text


def test_simulated_data_are_marked(make_scores, source, page):
    text = "".join(page.text)
    assert "Some tasks are simulated data" in text and text.count("Simulated data") == 1
    assert "· SIMULATED" in text and "screen, sim (simulated data)" in text
    assert "imulated" not in "".join(Page(render_page(make_scores(METHODS))).text)


def test_tables_hold_the_leaderboard(scores, source):
    body = re.findall(r'<section id="task-1">.*?<tbody>(.*?)</tbody>', source, re.DOTALL)[0]
    cells = [
        [html.unescape(re.sub(r"<[^>]+>", "", c)) for c in re.findall(r"<td.*?</td>", line)]
        for line in body.splitlines()
        if "<td" in line
    ]
    board = leaderboard(scores)
    first = board[board["context"] == "ctx"]
    expected = {"embedding": "", "control": " (control)", "oracle": " (oracle)", "baseline": ""}
    assert [c[1] for c in cells] == [e + expected[r] for e, r in zip(first["embedding"], first["role"], strict=True)]
    assert [c[0] for c in cells] == ["", "1", "2", "", "", "3", ""]
    assert [c[4] for c in cells] == ["4.5000", "5.5000", "6.5000", "8.5000", "8.5333", "9.5000", "–"]
    assert cells[1][6:9] == ["0.750", "3/3", "60 %"] and cells[-1][6] == "–"


def test_csv_downloads_are_the_tables(scores, page):
    links = {attrs["download"]: attrs["href"] for tag, attrs in page.tags if tag == "a" and "download" in attrs}
    board = leaderboard(scores)
    for name, expected in {"leaderboard.csv": board, "overall.csv": overall(board)}.items():
        head, data = links[name].split(",", 1)
        assert head == "data:text/csv;base64"
        pd.testing.assert_frame_equal(
            pd.read_csv(io.BytesIO(base64.b64decode(data)), keep_default_na=False, na_values=[""]),
            pd.read_csv(io.StringIO(expected.to_csv(index=False)), keep_default_na=False, na_values=[""]),
        )
        assert NASTY in base64.b64decode(data).decode().replace('""', '"')


def test_sentences_cards_and_versions_are_there_once(scores, source, page):
    text = "".join(page.text)
    for sentence in summary(leaderboard(scores)):
        assert text.count(sentence) == 1
    assert text.count("fedcba987654") == 1 and "must not be listed" not in text
    assert "seed given folds" in text and f"panmodal {__version__}" in text


def test_metric_fallback_and_probes_are_respected(make_scores, scores):
    by_pearson = render_page(scores, metric="Pearson", fallback="common", probes=["knn"])
    assert "Pearson, higher is better" in by_pearson and "L2, lower" not in by_pearson
    assert "<th>filled</th>" in by_pearson
    two = make_scores(METHODS | {("alpha", "ridge"): [1.0, 2.0, 3.0]})
    assert "ridge" in render_page(two) and "ridge" not in render_page(two, probes=["knn"])


def test_undefined_perturbations_are_counted(make_scores):
    text = render_page(make_scores({("a", "knn"): [1.0, 2.0]}, n_undefined=3))
    assert "6 undefined</span>" in text and "undefined</span>" not in render_page(make_scores({("a", "knn"): [1.0]}))


@pytest.mark.parametrize("methods", [{("a", "knn"): [1.0]}, {("none", "train mean", "baseline"): [1.0]}])
def test_smallest_tables(make_scores, methods):
    assert "<td" in render_page(make_scores(methods))


def test_same_table_same_page(scores, source):
    assert render_page(scores, runs=[RUN, RUN], title="A & B <title>") == source


# --- in a browser ----------------------------------------------------------------------------------------------------

CLICKS = """<script>
const table = document.querySelector("#task-1 table.sortable"), seen = [];
for (const column of %s) {
  table.tHead.rows[0].cells[column].querySelector("button").click();
  seen.push([...table.tBodies[0].rows].map(row => row.cells[1].textContent));
}
document.title = JSON.stringify(seen);
</script></body>"""


def dump_dom(text, folder):
    found = [w for name in ("chromium", "chromium-browser", "google-chrome") if (w := shutil.which(name))]
    if not found:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([found[0], *flags, file.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sort_buttons_are_made_by_the_script(source, tmp_path):
    assert "<button" not in source
    dom = dump_dom(source, tmp_path)
    heads = sum(
        part.count("<th") - part.count("<thead") for part in re.findall(r'"sortable">(.*?)</thead>', source, re.DOTALL)
    )
    assert heads == 10 + 2 * 10 and dom.count('<button type="button">') == heads


def test_clicking_a_header_sorts_and_undefined_values_stay_last(source, tmp_path):
    dom = dump_dom(source.replace("</body>", CLICKS % [6, 6, 1, 1, 4]), tmp_path)
    gap_up, gap_down, name_up, name_down, score = json.loads(
        html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])
    )
    best_first = ["idealised (oracle)", "alpha", NASTY]
    assert gap_down[:3] == best_first == gap_up[-2:-5:-1] == score[:3]
    assert gap_up[-1] == gap_down[-1] == score[-1] == "undefined"
    assert name_up == name_down[::-1] and name_up.index("alpha") < name_up.index("none") < name_up.index("Zeta")
