import gzip
import itertools

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from panmodal.cells import deg
from panmodal.screens.deg_columns import find_deg_columns
from panmodal.screens.reading import read_screen
from panmodal.screens.screen import Screen

PERTS, GENES, CONTEXTS = ["P1", "P2", "P3"], [f"g{k}" for k in range(8)], ["x", "y"]


def make_tests(seed=0, contexts=CONTEXTS):
    """A table of tests with columns pert, gene, line, effect, p, adj; p and adj are not related."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(itertools.product(contexts, PERTS, GENES), columns=["line", "pert", "gene"])
    frame["effect"] = rng.normal(size=len(frame))
    frame["p"] = rng.beta(0.2, 2, size=len(frame))
    frame["adj"] = rng.beta(0.3, 2, size=len(frame))
    return frame


def called(frame, p="adj", alpha=0.05, least=0.0):
    """Labels by the plain rule, row by row: {(pert, line, gene): label}."""
    return {
        (r.pert, r.line, r.gene): int(np.sign(r.effect)) if getattr(r, p) <= alpha and abs(r.effect) >= least else 0
        for r in frame.itertuples()
    }


def step_up(p):
    """Benjamini-Hochberg by its definition, for the tests that have a p."""
    p = np.asarray(p)
    tested = p[~np.isnan(p)]
    return np.array([
        np.nan if np.isnan(each) else min(
            1.0, *(q * len(tested) / np.sum(tested <= q) for q in tested if q >= each)
        ) for each in p
    ])  # fmt: skip


def labels_of(screen):
    return {
        (i, c, g): int(values[k, j])
        for c in screen.contexts
        for ids, values in [screen.responses(c)]
        for k, i in enumerate(ids)
        for j, g in enumerate(screen.readouts)
    }


@pytest.fixture
def write(tmp_path):
    def write(table, name="t.csv"):
        path = tmp_path / name
        if isinstance(table, str):
            path.write_text(table)
        elif name.endswith("parquet"):
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False, sep="," if ".csv" in name else "\t", na_rep="NA")
        return path

    return write


PLAIN = {"pert": "target", "line": "cell_line", "gene": "feature", "effect": "log2_fold_change", "adj": "fdr"}

# Columns in the order that each program writes; those not of the table of tests are filled with ones.
PROGRAMS = {
    "pdex 0.2": ["pert:target", "gene:feature", "target_mean", "ref_mean", "target_membership", "ref_membership",
                 "effect:fold_change", "effect:log2_fold_change", "percent_change", "p:p_value", "statistic", "adj:fdr"],
    "scanpy": ["pert:group", "gene:names", "scores", "effect:logfoldchanges", "p:pvals", "adj:pvals_adj"],
    "DESeq2": ["pert:contrast", "gene:gene", "baseMean", "effect:log2FoldChange", "lfcSE", "stat", "p:pvalue", "adj:padj"],
    "edgeR": ["pert:contrast", "gene:gene_id", "effect:logFC", "logCPM", "F", "p:PValue", "adj:FDR"],
    "limma": ["pert:contrast", "gene:gene", "effect:logFC", "AveExpr", "t", "p:P.Value", "adj:adj.P.Val", "B"],
    "Seurat": ["row", "p:p_val", "effect:avg_log2FC", "pct.1", "pct.2", "adj:p_val_adj", "pert:cluster", "gene:gene"],
    "pertpy": ["gene:variable", "baseMean", "effect:log_fc", "p:p_value", "adj:adj_p_value", "pert:contrast"],
    "sceptre": ["gene:response_id", "pert:grna_target", "n_nonzero_trt", "n_nonzero_cntrl", "pass_qc", "p:p_value",
                "effect:log_2_fold_change", "significant"],
}  # fmt: skip


def as_written_by(program, tests):
    out = {}
    for column in PROGRAMS[program]:
        source, _, name = column.rpartition(":")
        out[name] = tests[source] if source else 1.0
    return pd.DataFrame(out)


@pytest.mark.parametrize("program", PROGRAMS)
def test_tables_of_known_programs_are_read(write, program):
    tests = make_tests(contexts=["x"])
    table = as_written_by(program, tests)
    screen = read_screen(write(table), context="x")
    wanted = tests
    if program == "sceptre":  # it writes no adjusted p
        wanted = tests.assign(adj=tests.groupby("pert")["p"].transform(step_up))
    assert labels_of(screen) == called(wanted)
    assert len(set(labels_of(screen).values())) == 3
    assert (screen.response, screen.name, screen.simulated) == ("deg", "t", False)
    assert screen.adata.X.dtype == np.int8


def test_what_was_used_is_said(write):
    screen = read_screen(write(as_written_by("pdex 0.2", make_tests(contexts=["x"]))), alpha=0.1, min_effect=0.25)
    assert screen.description == "DEG labels from adjusted p <= 0.1 (fdr) and |log2_fold_change| >= 0.25"
    assert screen.notes[0] == (
        "a table of tests: perturbations from column 'target', genes from 'feature', effects from 'log2_fold_change', "
        "adjusted p from 'fdr'; also present: fold_change"
    )
    assert "no context column found" in screen.notes[1]
    assert len(screen.notes) == 2


def test_the_ratios_of_pdex_are_taken_as_log2(write):
    tests = make_tests(contexts=["x"])
    tests.loc[0, ["effect", "adj"]] = [-np.inf, 0.01]
    table = tests.rename(columns={**PLAIN, "effect": "fold_change"}).assign(fold_change=2.0 ** tests["effect"])
    screen = read_screen(write(table), min_effect=0.5)
    assert labels_of(screen) == called(tests, least=0.5)
    assert labels_of(screen)[PERTS[0], "x", GENES[0]] == -1
    assert "effects from 'fold_change' (ratios, taken as log2)" in screen.notes[0]
    assert screen.description.endswith("and |log2(fold_change)| >= 0.5")


def test_infinite_effects_keep_their_sign(write):
    table = "target,feature,log2_fold_change,fdr\nA,g1,inf,0.01\nA,g2,-Inf,0.01\nA,g3,inf,0.5\n"
    assert labels_of(read_screen(write(table), min_effect=3)) == {
        ("A", "all", "g1"): 1, ("A", "all", "g2"): -1, ("A", "all", "g3"): 0,
    }  # fmt: skip


def test_labels_agree_with_scanpy(write):
    import scanpy as sc

    rng = np.random.default_rng(3)
    groups = np.repeat(["ctrl", "A", "B", "C"], 30)
    rate = np.ones((4, 20))
    rate[1, :5], rate[2, 5:10], rate[3, 8:12] = 3, 0.2, 2
    counts = rng.poisson(rate.repeat(30, axis=0) * 4)
    cells = anndata.AnnData(
        np.log1p(counts).astype(np.float64),
        obs=pd.DataFrame({"pert": pd.Categorical(groups)}, index=map(str, range(120))),
    )
    sc.tl.rank_genes_groups(cells, "pert", reference="ctrl", method="t-test")
    table = sc.get.rank_genes_groups_df(cells, group=None)
    assert list(table.columns) == ["group", "names", "scores", "logfoldchanges", "pvals", "pvals_adj"]

    expected, control = {}, cells.X[groups == "ctrl"]
    for i in "ABC":
        mine = cells.X[groups == i]
        adjusted = step_up(scipy.stats.ttest_ind(mine, control, equal_var=False).pvalue)
        change = np.log2(np.expm1(mine.mean(axis=0)) / np.expm1(control.mean(axis=0)))
        for g, sign in zip(cells.var_names, np.where(adjusted <= 0.05, np.sign(change), 0), strict=True):
            expected[i, "all", g] = int(sign)
    assert labels_of(read_screen(write(table))) == expected
    assert len(set(expected.values())) == 3
    assert labels_of(read_screen(write(table.drop(columns="pvals_adj")))) == expected


@pytest.mark.parametrize("which", ["adj", "p"])
def test_labels_of_the_own_test_come_back(write, which):
    rng = np.random.default_rng(5)
    control, treated = rng.normal(size=(40, 15)), rng.normal(size=(3, 30, 15)) + rng.choice([-1, 0, 1], size=(3, 1, 15))
    t, p = deg.welch(
        30, treated.sum(axis=1), (treated**2).sum(axis=1), 40, control.sum(axis=0), (control**2).sum(axis=0)
    )
    labels = deg.labels(t, deg.adjust(p))
    table = pd.DataFrame(itertools.product("ABC", [f"g{k:02}" for k in range(15)]), columns=["pert", "gene"])
    table["logFC"] = (treated.mean(axis=1) - control.mean(axis=0)).ravel()
    table["padj" if which == "adj" else "pvalue"] = (deg.adjust(p) if which == "adj" else p).ravel()
    screen = read_screen(write(table.sample(frac=1, random_state=1)))
    np.testing.assert_array_equal(screen.responses("all")[1], labels)
    assert {-1, 0, 1} == set(labels.ravel())


def test_raw_p_is_adjusted_within_each_perturbation_and_context(write):
    tests = make_tests(1)
    tests.loc[[2, 9, 30], "p"] = np.nan
    wanted = tests.assign(adj=tests.groupby(["line", "pert"])["p"].transform(step_up))
    assert called(wanted) != called(tests.assign(adj=tests["p"]))
    screen = read_screen(write(tests.drop(columns="adj").rename(columns=PLAIN | {"p": "p_value"})))
    assert labels_of(screen) == called(wanted)
    assert "p from 'p_value' adjusted by Benjamini-Hochberg within each (perturbation, context)" in screen.notes
    assert "3 test(s) without p in column 'p_value' are not called: label 0" in screen.notes
    assert screen.description.startswith("DEG labels from adjusted p <= 0.05 (Benjamini-Hochberg of p_value) and ")


def test_adjusted_p_goes_before_raw_p(write):
    tests = make_tests(2)
    both = read_screen(write(tests.rename(columns=PLAIN | {"p": "p_value"})))
    assert labels_of(both) == called(tests)


def test_genes_that_deseq2_filters_are_not_called(write):
    tests = make_tests(contexts=["x"])
    tests.loc[3, ["p", "adj"]] = [0.001, np.nan]
    tests.loc[4, ["effect", "p", "adj"]] = np.nan
    screen = read_screen(write(as_written_by("DESeq2", tests)), context="x")
    assert labels_of(screen) == called(tests)
    assert "2 test(s) without p in column 'padj' are not called: label 0" in screen.notes


def test_a_significant_effect_of_zero_has_no_sign(write):
    tests = make_tests(contexts=["x"])
    tests.loc[[1, 2], ["effect", "adj"]] = [[0.0, 0.01], [0.0, 0.9]]
    screen = read_screen(write(tests.rename(columns=PLAIN)))
    assert labels_of(screen) == called(tests)
    assert "1 significant test(s) have an effect of exactly 0: label 0" in screen.notes


def test_bounds_are_included(write):
    table = "target,feature,lfc,fdr\nA,g1,0.5,0.05\nA,g2,-0.5,0.05\nA,g3,0.49,0.05\nA,g4,1,0.0501\n"
    screen = read_screen(write(table), min_effect=0.5)
    assert screen.responses("all")[1].tolist() == [[1, -1, 0, 0]]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tsv.gz", "t.csv.gz", "t.txt", "t.parquet"])
def test_formats_hold_the_same_screen(write, name):
    tests = make_tests(4)
    tests.loc[5, "adj"] = np.nan
    table = tests.rename(columns=PLAIN)
    path = write(table, name)
    read = read_screen(path)
    assert labels_of(read) == called(tests)
    assert (read.contexts, read.pert_ids, read.readouts) == (CONTEXTS, PERTS, GENES)
    assert [read.digest(c) for c in CONTEXTS] == [read_screen(write(table)).digest(c) for c in CONTEXTS]


def test_parquet_of_any_types_is_read(tmp_path):
    tests = make_tests(4)
    table = pa.table({
        "cell_line": pa.array(tests["line"]).dictionary_encode(),
        "target": pa.array(tests["pert"], pa.large_string()),
        "feature": pa.array([int(g[1:]) for g in tests["gene"]]),
        "log2_fold_change": pa.array(tests["effect"].map(repr)),
        "fdr": pa.array(tests["adj"], pa.float64()).dictionary_encode(),
        "unread": pa.array([[1, 2]] * len(tests)),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    read = labels_of(read_screen(tmp_path / "t.parquet"))
    assert {(i, c, f"g{g}"): label for (i, c, g), label in read.items()} == called(tests)


def test_a_labelled_index_of_parquet_counts_as_columns(tmp_path):
    tests = make_tests(contexts=["x"])
    tests.rename(columns=PLAIN).set_index(["target", "feature"]).to_parquet(tmp_path / "a.parquet")
    assert labels_of(read_screen(tmp_path / "a.parquet")) == called(tests)
    tests.rename(columns=PLAIN | {"pert": "guides"}).set_index("guides").to_parquet(tmp_path / "b.parquet")
    assert labels_of(read_screen(tmp_path / "b.parquet", pert_col="index")) == called(tests)


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_rows_and_columns_does_not_matter(tmp_path_factory, random, raw):
    path = tmp_path_factory.mktemp("order") / "t.csv"
    table = make_tests(6).drop(columns="adj" if raw else "p").rename(columns=PLAIN | {"p": "p_value"})
    table.to_csv(path, index=False)
    first = read_screen(path)
    rows, columns = list(table.index), list(table.columns)
    random.shuffle(rows)
    random.shuffle(columns)
    table.loc[rows, columns].to_csv(path, index=False)
    second = read_screen(path)
    assert [first.digest(c) for c in first.contexts] == [second.digest(c) for c in second.contexts]
    assert (first.contexts, first.notes) == (second.contexts, second.notes)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(0, 3), st.floats(0, 3))
def test_a_milder_rule_keeps_every_deg(tmp_path_factory, alpha, other, least, more):
    path = tmp_path_factory.mktemp("rule") / "t.csv"
    tests = make_tests(7)
    tests.rename(columns=PLAIN).to_csv(path, index=False)
    strict = {"alpha": min(alpha, other), "min_effect": max(least, more)}
    mild = {"alpha": max(alpha, other), "min_effect": min(least, more)}
    few, many = labels_of(read_screen(path, **strict)), labels_of(read_screen(path, **mild))
    assert all(many[k] == label for k, label in few.items() if label)
    assert few == called(tests, alpha=strict["alpha"], least=strict["min_effect"])


def test_missing_tests_are_refused_or_zero(write, refuses):
    tests = make_tests(8)
    lacks = tests.drop(index=[1, 2, 40])
    path = write(lacks.rename(columns=PLAIN))
    refuses(
        ["t.csv: 3 of 48 tests are missing", "(feature)", "(target)", "'P1' in 'x' lacks 'g1', 'g2'", "--missing zero"],
        read_screen, path,
    )  # fmt: skip
    screen = read_screen(path, missing="zero")
    absent = {(r.pert, r.line, r.gene): 0 for r in tests.loc[[1, 2, 40]].itertuples()}
    assert labels_of(screen) == called(lacks) | absent
    assert "3 of 48 (perturbation, gene) tests are not in the table: label 0" in screen.notes


def test_genes_of_one_context_only_are_missing_in_the_other(write, refuses):
    tests = make_tests(8)
    path = write(tests[(tests["line"] == "x") | (tests["gene"] != "g0")].rename(columns=PLAIN))
    refuses(["3 of 48 tests are missing", "'P1' in 'y' lacks 'g0'"], read_screen, path)
    assert read_screen(path, missing="zero").responses("y")[1][:, 0].tolist() == [0, 0, 0]
    # What is not read cannot lack anything.
    assert read_screen(path, contexts=["x"]).readouts == GENES
    assert read_screen(path, contexts=["y"]).readouts == GENES[1:]


def test_a_perturbation_may_be_absent_from_a_context(write):
    tests = make_tests(9)
    tests = tests[(tests["line"] == "x") | (tests["pert"] != "P2")]
    screen = read_screen(write(tests.rename(columns=PLAIN)))
    assert (screen.ids_in("x"), screen.ids_in("y")) == (PERTS, ["P1", "P3"])
    assert labels_of(screen) == called(tests)


def test_ids_stay_text_and_become_canonical(write):
    ids = {"P1": "007", "P2": "B+A", "P3": "NA"}
    tests = make_tests(contexts=["x"]).replace({"pert": ids, "gene": {"g0": "1-Mar", "g1": "NA"}})
    screen = read_screen(write(tests.rename(columns=PLAIN)))
    assert screen.pert_ids == ["007", "A+B", "NA"]
    assert screen.readouts == ["1-Mar", "NA", *GENES[2:]]
    assert "1 perturbation id(s) written in canonical form (B+A -> A+B)" in screen.notes


def test_controls_are_refused_or_dropped(write, refuses):
    tests = make_tests().replace({"pert": {"P2": "non-targeting"}})
    path = write(tests.rename(columns=PLAIN))
    refuses(["t.csv: ", "'non-targeting' name control cells", "--drop-controls"], read_screen, path)
    screen = read_screen(path, drop_controls=True)
    assert screen.pert_ids == ["P1", "P3"]
    assert "16 test(s) of control cells removed ('non-targeting')" in screen.notes
    only = write(tests[tests["pert"] == "non-targeting"].rename(columns=PLAIN))
    refuses(["t.csv: empty (0 tests are left)"], read_screen, only, drop_controls=True)


def test_contexts_are_found_as_in_any_screen(write, refuses):
    tests = make_tests()
    path = write(tests.rename(columns=PLAIN).assign(donor="d1", cell_type="t"))
    screen = read_screen(path)
    assert screen.contexts == CONTEXTS
    assert "contexts from column 'cell_line'; also present: cell_type (choose with --context-col)" in screen.notes
    joined = read_screen(path, context_col=["donor", "cell_line"], contexts=["d1 | y"], name="mine")
    assert (joined.contexts, joined.name) == (["d1 | y"], "mine")
    wanted = {(i, g): v for (i, c, g), v in called(tests).items() if c == "y"}
    assert {(i, g): v for (i, _, g), v in labels_of(joined).items()} == wanted
    refuses(["24 test(s) appear more than once"], read_screen, path, context="both")
    refuses(["no context 'z'; it has 'x', 'y'"], read_screen, path, contexts=["z"])
    refuses(["no column 'zz' for the context"], read_screen, path, context_col="zz")
    refuses(["a context column or one context name, not both"], read_screen, path, context_col="donor", context="x")


def test_the_perturbation_column_can_be_named(write, refuses):
    tests = make_tests(contexts=["x"])
    path = write(tests.rename(columns=PLAIN | {"pert": "gene"}).assign(group="all"))
    chosen = read_screen(path, pert_col="gene")
    assert labels_of(chosen) == called(tests)
    # A name that only a perturbation has goes before ``gene``, which may be an annotation.
    refuses(["appear more than once", "(group)"], read_screen, path)
    refuses(["no column 'zz' for the perturbation", "--pert-col"], read_screen, path, pert_col="zz")
    assert labels_of(read_screen(write(tests.rename(columns=PLAIN | {"pert": "gene"})))) == called(tests)
    assert labels_of(read_screen(write(tests[["pert", "gene", "effect", "adj", "line"]].rename(
        columns=PLAIN | {"pert": "whatever"})), pert_col="index")) == called(tests)  # fmt: skip


HEAD = "target,feature,lfc,fdr\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "A,g1,1,1.2\nA,g2,1,-1\n", ["column 'fdr' holds 2 value(s) outside 0 to 1, first 1.2", "'g1' of 'A' in 'all'"]),
        (HEAD + "A,g1,1,inf\n", ["column 'fdr' holds 1 value(s) outside 0 to 1, first inf"]),
        (HEAD + "A,g1,1,0.1\nA,g2,1,low\n", ["column 'fdr' holds text: 'low' in row 2 ('g2' of 'A' in 'all')", "1 such cell"]),
        (HEAD + "A,g1,1,0.1\nA,g2,up,0.1\n", ["column 'lfc' holds text: 'up' in row 2"]),
        (HEAD + "A,g1,1,true\n", ["column 'fdr' holds bool, not numbers"]),
        (HEAD + "A,g1,NA,0.01\nA,g2,,0.01\nA,g3,NA,0.9\n", ["column 'lfc' is empty in 2 significant test(s)", "'g1' of 'A'"]),
        (HEAD + "A,g1,1,0.1\nA,g1,1,0.2\n", ["1 test(s) appear more than once: 'g1' of 'A' in 'all'"]),
        (HEAD + "A+B,g1,1,0.1\nB+A,g1,1,0.2\n", ["1 test(s) appear more than once: 'g1' of 'A+B' in 'all'"]),
        (HEAD + "A,g1,1,0.1\n,g1,1,0.2\n", ["the perturbation (target) is empty in row(s) '2'"]),
        (HEAD + "A,g1,1,0.1\nB, ,1,0.2\n", ["the gene (feature) is empty in row(s) '2'"]),
        ("cell_line," + HEAD + "x,A,g1,1,0.1\n,B,g1,1,0.2\n", ["the context (cell_line) is empty in row(s) '2'"]),
        (HEAD + "A,g1,1\n", ["cannot be read as csv", "Expected 4 columns, got 3", "Is it complete?"]),
        (HEAD, ["the table is empty (0 rows, 4 columns)"]),
        ("target,feature,lfc,fdr,fdr\nA,g1,1,1,1\n", ["columns 'fdr' appear more than once"]),
        ("target,feature,fold_change,fdr\nA,g1,-0.5,1\n", ["read as ratios, but 1 are negative, first -0.5", "'log2_fold_change'"]),
        ("names,scores,logfoldchanges,pvals,pvals_adj\ng1,1,1,1,1\n",
         ["columns 'names', 'logfoldchanges' and 'pvals_adj'", "none says which perturbation was tested", "--pert-col"]),
        ("gene,gene_name,logFC,FDR\nENSG1,A,1,1\n", ["none says which perturbation was tested"]),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused(write, text, says, refuses):
    refuses(["t.csv: ", *says], read_screen, write(text))
    refuses(["t.csv: ", *says], read_screen, write(text), response="DEG")


def test_a_truncated_archive_is_refused(tmp_path, refuses):
    packed = gzip.compress(make_tests(contexts=map(str, range(500))).rename(columns=PLAIN).to_csv(index=False).encode())
    (tmp_path / "t.csv.gz").write_bytes(packed[: len(packed) // 2])
    refuses(["t.csv.gz: cannot be read as csv", "Is it complete?"], read_screen, tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"min_effect": -1}, "min_effect is -1"),
        ({"min_effect": float("inf")}, "min_effect is inf"),
        ({"missing": "ignore"}, "missing is 'ignore'; known are 'error' and 'zero'"),
    ],
)
@pytest.mark.parametrize("text", [HEAD + "A,g1,1,0.1\n", "pert_id,g1\nA,1\n"])
def test_a_bad_rule_is_refused_for_any_file(write, options, says, text, refuses):
    refuses([says], read_screen, write(text), response="deg", **options)


def test_another_response_is_refused(write, refuses):
    path = write(HEAD + "A,g1,1,0.1\n")
    refuses(["make it a table of tests, which gives DEG labels, not 'lfc'"], read_screen, path, response="lfc")
    refuses(["unknown kind of response 'x'"], read_screen, path, response="x")
    assert read_screen(path, response="deg").response == "deg"


@pytest.mark.parametrize(
    ("text", "readouts"),
    [
        ("gene,g1,g2\nA,1,0\nB,0,1\n", ["g1", "g2"]),
        # Tables of one row per perturbation whose read-outs are called like the columns of tests.
        ("gene,logFC,FDR\nA,1,0\nB,0,1\n", ["logFC", "FDR"]),
        ("pert_id,logFC,FDR\nA,1,0\nB,0,1\n", ["logFC", "FDR"]),
        ("pert_id,feature,FDR\nA,1,0\nB,0,1\n", ["feature", "FDR"]),
    ],
)
def test_a_wide_table_goes_the_old_way(write, text, readouts):
    path = write(text)
    assert find_deg_columns(path, None, None, "lfc") is None
    screen = read_screen(path, response="lfc", alpha=0.5, min_effect=2, missing="zero")
    assert (screen.response, screen.readouts, screen.pert_ids) == ("lfc", readouts, ["A", "B"])
    assert screen.responses("all")[1].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.xlsx", "t"])
def test_a_file_that_is_no_table_has_no_columns_of_tests(write, name):
    assert find_deg_columns(write("", name), None, None, None) is None
    path = write("", name)
    path.write_bytes(b"\xff\xfe\x00broken,\x1f\x8b")
    assert find_deg_columns(path, None, None, None) is None


def test_a_screen_of_labels_is_written_and_read(write, tmp_path):
    screen = read_screen(write(make_tests().rename(columns=PLAIN)))
    screen.write(tmp_path / "s.h5ad")
    read = Screen.read(tmp_path / "s.h5ad")
    assert [read.digest(c) for c in read.contexts] == [screen.digest(c) for c in screen.contexts]
    assert read.description == screen.description
