"""For every check one planted positive and one clean negative."""

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.scores import FALLBACKS
from panmodal.insight.checks import Knowledge, checks, run_checks

PAIR = ["A", "B"]


def fold_apart(world, one, other):
    """Put two ids into different folds, in every seed."""
    for folds in world.folds.values():
        folds[one], folds[other] = 0, 1


def swap_in(world, *names):
    """Give the first ids other names; return them."""
    old = world.ids[: len(names)]
    names_of = dict(zip(old, names, strict=True))
    world.ids = [names_of.get(i, i) for i in world.ids]
    world.folds = {s: {names_of.get(i, i): f for i, f in folds.items()} for s, folds in world.folds.items()}
    for frame in (world.quality, world.batches):
        frame["pert_id"] = frame["pert_id"].replace(names_of)
    return names


def same_gene(world):
    fold_apart(world, *swap_in(world, "SEPTIN9", "SEPT9"))


def combination(world):
    fold_apart(world, *swap_in(world, "TP53+KRAS", "KRAS"))


def homolog(world):
    fold_apart(world, *swap_in(world, "ACTA2", "ACTG2"))


def partner(world):
    fold_apart(world, *swap_in(world, "M6PR", "GGA3"))


def contaminated(world):
    world.seen["good"] = "yes"


def collapsed(world):
    world.predict["fair", "ridge"] = lambda t, m, r: np.tile(m + 1, (len(t), 1))


def at_edge(world):
    world.chosen["good", "ridge"] = {"alpha": 1e6, "components": 10, "at_edge": True}


def shared_vectors(world):
    world.vectors["good"][:20] = world.vectors["good"][0]


def uncovered(world):
    world.covered["fair"] = set(world.ids[:40])


def unfinished(world):
    world.dropped.add((("fair", "ridge"), 1, 2))


def few(world):
    keep = world.ids[:40]
    world.truth = {c: v[:40] for c, v in world.truth.items()}
    world.vectors = {n: v[:40] for n, v in world.vectors.items()}
    world.ids, world.folds = keep, {s: {i: k % 3 for k, i in enumerate(keep)} for s in world.folds}


def close_second(world):
    world.predict["fair", "ridge"] = lambda t, m, r: t + 0.5 * r.standard_normal(t.shape)


def undefined(world):
    world.predict["fair", "ridge"] = lambda t, m, r: np.where(np.arange(len(t))[:, None] % 3 == 0, m, t)


def high_ceiling(world):
    world.ceiling = 5.0


def beyond_ceiling(world):
    world.ceiling = 0.7


def lucky_control(world):
    world.predict["random", "ridge"] = lambda t, m, r: m + 0.1 * (t - m)


def no_better_than_permuted(world):
    for method in (("good", "ridge"), ("good (permuted)", "ridge")):
        world.predict[method] = lambda t, m, r: m + 0.3 * (t - m) + 0.1 * r.standard_normal(t.shape)


def all_fail(world):
    for name in ("good", "fair"):
        world.predict[name, "ridge"] = lambda t, m, r: m + r.standard_normal(t.shape)


def one_seed(world):
    del world.folds[2]


def weak(world):
    world.quality["norm_p"] = np.linspace(0.01, 1, len(world.quality))


def few_cells(world):
    world.quality["response_norm"] = 100 / np.sqrt(world.quality["n_cells"])


def plates(world):
    effect = dict(zip(sorted(set(world.batches["batch"])), 2 * world.rng.standard_normal((5, 30)), strict=True))
    of = world.batches.set_index("pert_id")["batch"]
    world.truth = {
        c: (v + np.stack([effect[of[i]] for i in world.ids])).astype(np.float32) for c, v in world.truth.items()
    }


def ordered(world):
    drift = np.cumsum(world.rng.standard_normal((len(world.ids), 30)), axis=0)
    world.truth = {c: (v + 0.5 * drift).astype(np.float32) for c, v in world.truth.items()}


