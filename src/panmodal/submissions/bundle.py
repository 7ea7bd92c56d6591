"""Bundling: the finished trials of some embeddings of a results folder, and all that belongs to them, in one file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal._digest import digest_json
from panmodal._files import atomic_path
from panmodal._version import __version__
from panmodal.embeddings.controls import PERMUTED_SUFFIX
from panmodal.errors import InputError, StoreError, some
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.gene_scores import compile_totals
from panmodal.evaluation.imported import PREFIX
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import tidy_scores
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions, Trial
from panmodal.screens.splits import Split, read_split
from panmodal.submissions.archive import write_archive
from panmodal.submissions.content import packed_predictions
from panmodal.submissions.findings import Report
from panmodal.submissions.schema import CEILINGS, DRAWS, FORMAT, KIND, RESAMPLED, ROWS, SCORES
from panmodal.submissions.tables import NUMBER, write_frame

FUSION = "fusion"
"""Modality of fusions."""


@dataclass(frozen=True)
class Bundled:
    """What was bundled: the file, the digest of its contents, numbers of trials and bytes, and what a sender should know."""

    path: Path
    digest: str
    trials: int
    bytes: int
    notes: tuple[str, ...]
    report: Report


def bundle(
    results: str | Path,
    out: str | Path,
    *,
    embeddings: Sequence[str] | None = None,
    with_predictions: bool = False,
    title: str = "",
    contact: str = "",
    notes: str = "",
    date: str = "",
) -> Bundled:
    """Write a submission: scores, values of perturbations, trials, cards, runs and splits, each named with its SHA-256.

    The same results give the same bytes. The file is validated before it takes its place.

    Parameters
    ----------
    results
        Results folder.
    out
        File to write, ``.zip``.
    embeddings
        Names of embeddings (and fusions); all unless given. Baselines, controls, oracles and ceilings of their tasks go along.
    with_predictions
        Put the predictions in, so that metrics can be computed again by who has the responses.
    title, contact, notes
        What a maintainer should read.
    date
        ``YYYY-MM-DD``, if it should be said.

    Raises
    ------
    InputError
        No such embedding, one whose scores were imported, or something that no bundle may hold.
    StoreError
        Trials are unfinished or damaged, or were scored by formulae of another version.
    """
    out = Path(out)
    if out.suffix != ".zip":
        raise InputError(f"{out}: a submission is written as .zip.")
    if date and not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", date):
        raise InputError(f"--date {date}: want YYYY-MM-DD.")
    store = Store(results)
    trials, told = _choose(store, embeddings)
    found = {d: _finished(store, t) for d, t in sorted({t.digest: t for t in trials}.items())}
    runs = _runs(store, trials)
    splits = _splits(store, trials)
    rows = pd.concat([f.rows for f in found.values()], ignore_index=True)
    scores = _scores(store, trials, rows, found)
    files = {
        "trials.json": _json([_record(t, found[t.digest]) for t in trials]),
        "cards.json": _json(_cards(runs, trials)),
        "scores.parquet": write_frame(scores, SCORES),
        "perturbations.parquet": write_frame(rows, {**ROWS, **_metrics_of(rows)}),
        **{f"splits/{d}.csv": _csv(s) for d, s in splits.items()},
    }
    if environments := _environments(store, found):
        files["environments.json"] = _json(environments)
    for run in runs:
        raw = _json(_run_record(run, trials))
        files[f"runs/{digest_json(json.loads(raw))}.json"] = raw
    if (limits := _ceilings(store, trials)) is not None:
        files["ceilings.parquet"] = write_frame(limits, {**CEILINGS, **_metrics_of(limits)})
    if (samples := _resampled(store, trials)) is not None:
        files["resampled.parquet"] = write_frame(samples, {**RESAMPLED, **DRAWS})
    if with_predictions:
        lost = [d for d, f in found.items() if not f.kept]
        if lost:
            raise InputError(f"{results}: predictions of {len(lost)} trial(s) were not kept ({some(lost, 2)}); "
                             "run again with them, or leave out --with-predictions.")  # fmt: skip
        for digest in found:
            files[f"predictions/{digest}.f32"] = packed_predictions(store.read_trial(digest))
    tasks = _tasks(store, trials, splits)
    manifest = {
        "kind": KIND, "format": FORMAT, "panmodal": __version__, "title": title, "contact": contact, "notes": notes, "date": date,
        "embeddings": sorted({t.embedding for t in trials if t.role == "embedding"}), "tasks": tasks,
        "simulated": any(t.simulated for t in trials), "predictions": with_predictions,
        "files": [{"name": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())],
    }  # fmt: skip
    files["manifest.json"] = _json(manifest)
    report = _write(out, files)
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()[:32]
    told += [f"{f.what} ({f.where})" for f in report.findings if f.severity == "warning"]
    return Bundled(out, digest, len(trials), out.stat().st_size, tuple(told), report)


def _write(out: Path, files: dict[str, bytes]) -> Report:
    """Write the file and validate it as a maintainer would, before it takes its place."""
    from panmodal.submissions.validate import validate

    with atomic_path(out) as partial:
        write_archive(partial, sorted(files.items()))
        report = validate(partial)
        if not report.valid:
            problems = "; ".join(f"{f.code} {f.what} ({f.where})" for f in report.errors[:5])
            raise InputError(f"{out}: a bundle of these results would not be valid: {problems}.")
    return report


# --- what goes in ----------------------------------------------------------------------------------------------------


def _choose(store: Store, embeddings: Sequence[str] | None) -> tuple[list[Trial], list[str]]:
    """Return the trials of the embeddings, and the floors and oracles of their tasks, by name."""
    planned = store.trials()
    names = sorted({t.embedding for t in planned if t.role == "embedding"})
    imported = _imported(store)
    asked = list(dict.fromkeys(embeddings)) if embeddings else names
    if unknown := [n for n in asked if n not in names]:
        if unknown[0] in imported:
            raise InputError(
                f"{store.path}: the scores of {unknown[0]!r} were imported; published scores of others are not bundled."
            )
        raise InputError(f"{store.path}: no embedding {some(unknown)}; there are {', '.join(names) or 'none'}.")
    if not asked:
        why = "all of its scores were imported, and those of others are not bundled" if imported else "it has no trials"
        raise InputError(f"{store.path}: nothing to bundle: {why}. Make results with panmodal run.")
    tasks = {_place(t) for t in planned if t.embedding in asked and t.role == "embedding"}
    controls = {n + PERMUTED_SUFFIX for n in names if n not in asked}
    chosen = [t for t in planned if _place(t) in tasks
              and (t.embedding in asked if t.role == "embedding" else t.embedding not in controls)]  # fmt: skip
    notes = [f"imported scores are left out ({some(imported, 3)})"] if imported else []
    return sorted(chosen, key=lambda t: t.key), notes


def _imported(store: Store) -> list[str]:
    if not (store.path / "scores.parquet").exists():
        return []
    scores = store.scores()
    return sorted(scores.loc[scores["trial"].astype(str).str.startswith(PREFIX), "embedding"].astype(str).unique())


def _place(trial: Trial) -> tuple[Any, ...]:
    return (trial.screen, trial.context, trial.response, trial.split, trial.seed)


@dataclass(frozen=True)
class _Finished:
    rows: pd.DataFrame
    rules: dict[str, int]
    of_genes: dict[str, Any] | None
    about: dict[str, Any]
    content: str
    kept: bool
    expected_error: bool


def _finished(store: Store, trial: Trial) -> _Finished:
    """Read a trial whole, so that damage is found here and not by the maintainer."""
    where = f"{store.path}: trial {trial.digest} ({trial.context}, fold {trial.fold}, {trial.embedding}, {trial.probe})"
    try:
        found: Predictions = store.read_trial(trial.digest)
    except StoreError as error:
        raise StoreError(f"{where} is not finished, or damaged: {error} Finish the run before bundling it.") from error
    rows = store.read_rows(trial.digest)
    genes = store.read_genes(trial.digest) if has_classes(trial.response) else None
    if rows is None or (has_classes(trial.response) and genes is None):
        raise StoreError(f"{where} has no scores, or damaged ones; give panmodal rescore.")
    rules = {**rows[1], **(genes[1]["rules"] if genes else {})}
    if old := [m for m, rule in rules.items() if m not in METRICS or METRICS[m].rule != rule]:
        raise StoreError(f"{where}: {some(old)} were computed by another version; give panmodal rescore.")
    return _Finished(rows[0], rules, genes[1] if genes else None, found.record, found.content, found.values is not None,
                     found.expected_error is not None)  # fmt: skip


def _record(trial: Trial, found: _Finished) -> dict[str, Any]:
    about = {k: found.about[k] for k in ("hyperparameters", "seconds", "version")}
    return {
        **trial.to_record(),
        **about,
        "provenance": _provenance(trial, found.about),
        "content": found.content,
        "rules": found.rules,
        "expected_error": found.expected_error,
    }


def _provenance(trial: Trial, about: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a trial beside its labels and outcome."""
    known = {*trial.to_record(), "hyperparameters", "seconds", "version", "content"}
    return {k: v for k, v in about.items() if k not in known}


