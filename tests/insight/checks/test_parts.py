"""The parts that checks are made of: relations, paired comparisons, batches, knowledge, records, pages, reports."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from panmodal.insight.checks import Check, Finding, Knowledge, Option, checks, displays, get_check, run_checks
from panmodal.insight.checks.case import Case, percent
from panmodal.insight.checks.pages import pages, write_pages
from panmodal.insight.checks.registry import collect, settings
from panmodal.insight.checks.relations import across_folds, relate_ids
from panmodal.insight.checks.screens import between
from panmodal.perturbation_ids import canonical, parts

TASK = ("screen", "A", "lfc", "unseen")
letters = st.sampled_from("ABCDEFG")


@given(
    st.lists(st.lists(letters, min_size=1, max_size=2, unique=True), min_size=2, max_size=8, unique_by=lambda p: tuple(sorted(p))),
    st.lists(st.tuples(letters, letters), max_size=6),
    st.randoms(),
)  # fmt: skip
def test_relatives_across_folds_are_those_of_a_plain_loop(pieces, edges, random):
    ids = [canonical("+".join(p)) for p in pieces]
    fold = {i: random.randrange(3) for i in ids}
    pairs = pd.DataFrame([(a, b) for a, b in edges if a != b], columns=["a", "b"])
    linked = {frozenset(e) for e in pairs.itertuples(index=False, name=None)}
    folds = pd.DataFrame({"seed": 0, "fold": [fold[i] for i in ids], "pert_id": ids})
    found = across_folds(folds, relate_ids(ids, pairs))
    expected = {i for i in ids for j in ids if i != j and fold[i] != fold[j]
                and any(frozenset((a, b)) in linked for a in parts(i) for b in parts(j))}  # fmt: skip
    assert set(found["pert_id"]) == expected


def test_a_paired_comparison_of_one_fold_is_the_paired_t_test(make_world, genes):
    world = make_world(genes, seeds=(1,))
    world.folds = {1: dict.fromkeys(genes, 0) | {genes[0]: 1, genes[1]: 1}}
    evidence = world.evidence()
    case = Case(evidence, Knowledge(), settings())
    wide = case.wide(TASK)
    one = wide.xs(0, level="fold")
    case._wide[TASK] = wide[wide.index.get_level_values("fold") == 0]
    paired = case.paired(TASK, ("good", "ridge"), ("fair", "ridge"))
    expected = stats.ttest_rel(one["fair", "ridge"], one["good", "ridge"])  # errors: lower is better
    assert paired.advantage / paired.error == pytest.approx(expected.statistic) and paired.n == 118
    back = case.paired(TASK, ("fair", "ridge"), ("good", "ridge"))
    assert back.advantage == -paired.advantage and back.error == paired.error
    assert case.paired(TASK, ("good", "ridge"), ("none", "absent")) is None


def test_metrics_of_genes_are_compared_by_their_bootstrap_samples():
    rng = np.random.default_rng(0)
    task = {"screen": "s", "context": "c", "response": "deg", "split": "u"}
    records, samples = [], []
    draws = {"a": rng.normal(0.5, 0.01, (2, 200)), "b": rng.normal(0.4, 0.01, (2, 200))}
    for name, found in draws.items():
        for fold in (0, 1):
            trial = f"{name}{fold}"
            records.append({**task, "fold": fold, "seed": 1, "embedding": name, "probe": "p", "trial": trial, "role": "embedding", "fallback": "filled",
                            "metric": "F1", "value": found[fold].mean(), "n_test": 60, "n_covered": 60, "modality": "", "simulated": False})  # fmt: skip
            samples.append(
                {
                    **task,
                    "fold": fold,
                    "seed": 1,
                    "trial": trial,
                    "estimator": "",
                    "metric": "F1",
                    "draws": found[fold].tolist(),
                }
            )
    from panmodal.insight.evidence import Evidence

    evidence = Evidence(pd.DataFrame(records), resampled=pd.DataFrame(samples))
    case = Case(evidence, Knowledge(), settings())
    paired = case.paired(tuple(task.values()), ("a", "p"), ("b", "p"))
    difference = draws["a"].mean(axis=0) - draws["b"].mean(axis=0)
    assert paired.error == pytest.approx(difference.std(ddof=1)) and paired.apart(1.96)
    assert paired.advantage == pytest.approx(draws["a"].mean() - draws["b"].mean()) and paired.n == 120


def test_variance_between_batches_is_eta_squared():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(4), 10)
    values = (rng.standard_normal((40, 1)) + codes[:, None] * 0.8).astype(np.float32)
    share, chance, p = between(values, codes)
    f = stats.f_oneway(*(values[codes == k, 0].astype(float) for k in range(4))).statistic
    assert share == pytest.approx(f * 3 / (f * 3 + 36), rel=1e-5)
    assert chance == pytest.approx(3 / 39, abs=0.03) and p == 1 / 200
    assert between(values, rng.permutation(codes))[2] > 0.01
    assert between(np.ones((5, 2), np.float32), np.arange(5)) == (0, 0, 1)


def test_similarity_is_that_of_rdkit():
    pytest.importorskip("rdkit")
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from panmodal.insight.checks.near_duplicates import similar_pairs

    smiles = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "salicylic acid": "O=C(O)c1ccccc1O", "sodium salicylate": "[Na+].O=C([O-])c1ccccc1O",
              "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "theophylline": "Cn1c(=O)c2[nH]cnc2n(C)c1=O", "broken": "C1CC"}  # fmt: skip
    table, known = similar_pairs(smiles, 0.0, 8)
    assert "broken" not in known and len(table) == 10
    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = {
        n: made.GetFingerprint(Chem.MolFromSmiles(s))
        for n, s in smiles.items()
        if n not in ("broken", "sodium salicylate")
    }
    for row in table.itertuples():
        a, b = (n.replace("sodium salicylate", "salicylic acid") for n in (row.a, row.b))
        assert row.tanimoto == pytest.approx(DataStructs.TanimotoSimilarity(bits[a], bits[b]))
    kinds = {frozenset((r.a, r.b)): r.kind for r in table.itertuples()}
    assert kinds[frozenset(("salicylic acid", "sodium salicylate"))] == "same skeleton"
    assert MurckoScaffold.MurckoScaffoldSmiles(smiles["caffeine"]) == MurckoScaffold.MurckoScaffoldSmiles(
        "Cn1c(=O)c2c(ncn2C)n(C)c1=O"
    )
    assert kinds[frozenset(("aspirin", "salicylic acid"))] == "similar"  # one ring is no common scaffold
    assert similar_pairs({}, 0.7, 10)[0].empty


# --- knowledge ---------------------------------------------------------------------------------------------------------


def test_ids_are_genes_compounds_or_neither():
    known = Knowledge()
    assert known.kind(["TP53", "MYC+KRAS", "SEPT9", "ctrl"]) == "genes"
    assert known.kind(["Imatinib", "Metformin", "CAFFEINE"]) == "compounds"
    assert (
        known.kind(["P000", "xyz-1", "nothing here"]) == "" and known.meaning(["xyz-1"]) == {} and known.kind([]) == ""
    )
    assert Knowledge({"xyz-1": "CCO"}).kind(["xyz-1", "xyz-2"]) == "compounds"


def test_homologs_and_partners_are_found_under_other_names():
    known = Knowledge()
    pairs = known.homologs(["SEPT6", "SEPTIN6", "SEPTIN8", "TP53"])
    assert {frozenset(p) for p in zip(pairs["a"], pairs["b"], strict=True)} <= {
        frozenset(("SEPT6", "SEPTIN8")),
        frozenset(("SEPTIN6", "SEPTIN8")),
    }
    assert len(pairs) == 2 and pairs["id"].between(0.3, 1).all()
    partners = known.partners(["M6PR", "GGA3", "TP53"])
    assert {frozenset(p) for p in zip(partners["a"], partners["b"], strict=True)} == {frozenset(("M6PR", "GGA3"))}
    own = Knowledge(homologs=pd.DataFrame({"a": ["TP53"], "b": ["MYC"], "id": [0.9]}))
    assert own.homologs(["TP53", "MYC"])["id"].tolist() == [0.9]


def test_structures_are_those_given_then_those_shipped():
    pytest.importorskip("rdkit")
    known = Knowledge({"mine": "CCO"})
    found = known.structures(["mine", "Imatinib", "CC(=O)Oc1ccccc1C(=O)O", "no such thing", "DMSO"])
    assert found["mine"] == "CCO" and found["CC(=O)Oc1ccccc1C(=O)O"] == "CC(=O)Oc1ccccc1C(=O)O"
    assert "Imatinib" in found and set(found) == {"mine", "Imatinib", "CC(=O)Oc1ccccc1C(=O)O"}


def test_batches_need_their_columns(refuses):
    refuses(["no column 'batch'", "pert_id"], Knowledge, None, pd.DataFrame({"pert_id": ["a"]}))


# --- records -----------------------------------------------------------------------------------------------------------


def record(code="PM901", name="toy", **options):
    def look(case):
        """Look."""
        return []

    return Check(code=code, name=name, title="?", severity="info", why="w", advice="a", function=look, options=options)


@pytest.mark.parametrize("code", checks())
def test_a_record_says_what_a_reader_needs(code):
    check = checks()[code]
    assert check.title.endswith("?") and all(t.endswith(".") for t in (check.why, check.advice, check.how))
    assert len(check.how.splitlines()) > 0 and get_check(check.name) is check and get_check(code.lower()) is check
    for name in check.options:
        assert f"`{name}`" in "".join(c.how for c in checks().values()) or name in ("min_clean",), name


def test_records_that_clash_are_refused(refuses):
    refuses(["two checks have 'PM901'"], collect, [record(), record(name="other")])
    refuses(["two checks have 'toy'"], collect, [record(), record("PM902")])
    refuses(["two checks have 't'"], collect, [record(t=Option(1, "")), record("PM902", "other", t=Option(2, ""))])
    assert list(collect([record("PM902", "other"), record()])) == ["PM901", "PM902"]
    refuses(["PM and three digits"], record, "X1")
    refuses(["severity is 'bad'", "error, warning, info"], Check, "PM901", "n", "?", "bad", "", "", lambda case: [])


def test_unknown_checks_and_options_are_refused(world, refuses):
    refuses(["no check 'homologgs'", "homologs"], world.check, "homologgs")
    refuses(["no option 'x'", "min_identity"], world.check, options={"x": 1})
    refuses(["'min_identity'", "must be a number"], world.check, options={"min_identity": "high"})


def test_thresholds_are_options(world):
    found = world.check(options={"min_tested": 500, "z_apart": 1000}).findings
    assert {f.code for f in found} == {"PM012", "PM013"}


# --- reports -----------------------------------------------------------------------------------------------------------


def test_a_report_lists_every_check_once(world):
    world.seen["good"] = "yes"
    world.batches = None
    report = world.check("PM020", "homologs")
    status = report.status()
    assert status["code"].tolist() == list(checks()) and report.ignored == ("PM003", "PM020")
    by = status.set_index("code")["status"]
    assert (
        by["PM006"] == "found" and by["PM022"] == "not checked" and by["PM003"] == "ignored" and by["PM001"] == "passed"
    )
    assert set(by[by == "passed"].index) == set(report.passed)
    assert set(report.passed) & {u.code for u in report.not_checked} == set()
    told = json.loads(report.to_json())
    assert [f["code"] for f in told["findings"]] == [f.code for f in report.findings] == report.frame()["code"].tolist()
    assert told["ignored"] == ["PM003", "PM020"] and {n["code"] for n in told["not_checked"]} == {"PM004", "PM022"}
    head = report.summary()[0]
    assert head.startswith(
        "24 checks: 1 found something (2 error(s), 0 warning(s), 0 info), 19 passed, 2 could not be made everywhere, 2 ignored"
    )
    assert report.failed() and len(report.of("error")) == 2


def test_findings_come_errors_first(world):
    world.seen["good"] = "yes"
    del world.folds[2]
    severities = [f.severity for f in world.check().findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index) and len(set(severities)) == 2


def test_displays_say_what_was_found(world):
    world.batches = None
    found, made = displays(world.evidence())
    assert found.sentences[0].startswith(f"{len(checks())} checks") and len(made.table) == len(checks())
    assert any("PM022 confounding was not made for" in s for s in made.sentences)
    assert found.frame()["code"].tolist() == []


def test_readers_that_fail_are_reasons_and_no_errors(world, absent):
    evidence = world.evidence()
    spoilt = type(evidence)(
        evidence.scores, evidence.rows, evidence.ceilings, None, evidence.quality, (), absent, absent, absent
    )
    report = run_checks(spoilt)
    assert {"PM007", "PM009", "PM023"} <= {u.code for u in report.not_checked if u.reason == "not there."}


def test_places_are_text():
    assert Finding({"screen": "s", "context": "c"}, "x.").place == "s · c"


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 2, "50 %"), (1, 50, "2.0 %"), (0, 5, "0 %"), (3, 0, "0 %"), (0.054, 1, "5.4 %")]
)
def test_shares(part, whole, text):
    assert percent(part, whole) == text


# --- docs --------------------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[3] / "docs" / "checks"


def test_the_pages_are_up_to_date(tmp_path):
    written = {p.name: p.read_text(encoding="utf-8") for p in DOCS.glob("*.md")}
    assert written == pages(), (
        "run python -c 'from panmodal.insight.checks.pages import write_pages; write_pages(\"docs/checks\")'"
    )
    write_pages(tmp_path)
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.md")} == written


def test_commands_in_advice_are_there(cli):
    commands = cli("--help")
    for check in checks().values():
        for name in re.findall(r"panmodal ([a-z]+)", check.why + check.advice + check.how):
            assert name in commands, (check.code, name)
