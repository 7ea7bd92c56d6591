"""Leaderboard, terminal, page and figure where perturbations and ceilings are there too."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from panmodal.insight.gaps import gap_table
from panmodal.insight.leaderboard import leaderboard, overall, summary
from panmodal.insight.page import render_page
from panmodal.insight.plots import fold_plot, to_svg
from panmodal.insight.terminal import interval, note_for, overall_table, task_tables

NASTY = '<b>[bold]&"x'
METHODS = {
    ("alpha", "knn"): [5.0, 5.5, 6.0],
    (NASTY, "knn"): [6.0, 6.5, 7.0],
    ("none", "train mean", "baseline"): [8.0, 8.5, 9.0],
    ("none", "no change", "baseline"): [9.0, 9.5, 10.0],
    ("random", "knn", "control"): [8.1, 8.4, 9.1],
    ("idealised", "knn", "oracle"): [4.0, 4.5, 5.0],
}
CEILINGS = {"experimental_error": 2.5, "disjoint_halves": 4.0, "replicate_batches": 8.5, "interpolated_duplicate": 3.5}
"""L2; the floor is 8.5, so that replicate batches are not better."""
PERTURBATIONS = 8


def spread(mean, seed):
    """Values of perturbations with exactly that mean."""
    values = np.random.default_rng(seed).standard_normal(PERTURBATIONS)
    return mean + 0.3 * (values - values.mean())


def rows_of(scores):
    """Perturbation values whose means are the scores."""
    whole = scores[scores["fallback"] == "filled"]
    wide = whole.pivot_table(index=["trial", "fold"], columns="metric", values="value", dropna=False).reset_index()
    wide = wide[wide["trial"].isin(whole["trial"])].dropna(subset="trial")
    parts = []
    for k, (_, row) in enumerate(wide.iterrows()):
        part = {
            "trial": row["trial"],
            "pert_id": [f"P{row['fold']}.{p}" for p in range(PERTURBATIONS)],
            "covered": True,
        }
        part |= {m: spread(row[m], k) for m in set(whole["metric"])}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True).dropna(how="all", subset=list(set(whole["metric"])))


def ceilings_of(levels=CEILINGS, metric="L2", folds=3, **task):
    labels = {"screen": "screen", "context": "ctx", "response": "lfc", "split": "unseen", **task}
    records = []
    for k, (name, level) in enumerate(levels.items()):
        for fold in range(folds):
            for p, value in enumerate(spread(level, 100 + 10 * k + fold)):
                records.append(
                    {
                        **labels,
                        "fold": fold,
                        "seed": 42,
                        "estimator": name,
                        "pert_id": f"P{fold}.{p}",
                        "n_draws": 3,
                        metric: value,
                    }
                )
    return pd.DataFrame(records)


@pytest.fixture(scope="module")
def scores(make_scores):
    return make_scores(METHODS)


@pytest.fixture(scope="module")
def tables(scores):
    return {"rows": rows_of(scores), "ceilings": ceilings_of()}


@pytest.fixture(scope="module")
def board(scores, tables):
    return leaderboard(scores, **tables)


def row(board, embedding, probe="knn"):
    chosen = board[(board["embedding"] == embedding) & (board["probe"] == probe)]
    assert len(chosen) == 1
    return chosen.iloc[0]


# --- leaderboard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "by", "value"),
    [
        (None, "experimental_error", 2.5),
        ("experimental_error", "experimental_error", 2.5),
        ("disjoint_halves", "disjoint_halves", 4.0),
        ("idealised", "idealised, knn", 4.5),
    ],
)
def test_the_ceiling_asked_for_is_the_one_measured_to(scores, tables, asked, by, value):
    board = leaderboard(scores, **tables, ceiling=asked)
    assert set(board["ceiling_by"]) == {by}
    np.testing.assert_allclose(board["ceiling"], value)
    for name, mean in (("alpha", 5.5), (NASTY, 6.5), ("idealised", 4.5)):
        own = row(board, name)
        assert own["gap_closed"] == pytest.approx((8.5 - mean) / (8.5 - value))
        if (name, asked) != ("idealised", "idealised"):
            assert own["gap_low"] < own["gap_closed"] < own["gap_high"]
    assert row(board, "none", "train mean")[["gap_low", "gap_closed", "gap_high"]].tolist() == [0, 0, 0]


def test_only_the_columns_of_the_ceiling_change(scores, tables, board):
    plain = leaderboard(scores)
    assert list(plain.columns) == list(board.columns)
    changed = ["ceiling", "ceiling_by", "gap_closed", "gap_low", "gap_high"]
    pd.testing.assert_frame_equal(plain.drop(columns=changed), board.drop(columns=changed))
    assert plain[["gap_low", "gap_high"]].isna().all(axis=None) and set(plain["ceiling_by"]) == {"idealised, knn"}
    rows_only = leaderboard(scores, rows=tables["rows"])
    gaps = ["ceiling", "gap_closed"]
    pd.testing.assert_frame_equal(plain[gaps], rows_only[gaps])
    assert set(rows_only["ceiling_by"]) == {"idealised, knn"} and rows_only["gap_low"].notna().all()


def test_intervals_are_those_of_the_gap_table(scores, tables, board):
    gaps = gap_table(scores, tables["rows"], tables["ceilings"], metrics=["L2"])
    gaps = gaps[gaps["estimator"] == "experimental_error"].set_index(["embedding", "probe"])
    own = board.set_index(["embedding", "probe"])
    columns = ["mean", "gap_closed", "gap_low", "gap_high"]
    pd.testing.assert_frame_equal(own[columns], gaps.loc[own.index, columns])


@pytest.mark.parametrize(
    ("undefined", "by"),
    [
        (["experimental_error"], "disjoint_halves"),
        (["experimental_error", "disjoint_halves", "replicate_batches"], "interpolated_duplicate"),
        (list(CEILINGS), "idealised, knn"),
    ],
)
def test_without_a_choice_the_first_defined_ceiling_counts(scores, tables, undefined, by):
    ceilings = tables["ceilings"].copy()
    ceilings.loc[ceilings["estimator"].isin(undefined), "L2"] = np.nan
    board = leaderboard(scores, rows=tables["rows"], ceilings=ceilings)
    assert set(board["ceiling_by"]) == {by} and board["ceiling"].notna().all()


def test_an_unknown_ceiling_is_named_with_those_there(scores, tables, refuses):
    refuses(["no ceiling 'halves' for screen, ctx", "'experimental_error', 'disjoint_halves'", "'idealised'"], leaderboard, scores,
            **tables, ceiling="halves")  # fmt: skip
    refuses(["no ceiling 'disjoint_halves' for screen, ctx", "there are 'idealised'"], leaderboard, scores, rows=tables["rows"],
            ceiling="disjoint_halves")  # fmt: skip


def test_a_ceiling_no_better_than_the_floor_leaves_the_gap_undefined(scores, tables):
    board = leaderboard(scores, rows=tables["rows"], ceilings=ceilings_of({"replicate_batches": 8.6}))
    assert board[["gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)
    assert set(board["ceiling_by"]) == {"replicate_batches"} and board["ceiling"].tolist() == pytest.approx([8.6] * 6)
    assert (board["rank"].dropna() == [1, 2]).all()


def test_each_task_has_its_own_ceiling(make_scores, scores, tables):
    other = make_scores(METHODS, context="other")
    other["trial"] = "other " + other["trial"]
    both = pd.concat([scores, other])
    rows = pd.concat([tables["rows"], rows_of(other)])
    board = leaderboard(both, rows=rows, ceilings=tables["ceilings"])
    by = board.groupby("context")["ceiling_by"].unique().map(list).to_dict()
    assert by == {"ctx": ["experimental_error"], "other": ["idealised, knn"]}
    own = board[board["context"] == "ctx"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, leaderboard(scores, **tables))


def test_a_metric_that_is_undefined_everywhere_leaves_a_board_of_undefined_scores(make_scores):
    """As discrimination is where each fold has one test perturbation."""
    undefined = {method: [np.nan] * 3 for method in METHODS}
    scores = make_scores(undefined, metric="PDS_L1")
    rows = pd.DataFrame({"trial": scores["trial"].unique(), "pert_id": "P", "covered": True, "PDS_L1": np.nan})
    plain = leaderboard(scores, metric="PDS_L1")
    assert plain["mean"].isna().all()
    board = leaderboard(scores, metric="PDS_L1", rows=rows)
    pd.testing.assert_frame_equal(plain[["embedding", "probe", "mean"]], board[["embedding", "probe", "mean"]])


def test_overall_averages_the_gaps_to_the_chosen_ceilings(board):
    table = overall(board).set_index("embedding")
    assert table["mean_gap_closed"].to_dict() == pytest.approx({"alpha": 0.5, NASTY: 1 / 3})


def test_scores_and_gaps_of_chosen_probes_are_over_the_same_ids():
    """Embedding b, run with the other probe only, does not cover half of the ids."""
    rng, rows, trials = np.random.default_rng(0), [], []
    methods = {("a", "knn"): 3, ("b", "ridge"): 2, ("none", "train mean"): 5, ("idealised", "knn"): 1}
    roles = {"none": "baseline", "idealised": "oracle"}
    for (embedding, probe), level in methods.items():
        values = level + rng.random(8)
        covered = np.arange(8) >= (4 if embedding == "b" else 0)
        rows.append(
            pd.DataFrame({"trial": embedding, "pert_id": [f"P{k}" for k in range(8)], "covered": covered, "L2": values})
        )
        for fallback, used in (("filled", slice(None)), ("covered", covered), ("common", slice(4, 8))):
            trials.append({
                "screen": "s", "context": "c", "response": "lfc", "split": "u", "fold": 0, "seed": 42, "modality": "m",
                "simulated": False, "embedding": embedding, "probe": probe, "role": roles.get(embedding, "embedding"),
                "trial": embedding, "metric": "L2", "fallback": fallback, "value": values[used].mean(), "n_test": 8,
                "n_covered": int(covered.sum()),
            })  # fmt: skip
    board = leaderboard(pd.DataFrame(trials), rows=pd.concat(rows), fallback="common", probes=["knn"])
    own = row(board, "a")
    assert own["gap_closed"] == pytest.approx((own["floor"] - own["mean"]) / (own["floor"] - own["ceiling"]))


# --- sentences -------------------------------------------------------------------------------------------------------


def test_sentence_with_ceiling_and_interval(scores, tables, board):
    (sentence,) = summary(board)
    best = row(board, "alpha")
    low, high = round(100 * best["gap_low"]), round(100 * best["gap_high"])
    assert low < 50 < high
    assert sentence.endswith(
        f"; 50 % of the gap to the experimental error ceiling is closed (95 % interval {low} to {high} %)."
    )
    (sentence,) = summary(leaderboard(scores, **tables, ceiling="disjoint_halves"))
    assert "; 67 % of the gap to the disjoint halves ceiling is closed (95 % interval " in sentence


def test_sentence_of_the_oracle(scores, tables):
    (sentence,) = summary(leaderboard(scores, rows=tables["rows"]))
    assert "; 75 % of the gap to the idealised oracle is closed (95 % interval " in sentence
    (sentence,) = summary(leaderboard(scores))
    assert sentence.endswith("; 75 % of the gap to the idealised oracle is closed.")


def test_sentence_of_an_undefined_gap(scores, tables):
    (sentence,) = summary(leaderboard(scores, rows=tables["rows"], ceilings=ceilings_of({"replicate_batches": 9.25})))
    assert sentence.endswith(
        "; gap closed is undefined: the replicate batches ceiling (9.25) is not better than the floor, the noise being as large as "
        "the responses."
    )
    assert "interval" not in sentence and "% of the gap" not in sentence


# --- terminal --------------------------------------------------------------------------------------------------------


def printed(table, width=220):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_interval_column_is_there_where_there_are_intervals(scores, board):
    (table,) = task_tables(board)
    heads = [column.header for column in table.columns]
    assert heads == ["rank", "embedding", "probe", "L2", "± sd", "gap closed", "95 % interval", "above floor", "coverage",
                     "common"]  # fmt: skip
    shown = dict(zip(table.columns[1].cells, table.columns[6].cells, strict=True))
    best = row(board, "alpha")
    assert shown["alpha"] == f"{best['gap_low']:.2f} … {best['gap_high']:.2f}"
    assert list(table.columns[5].cells)[list(table.columns[1].cells).index("alpha")] == "0.500"
    (table,) = task_tables(leaderboard(scores))
    assert "95 % interval" not in [column.header for column in table.columns]


def test_interval_is_empty_where_undefined(board):
    board = board.copy()
    board.loc[board["embedding"] == "alpha", ["gap_low", "gap_high"]] = np.nan
    (table,) = task_tables(board)
    assert dict(zip(table.columns[1].cells, table.columns[6].cells, strict=True))["alpha"] == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.123, 0.456, "0.12 … 0.46"), (-0.5, 1.25, "-0.50 … 1.25"), (-0.001, 0.001, "0.00 … 0.00"), (np.nan, np.nan, "")],
)
def test_interval(low, high, expected):
    given = {"gap_low": low, "gap_high": high}
    assert interval(given) == expected
    assert interval(next(pd.DataFrame([given]).itertuples())) == expected


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (None, "ceiling: the experimental error ceiling, 2.500; floor: train mean, 8.500"),
        ("disjoint_halves", "ceiling: the disjoint halves ceiling, 4.000; floor: train mean, 8.500"),
        ("idealised", "ceiling: the idealised oracle, 4.500; floor: train mean, 8.500"),
    ],
)
def test_caption_names_ceiling_and_floor(scores, tables, asked, says):
    (table,) = task_tables(leaderboard(scores, **tables, ceiling=asked))
    assert says in printed(table)


def test_no_caption_without_a_ceiling(make_scores):
    (table,) = task_tables(leaderboard(make_scores({("a", "knn"): [1.0, 2.0]})))
    assert table.caption is None


def test_note_speaks_of_the_oracle_only_where_it_is_the_ceiling(scores, tables, board):
    oracle = "idealised oracle, where it is the ceiling, has seen the answers; panmodal ceiling makes"
    assert "95 % interval over perturbations" in note_for(board) and oracle not in note_for(board)
    assert oracle in note_for(leaderboard(scores)) and oracle in note_for(
        leaderboard(scores, **tables, ceiling="idealised")
    )


def test_markup_in_names_is_shown_as_it_is(make_scores):
    methods = {k if k[1] != "train mean" else ("none", "[red]mean", "baseline"): v for k, v in METHODS.items()}
    methods = {k if k[0] != "idealised" else ("idealised", "[red]knn", "oracle"): v for k, v in methods.items()}
    scores = make_scores(methods, screen="[red]s")
    board = leaderboard(scores, rows=rows_of(scores), ceilings=ceilings_of({"[red]way": 3.0}, screen="[red]s"))
    text = printed(task_tables(board)[0])
    assert NASTY in text and "ceiling: the [red]way ceiling, 3.000; floor: [red]mean, 8.500" in text
    assert NASTY in printed(overall_table(board))


# --- page and figure -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
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


@pytest.fixture(scope="module")
def source(scores, tables):
    return render_page(scores, **tables)


def cells_of(table):
    """Texts of a table's rows."""
    return [[html.unescape(re.sub(r"<[^>]+>", "", c)).strip() for c in re.findall(r"<t[dh].*?</t[dh]>", line)]
            for line in table.splitlines() if "<td" in line or "<th " in line or "<th>" in line]  # fmt: skip


