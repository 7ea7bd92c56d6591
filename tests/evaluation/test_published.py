"""Scores of others: read, placed beside our own, and laid out as in the paper."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import cli_import
from panmodal.errors import InputError, StoreError
from panmodal.evaluation.evidence import read_evidence
from panmodal.evaluation.imported import keep_imported, write_imported
from panmodal.evaluation.layouts import PUBLISHED, read_layout
from panmodal.evaluation.published import import_scores
from panmodal.evaluation.store import Store
from panmodal.insight.evidence import Evidence
from panmodal.insight.leaderboard import leaderboard, summary
from panmodal.insight.paper import (
    best_single,
    context_table,
    fusion_table,
    part,
    protocol_table,
)
from panmodal.insight.paper_figures import displays, family_sentences, fusion_sentences, rank_sentences
from panmodal.insight.paper_ranks import family_table, rank_table

LINES = ("A", "B", "C")
LEVELS = {  # method: label, family, probe, L2 above the line's level
    "no change baseline": ("No Change", "Negative Control", "", 3.0),
    "context mean baseline": ("Train Mean", "Negative Control", "", 2.0),
    "random": ("Random Embeddings", "Negative Control", "knn", 2.1),
    "pca": ("Idealised", "Positive Control", "knn", 0.1),
    "net1_(D=4)": ("Net 1", "Network", "knn", 1.0),
    "net2_(D=4)": ("Net 2", "Network", "knn", 1.2),
    "seq1_(D=4)": ("Seq 1", "Protein", "knn", 1.6),
    "seq2_(D=4)": ("Seq 2", "Protein", "knn", 1.7),
    "plain_(D=4)": ("", "", "knn", 0.9),
    "Fused": ("Fusion (Full)", "Fusion", "", 0.7),
    "Experimental error (quantile 0.9)": ("Experimental Error", "Positive Control", "", 0.5),
}


def wide(*, seed=0, noise=0.02, lines=LINES, levels=LEVELS, table="main") -> pd.DataFrame:
    """Make a table of the published format with planted levels."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "source_table": table, "dataset": "toy", "task": "lfc", "cell_line": line, "fold_id": fold, "probe": probe,
            "method": method, "label": label, "family": family, "quantile": np.nan, "L2": 5 + k + above + rng.normal(0, noise),
            "Pearson": np.nan if "no change" in method or "error" in method else 1 / (1 + above), "roc_auc": 0.4,
        }
        for k, line in enumerate(lines) for fold in range(5) for method, (label, family, probe, above) in levels.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).replace("", np.nan)


def limits(*, lines=LINES, table=None) -> pd.DataFrame:
    """Make experimental errors of perturbations whose means fit the ceilings of the folds."""
    return pd.DataFrame([
        {"quantile": q, "L2": 5.5 + k + 2 * (q - 0.9), "Pearson": 0.8 + (q - 0.1) / 10, "pert_id": f"P{p}", "dataset": "toy",
         "cell_line": line}
        for k, line in enumerate(lines) for p in range(4) for q in (0.1, 0.5, 0.9)
    ])  # fmt: skip


@pytest.fixture
def save(tmp_path):
    def write(frame, name="given.csv"):
        frame.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write


@pytest.fixture
def toy_scores(save):
    return import_scores(save(wide()))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_rows_get_our_names_and_roles(toy_scores):
    scores = toy_scores.scores
    kinds = scores.drop_duplicates(["embedding", "probe"]).set_index(["embedding", "probe"])[["role", "modality"]]
    assert kinds.loc[("none", "no change")].tolist() == ["baseline", "baseline"]
    assert kinds.loc[("none", "train mean")].tolist() == ["baseline", "baseline"]
    assert kinds.loc[("random", "knn")].tolist() == ["control", "control"]
    assert kinds.loc[("idealised", "knn")].tolist() == ["oracle", "oracle"]
    assert kinds.loc[("Net 1", "knn")].tolist() == ["embedding", "Network"]
    assert kinds.loc[("Fusion (Full)", "own model")].tolist() == ["embedding", "Fusion"]
    assert kinds.loc[("plain_(D=4)", "knn")].tolist() == ["embedding", "not stated"]
    assert set(scores["screen"]) == {"toy (published)"}
    assert set(scores["fallback"]) == {"filled"}
    assert set(scores["seen"]) == {"unknown"}
    assert scores["trial"].str.startswith("imported-").all()
    assert scores.groupby("trial")[["embedding", "fold"]].nunique().eq(1).all(axis=None)


