"""The report: self-contained, true of its numbers, and all of it there."""

import base64
import gzip
import html
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from panmodal.errors import InputError
from panmodal.insight import report as reporting
from panmodal.insight import report_methods, report_specs, report_write
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Predicted, Truth
from panmodal.insight.report_explorer import explorer, gene_table, perturbation_table
from panmodal.insight.report_figures import board_displays, over_tasks, report_board, task_labels, tasks_of
from panmodal.insight.report_parts import cell, download, figure_html, json_in_html, slim, table_html
from panmodal.insight.report_summary import headline

NASTY = '<b>&"x</script>'
TASK = ("screen", "A", "lfc", "unseen")
N, GENES, FOLDS = 40, 6, 2
SHIFT = {(NASTY, "knn"): 2.0, ("good", "lasso"): 1.0, ("bad", "knn"): -0.5}
RUN = {
    "config": {"screen": "/home/me/secret/screen.h5ad", "seed": 1, "embeddings": [{"path": "/home/me/secret/good.h5ad"}]},
    "screen": {"name": "screen", "response": "lfc", "description": "a & b", "simulated": False, "datasets": ["replogle2022"],
               "digests": {"A": "abc123"}},
    "split": {"name": "unseen", "unseen": "perturbation", "seed": 7, "digest": "0123456789abcdef"},
    "version": "9.9.9",
    "embeddings": [
        {"role": "embedding", "digest": "fedc", "covered": 30, "asked": 40, "card": {
            "name": NASTY, "modality": "<m>", "dims": 7, "citation": "Me <i> 2020", "url": "javascript:alert(1)", "recipe": ""}},
        {"role": "control", "digest": "x", "card": {"name": "never listed", "citation": "never cited"}},
    ],
    "trials": [{"depends": {"probe": {"name": "knn", "parameter": "k", "grid": [20, 40]}}}],
}  # fmt: skip