def by_each(source):
    found = re.findall(r"<h3>Gap closed by each ceiling</h3>(.*?)</table>", source, re.DOTALL)
    return [cells_of(t) for t in found]


def test_gaps_of_the_page_have_intervals_in_brackets(source, board):
    body = re.findall(r'<section id="task-1">.*?<tbody>(.*?)</tbody>', source, re.DOTALL)[0]
    shown = {c[1]: c[6] for c in cells_of(body)}
    for name in ("alpha", NASTY):
        own = row(board, name)
        assert shown[name] == f"{own['gap_closed']:.3f} ({own['gap_low']:.2f} … {own['gap_high']:.2f})"
    text = "".join(Page(source).text)
    assert "Gap closed: from the floor to the experimental error ceiling; in brackets the 95 % interval" in text


def test_page_without_perturbations_has_neither_intervals_nor_ceilings(scores):
    source = render_page(scores)
    assert " … " not in source and "Gap closed by each ceiling" not in source and "gaps.csv" not in source
    assert "Gap closed: from the floor to the idealised oracle" in source and "<dt>ceiling" not in source


def test_table_of_each_ceiling(source, scores, tables):
    (table,) = by_each(source)
    head, *body = table
    assert head == ["embedding", "probe", "experimental error (2.500)", "disjoint halves (4.000)", "replicate batches (8.500)",
                    "interpolated duplicate (3.500)", "idealised oracle (4.500)"]  # fmt: skip
    gaps = gap_table(scores, tables["rows"], tables["ceilings"])
    assert [line[:2] for line in body] == [["alpha", "knn"], [NASTY, "knn"]]
    for line, mean in zip(body, (5.5, 6.5), strict=True):
        for cell, name in zip(line[2:], [*CEILINGS, "idealised"], strict=True):
            own = row(gaps[gaps["estimator"] == name], line[0])
            if name == "replicate_batches":
                assert cell == "–"
                continue
            value = {**CEILINGS, "idealised": 4.5}[name]
            expected = f"{(8.5 - mean) / (8.5 - value):.3f} ({own['gap_low']:.2f} … {own['gap_high']:.2f})"
            assert cell == expected