def test_what_is_not_known_stays_so(toy_scores):
    assert toy_scores.scores[["n_test", "n_covered", "n_scored", "n_undefined"]].isna().all(axis=None)
    assert toy_scores.ceilings["n_draws"].isna().all()


def test_every_value_is_a_row_or_accounted_for(toy_scores):
    given = wide()
    ceilings = given["method"].str.startswith("Exp")
    n = int(given.loc[~ceilings, ["L2", "Pearson"]].notna().sum().sum())
    assert len(toy_scores.scores) == n
    assert toy_scores.scores["value"].notna().all()
    notes = " ".join(toy_scores.notes)
    assert "165 values of roc_auc" in notes
    assert "Pearson of 15 results" in notes
    assert "1 methods have no family" in notes


def test_values_are_taken_as_they_are(toy_scores):
    given = wide().query("method == 'net1_(D=4)' and cell_line == 'B'").set_index("fold_id")["L2"]
    ours = toy_scores.scores.query("embedding == 'Net 1' and context == 'B' and metric == 'L2'").set_index("fold")[
        "value"
    ]
    np.testing.assert_array_equal(ours.sort_index(), given.sort_index())


def test_ceilings_are_of_folds(toy_scores):
    found = toy_scores.ceilings
    assert set(found["estimator"]) == {"experimental_error"}
    assert (found["pert_id"] == "").all()
    assert len(found) == 15
    given = wide().query("method.str.startswith('Exp')").groupby("cell_line")["L2"].mean()
    np.testing.assert_allclose(found.groupby("context")["L2"].mean(), given)


def test_a_table_with_the_same_baselines_joins_and_twins_merge(save):
    other = {m: LEVELS[m] for m in ("no change baseline", "context mean baseline", "net1_(D=4)")}
    other["new_(D=4)"] = ("New", "Network", "knn", 1.4)
    main, second = wide(noise=0), wide(noise=0, levels=other, table="second")
    made = import_scores(save(pd.concat([main, second])))
    assert set(made.scores["screen"]) == {"toy (published)"}
    assert not made.scores.duplicated(["context", "fold", "embedding", "probe", "metric"]).any()
    assert "New" in set(made.scores["embedding"])
    assert "taken once: 45 results" in " ".join(made.notes)


def test_different_values_are_kept_apart_by_the_name_of_their_table(save):
    other = {m: LEVELS[m] for m in ("no change baseline", "context mean baseline")}
    other["net1_(D=4)"] = ("Net 1", "Network", "knn", 1.01)
    made = import_scores(save(pd.concat([wide(noise=0), wide(noise=0, levels=other, table="second")])))
    assert {"Net 1 (main)", "Net 1 (second)"} <= set(made.scores["embedding"])
    assert "Net 1" not in set(made.scores["embedding"])
    assert "'net1_(D=4)'" in next(n for n in made.notes if "kept apart by the name" in n)


def test_a_table_with_other_baselines_is_a_screen_apart(save):
    made = import_scores(
        save(pd.concat([wide(), wide(seed=1, levels={k: LEVELS[k] for k in list(LEVELS)[:5]}, table="small")]))
    )
    assert set(made.scores["screen"]) == {"toy (published)", "toy (published, small)"}
    assert "small has other values for the same baselines" in " ".join(made.notes)


def test_ceilings_without_context_go_to_the_only_one(save):
    frame = wide(lines=("A",))
    frame.loc[frame["method"].str.startswith("Exp"), "cell_line"] = np.nan
    made = import_scores(save(frame))
    assert set(made.ceilings["context"]) == {"A"}
    assert "there is one, A" in " ".join(made.notes)