class Page(HTMLParser):
    """Every tag with its attributes; tags that are opened and closed must nest."""

    VOID = {"meta", "br", "link", "input", "img", "path", "use", "line", "rect"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def truth_of(context):
    values = np.random.default_rng(5 + ord(context)).normal(size=(N, GENES)).astype(np.float32)
    return Truth(tuple(f"P{k}" for k in range(N)), values, tuple(f"G{g}" for g in range(GENES)))


@pytest.fixture(scope="module")
def evidence():
    """Two tasks with known gains: the floor's error is 10 plus the number of the perturbation, methods are better by SHIFT."""
    scores, rows = [], []
    for context in "AB":
        for fold in range(FOLDS):
            own = [f"P{k}" for k in range(fold, N, FOLDS)]
            base = 10.0 + np.arange(fold, N, FOLDS)
            methods = [(*m, "embedding", base - s) for m, s in SHIFT.items()]
            methods += [
                ("none", "train mean", "baseline", base),
                ("random", "knn", "control", base + 1.0),
                ("idealised", "knn", "oracle", base - 8),
            ]
            for name, probe, role, values in methods:
                trial = f"{context}-{fold}-{name}-{probe}"
                covered = np.array([name != "good" or k % 4 for k in range(len(own))], dtype=bool)
                rows.append(pd.DataFrame({"trial": trial, "pert_id": own, "covered": covered, "L2": values}))
                for fallback in ("filled", "covered", "common"):
                    scores.append({
                        "screen": "screen", "context": context, "response": "lfc", "split": "unseen", "fold": fold, "embedding": name,
                        "probe": probe, "seed": 42, "role": role, "modality": "toy", "simulated": context == "B", "seen": "no",
                        "fallback": fallback, "metric": "L2", "value": values.mean(), "n_test": len(own), "n_covered": int(covered.sum()),
                        "hyperparameters": "{}", "trial": trial, "n_scored": len(own), "n_undefined": 0,
                    })  # fmt: skip

    def predictions(trial):
        context, fold, name, _ = trial.split("-")
        own = [f"P{k}" for k in range(int(fold), N, FOLDS)]
        true = truth_of(context)
        at = [true.row[i] for i in own]
        mean = true.values[[k for k in range(N) if k not in set(at)]].mean(axis=0)
        share = {"good": 0.5, "bad": -1.0}.get(name, 0.9)
        return Predicted(tuple(own), np.ones(len(own), bool), mean + share * (true.values[at] - mean), mean)

    return Evidence(pd.DataFrame(scores), pd.concat(rows, ignore_index=True), runs=[RUN, RUN],
                    read_truth=lambda task: truth_of(task[1]), read_predictions=predictions)  # fmt: skip


@pytest.fixture(scope="module")
def board(evidence):
    return report_board(evidence)


def fake(name, table, draw=None, **more):
    return Display(name, f"Title of {name}", table, "How to read <it>.", draw=draw, **more)


def bars(table):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    figure.subplots().bar(range(len(table)), table.iloc[:, -1])
    return figure


def broken(table):
    raise RuntimeError("no ink")


@pytest.fixture(scope="module")
def report(evidence):
    plain = pd.DataFrame({"name": ["a", NASTY], "value": [0.123456789, np.nan]})
    found = {"ranks": [fake("drawn", plain, bars, sentences=("One & two.",)), fake("told", plain), fake("broken", plain, broken)],
             "advice": [fake("advice", plain, sentences=("Use <a>.", "Or b."))], "patterns": "These results lack everything."}  # fmt: skip

    def collect(evidence, board, names):
        return {"leaderboard": board_displays(evidence, board), **{n: found[n] for n in names if n in found}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "collect", collect)
        return reporting.make_report(evidence, sections=["ranks", "advice", "patterns"], title="A & B <title>")


@pytest.fixture(scope="module")
def source(report):
    return report_write.render_report(report)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


# --- the page ----------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(source, page):
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "object", "embed", "base"), tag
        for name in ("src", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
        href = attrs.get("href") or attrs.get("xlink:href") or "#"
        assert href.startswith(("#", "data:")) or (tag == "a" and href.startswith("https://")), (tag, href)
    own = re.sub(r'<script type="application/octet-stream".*?</script>', "", source, flags=re.DOTALL)
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|import\(|javascript:", own)


def test_page_is_small_and_holds_the_library_once(source):
    assert len(source.encode()) < 3_000_000
    packed = re.findall(r'id="plotly">(.*?)</script>', source, re.DOTALL)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == report_write.plotly_js()


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a" and attrs.get("href", "").startswith("#")}
    assert wanted <= set(ids), wanted - set(ids)
    specs = {attrs["data-spec"] for _, attrs in page.tags if "data-spec" in attrs}
    assert specs and specs <= set(ids)


def test_names_are_escaped(source, page):
    assert "<title>A &amp; B &lt;title&gt;</title>" in source
    assert not {"b", "i", "m"} & {tag for tag, _ in page.tags}
    text = "".join(page.text)
    assert text.count(NASTY) >= 5 and "How to read <it>." in text and "Me <i> 2020" in text


def test_the_same_results_make_the_same_page(report, source):
    assert report_write.render_report(report) == source


def test_sections_show_figures_tables_reasons_and_problems(source, page):
    text = " ".join("".join(page.text).split())
    assert "One & two." in text and "These results lack everything." in text
    assert "could not be drawn (RuntimeError: no ink)" in text
    assert source.count("<svg viewBox") == 1
    assert [attrs["id"] for tag, attrs in page.tags if tag in ("section", "details") and attrs.get("id", "").startswith("ranks-")] == [
        "ranks-drawn", "ranks-told", "ranks-broken"]  # fmt: skip
    assert "Use <a>." in text and text.count("Or b.") == 2


def test_simulated_tasks_are_marked(source, page):
    text = "".join(page.text)
    assert "Some tasks are simulated data" in text and "SIMULATED" in text


def test_every_table_can_be_downloaded(report, page):
    links = {attrs["download"]: attrs["href"] for tag, attrs in page.tags if tag == "a" and "download" in attrs}
    assert {n.removesuffix(".gz") for n in links} == {f"{name}.csv" for name in report.tables}
    assert {"leaderboard", "gap-closed", "perturbations-1", "readouts-2", "ranks-told", "folds-1", "over-tasks"} <= set(
        report.tables
    )
    for file, href in links.items():
        head, data = href.split(",", 1)
        raw = base64.b64decode(data)
        text = (gzip.decompress(raw) if "gzip" in head else raw).decode()
        table = report.tables[file.removesuffix(".gz").removesuffix(".csv")]
        read = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
        assert list(read.columns) == list(table.columns) and len(read) == len(table)
        for column in table.select_dtypes(float):
            np.testing.assert_allclose(read[column].astype(float), table[column], rtol=1e-7)


def test_tables_too_large_for_the_page_are_left_out_and_said(report, monkeypatch):
    rng = np.random.default_rng(0)
    tables = {**report.tables, "huge": pd.DataFrame(rng.random((9000, 4)))}
    limit = len(report_write.render_report(report).encode()) + 50_000
    monkeypatch.setattr(report_write, "LIMIT", limit)
    text = report_write.render_report(replace(report, tables=tables))
    assert len(text.encode()) < limit
    assert "huge.csv <span" in text and "too large for this page" in text and 'download="leaderboard.csv' in text


# --- sentences ---------------------------------------------------------------------------------------------------------


def test_headline_is_true_of_the_board(board):
    said = headline(board)
    assert list(said) == ["measured", "simulated"]
    text = said["measured"]
    assert text[0] == "3 embeddings with 2 probes were tested on 1 task, with 40 perturbations each."
    assert text[1] == f"{NASTY} with knn comes first."
    assert text[2].startswith("On the task the leader beats the floor") and "in every fold" in text[2]
    assert (
        text[3]
        == "The leader closes 25 % of the way from the floor to the idealised oracle; the idealised oracle has seen the answers."
    )
    assert text[4].startswith("Embeddings cover 75 to 100 % of the test perturbations") and text[4].endswith(
        "the leader is the same."
    )
    assert text[5].startswith("No control without information")
    assert "of simulated data" in said["simulated"][0]


def test_headline_over_several_tasks(make_scores):
    def task(context, first, second, control=9.0, floor=8.0):
        return make_scores(
            {("a", "knn"): [first] * 2, ("b", "knn"): [second] * 2, ("random", "knn", "control"): [control] * 2,
             ("none", "mean", "baseline"): [floor] * 2}, context=context)  # fmt: skip

    table = pd.concat([task("1", 5.0, 6.0), task("2", 5.0, 6.0), task("3", 6.0, 5.0, control=7.0), task("4", 8.5, 9.0)])
    text = headline(report_board(Evidence(table)))["measured"]
    assert text[1] == "a with knn comes first on 3 of 4 tasks, b with knn on 1."
    assert text[2] == ("On 3 of 4 tasks the leader beats the floor, the best baseline without an embedding, in every fold; on 1 no embedding "
                       "beats it in the mean.")  # fmt: skip
    assert text[-1].startswith("Beware: a control without information beats the floor on 1 of 4 tasks")
    assert not any("closes" in t for t in text)  # no ceiling


def test_ties_and_many_winners(make_scores):
    table = pd.concat(
        [make_scores({(n, "knn"): [1.0 + (n != name)] for n in "abcde"}, context=name) for name in "abcde"]
    )
    assert headline(report_board(Evidence(table)))["measured"][1].endswith("; 2 other methods lead elsewhere.")
    tied = make_scores({("a", "knn"): [1.0], ("b", "knn"): [1.0]})
    assert headline(report_board(Evidence(tied)))["measured"][1] == "a with knn and b with knn come first."


# --- one by one --------------------------------------------------------------------------------------------------------


def test_gains_of_perturbations(evidence, board):
    table, about = perturbation_table(evidence, tasks_of(board)[0])
    assert len(table) == N and about["metric"] == "L2" and about["floor_by"] == "train mean"
    table = table.set_index("pert_id")
    assert table.loc["P3", "floor"] == 13.0
    assert (table["best"] == f"{NASTY}, knn").all() and np.allclose(table["best_gain"], 2.0)
    assert np.allclose(table["gain: bad, knn"], -0.5) and np.allclose(table["gain: good, lasso"], 1.0)
    assert (~table["covered: good, lasso"]).sum() == 10
    true = truth_of("A")
    np.testing.assert_allclose(
        table["effect"], [np.linalg.norm(true.values[true.row[i]]) for i in table.index], rtol=1e-6
    )


def test_error_removed_of_readouts(evidence, board):
    table, about = gene_table(evidence, tasks_of(board)[0], top=2, most=4)
    assert about["n_readouts"] == GENES and len(table) == 4 and len(about["methods"]) == 2
    np.testing.assert_allclose(
        table["removed: good, lasso"], 0.75, rtol=1e-5
    )  # halfway to the truth leaves a quarter of the error
    spread = truth_of("A").values.std(axis=0)
    assert set(table["readout"]) == {f"G{g}" for g in np.argsort(-spread)[:4]}


def test_explorer_without_arrays_or_rows(evidence, board):
    bare = replace(
        evidence,
        read_predictions=Evidence(evidence.scores).read_predictions,
        read_truth=Evidence(evidence.scores).read_truth,
    )
    data, _ = explorer(bare, board)
    assert len(data["perturbations"]) == 2 and not data["readouts"]
    assert data["perturbations"][0]["columns"]["effect"] == [None] * N
    data, tables = explorer(Evidence(evidence.scores), report_board(Evidence(evidence.scores)))
    assert data == {"perturbations": [], "readouts": []} and not tables


def test_explorer_data_are_json_without_nan(evidence, board):
    data, tables = explorer(evidence, board)
    json.dumps(data, allow_nan=False)
    columns = data["perturbations"][0]["columns"]
    assert {len(columns[k]) for k in ("id", "effect", "floor", "best", "bestGain")} == {N}
    assert set(tables) == {"perturbations-1", "perturbations-2", "readouts-1", "readouts-2"}


# --- methods, citations, provenance ------------------------------------------------------------------------------------


def test_methods_are_written_from_the_records(evidence, board):
    text = "\n".join(report_methods.methods(evidence, board))
    for part in ("screen screen", "log fold changes", "'A', 'B'", "replogle2022", "2 folds of 20 test perturbations, seed 7",
                 "3 embeddings", "train mean", "random", "k from 20, 40", "ranked by L2", "idealised oracle", "1000 draws", "panmodal 9.9.9"):  # fmt: skip
        assert part in text, part
    assert "never listed" not in text
    bare = "\n".join(report_methods.methods(Evidence(evidence.scores), board))
    assert "seed" not in bare and "9.9.9" not in bare


def test_citations_are_there_once(evidence, board):
    found = report_methods.citations(evidence, board)
    assert found[0].text.endswith("2025.06.26.661186")
    assert len({c.text for c in found}) == len(found)
    mine = next(c for c in found if c.text == "Me <i> 2020")
    assert mine.url == "" and NASTY in mine.used_for  # an address that is no link is not made one
    assert any("data set replogle2022" in c.used_for for c in found) and any("probe lasso" in c.used_for for c in found)
    assert not any("never" in c.text for c in found)


def test_provenance_names_no_folders(evidence, source):
    tables = report_methods.provenance(evidence)
    assert list(tables) == ["screens", "splits", "embeddings", "runs", "software"]
    assert (
        tables["screens"]["digest"].tolist() == ["abc123"]
        and len(tables["splits"]) == 1
        and len(tables["embeddings"]) == 1
    )
    (config,) = report_methods.configs(evidence)
    assert "screen.h5ad" in config and "secret" not in config and "secret" not in source
    assert list(report_methods.provenance(Evidence(evidence.scores))) == ["software"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b/c.csv", "c.csv"),
        ("C:\\x\\y.csv", "y.csv"),
        ("~/z", "z"),
        ("a/b", "a/b"),
        ("see /a for b", "see /a for b"),
        (3, "3"),
    ],
)
def test_folders_are_cut(text, expected):
    assert report_methods.short_path(text) == expected


# --- figures -----------------------------------------------------------------------------------------------------------


def test_interactive_figures_are_valid(evidence, board):
    graph = pytest.importorskip("plotly.graph_objects")
    displays = {d.name: d for d in board_displays(evidence, board)}
    rows = tasks_of(board)[0]
    gaps = tasks_of(displays["gap-closed"].table)[0]
    wide = over_tasks(board).reset_index()
    specs = [
        report_specs.gap_bars(gaps),
        report_specs.fold_boxes(displays["folds-1"].table, rows),
        report_specs.heat_map(wide, "gap closed"),
    ]
    ranks = pd.DataFrame(
        {"embedding": list("abc"), "probe": "knn", "rank": [1, 2, 3], "rank_low": [1, 1, 2], "rank_high": [2, 3, 3]}
    )
    specs += [spec for _, spec in report_specs.interactive(fake("ranks", ranks, bars))]
    assert len(specs) == 4
    for spec in specs:
        text = json_in_html(spec)
        assert "<" not in text and json.loads(text) == spec
        graph.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_progress_bars_hold_the_gaps(evidence, board):
    gaps = tasks_of(next(d for d in board_displays(evidence, board) if d.name == "gap-closed").table)[0]
    spec = report_specs.gap_bars(gaps)
    assert spec["data"][1]["x"] == [0.25, 0.125, -0.0625, -0.125]
    assert spec["layout"]["yaxis"]["ticktext"][0] == f"{html.escape(NASTY, quote=False)}, knn"
    assert spec["data"][1]["marker"]["color"][-1] == "var(--control)"
    assert report_specs.gap_bars(gaps.assign(gap_closed=np.nan)) is None


def test_only_matrices_and_ranks_become_interactive():
    square = pd.DataFrame({"name": list("abc"), "a": [1.0, 0.5, 0.2], "b": [0.5, 1.0, -0.1], "c": [0.2, -0.1, 1.0]})
    ((_, spec),) = report_specs.interactive(fake("m", square, bars))
    assert spec["data"][0]["z"][1] == [0.5, 1.0, -0.1]
    assert not report_specs.interactive(fake("m", square))
    assert not report_specs.interactive(fake("m", square.rename(columns={"c": "d"}), bars))
    long = pd.DataFrame({"task": ["t", "t", "u"], "embedding": ["a", "b", "a"], "p_best": [0.9, 0.1, 1.0]})
    ((_, spec),) = report_specs.interactive(fake("chance-of-best", long, bars))
    assert spec["data"][0]["z"] == [[0.9, 1.0], [0.1, None]]
    assert not report_specs.interactive(fake("chance-of-best", pd.concat([long, long]), bars))


def test_static_figures_take_the_colours_of_the_page():
    svg = figure_html(fake("x", pd.DataFrame({"v": [1.0, 2.0]}), bars), "x")
    assert "currentColor" in svg and 'aria-label="Title of x"' in svg and "max-width" in svg and "#010203" not in svg


def test_heavy_figures_become_pictures(monkeypatch):
    from panmodal.insight import report_parts

    display = fake("x", pd.DataFrame({"v": [1.0, 2.0]}), bars)
    monkeypatch.setattr(report_parts, "HEAVIEST", 100)
    assert figure_html(display, "x").startswith('<img class="paper" alt="Title of x" src="data:image/png;base64,')
    monkeypatch.setattr(reporting, "FIGURES", 100)
    block = reporting.Block("x", "t", svg="<svg" + " " * 100_000)
    reporting._lighten([block], {"x": display})
    assert block.svg.startswith("<img")


def test_slim_leaves_the_text_alone():
    assert (
        slim('<p d="1.23456 -7.1"/><!-- 1.2345 > --><text>0.123456</text>') == '<p d="1.23 -7.1"/><text>0.123456</text>'
    )


def test_board_figures_are_drawn(evidence, board):
    for display in board_displays(evidence, board):
        if display.draw is not None:
            assert display.plot().axes, display.name
    undefined = board.assign(gap_closed=np.nan)
    names = [d.name for d in board_displays(evidence, undefined)]
    assert "gap-map" not in names
    assert next(d for d in board_displays(evidence, undefined) if d.name == "gap-closed").plot().axes


def test_labels_of_tasks_are_as_short_as_they_can_be(board, make_scores):
    assert list(task_labels(board).values()) == ["screen · A", "screen · B"]
    two = pd.concat([make_scores({("a", "knn"): [1.0]}), make_scores({("a", "knn"): [1.0]}, response="fitness")])
    assert list(task_labels(two).values()) == ["screen · ctx · lfc", "screen · ctx · fitness"]


def test_cells_and_tables():
    assert cell(np.nan) == cell(None) == ("–", "") and cell(True)[0] == "yes" and cell(np.inf)[0] == "∞"
    assert cell(0.123456) == ("0.1235", "0.123456") and cell(("a", "b"))[0] == "a, b"
    text = table_html(pd.DataFrame({"k": range(300)}), "c")
    assert text.count("<tr>") == 201 and "first 200 of 300 rows" in text
    assert download("t", pd.DataFrame({"k": range(9000)}))[0] == "t.csv.gz"


# --- writing -----------------------------------------------------------------------------------------------------------


def test_collect_refuses_unknown_sections(evidence, board, refuses):
    refuses(["no section 'nope'", "leaderboard", "ranks"], reporting.collect, evidence, board, ["nope"])


def test_folder_holds_page_tables_and_figures(report, evidence, tmp_path, refuses, monkeypatch):
    found = {
        "leaderboard": board_displays(evidence, report.board)[2:],
        "ranks": [fake("broken", pd.DataFrame({"v": [1.0]}), broken)],
        "x": "no",
    }
    monkeypatch.setattr(report_write, "collect", lambda *_: found)
    target = tmp_path / "out"
    written = report_write.write_folder(report, evidence, target, formats=("svg",))
    assert all(path.is_file() for path in written)
    assert {p.name for p in (target / "tables").iterdir()} == {f"{name}.csv" for name in report.tables}
    assert {p.name for p in (target / "figures").iterdir()} == {
        "leaderboard-gap-closed.svg",
        "leaderboard-gap-map.svg",
        "leaderboard-folds-1.svg",
        "leaderboard-folds-2.svg",
    }
    text = (target / "index.html").read_text(encoding="utf-8")
    for _, attrs in Page(text).tags:
        for name in ("href", "src"):
            where = attrs.get(name, "#")
            assert where.startswith(("#", "data:", "https://")) or (target / where).is_file(), where
    report_write.write_folder(report, evidence, target, formats=("svg",))  # again, over itself
    with pytest.raises(report_write.FigureError, match="ranks-broken"):
        list(report_write.write_figures(evidence, tmp_path / "f", formats=("svg",)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    refuses(["is no report"], report_write.write_folder, report, evidence, tmp_path / "other")
    with pytest.raises(InputError, match="no format 'gif'"):
        list(report_write.write_figures(evidence, tmp_path, formats=("gif",)))


def test_without_plotly_it_says_what_to_install(monkeypatch, refuses):
    report_write.plotly_js.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    refuses(["pip install plotly"], report_write.plotly_js)
    report_write.plotly_js.cache_clear()