def test_no_table_of_each_ceiling_where_there_is_one(scores, tables):
    assert by_each(render_page(scores, rows=tables["rows"])) == []
    assert len(by_each(render_page(scores, rows=tables["rows"], ceilings=ceilings_of({"disjoint_halves": 4.0})))) == 1


def test_the_table_of_each_ceiling_and_the_leaderboard_agree_with_chosen_probes(make_scores):
    """The oracle is that of the probes chosen, in both tables and in the download."""
    methods = METHODS | {("idealised", "ridge", "oracle"): [2.0, 2.5, 3.0], ("alpha", "ridge"): [6.0, 6.0, 6.0]}
    scores = make_scores(methods)
    source = render_page(scores, rows=rows_of(scores), ceilings=ceilings_of({"disjoint_halves": 4.0}), probes=["knn"])
    ((head, *body),) = by_each(source)
    assert [line[:2] for line in body] == [["alpha", "knn"], [NASTY, "knn"]]
    assert head[-1] == "idealised oracle (4.500)"


def test_gaps_download_is_the_gap_table(source, scores, tables, board):
    links = {a["download"]: a["href"] for tag, a in Page(source).tags if tag == "a" and "download" in a}
    assert list(links) == ["leaderboard.csv", "overall.csv", "gaps.csv"]
    expected = {
        "gaps.csv": gap_table(scores, tables["rows"], tables["ceilings"], metrics=["L2"]),
        "leaderboard.csv": board,
    }
    for name, table in expected.items():
        found = pd.read_csv(io.BytesIO(base64.b64decode(links[name].split(",", 1)[1])))
        pd.testing.assert_frame_equal(found, pd.read_csv(io.StringIO(table.to_csv(index=False))))
    assert len(expected["gaps.csv"]) == 6 * 5