def test_ceilings_without_context_are_placed_by_their_errors_or_left_out(save):
    frame = wide()
    is_ceiling = frame["method"].str.startswith("Exp")
    expected = frame[is_ceiling].set_index(["cell_line", "fold_id"])["L2"].sort_index()
    frame.loc[is_ceiling, "cell_line"] = np.nan
    path = save(frame)
    alone = import_scores(path)
    assert alone.ceilings is None
    assert "Left out: 15 ceilings" in " ".join(alone.notes)
    made = import_scores(path, errors=save(limits(), "errors.csv"))
    np.testing.assert_array_equal(made.ceilings.set_index(["context", "fold"])["L2"].sort_index(), expected)
    assert "in the order of the file, A, B, C" in " ".join(made.notes)
    # Two contexts that cannot be told apart.
    alike = limits()
    alike.loc[alike["cell_line"] == "B", "L2"] = alike.loc[alike["cell_line"] == "A", "L2"].to_numpy() * 1.001
    assert import_scores(path, errors=save(alike, "alike.csv")).ceilings is None


def test_errors_give_ceilings_of_more_metrics(save):
    made = import_scores(save(wide()), errors=save(limits(), "errors.csv"))
    assert made.ceilings["Pearson"].to_numpy() == pytest.approx(0.8)  # higher is better: the 0.1 quantile
    other = limits().assign(L2=lambda f: f["L2"] * 1.5)
    assert "Pearson" not in import_scores(save(wide()), errors=save(other, "other.csv")).ceilings


def test_a_layout_describes_another_table(save, tmp_path, refuses):
    frame = pd.DataFrame({
        "line": ["A"] * 4, "fold": [0, 0, 1, 1], "model": ["mean", "mine"] * 2, "error": [3.0, 2.0, 3.1, 2.1],
    })  # fmt: skip
    layout = tmp_path / "layout.yaml"
    layout.write_text(
        "screen: '=lab'\nresponse: '=lfc'\ncontext: line\nfold: fold\nmethod: model\nmetrics: {error: L2}\n"
        "baselines: {mean: train mean}\nmark: lab report\n"
    )
    made = import_scores(save(frame), layout=read_layout(layout)).scores
    assert set(made["screen"]) == {"lab (lab report)"}
    assert set(zip(made["embedding"], made["probe"], strict=True)) == {("none", "train mean"), ("mine", "own model")}
    for text, says in (
        ("colour: red", ["'colour'", "baselines"]),
        ("metrics: L2", ["metrics must be a mapping"]),
        ("control_families: x", ["control_families must be a list"]),
        ("context: 3", ["context must be text"]),
    ):
        layout.write_text(text)
        refuses(says, read_layout, layout)