def _environments(store: Store, found: dict[str, _Finished]) -> dict[str, Any]:
    """Return the environments that trials name, by their digests."""
    named = {str(f.about["environment"]) for f in found.values() if f.about.get("environment")}
    read = {d: store.read_environment(d) for d in sorted(named)}
    return {d: record for d, record in read.items() if record is not None}


def _scores(store: Store, trials: Sequence[Trial], rows: pd.DataFrame, found: dict[str, _Finished]) -> pd.DataFrame:
    """Average anew: which ids are covered by all embeddings depends on the embeddings that are bundled."""
    labels = []
    for trial in trials:
        record = trial.to_record()
        record.pop("depends")
        labels.append({**record, "hyperparameters": found[trial.digest].about["hyperparameters"]})
    table = pd.DataFrame(labels)
    of_genes = {d: f.of_genes for d, f in found.items() if f.of_genes is not None}
    totals = compile_totals(store, table, rows, of_genes, {t.digest: t for t in trials})
    available = pd.DataFrame([(d, m) for d, f in found.items() for m in f.rules], columns=["trial", "metric"])
    return tidy_scores(rows, table, totals).merge(available, on=["trial", "metric"])


def _metrics_of(frame: pd.DataFrame) -> dict[str, str]:
    return {m: NUMBER for m in METRICS if m in frame}