def blocks(world):
    world.folds = {s: {i: 3 * k // len(world.ids) for k, i in enumerate(sorted(world.ids))} for s in world.folds}


PLANTS = {
    "PM001": same_gene, "PM002": combination, "PM003": homolog, "PM005": partner, "PM006": contaminated, "PM007": collapsed, "PM008": at_edge,
    "PM009": shared_vectors, "PM010": uncovered, "PM011": unfinished, "PM012": few, "PM013": close_second, "PM014": undefined,
    "PM015": high_ceiling, "PM016": beyond_ceiling, "PM017": lucky_control, "PM018": no_better_than_permuted, "PM019": all_fail, "PM020": one_seed,
    "PM021": weak, "PM022": few_cells, "PM023": ordered, "PM024": blocks,
}  # fmt: skip

DRUGS = ("Imatinib", "Masitinib", "Aspirin", "Caffeine", "Ibuprofen", "Metformin", "Nicotine", "Warfarin")


@pytest.fixture
def drug_world(make_world):
    pytest.importorskip("rdkit")
    table = Knowledge().compounds.table
    other = [n for n in ("ACYCLOVIR", "ATENOLOL", "BACLOFEN", "CAPTOPRIL", "CETIRIZINE", "CHLORAMPHENICOL", "CIPROFLOXACIN", "DIGOXIN", "FLUCONAZOLE",
                         "FUROSEMIDE", "GABAPENTIN", "HALOPERIDOL", "ISONIAZID", "KETAMINE", "LIDOCAINE", "METHOTREXATE", "OMEPRAZOLE", "PROPRANOLOL",
                         "TAMOXIFEN", "ZIDOVUDINE") if n in table.by_exact_name]  # fmt: skip
    return make_world([*(d.upper() for d in DRUGS if d.upper() in table.by_exact_name), *other])


def test_every_check_has_a_plant():
    assert sorted([*PLANTS, "PM004"]) == list(checks())


def test_clean_results_pass_every_check(world):
    report = world.check()
    assert report.summary()[1:] == [] and report.ignored == ()
    assert [u.code for u in report.not_checked] == ["PM004"]  # genes have no structure
    assert report.passed == tuple(c for c in checks() if c != "PM004")
    assert not report.failed()


@pytest.mark.parametrize("code", PLANTS)
def test_what_is_planted_is_found(world, code):
    PLANTS[code](world)
    report = only(world, code)
    found = of(report, code)
    assert found, report.summary()
    assert code not in report.passed and report.status().set_index("code")["status"][code] == "found"
    record = checks()[code]
    for finding in found:
        assert finding.what.endswith(".") and finding.place and finding.numbers is not None and len(finding.numbers)
        assert finding.severity in (record.severity, "info", "warning", "error")
    row = report.frame().set_index("code").loc[[code]].iloc[0]
    assert row["why"] == record.why and row["advice"] == record.advice and row["screen"] == "screen"


def test_similar_compounds(drug_world):
    pytest.importorskip("rdkit")
    clean = drug_world.check(options={"min_tested": 5})
    assert "PM004" in clean.passed and {"PM003", "PM005"} <= {u.code for u in clean.not_checked}
    smiles = {"DRUG-X": "CC(=O)Oc1ccccc1C(=O)O", "DRUG-X SODIUM": "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"}
    swap_in(drug_world, *smiles)
    fold_apart(drug_world, *smiles)
    drug_world.smiles = smiles
    report = drug_world.check(options={"min_tested": 5})
    (finding,) = [f for f in report.findings if f.code == "PM004"]
    assert "same skeleton 2," in finding.what and "(1.00)" in finding.what
    # The salt is the same compound: that is a leak, not a near-duplicate only.
    assert any(f.code == "PM001" and "DRUG-X" in f.what for f in report.findings)


# --- what findings say -----------------------------------------------------------------------------------------------


def of(report, code):
    return [f for f in report.findings if f.code == code]


def only(world, code, **options):
    """Make one check only."""
    return world.check(*(c for c in checks() if c != code), **options)


def test_an_old_symbol_in_another_fold_is_an_error(world):
    same_gene(world)
    (finding,) = of(only(world, "PM001"), "PM001")
    assert (
        finding.severity == "error"
        and "SEPT9, SEPTIN9 in folds 0, 1" in finding.what
        and finding.numbers["seed"].tolist() == [1, 2]
    )


def test_an_alias_in_another_fold_is_a_warning(world):
    fold_apart(world, *swap_in(world, "TP53", "P53"))
    (finding,) = of(only(world, "PM001"), "PM001")
    assert finding.severity == "warning" and "if an alias is right" in finding.what


def test_one_id_in_two_folds_needs_no_tables(make_world):
    world = make_world([f"X-{k:03d}" for k in range(60)])
    evidence = world.evidence()
    trial = evidence.trials.query("fold == 1").iloc[0]["trial"]
    row = (
        evidence.rows[evidence.rows["trial"] == trial]
        .iloc[:1]
        .assign(pert_id=evidence.rows.query("trial == @evidence.trials.trial[0]")["pert_id"].iloc[0])
    )
    spoilt = type(evidence)(evidence.scores, pd.concat([evidence.rows, row]), runs=evidence.runs)
    report = run_checks(spoilt)
    assert of(report, "PM001")[0].severity == "error" and "PM001" in {u.code for u in report.not_checked}


def test_a_promise_that_parts_are_unseen_makes_a_shared_part_an_error(world):
    combination(world)
    assert {f.severity for f in of(only(world, "PM002"), "PM002")} == {"info"}
    world.runs[0]["split"]["unseen"] = "part"
    (finding,) = of(only(world, "PM002"), "PM002")
    assert finding.severity == "error" and finding.what.endswith("The split promises that no part is trained on.")
    for folds in world.folds.values():
        folds["KRAS"] = folds["TP53+KRAS"]
    assert not of(only(world, "PM002"), "PM002")


def test_homologs_in_one_fold_are_no_leak(world):
    homolog(world)
    for folds in world.folds.values():
        folds["ACTG2"] = folds["ACTA2"]
    assert not of(only(world, "PM003"), "PM003")


def test_the_clean_remainder_is_scored_and_a_change_of_the_leader_is_a_warning(world):
    homolog(world)
    (mild,) = of(only(world, "PM003"), "PM003")
    assert mild.severity == "info" and "good with ridge still leads" in mild.what and "4 of 240 tests" in mild.what
    place = {i: k for k, i in enumerate(world.ids)}
    rows = [place["ACTA2"], place["ACTG2"]]

    def cheats(true, mean, rng):
        """Good with the two homologs only: so good that it leads."""
        hit = np.isin(true[:, 0].astype(np.float32), np.concatenate([v[rows, 0] for v in world.truth.values()]))
        predicted = true + 0.8 * rng.standard_normal(true.shape)
        predicted[hit] = true[hit]
        return predicted

    world.truth = {c: v.copy() for c, v in world.truth.items()}
    for values in world.truth.values():
        values[rows] *= 12
    world.predict["fair", "ridge"] = cheats
    world.predict["good", "ridge"] = lambda t, m, r: t + np.where(np.abs(t) > 8, 80, 0.5) * r.standard_normal(t.shape)
    report = world.check()
    (finding,) = of(report, "PM003")
    assert (
        finding.severity == "warning"
        and "the lead by L2 passes from fair with ridge to good with ridge" in finding.what
    )
    table = finding.numbers
    first = table[(table["context"] == "A") & (table["rank_clean"] == 1)].iloc[0]
    assert first["embedding"] == "good" and f"({first['clean']:.4g})" in finding.what
    assert set(table["n_leaky"]) == {2} and set(table["n_clean"]) == {118}
    wide = world.evidence().per_perturbation(("screen", "A", "lfc", "unseen"), "L2").query("embedding == 'good'")
    clean = wide[~wide["pert_id"].isin(["ACTA2", "ACTG2"])]
    assert first["clean"] == pytest.approx(clean.groupby(["seed", "fold"])["value"].mean().mean())


def test_contamination_of_the_leader_is_an_error_of_others_a_warning_and_silence_not_checked(world):
    contaminated(world)
    assert {
        (f.severity, "of the others fair with ridge does" in f.what) for f in of(only(world, "PM006"), "PM006")
    } == {("error", True)}
    world.seen = {"fair": "yes"}
    assert {f.severity for f in of(only(world, "PM006"), "PM006")} == {"warning"}
    world.seen = {"fair": "unknown"}
    report = world.check()
    assert not of(report, "PM006") and "PM006" not in report.passed
    assert all("'fair'" in u.reason for u in report.not_checked if u.code == "PM006")


def test_collapsed_predictions_name_the_spread(world):
    collapsed(world)
    found = of(only(world, "PM007"), "PM007")
    assert len(found) == 2 and "1 of 2 methods" in found[0].what and "exactly one response" in found[0].what
    table = found[0].numbers.set_index("embedding")
    assert table["ratio"]["fair"] == 0 and table["ratio"]["good"] == pytest.approx(1.1, abs=0.15)


def test_the_end_of_the_grid_is_named(world):
    at_edge(world)
    (first, _) = of(only(world, "PM008"), "PM008")
    assert "alpha of ridge for 'good' (1 at the largest value)" in first.what
    world.chosen["good", "ridge"] = {"alpha": 0.01, "components": 10, "at_edge": True}
    assert "1 at the smallest value" in of(only(world, "PM008"), "PM008")[0].what


def test_constant_dimensions_are_an_info(world):
    world.vectors["fair"][:, :8] = 0
    (finding,) = of(only(world, "PM009"), "PM009")
    assert finding.severity == "info" and "fair 67 %" in finding.what


def test_coverage_says_who_leads_on_the_ids_in_common(world):
    uncovered(world)
    finding = of(only(world, "PM010"), "PM010")[0]
    assert "1 of 2 embeddings cover less than 80 % of the test ids: fair 67 %" in finding.what
    assert "On the ids that all cover good with ridge leads too." in finding.what


def test_methods_without_a_fold_are_listed(world):
    unfinished(world)
    report = world.check()
    assert report.failed() and "fair with ridge 5 of 6" in of(report, "PM011")[0].what


def test_the_floor_above_the_ceiling_and_scores_above_it(world):
    high_ceiling(world)
    report = world.check()
    assert "the experimental error ceiling" in of(report, "PM015")[0].what and not of(report, "PM016")
    beyond_ceiling(world)
    report = world.check()
    assert {f.severity for f in of(report, "PM016")} == {"info"} and not of(report, "PM015")
    world.predict["idealised", "ridge"] = world.predict["fair", "ridge"]
    assert {f.severity for f in of(only(world, "PM016"), "PM016")} == {"info", "warning"}


def test_without_noise_ceilings_only_the_oracle_is_looked_at(world):
    report = world.check(without=("ceilings",))
    reasons = {u.code: u.reason for u in report.not_checked}
    assert "no noise ceilings" in reasons["PM015"] and "no noise ceilings" in reasons["PM016"]


def test_a_screen_without_facts_is_judged_by_its_contexts(world):
    report = world.check(without=("quality",))
    assert not of(report, "PM021") and "PM021" not in report.passed
    world.truth["B"] = world.rng.standard_normal(world.truth["B"].shape).astype(np.float32)
    (finding,) = of(only(world, "PM021", without=("quality",)), "PM021")
    each = finding.numbers.groupby("pert_id")["rank"].mean()
    assert f"{100 * each.mean():.0f} % of the others" in finding.what and len(each) == 120


def test_batches_are_looked_at_where_they_are_told(world):
    plates(world)
    found = of(only(world, "PM022"), "PM022")
    assert len(found) == 2 and "in 5 batches" in found[0].what
    world.batches = None
    report = world.check()
    assert not of(report, "PM022") and any("--batches" in u.reason for u in report.not_checked if u.code == "PM022")


def test_unequal_folds_are_found(world):
    for folds in world.folds.values():
        for k, i in enumerate(world.ids):
            folds[i] = 0 if k % 3 else 1 + k % 2
    (finding,) = of(only(world, "PM024"), "PM024")
    assert "4.0 times as many" in finding.what


def test_tables_alone_check_what_they_can(world):
    evidence = world.evidence()
    report = run_checks(type(evidence)(evidence.scores))
    assert {"PM006", "PM008", "PM010", "PM011", "PM012", "PM014", "PM019", "PM020"} == set(report.passed)
    assert {u.code for u in report.not_checked} == set(checks()) - set(report.passed)
    assert all(u.reason for u in report.not_checked)


def test_score_tables_of_older_versions_are_not_checked_for_undefined_values(world):
    world.edit = lambda scores: scores.drop(columns=["n_undefined", "n_scored"])
    assert "PM014" in {u.code for u in only(world, "PM014").not_checked}


def test_fallbacks_are_those_that_the_checks_name():
    assert set(FALLBACKS) == {"filled", "covered", "common"}
