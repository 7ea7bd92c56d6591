"""Every code once planted, in an otherwise sound bundle of a real run; the sound bundle is clean."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panmodal import METRICS, InputError, Screen, Store, StoreError
from panmodal._digest import digest_json
from panmodal.submissions import CODES, LIMITS, Limits, bundle, open_bundle, validate
from panmodal.submissions.schema import CEILINGS, DRAWS, OF_METRICS, RANGES, RESAMPLED, ROWS, SCORES
from panmodal.submissions.tables import NUMBER, write_frame

ARCHIVE = {c for c in CODES if c <= "V012"}
"""Planted in test_archive."""
PLANTED: dict = {}


def plant(*codes, **options):
    """Register a forgery and the codes that must be among those found (the first) or may be (the others)."""

    def decorate(function):
        PLANTED[function.__name__] = (codes, function, options)
        return function

    return decorate


def frame(files, name):
    return pd.read_parquet(io.BytesIO(files[name]))


def put_frame(files, name, table, columns=None):
    known = {**SCORES, **ROWS, **CEILINGS, **RESAMPLED, **DRAWS, **OF_METRICS}
    files[name] = write_frame(table, columns or {c: known[c] for c in table})


def change_cell(files, name, column, value, where=None):
    table = frame(files, name)
    rows = table.index if where is None else table.index[where(table)]
    table.loc[rows[0], column] = value
    put_frame(files, name, table)


def trial(files, embedding="full", probe="ridge", fold=0):
    return next(
        t for t in files.json("trials.json") if (t["embedding"], t["probe"], t["fold"]) == (embedding, probe, fold)
    )


def change_trials(files, change, which=lambda t: t["role"] == "embedding", most=1):
    """Change records, recompute their digests, and write the new digests everywhere."""
    records, renamed = files.json("trials.json"), {}
    for record in [t for t in records if which(t)][:most]:
        change(record)
        renamed[record["trial"]] = digest_json(record["depends"])
        record["trial"] = renamed[record["trial"]]
    files.put("trials.json", records)
    for name in ("scores.parquet", "perturbations.parquet"):
        table = frame(files, name)
        table["trial"] = table["trial"].replace(renamed)
        put_frame(files, name, table)


# --- JSON and manifest -----------------------------------------------------------------------------------------------


@plant("V020")
def key_twice(files):
    files["trials.json"] = files["trials.json"].replace(b'"fold":', b'"fold":0,"fold":', 1)


@plant("V020")
def not_a_number(files):
    files["trials.json"] = files["trials.json"].replace(b'"seed":42', b'"seed":NaN', 1)


@plant("V020")
def infinity(files):
    files["trials.json"] = files["trials.json"].replace(b'"seed":42', b'"seed":1e999', 1)


@plant("V020")
def deep(files):
    files["cards.json"] = b"[" * 100_000 + b"]" * 100_000


@plant("V020")
def deep_unclosed(files):
    files["cards.json"] = b'{"a":' * 100_000


@plant("V020")
def endless_integer(files):
    files["cards.json"] = b"[" + b"9" * 100_000 + b"]"


@plant("V020")
def not_utf8(files):
    files["cards.json"] = b'["\xff"]'


@plant("V020")
def not_json(files):
    files["cards.json"] = b"__import__('os').system('true')"


@plant("V021")
def other_format(files):
    files.edit("manifest.json", lambda m: m.update(format=99))


@plant("V021")
def other_kind(files):
    files.edit("manifest.json", lambda m: m.update(kind="something"))


@plant("V022")
def manifest_without_a_field(files):
    files.edit("manifest.json", lambda m: m.pop("tasks") and None)


@plant("V022")
def manifest_with_another_field(files):
    files.edit("manifest.json", lambda m: m.update(run="me.sh"))


@plant("V022")
def trial_with_text_for_a_number(files):
    files.edit("trials.json", lambda t: t[0].update(fold="0"))


@plant("V022")
def trials_are_no_list(files):
    files.put("trials.json", {})


@plant("V022")
def split_with_a_fold_that_is_none(files):
    name = next(n for n in files if n.startswith("splits/"))
    files[name] = files[name].replace(b",1\n", b",one\n", 1)


@plant("V023", fit=False)
def file_that_the_manifest_does_not_name(files):
    files["predictions/" + 32 * "a" + ".f32"] = b"x"


@plant("V023", fit=False)
def file_that_is_not_there(files):
    del files[files.only_run]


@plant("V023")
def no_scores(files):
    del files["scores.parquet"]


@plant("V024", fit=False)
def other_content(files):
    files["cards.json"] = files["cards.json"].replace(b"MIT", b"MIX")


@plant("V024", fit=False)
def other_size(files):
    files.edit("manifest.json", lambda m: m["files"][0].update(size=1))


@plant("V025")
def markup_in_a_name(files):
    for name in ("scores.parquet",):
        table = frame(files, name)
        table["embedding"] = table["embedding"].replace("full", "<img src=x onerror=alert(1)>")
        put_frame(files, name, table)


@plant("V025", "V070", "V064", "V048", "V027", "V053", "V042", "V075")
def markup_in_a_trial(files):
    files.edit(
        "trials.json",
        lambda trials: [t.update(embedding="<script>") for t in trials if t["embedding"] == "full"] and None,
    )


@plant("V025")
def title_with_markup(files):
    files.edit("manifest.json", lambda m: m.update(title="<b>first</b>"))


@plant("V025")
def text_that_turns(files):
    files.edit("manifest.json", lambda m: m.update(notes="abc\u202edef"))


@plant("V025")
def text_that_steers_a_terminal(files):
    files.edit("manifest.json", lambda m: m.update(notes="\x1b[2J"))


@plant("V025", fit=False)
def half_a_character(files):
    files["manifest.json"] = files["manifest.json"].replace(b'"notes":""', b'"notes":"\\ud800"')


@plant("V025")
def endless_text(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(description="a" * 20_000))


@plant("V025", "V071", "V073", "V048", "V070")
def formula_in_a_card(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(modality="=cmd|'/C calc'!A0"))


@plant("V026", "V048")
def link_that_runs(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(url="javascript:alert(1)"))


@plant("V027")
def manifest_with_another_embedding(files):
    files.edit("manifest.json", lambda m: m.update(embeddings=["full", "best"]))


@plant("V027", "V050", "V052")
def manifest_with_another_task(files):
    files.edit("manifest.json", lambda m: m["tasks"].append({**m["tasks"][0], "context": "B"}))


@plant("V027")
def manifest_hides_simulation(files):
    files.edit("manifest.json", lambda m: m.update(simulated=True))


# --- tables ----------------------------------------------------------------------------------------------------------


@plant("V030")
def no_parquet(files):
    files["scores.parquet"] = b"PAR1" + bytes(100) + b"PAR1"


@plant("V031")
def pickle_in_metadata(files):
    import pickle

    table = frame(files, "scores.parquet")
    raw = pa.Table.from_pandas(table, preserve_index=False)
    raw = raw.replace_schema_metadata({b"numpy": pickle.dumps(np.array([{1}], dtype=object))})
    stream = io.BytesIO()
    pq.write_table(raw, stream, compression="none")
    files["scores.parquet"] = stream.getvalue()


@plant("V031")
def extension_type(files):
    class Odd(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.int64(), "odd")

        def __arrow_ext_serialize__(self):
            return b"x"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            raise AssertionError("was called")

    table = frame(files, "scores.parquet")
    raw = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    at = raw.column_names.index("fold")
    raw = raw.set_column(at, "fold", pa.ExtensionArray.from_storage(Odd(), raw["fold"].combine_chunks()))
    pa.register_extension_type(Odd())
    try:
        stream = io.BytesIO()
        pq.write_table(raw, stream, compression="none")
    finally:
        pa.unregister_extension_type("odd")
    files["scores.parquet"] = stream.getvalue()


@plant("V032")
def column_missing(files):
    put_frame(files, "scores.parquet", frame(files, "scores.parquet").drop(columns="seen"))


@plant("V032")
def column_too_many(files):
    put_frame(files, "scores.parquet", frame(files, "scores.parquet").assign(rank=1.0), {**SCORES, "rank": NUMBER})


@plant("V032")
def column_of_another_type(files):
    put_frame(files, "scores.parquet", frame(files, "scores.parquet"), {**SCORES, "fold": NUMBER})


@plant("V032")
def unknown_metric_as_a_column(files):
    put_frame(files, "perturbations.parquet", frame(files, "perturbations.parquet").assign(best=1.0), {
        **ROWS, **{m: NUMBER for m in frame(files, "perturbations.parquet") if m in METRICS}, "best": NUMBER})  # fmt: skip


@plant("V032")
def nested(files):
    table = frame(files, "perturbations.parquet")
    raw = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    raw = raw.set_column(raw.column_names.index("L2"), "L2", pa.array([[1.0]] * len(table)))
    stream = io.BytesIO()
    pq.write_table(raw, stream, compression="none", store_schema=False)
    files["perturbations.parquet"] = stream.getvalue()


def rewritten(files, name, **options):
    stream = io.BytesIO()
    pq.write_table(
        pq.read_table(io.BytesIO(files[name])), stream, store_schema=False, **{"compression": "none", **options}
    )
    files[name] = stream.getvalue()


@plant("V033")
def compressed(files):
    rewritten(files, "perturbations.parquet", compression="zstd")


@plant("V033")
def prefixes_that_unfold(files):
    rewritten(files, "perturbations.parquet", use_dictionary=False, column_encoding={"pert_id": "DELTA_BYTE_ARRAY"})


@plant("V033")
def other_pages(files):
    rewritten(files, "perturbations.parquet", data_page_version="2.0")


@plant("V034")
def value_that_is_not_finite(files):
    table = frame(files, "scores.parquet")
    arrays = {c: pa.array(table[c]) for c in table}
    arrays["value"] = pa.array(np.where(np.arange(len(table)) == 3, np.inf, table["value"]), from_pandas=True)
    schema = pa.schema([pa.field(c, a.type, nullable=c == "value") for c, a in arrays.items()])
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(list(arrays.values()), schema=schema),
        stream,
        compression="none",
        store_schema=False,
        use_dictionary=[c for c, a in arrays.items() if a.type == pa.string()],
    )
    files["scores.parquet"] = stream.getvalue()


# --- trials ----------------------------------------------------------------------------------------------------------


@plant("V041", "V048", "V070")
def depends_on_something_else(files):
    files.edit("trials.json", lambda t: t[0]["depends"].update(embedding="0" * 32))


@plant("V041", "V064", "V056", "V047")
def digest_changed(files):
    files.edit("trials.json", lambda t: t[0].update(trial="0" * 32))


@plant("V042", "V064", "V050", "V043", "V051", "V052", "V055", "V065", "V063", "V047")
def fold_relabelled(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["role"] == "embedding").update(fold=1))


@plant("V042", "V064", "V043", "V050", "V048", "V053", "V027", "V068", "V047")
def seed_relabelled(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["role"] == "embedding").update(seed=7))


@plant("V042")
def depends_says_too_little(files):
    change_trials(files, lambda t: t["depends"].pop("standardise"))


@plant("V043", "V064", "V047")
def trial_twice(files):
    files.edit("trials.json", lambda t: t.append({**t[0], "content": "0" * 32}))


@plant("V044")
def grid_of_ones_own(files):
    change_trials(files, lambda t: t["depends"]["probe"].update(grid=[1.0]), lambda t: t["probe"] == "ridge")


@plant("V044", "V042", "V064", "V053", "V047", "V050")
def probe_of_ones_own(files):
    def change(t):
        t["depends"]["probe"]["name"] = "mine"
        t["probe"] = "mine"

    change_trials(files, change)


@plant("V044")
def rules_of_another_version(files):
    change_trials(files, lambda t: t["depends"]["rules"].update(projection=0))


@plant("V044")
def depends_on_what_nobody_knows(files):
    change_trials(files, lambda t: t["depends"].update(luck=1))


@plant("V045", "V064", "V027", "V048", "V070", "V071", "V055", "V042")
def control_as_an_embedding(files):
    files.edit(
        "trials.json",
        lambda trials: [t.update(role="embedding") for t in trials if t["embedding"] == "random"] and None,
    )


@plant("V046")
def endless_trial(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["role"] == "embedding").update(seconds=1e9))


@plant("V046")
def trial_in_no_time(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["role"] == "embedding").update(seconds=0.0))


@plant("V047", "V064")
def hyperparameter_off_the_grid(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["probe"] == "ridge").update(
        hyperparameters='{"alpha": 3.3, "components": 8, "at_edge": false}'))  # fmt: skip


@plant("V047", "V064")
def hyperparameters_of_a_baseline(files):
    files.edit(
        "trials.json",
        lambda trials: next(t for t in trials if t["role"] == "baseline").update(hyperparameters='{"a": 1}'),
    )


@plant("V048", "V027", "V075", "V054", "V090", "V068", "V066")
def two_responses_of_one_name(files):
    change_trials(files, lambda t: t["depends"].update(responses="lfc-" + 32 * "0"))


@plant("V050", "V064", "V056", "V047")
def fold_left_out(files):
    gone = trial(files)["trial"]
    files.put("trials.json", [t for t in files.json("trials.json") if t["trial"] != gone])
    for name in ("scores.parquet", "perturbations.parquet"):
        table = frame(files, name)
        put_frame(files, name, table[table["trial"] != gone])


@plant("V050", "V052", "V064", "V027", "V068", "V047")
def one_fold_of_all(files):
    kept = [t for t in files.json("trials.json") if t["fold"] == 0]
    files.put("trials.json", kept)
    for name in ("scores.parquet", "perturbations.parquet"):
        table = frame(files, name)
        put_frame(files, name, table[table["trial"].isin({t["trial"] for t in kept})])
    files.edit("manifest.json", lambda m: m["tasks"][0].update(folds=[0], n_perturbations=20))


@plant("V051", "V067", "V055")
def ids_in_another_order(files):
    digest, table = trial(files)["trial"], frame(files, "perturbations.parquet")
    own = table["trial"] == digest
    table.loc[own] = table[own].iloc[::-1].to_numpy()
    put_frame(files, "perturbations.parquet", table)


@plant("V051", "V063", "V065", "V067", "V055", "V047")
def ids_left_out(files):
    digest, table = trial(files)["trial"], frame(files, "perturbations.parquet")
    worst = table[table["trial"] == digest]["L2"].idxmax()
    put_frame(files, "perturbations.parquet", table.drop(index=worst))


@plant("V052", "V068")
def ids_of_another_fold(files):
    table = frame(files, "perturbations.parquet")
    ids = sorted(set(table["pert_id"]))
    table["pert_id"] = table["pert_id"].replace(dict(zip(ids, ids[1:] + ids[:1], strict=True)))
    put_frame(files, "perturbations.parquet", table)


@plant("V053")
def no_train_mean(files):
    gone = {t["trial"] for t in files.json("trials.json") if t["probe"] == "train mean"}
    files.put("trials.json", [t for t in files.json("trials.json") if t["trial"] not in gone])
    for name in ("scores.parquet", "perturbations.parquet"):
        table = frame(files, name)
        put_frame(files, name, table[~table["trial"].isin(gone)])


@plant("V053")
def no_random_embedding(files):
    gone = {t["trial"] for t in files.json("trials.json") if t["embedding"] == "random"}
    files.put("trials.json", [t for t in files.json("trials.json") if t["trial"] not in gone])
    for name in ("scores.parquet", "perturbations.parquet"):
        table = frame(files, name)
        put_frame(files, name, table[~table["trial"].isin(gone)])


@plant("V054", "V052")
def other_folds(files):
    name = next(n for n in files if n.startswith("splits/"))
    text = files[name].decode()
    files[name] = (text.replace(",0\n", ",2\n").replace(",1\n", ",0\n").replace(",2\n", ",1\n")).encode()


@plant("V054", "V075")
def no_folds(files):
    del files[next(n for n in files if n.startswith("splits/"))]


@plant("V055", "V065", "V067", "V047", "V063")
def coverage_of_a_baseline(files):
    digest = trial(files, "none", "train mean")["trial"]
    change_cell(files, "perturbations.parquet", "covered", False, lambda t: t["trial"] == digest)


@plant("V055", "V065", "V063", "V067", "V047")
def coverage_that_changes_with_the_probe(files):
    digest = trial(files, "part", "knn")["trial"]
    change_cell(files, "perturbations.parquet", "covered", True, lambda t: (t["trial"] == digest) & ~t["covered"])


@plant("V056", "V064")
def rows_of_nobody(files):
    table = frame(files, "perturbations.parquet")
    put_frame(files, "perturbations.parquet", pd.concat([table, table[:1].assign(trial="f" * 32)]))


@plant("V056", "V064", "V051", "V047")
def trial_without_rows(files):
    digest, table = trial(files)["trial"], frame(files, "perturbations.parquet")
    put_frame(files, "perturbations.parquet", table[table["trial"] != digest])


@plant("V056", "V051", "V065", "V063", "V052", "V067", "V055", "V047")
def row_twice(files):
    table = frame(files, "perturbations.parquet")
    put_frame(files, "perturbations.parquet", pd.concat([table, table[table["trial"] == trial(files)["trial"]][:1]]))


# --- scores ----------------------------------------------------------------------------------------------------------


@plant("V060", "V064")
def metric_of_ones_own(files):
    change_cell(files, "scores.parquet", "metric", "My_metric")


@plant("V060", "V064")
def metric_of_another_kind_of_response(files):
    files.edit("trials.json", lambda t: t[0]["rules"].update(F1=1))


@plant("V061")
def metric_of_another_version(files):
    files.edit("trials.json", lambda t: t[0]["rules"].update(L2=99))


@plant("V062", "V063")
def score_out_of_range(files):
    change_cell(files, "scores.parquet", "value", 1.5, lambda t: t["metric"] == "Pearson")


@plant("V062", "V063", "V067")
def value_out_of_range(files):
    change_cell(files, "perturbations.parquet", "PDS_L1", 1.2)


@plant("V063")
def better_score(files):
    table = frame(files, "scores.parquet")
    row = table.index[(table["embedding"] == "full") & (table["metric"] == "Pearson")][0]
    change_cell(files, "scores.parquet", "value", table.loc[row, "value"] + 1e-4, lambda t: t.index == row)


@plant("V063")
def undefined_score(files):
    change_cell(files, "scores.parquet", "value", np.nan, lambda t: t["metric"] == "Pearson")


@plant("V063", "V067")
def better_value(files):
    digest = trial(files)["trial"]
    change_cell(files, "perturbations.parquet", "Pearson", 0.99, lambda t: t["trial"] == digest)


@plant("V064")
def score_left_out(files):
    put_frame(files, "scores.parquet", frame(files, "scores.parquet")[1:])


@plant("V064")
def score_twice(files):
    table = frame(files, "scores.parquet")
    put_frame(files, "scores.parquet", pd.concat([table, table[:1]]))


@plant("V064")
def score_of_another_trial(files):
    change_cell(files, "scores.parquet", "trial", "0" * 32)


@plant("V064")
def unknown_fallback(files):
    change_cell(files, "scores.parquet", "fallback", "best")


@plant("V065")
def more_perturbations(files):
    change_cell(files, "scores.parquet", "n_test", 1000)


@plant("V065")
def fewer_undefined(files):
    change_cell(files, "scores.parquet", "n_undefined", 3)


@plant("V066", "V063", "V067")
def smaller_error_of_one_kind(files):
    """Values and means agree with each other, but not with the other error."""
    table = frame(files, "perturbations.parquet")
    own = table["trial"] == trial(files)["trial"]
    table.loc[own, "MSE"] *= 0.5
    put_frame(files, "perturbations.parquet", table)
    scores = frame(files, "scores.parquet")
    own = (scores["trial"] == trial(files)["trial"]) & (scores["metric"] == "MSE")
    scores.loc[own, "value"] *= 0.5
    put_frame(files, "scores.parquet", scores)


@plant("V067", "V063")
def better_where_not_covered(files):
    digest = trial(files, "part")["trial"]
    change_cell(files, "perturbations.parquet", "cosine", 0.99, lambda t: (t["trial"] == digest) & ~t["covered"])


def ceilings_of(files, **changes):
    rows = frame(files, "perturbations.parquet")
    one = trial(files)
    own = rows[rows["trial"] == one["trial"]]
    labels = {k: one[k] for k in ("screen", "context", "response", "split", "fold", "seed")}
    return own[["pert_id", "L2"]].assign(**labels, estimator="half_half", n_draws=5, **changes)


def put_ceilings(files, **changes):
    from panmodal.screens.ceilings import ESTIMATORS

    table = ceilings_of(files).assign(estimator=next(iter(ESTIMATORS))).assign(**changes)
    put_frame(files, "ceilings.parquet", table, {**CEILINGS, "L2": NUMBER})


@plant("V068")
def ceiling_of_another_task(files):
    put_ceilings(files, context="elsewhere")


@plant("V068")
def ceiling_of_ones_own(files):
    put_ceilings(files, estimator="sky")


@plant("V068")
def ceilings_of_few(files):
    put_ceilings(files, pert_id=["X" + str(k) for k in range(20)])


@plant("V062")
def ceiling_out_of_range(files):
    put_ceilings(files, L2=-1.0)


# --- cards and runs --------------------------------------------------------------------------------------------------


@plant("V070")
def no_card(files):
    files.edit("cards.json", lambda c: c[:1])


@plant("V070")
def card_with_another_field(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(stars=5))


@plant("V070")
def card_of_other_vectors(files):
    files.edit("cards.json", lambda c: c[0].update(digest="0" * 32))


@plant("V071")
def another_modality(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(modality="other"))


@plant("V071")
def more_covered_than_asked(files):
    files.edit("cards.json", lambda c: c[0].update(covered=10**6))


@plant("V072", "V073")
def card_that_says_little(files):
    files.edit("cards.json", lambda c: [e["card"].update(licence="") for e in c] and None)


@plant("V073")
def trained_on_the_screen(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(trained_on=["replogle2022"]))


@plant("V073", "V064")
def seen_by_its_own_word(files):
    files.edit("trials.json", lambda trials: next(t for t in trials if t["role"] == "embedding").update(seen="unknown"))


@plant("V074", "V075", "V064", "V048", "V027")
def simulated(files):
    files.edit("cards.json", lambda c: c[0]["card"].update(simulated=True))


@plant("V076")
def environment_of_nobody(files):
    environment = {"python": "CPython 3.11"}
    files.put("environments.json", {digest_json(environment): environment})


@plant("V076")
def environment_of_another_digest(files):
    files.put("environments.json", {32 * "0": {"python": "CPython 3.11"}})
    files.edit("trials.json", lambda t: t[0].update(provenance={"environment": 32 * "0"}))


@plant("V075")
def run_of_another_name(files):
    files.edit_run(lambda r: None, rename=False)


@plant("V075")
def run_of_another_screen(files):
    files.edit_run(lambda r: r["screen"].update(digests={"A": "lfc-" + "0" * 32}))


@plant("V075")
def run_hides_simulation(files):
    files.edit_run(lambda r: r["screen"].update(simulated=True))


@pytest.mark.parametrize("name", PLANTED)
def test_a_forgery_is_found(files, codes, name):
    (code, *also), forge, options = PLANTED[name]
    forge(files)
    found = codes(files, **options)
    assert code in found, found
    assert found <= {code, *also}, "more is said than is planted"


# --- predictions -----------------------------------------------------------------------------------------------------


def prediction(files, one):
    name = f"predictions/{one['trial']}.f32"
    return name, np.frombuffer(files[name], "<f4").copy()


def redigest(files, one, name):
    """A forger who knows how contents are digested."""
    from panmodal.evaluation.trials import Predictions

    rows = frame(files, "perturbations.parquet")
    rows = rows[rows["trial"] == one["trial"]]
    values = np.frombuffer(files[name], "<f4").reshape(len(rows) + 1, -1)
    content = Predictions(rows["pert_id"].tolist(), rows["covered"].to_numpy(), values[1:], values[0], {}).content
    files.edit(
        "trials.json", lambda trials: next(t for t in trials if t["trial"] == one["trial"]).update(content=content)
    )


def test_predictions_that_were_changed(with_predictions, codes, results):
    files, one = with_predictions, trial(with_predictions)
    name, numbers = prediction(files, one)
    numbers[20] += 1
    files[name] = numbers.tobytes()
    assert codes(files) == {"V081"}
    redigest(files, one, name)
    assert codes(files) == set()  # nothing to compare with
    assert codes(files, against=results) == {"V083"}


def test_predictions_that_cannot_be(with_predictions, codes):
    files = with_predictions
    name, numbers = prediction(files, trial(files))
    numbers[20] = np.nan
    files[name] = numbers.tobytes()
    assert codes(files) == {"V081", "V082"}
    files[name] = numbers[:-1].tobytes()
    assert codes(files) == {"V080"}
    del files[name]
    assert codes(files) == {"V080"}


def test_predictions_of_nobody(with_predictions, files, codes, predicted):
    with_predictions["predictions/" + "0" * 32 + ".f32"] = b"1234"
    assert codes(with_predictions) == {"V080"}
    name = f"predictions/{trial(with_predictions)['trial']}.f32"
    files[name] = with_predictions[name]
    assert codes(files) == {"V080"}


def test_a_fill_that_is_not_the_train_mean(with_predictions, codes, results):
    files, one = with_predictions, trial(with_predictions, "part")
    name, numbers = prediction(files, one)
    values = numbers.reshape(21, -1)
    rows = frame(files, "perturbations.parquet")
    values[1 + int(np.flatnonzero(~rows.loc[rows["trial"] == one["trial"], "covered"])[0])] = 0
    files[name] = values.tobytes()
    redigest(files, one, name)
    assert codes(files) == {"V084"}
    assert codes(files, against=results) == {"V083", "V084"}


def test_a_baseline_that_was_helped(with_predictions, codes):
    files, one = with_predictions, trial(with_predictions, "none", "no change")
    name, numbers = prediction(files, one)
    numbers[-1] = 5
    files[name] = numbers.tobytes()
    redigest(files, one, name)
    assert codes(files) == {"V084"}


def test_another_train_mean(with_predictions, codes, results):
    files = with_predictions
    for one in [t for t in files.json("trials.json") if t["fold"] == 0]:
        name, numbers = prediction(files, one)
        values = numbers.reshape(21, -1)
        values[:, 0] += 1  # fill and predictions alike
        if one["probe"] == "no change":
            values[1:, 0] = 0
        files[name] = values.tobytes()
        redigest(files, one, name)
    assert codes(files) == set()
    assert {"V083", "V084"} <= codes(files, against=results)


# --- against what is at hand -----------------------------------------------------------------------------------------


def test_against_the_same_results_or_screen(bundled, predicted, results, toy, tmp_path):
    screen, _ = toy(n=40, genes=12, contexts=("A",))
    screen.write(tmp_path / "toy.h5ad")
    for path in (bundled, predicted):
        for against in (results, tmp_path / "toy.h5ad"):
            report = validate(path, against=against)
            assert report.valid and report.codes <= {"V085"}
        assert "V096" in validate(path).codes
    assert validate(bundled, against=results).facts["trials compared"] == 28


def test_against_another_screen(bundled, toy, tmp_path):
    screen, _ = toy(n=40, genes=12, contexts=("A",), seed=1)
    screen.write(tmp_path / "toy.h5ad")
    report = validate(bundled, against=tmp_path / "toy.h5ad")
    assert {f.code for f in report.errors} == {"V090"} and "of this name here" in report.errors[0].what
    ids, values = screen.responses("A")
    other = Screen.from_arrays(values, ids, ["B"] * len(ids), screen.readouts, name="other", response="lfc")
    other.write(tmp_path / "other.h5ad")
    assert "not here" in validate(bundled, against=tmp_path / "other.h5ad").errors[0].what


def test_against_a_screen_of_another_name(bundled, toy, tmp_path):
    screen, _ = toy(n=40, genes=12, contexts=("A",))
    ids, values = screen.responses("A")
    Screen.from_arrays(values, ids, ["A"] * len(ids), screen.readouts, name="mine", response="lfc").write(
        tmp_path / "mine.h5ad"
    )
    report = validate(bundled, against=tmp_path / "mine.h5ad")
    assert report.valid and "V094" in report.codes


def test_against_results_with_other_folds_and_scores(bundled, toy, tmp_path, results):
    from panmodal import run

    screen, embeddings = toy(n=40, genes=12, contexts=("A",))
    run(screen, embeddings, tmp_path / "r", folds=3, probes=["ridge"], metrics=["L2"], n_jobs=1)
    assert "V091" in {f.code for f in validate(bundled, against=tmp_path / "r").errors}


def test_the_same_trial_with_another_score(files, codes, results, toy):
    """Fitted values may differ a little between machines; more is told."""
    table, scores = frame(files, "perturbations.parquet"), frame(files, "scores.parquet")
    digest = trial(files)["trial"]
    table.loc[table["trial"] == digest, "Pearson"] *= 0.9
    scores.loc[(scores["trial"] == digest) & (scores["metric"] == "Pearson"), "value"] *= 0.9
    put_frame(files, "perturbations.parquet", table)
    put_frame(files, "scores.parquet", scores)
    assert codes(files) == set()
    assert codes(files, against=results) == {"V095"}


def test_a_floor_that_was_lowered(files, codes, results):
    """Values and means agree; only the responses tell."""
    table, scores = frame(files, "perturbations.parquet"), frame(files, "scores.parquet")
    own = {t["trial"] for t in files.json("trials.json") if t["probe"] == "no change"}
    for metric, factor in (("L2", 1.1), ("MAE", 1.1), ("MSE", 1.21)):
        table.loc[table["trial"].isin(own), metric] *= factor
        scores.loc[scores["trial"].isin(own) & (scores["metric"] == metric), "value"] *= factor
    put_frame(files, "perturbations.parquet", table)
    put_frame(files, "scores.parquet", scores)
    assert codes(files) == set()
    assert codes(files, against=results) == {"V093", "V095"}


def test_read_outs_that_are_not_there(files, codes, results):
    files.edit("manifest.json", lambda m: m["tasks"][0].update(n_readouts=13))
    table, scores = frame(files, "perturbations.parquet"), frame(files, "scores.parquet")
    table["MSE"] *= 12 / 13
    scores.loc[scores["metric"] == "MSE", "value"] *= 12 / 13
    put_frame(files, "perturbations.parquet", table)
    put_frame(files, "scores.parquet", scores)
    assert codes(files) == set()
    assert "V092" in codes(files, against=results)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_every_code_is_planted(request):
    text = (request.path.parent / "test_validate.py").read_text() + (
        request.path.parent / "test_archive.py"
    ).read_text()
    assert [c for c in CODES if f'"{c}"' not in text] == []
    assert {c for (codes, _, _) in PLANTED.values() for c in codes[:1]} | ARCHIVE <= set(CODES)


def test_a_sound_bundle_is_clean(bundled, predicted):
    assert validate(bundled).codes == {"V085", "V096"} and validate(bundled).valid
    assert validate(predicted).codes == {"V096"}


def test_every_metric_has_a_range():
    assert set(RANGES) == set(METRICS)


def test_ceilings_that_are_right(files, codes):
    put_ceilings(files)
    assert codes(files) == set()


def test_tables_within_limits(bundled):
    for limits in (Limits(rows=10), Limits(cells=10), Limits(columns=3)):
        assert {f.code for f in validate(bundled, limits=limits).errors} == {"V033"}


def test_findings_of_a_code_are_counted_not_listed(files, tmp_path):
    table = frame(files, "scores.parquet")
    table["value"] = 0.123
    put_frame(files, "scores.parquet", table)
    report = validate(files.write(tmp_path / "a.zip"))
    assert sum(f.code == "V063" for f in report.findings) == LIMITS.findings and report.more["V063"] >= 1
    told = json.loads(report.to_json())
    assert told["valid"] is False and told["digest"] == report.digest and told["findings"][0]["code"]


def test_a_file_that_is_not_there(tmp_path, refuses):
    refuses(["no such file"], validate, tmp_path / "a.zip")


def test_an_invalid_bundle_is_not_opened(files, tmp_path, refuses):
    better_score(files)
    refuses(["V063", "panmodal validate"], open_bundle, files.write(tmp_path / "a.zip"))
    (tmp_path / "b.zip").write_bytes(b"x")
    refuses(["V001"], open_bundle, tmp_path / "b.zip")


def test_against_a_folder_without_trials(bundled, tmp_path, refuses):
    Store(tmp_path / "r", create=True)
    refuses(["no trials"], validate, bundled, against=tmp_path / "r")


def test_what_bundling_refuses(results, tmp_path, refuses):
    refuses([".zip"], bundle, results, tmp_path / "a.tar")
    refuses(["best", "full, part"], bundle, results, tmp_path / "a.zip", embeddings=["best"])
    refuses(["YYYY-MM-DD"], bundle, results, tmp_path / "a.zip", date="today")
    refuses(["V025"], bundle, results, tmp_path / "a.zip", title="<b>")
    refuses(["not a results folder"], bundle, tmp_path / "nothing", tmp_path / "a.zip", error=StoreError)
    assert not (tmp_path / "a.zip").exists()
    assert issubclass(InputError, ValueError)


def test_the_reference_names_every_code(request):
    page = request.path.parents[2] / "docs" / "submissions.md"
    text = page.read_text(encoding="utf-8")
    assert [c for c, (grave, what) in CODES.items() if f"| {c} | {grave} | {what} |" not in text] == []