def _runs(store: Store, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the plans that any of the trials is in, the latest last."""
    wanted = {(t.key, t.digest) for t in trials}
    out = []
    for _, run in store.runs():
        own = {(Trial.from_record(r).key, r["trial"]) for r in run["trials"]} & wanted
        if own and "screen" in run and "split" in run:
            out.append(run)
    return out


def _run_record(run: dict[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """Keep what a maintainer needs of a plan: no trials, cards (they stand elsewhere), configs or paths."""
    names = {t.embedding for t in trials}
    entries = [e for e in run.get("embeddings", ()) if e["role"] == "embedding"]
    chosen = [f for f in run.get("fusions", ()) if f["name"] in names]
    members = {n for f in chosen for n in f["of"]}
    return {
        "version": str(run.get("version", "")), "screen": run["screen"], "split": run["split"],
        "embeddings": sorted({e["card"]["name"] for e in entries} & (names | members)),
        "fusions": [{k: f[k] for k in ("name", "method", "options", "digest", "of", "covered", "role")} for f in chosen],
        **({"provenance": run["provenance"]} if run.get("provenance") is not None else {}),
    }  # fmt: skip


def _cards(runs: Sequence[dict[str, Any]], trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One card for each embedding (also those within fusions) on each screen; of several runs, the latest."""
    names = {t.embedding for t in trials}
    used = {(t.embedding, t.screen, t.depends["embedding"]) for t in trials}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        members = {n for f in run.get("fusions", ()) if f["name"] in names for n in f["of"]}
        screen = run["screen"]["name"]
        for entry in run.get("embeddings", ()):
            name = entry["card"]["name"]
            if entry["role"] == "embedding" and (name in members or (name, screen, entry["digest"]) in used):
                own = {k: entry[k] for k in ("digest", "covered", "asked")} | {"card": _public(entry["card"])}
                found[screen, name, entry["digest"]] = {"name": name, "screen": screen, **own}
    return [found[key] for key in sorted(found)]


def _public(card: dict[str, Any]) -> dict[str, Any]:
    """Cut the folders of the sender's machine off the files that a recipe names; digests tell which files they are."""
    recipe = card.get("recipe")
    if not isinstance(recipe, dict):
        return card
    sources = [
        {**s, "path": Path(s["path"]).name if Path(s["path"]).is_absolute() else s["path"]}
        for s in recipe.get("sources", ())
    ]
    return {**card, "recipe": {**recipe, "sources": sources}}


def _splits(store: Store, trials: Sequence[Trial]) -> dict[str, Split]:
    wanted = {t.depends["split"]: t.split for t in trials}
    found: dict[str, Split] = {}
    for path in sorted((store.path / "splits").glob("*.csv")):
        if any(path.stem.endswith(d[:8]) for d in wanted):
            split = read_split(path)
            if split.digest in wanted:
                found[split.digest] = split
    if missing := [name for d, name in wanted.items() if d not in found]:
        raise StoreError(
            f"{store.path / 'splits'}: the folds of split {some(missing)} are not there; give the run again."
        )
    return dict(sorted(found.items()))


def _csv(split: Split) -> bytes:
    import csv
    import io

    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([("pert_id", "fold"), *sorted(split.folds.items())])
    return stream.getvalue().encode()


def _tasks(store: Store, trials: Sequence[Trial], splits: dict[str, Split]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.screen, trial.context, trial.response, trial.split), []).append(trial)
    out = []
    for (screen, context, response, split), own in sorted(found.items()):
        ids, _, readouts = store.read_responses(own[0].depends["responses"])
        out.append({
            "screen": screen, "context": context, "response": response, "split": split,
            "responses": own[0].depends["responses"], "split_digest": own[0].depends["split"],
            "folds": sorted({t.fold for t in own}), "seeds": sorted({t.seed for t in own}), "n_perturbations": len(ids),
            "n_readouts": len(readouts), "simulated": own[0].simulated,
        })  # fmt: skip
    return out