def test_ceilings_are_explained(source):
    terms = dict(re.findall(r"<dt>ceiling (\w+)</dt><dd>(.*?)</dd>", source))
    assert list(terms) == list(CEILINGS)
    stepped = {name for name, text in terms.items() if "Spearman-Brown" in text}
    assert stepped == {"disjoint_halves", "replicate_batches"}
    assert "two-stage bootstrap" in terms["experimental_error"]


def test_the_ceiling_asked_for_reaches_the_page(scores, tables):
    source = render_page(scores, **tables, ceiling="disjoint_halves")
    assert "from the floor to the disjoint halves ceiling" in source and "gap to the disjoint halves ceiling" in source


def test_page_is_the_same_for_the_same_tables_and_names_stay_escaped(source, scores, tables):
    assert render_page(scores, **tables) == source
    page = Page(source)
    assert not {tag for tag, _ in page.tags} & {"b"}
    assert "<b>[bold]" not in source and "".join(page.text).count(NASTY) >= 4
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_names_with_markup_are_escaped_in_the_new_places(make_scores):
    methods = {k if k[0] != "idealised" else ("idealised", "<i>knn", "oracle"): v for k, v in METHODS.items()}
    methods = {k if k[1] != "train mean" else ("none", "<i>mean", "baseline"): v for k, v in methods.items()}
    scores = make_scores(methods, screen="<i>s")
    options = {"rows": rows_of(scores), "ceilings": ceilings_of(screen="<i>s")}
    page = Page(render_page(scores, **options, ceiling="idealised", title="<i>"))
    assert not {tag for tag, _ in page.tags} & {"i", "b"}
    text = "".join(page.text)
    assert "<i>s, ctx" in text and "floor 8.5 by <i>mean" in text and "floor (<i>mean)" in text


@pytest.mark.parametrize(
    ("asked", "name", "at"),
    [("disjoint_halves", "disjoint halves ceiling", 4.0), ("idealised", "idealised oracle", 4.5), ("interpolated_duplicate", "interpolated duplicate ceiling", 3.5)],
)  # fmt: skip
def test_figure_names_the_ceiling(scores, tables, asked, name, at):
    figure = fold_plot(scores, leaderboard(scores, **tables, ceiling=asked))
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert lines == pytest.approx([at]) and labels == ["knn", "floor (train mean)", name]


def test_figure_points_to_a_ceiling_far_away(scores, tables):
    board = leaderboard(scores, rows=tables["rows"], ceilings=ceilings_of({"disjoint_halves": -90.0}))
    figure = fold_plot(scores, board)
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert "◀ disjoint halves ceiling -90" in [t.get_text() for t in figure.axes[0].texts]
    assert figure.axes[0].get_xlim()[0] > 0 and "disjoint halves" in to_svg(figure, "t")