def test_a_tidy_table_is_read(save, make_scores, refuses):
    full = make_scores({("good", "knn"): [1.0, 1.1], ("none", "train mean", "baseline"): [2.0, 2.1]})
    made = import_scores(save(full))
    assert set(made.scores["screen"]) == {"screen (imported)"}
    assert made.notes == ()
    assert len(made.scores) == len(full)
    short = full[full["fallback"] == "filled"][
        ["screen", "context", "response", "fold", "embedding", "probe", "metric", "value"]
    ]
    made = import_scores(save(short), mark="theirs")
    assert set(made.scores["screen"]) == {"screen (theirs)"}
    assert made.scores["n_covered"].isna().all()
    assert set(made.scores.loc[made.scores["embedding"] == "none", "role"]) == {"baseline"}
    assert "No column role" in made.notes[0]
    for change, says in (
        ({"metric": "L3"}, ["'L3'", "L2"]),
        ({"value": "high"}, ["'value'", "'high'"]),
        ({"value": np.inf}, ["'value'", "infinite"]),
        ({"fold": 0.5}, ["'fold'", "no fold"]),
        ({"context": np.nan}, ["'context'", "empty"]),
        ({"fold": 0}, ["more than once"]),
    ):
        refuses(says, import_scores, save(short.assign(**change)))
    refuses(["errors.csv", "tidy"], import_scores, save(short), errors=save(limits(), "errors.csv"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="fold_id"), ["neither a tidy score table", "fold_id", "--columns"]),
        (lambda f: f.drop(columns="family"), ["no column 'family'"]),
        (lambda f: f.drop(columns=["L2", "Pearson"]), ["no column of a metric"]),
        (lambda f: f.assign(fold_id=0.5), ["'fold_id'", "no fold"]),
        (lambda f: f.assign(task="size"), ["'size'"]),
        (lambda f: f.assign(task="deg"), ["L2", "deg"]),
        (lambda f: f.assign(L2="wide"), ["'L2'", "'wide'"]),
        (lambda f: f.assign(L2=np.inf), ["'L2'", "infinite"]),
        (lambda f: f.assign(cell_line=np.nan), ["no cell_line", "no change baseline"]),
        (lambda f: f.assign(method=np.nan), ["method is empty"]),
        (lambda f: f[f["method"].str.startswith("Exp")], ["only ceilings"]),
        (lambda f: pd.concat([f, f.assign(L2=f["L2"] + 1)]), ["different values", "no change baseline"]),
        (lambda f: f.assign(family=[f"F{k}" if m == "net1_(D=4)" else v for k, (m, v) in enumerate(zip(f["method"], f["family"], strict=True))]),
         ["Net 1", "several families"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(change, says, save, refuses):
    refuses(["given.csv", *says], import_scores, save(change(wide())))


def test_errors_are_checked(save, refuses):
    path = save(wide())
    refuses(["e.csv", "'pert_id'"], import_scores, path, errors=save(limits().drop(columns="pert_id"), "e.csv"))
    refuses(["e.csv", "more than once"], import_scores, path, errors=save(pd.concat([limits(), limits()]), "e.csv"))
    refuses(["e.csv", "'L2'", "'big'"], import_scores, path, errors=save(limits().assign(L2="big"), "e.csv"))


def test_several_methods_under_one_label_keep_their_names(save):
    frame = wide()
    frame.loc[frame["method"] == "net2_(D=4)", "label"] = "Net 1"
    made = import_scores(save(frame))
    assert {"Net 1 [net1_(D=4)]", "Net 1 [net2_(D=4)]"} <= set(made.scores["embedding"])


# --- a folder --------------------------------------------------------------------------------------------------------


def test_a_new_folder_can_be_read(toy_scores, tmp_path):
    write_imported(toy_scores, tmp_path / "r")
    found = read_evidence(tmp_path / "r")
    pd.testing.assert_frame_equal(found.scores, toy_scores.scores)
    assert len(found.ceilings) == 15
    assert len(found.tasks) == 3


def test_imported_scores_stand_beside_own_ones_and_stay(toy_scores, toy, tmp_path, refuses):
    from panmodal import run

    screen, embeddings = toy()
    out = tmp_path / "r"
    own = run(screen, embeddings, out, probes=["knn"], n_jobs=1).scores
    write_imported(toy_scores, out, "paper")
    both = Store(out).scores()
    assert len(both) == len(own) + len(toy_scores.scores)
    mine = both[both["screen"] == "toy"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, own, check_dtype=False)
    write_imported(toy_scores, out, "paper")  # the same again
    assert len(Store(out).scores()) == len(both)
    refuses(["'toy (published)'", "--mark"], write_imported, toy_scores, out, "other")
    # What a later run compiles is completed by what was imported.
    Store(out).write_table("scores", own)
    keep_imported(Store(out))
    assert len(Store(out).scores()) == len(both)
    assert len(Store(out).ceilings()) == 15


def test_a_screen_of_the_same_name_is_refused(make_scores, save, toy, tmp_path, refuses):
    from panmodal import run

    screen, embeddings = toy()
    run(screen, embeddings, tmp_path / "r", probes=["knn"], n_jobs=1)
    frame = make_scores({("x", "knn"): [1.0]}, screen="toy")
    made = import_scores(save(frame))
    made.scores["screen"] = "toy"
    refuses(["'toy'"], write_imported, made, tmp_path / "r")


def test_tables_and_places_that_are_none(toy_scores, tmp_path, refuses):
    written = write_imported(toy_scores, tmp_path / "s.csv")
    assert [p.name for p in written] == ["s.csv", "s.ceilings.csv"]
    again = import_scores(tmp_path / "s.csv", mark="published").scores
    pd.testing.assert_frame_equal(again, toy_scores.scores, check_dtype=False)
    assert len(pd.read_parquet(write_imported(toy_scores, tmp_path / "s.parquet")[1])) == 15
    refuses([".xlsx"], write_imported, toy_scores, tmp_path / "s.xlsx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refuses(["not a results folder"], write_imported, toy_scores, tmp_path / "full", error=StoreError)


def test_the_leaderboard_takes_imported_results(toy_scores, tmp_path):
    write_imported(toy_scores, tmp_path / "r")
    store = Store(tmp_path / "r")
    board = leaderboard(store.scores(), **store.evidence())
    assert board["coverage"].isna().all()
    assert board["n_test"].isna().all()
    one = board[(board["context"] == "A") & (board["embedding"] == "Net 1")].iloc[0]
    assert one["ceiling_by"] == "experimental_error"
    assert one["gap_closed"] == pytest.approx((one["floor"] - one["mean"]) / (one["floor"] - one["ceiling"]))
    assert np.isnan(one["gap_low"])  # there is nothing to resample
    assert not any("perturbations were tested" in s for s in summary(board))
    with pytest.raises(InputError, match="common"):
        leaderboard(store.scores(), fallback="common")


def test_the_terminal_shows_unknown_coverage(toy_scores, tmp_path, cli):
    write_imported(toy_scores, tmp_path / "r")
    printed = cli("leaderboard", tmp_path / "r", "--html", tmp_path / "b.html")
    assert "unknown" in printed
    assert "100 %" not in printed.split("Over tasks")[0]
    assert "nan" not in printed
    assert "unknown" in (tmp_path / "b.html").read_text()


def test_the_command_reads_writes_and_draws(save, tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    cli_import.register(app)
    call = ["import-scores", str(save(wide())), "--out", str(tmp_path / "r"), "--figures", str(tmp_path / "f")]
    done = CliRunner().invoke(app, [*call, "--errors", str(save(limits(), "errors.csv"))])
    assert done.exit_code == 0, done.output
    assert "methods" in done.output and "comes first" in done.output
    assert len(read_evidence(tmp_path / "r").scores)
    names = {p.name for p in (tmp_path / "f").iterdir()}
    assert {
        "ranks.png",
        "families.svg",
        "fusion.png",
        "contexts-toy-published-lfc.svg",
        "protocol-toy-published-lfc.csv",
    } <= names


# --- as in the paper -------------------------------------------------------------------------------------------------


def test_the_protocol_table_is_of_medians(toy_scores):
    table = protocol_table(toy_scores.scores, toy_scores.ceilings, screen="toy (published)", single="Net 1")
    given = wide().groupby(["method", "cell_line"])["L2"].median().unstack()
    np.testing.assert_allclose(table.loc["train mean"], given.loc["context mean baseline"])
    gap = (given.loc["context mean baseline"] - given.loc["net1_(D=4)"]) / (
        given.loc["context mean baseline"] - given.loc["Experimental error (quantile 0.9)"]
    )
    np.testing.assert_allclose(table.loc["Net 1: gap closed"].astype(float), gap)
    means = protocol_table(
        toy_scores.scores, toy_scores.ceilings, screen="toy (published)", single=None, average="mean"
    )
    assert "Net 1" in means.index
    np.testing.assert_allclose(
        means.loc["Net 1"], wide().groupby(["method", "cell_line"])["L2"].mean().unstack().loc["net1_(D=4)"]
    )


def test_the_best_single_embedding_has_a_family_and_no_fusion(toy_scores):
    assert best_single(part(toy_scores.scores, "toy (published)")) == "Net 1"  # plain_(D=4) and the fusion are better


def test_planted_families_are_ranked(toy_scores):
    table = family_table(toy_scores.scores, draws=200)
    assert table["family"].tolist() == ["Network", "Protein"]
    assert table["typical"].tolist() == pytest.approx([1 / 6, 5 / 6])
    assert table["first"].tolist() == [1.0, 0.0]
    assert table["leads"].tolist() == [1.0, 0.0]
    assert table["best"].tolist() == ["Net 1", "Seq 1"]
    (sentence,) = family_sentences(table)
    assert "Network (2 embeddings) comes first clearly" in sentence
    assert "100 %" in sentence
    pd.testing.assert_frame_equal(table, family_table(toy_scores.scores, draws=200))


def test_families_without_a_difference_are_not_told_apart(save):
    levels = {**LEVELS, **{f"{k}{n}": (f"{k}{n}", k, "knn", 1.0) for k in ("P", "Q") for n in range(3)}}
    levels = {k: v for k, v in levels.items() if v[1] not in ("Network", "Protein")}
    table = family_table(import_scores(save(wide(noise=0.3, levels=levels, seed=4))).scores)
    assert 0.05 < table["first"].iloc[0] < 0.95
    assert "clearly" not in family_sentences(table)[0]
    assert (table["low"] <= table["high"]).all()


def test_embeddings_are_ranked_over_screens_that_share_them(save):
    second = wide(seed=2, lines=("D",)).assign(dataset="more").query("method != 'seq2_(D=4)'")
    made = import_scores(save(pd.concat([wide(), second])))
    table = rank_table(made.scores, draws=100)
    whole = table[table["group"] == "all"]
    assert whole["embedding"].tolist() == ["Net 1", "Net 2", "Seq 1"]  # Seq 2 is not on both
    assert whole["n_contexts"].tolist() == [4] * 3
    assert whole["mean_rank"].tolist() == pytest.approx([0, 0.5, 1])
    assert "Net 1 (Network) comes first clearly" in rank_sentences(table)[0]
    apart = rank_table(made.scores, joined=False, draws=100)
    assert apart.groupby("set").size().to_dict() == {"toy (published), lfc": 4, "more (published), lfc": 3}


def test_fusion_is_compared_with_the_best_single_embedding(toy_scores):
    table = fusion_table(toy_scores.scores, toy_scores.ceilings, draws=200)
    assert set(table["kind"]) == {"single", "fusion"}
    fused = table[table["kind"] == "fusion"]
    assert (fused["better"] == 5).all()
    assert (fused["low"] <= fused["gap_closed"]).all() and (fused["gap_closed"] <= fused["high"]).all()
    assert fused["gap_closed"].to_numpy() == pytest.approx(1.3 / 1.5, abs=0.05)
    (sentence,) = fusion_sentences(table)
    assert "in 3 of 3 contexts" in sentence and "in 15 of 15 folds" in sentence


def test_a_ceiling_below_the_floor_closes_nothing(save):
    levels = {**LEVELS, "Experimental error (quantile 0.9)": ("", "", "", 4.0)}
    made = import_scores(save(wide(levels=levels)))
    table = fusion_table(made.scores, made.ceilings, draws=50)
    assert table["gap_closed"].isna().all() and table["low"].isna().all()
    assert "in 3 the ceiling is no better than the floor" in fusion_sentences(table)[0]
    for display in displays(Evidence(made.scores, ceilings=made.ceilings)):
        if display.draw:
            display.plot().canvas.draw()


def test_many_contexts_are_drawn_together(save):
    made = import_scores(save(wide(lines=tuple("ABCDEFGH"))))
    table = context_table(made.scores, made.ceilings, "toy (published)")
    assert set(table["context"]) == {"8 contexts"}
    assert set(table["shown"]) == {"gap closed, L2"}
    assert table.query("embedding == 'Net 1'")["value"].to_numpy() == pytest.approx(1 / 1.5, abs=0.05)
    for display in displays(Evidence(made.scores, ceilings=made.ceilings)):
        if display.draw:
            display.plot().canvas.draw()


def test_what_is_not_there_is_refused(toy_scores, save, refuses):
    scores, ceilings = toy_scores.scores, toy_scores.ceilings
    refuses(["'nowhere'"], part, scores, "nowhere")
    refuses(["'MAE'"], part, scores, "toy (published)", metric="MAE")
    refuses(["'lasso'"], part, scores, "toy (published)", probe="lasso")
    refuses(["several splits"], part, pd.concat([scores, scores.assign(split="x")]), "toy (published)")
    refuses(["'Net 9'"], protocol_table, scores, ceilings, screen="toy (published)", single="Net 9")
    refuses(["'mode'"], protocol_table, scores, ceilings, screen="toy (published)", average="mode")
    refuses(
        ["no baseline"],
        protocol_table,
        scores[scores["role"] != "baseline"],
        ceilings,
        screen="toy (published)",
        single="Net 1",
    )
    alone = scores[scores["modality"].isin(["baseline", "not stated"])]
    for function in (rank_table, family_table):
        refuses(["no two embeddings"], function, alone)
    refuses(["no fusion"], fusion_table, alone, None)


def test_the_published_layout_names_metrics_of_ours():
    from panmodal.evaluation.metrics import METRICS

    assert set(PUBLISHED.metrics.values()) <= set(METRICS)


def test_the_page_of_docs_is_true():
    text = (Path(__file__).parents[2] / "docs" / "published.md").read_text()
    for name in ("import-scores", "--errors", "--columns", "--mark", "--figures", "protocol_table"):
        assert name in text