def _of_tasks(frame: pd.DataFrame, trials: Sequence[Trial]) -> pd.DataFrame:
    labels = ["screen", "context", "response", "split", "seed"]
    places = pd.DataFrame([_place(t) for t in trials], columns=labels).drop_duplicates()
    return frame.merge(places, on=labels)


def _ceilings(store: Store, trials: Sequence[Trial]) -> pd.DataFrame | None:
    found = store.ceilings()
    if found is None:
        return None
    found = _of_tasks(found[found["n_draws"].notna()], trials).astype({"n_draws": np.int64})
    found = found.dropna(axis=1, how="all")
    order = ["screen", "context", "response", "split", "fold", "seed", "estimator", "pert_id"]
    return found.sort_values(order, kind="stable", ignore_index=True) if len(found) else None


def _resampled(store: Store, trials: Sequence[Trial]) -> pd.DataFrame | None:
    found = store.resampled()
    if found is None:
        return None
    found = _of_tasks(found[found["trial"].isin({"", *(t.digest for t in trials)})], trials)
    if found.empty:
        return None
    draws = pd.DataFrame(np.stack(found["draws"].to_list()).astype(np.float64), columns=[*DRAWS], index=found.index)
    order = ["screen", "context", "response", "split", "fold", "seed", "trial", "estimator", "metric"]
    return pd.concat([found[[*RESAMPLED]], draws], axis=1).sort_values(order, kind="stable", ignore_index=True)


def _json(value: Any) -> bytes:
    return (
        json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    ).encode()
