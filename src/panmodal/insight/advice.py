"""What one should do: which embedding to use for a screen and how sure that is, and whether fusing two could help."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, PanmodalError
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.complement import FUSION, fusion_plot, fusion_sentences, fusion_table
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.fusion_parts import FUSION as FUSED
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import ceiling_name, leaderboard

Matrix = NDArray[np.float64]

DRAWS = 1000
LEVEL = 0.95
COST = {"ridge": 0, "ridge_classifier": 0, "knn": 1, "knn_classifier": 1, "lasso": 2, "logistic": 3}
"""Order of probes by what fitting them costs (docs/benchmarks.md); others come last."""
MORE_COVERAGE = 0.01
"""Coverage counts as better from so much more."""
COLUMNS = [
    *TASK, "simulated", "metric", "verdict", "embedding", "probe", "mean", "p_best", "p_best_embedding", "reference", "reference_mean",
    "margin", "margin_low", "margin_high", "gap_closed", "gap_low", "gap_high", "ceiling_by", "coverage", "n_methods", "not_worse",
    "alternative", "alternative_probe", "alternative_coverage", "why_alternative", "contaminated", "best_common", "unknown", "n_tasks",
]  # fmt: skip
EVERY = "all contexts"


def advise(evidence: Evidence, *, metric: str | None = None, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Say which embedding to use, for each task and over the contexts of a screen.

    Parameters
    ----------
    evidence
        Scores, and values of perturbations (metrics of genes: their bootstrap samples) for how sure it is.
    metric
        The primary one of each kind of response unless given.
    draws, seed
        Of the bootstrap over perturbations within folds: the same perturbations for all methods, and for contexts with the same
        test ids. Metrics of genes come with 200 samples of their own.

    Returns
    -------
    pandas.DataFrame
        One row for each task, and one with context ``all contexts`` where a screen has several. ``verdict``: ``use``; or ``none``
        where the best embedding (``embedding``, ``probe``: named all the same) is not better than the ``reference``, the best of
        baselines and controls, by an interval above 0. ``margin``: by how much it is better (positive, in units of the metric;
        for all contexts the mean share of the reference's score), with its 95 % interval. ``p_best``: share of bootstrap samples
        in which it comes first of ``n_methods``; ``p_best_embedding`` the same with any probe. ``not_worse``: embeddings with a
        method whose difference from it has an interval that holds 0. ``alternative``: of those methods one that covers more
        (``why_alternative`` coverage) or is cheaper to fit (probe). ``contaminated``: embeddings left out because they were
        trained on the data set, that score better; ``unknown``: whether it is not known of the advised one. ``best_common``:
        which leads on the ids that all cover. The best of many methods looks better than it is: read ``margin`` with
        ``n_methods``.

    Raises
    ------
    InputError
        Unknown metric, or no scores of it.
    """
    board = leaderboard(
        evidence.scores, metric=metric, rows=evidence.rows, ceilings=evidence.ceilings, resampled=evidence.resampled
    )
    rows, sampled = [], []
    for key, own in board.groupby(TASK, sort=False):
        task: Task = tuple(map(str, key))  # type: ignore[assignment]
        own = own[own["role"].isin(["embedding", "control", "baseline"]) & own["mean"].notna()].reset_index(drop=True)
        if not (own["role"] == "embedding").any():
            continue
        sample = mean_draws(evidence, task, str(own["metric"].iloc[0]), own, draws, seed)
        sampled.append((task, own, sample))
        rows.append({**dict(zip(TASK, task, strict=True)), **_one(own, sample), "n_tasks": 1})
    for group in _groups(sampled):
        rows.append(_over(group))
    if not rows:
        raise InputError("these results hold no scores of an embedding.")
    return pd.DataFrame(rows)[COLUMNS]


def mean_draws(evidence: Evidence, task: Task, metric: str, methods: pd.DataFrame, draws: int, seed: int) -> Matrix:
    """Means over folds of a metric in bootstrap samples of the test perturbations, draws x methods; NaN where not to be had."""
    if METRICS[metric].axis == "gene":
        return _gene_draws(evidence, task, metric, methods)
    out = np.full((draws, len(methods)), np.nan)
    values = evidence.per_perturbation(task, metric)
    number = methods[[*METHOD, "role"]].assign(method=range(len(methods)))
    values = values.merge(number, on=[*METHOD, "role"])
    if values.empty:
        return out
    no_skill = METRICS[metric].no_skill
    if no_skill is not None:
        values["value"] = values["value"].fillna(no_skill)
    total, count = np.zeros_like(out), np.zeros_like(out)
    for (fold, _), part in values.groupby(["fold", "seed"], sort=True):
        wide = part.pivot_table(index="pert_id", columns="method", values="value", dropna=False, aggfunc="first")
        table = wide.reindex(columns=range(len(methods))).to_numpy(np.float64)
        name = json.dumps([task[0], task[3], int(fold), seed, [str(i) for i in wide.index]])
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
        weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws).astype(np.float64)
        defined = np.isfinite(table)
        n = weights @ defined
        total += np.where(n > 0, weights @ np.where(defined, table, 0.0) / np.maximum(n, 1), 0.0)
        count += n > 0
    np.divide(total, count, out=out, where=count > 0)
    return out


def _gene_draws(evidence: Evidence, task: Task, metric: str, methods: pd.DataFrame) -> Matrix:
    trials = evidence.of(task, evidence.trials)
    samples = evidence.resampled
    if samples is None:
        return np.full((1, len(methods)), np.nan)
    drawn = {
        t: np.asarray(d, float)
        for t, d in samples.loc[samples["metric"] == metric, ["trial", "draws"]].itertuples(index=False)
    }
    width = len(next(iter(drawn.values()))) if drawn else 1
    out = np.full((width, len(methods)), np.nan)
    by = trials.groupby(METHOD, sort=False)["trial"].agg(list)
    for k, key in enumerate(methods[METHOD].itertuples(index=False, name=None)):
        found = [drawn[t] for t in by.get(key, []) if t in drawn]
        if found:
            out[:, k] = np.mean(found, axis=0)
    return out


def _sign(metric: str) -> float:
    return 1.0 if METRICS[metric].higher_is_better else -1.0


def _bounds(values: Matrix) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < LEVEL * len(values) or len(known) < 20:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _one(own: pd.DataFrame, sample: Matrix) -> dict[str, Any]:
    metric = str(own["metric"].iloc[0])
    sign = _sign(metric)
    score, draws = sign * own["mean"].to_numpy(float), sign * sample
    ranked = (own["role"] == "embedding").to_numpy()
    seen = (own["seen"] == "yes").to_numpy()
    clean = np.flatnonzero(ranked & ~seen)
    refs = np.flatnonzero(~ranked)
    best_dirty = own.loc[ranked & seen & (score > (score[clean].max() if len(clean) else -np.inf)), "embedding"]
    base = {
        "simulated": bool(own["simulated"].iloc[0]),
        "metric": metric,
        "contaminated": ", ".join(dict.fromkeys(best_dirty)),
    }
    if not len(clean):
        texts = ("embedding", "probe", "reference", "not_worse", "alternative", "alternative_probe", "why_alternative", "best_common",
                 "ceiling_by")  # fmt: skip
        return {
            **dict.fromkeys(COLUMNS, np.nan),
            **dict.fromkeys(texts, ""),
            **base,
            "verdict": "none",
            "unknown": False,
            "n_methods": 0,
        }
    lead = int(clean[np.argmax(score[clean])])
    row = own.iloc[lead]
    ref = int(refs[np.argmax(score[refs])]) if len(refs) else None
    margin = score[lead] - score[ref] if ref is not None else np.nan
    low, high = _bounds(draws[:, lead] - draws[:, ref]) if ref is not None else (np.nan, np.nan)
    known = np.isfinite(draws[:, clean]).all(axis=1)
    winner = clean[np.argmax(draws[np.ix_(np.flatnonzero(known), clean)], axis=1)] if known.any() else np.empty(0, int)
    names = own["embedding"].to_numpy()
    close = [int(m) for m in clean if m != lead and _holds_zero(draws[:, lead] - draws[:, m])]
    alternative, why = _alternative(own, lead, close, score, score[ref] if ref is not None else -np.inf)
    other = own.iloc[alternative] if alternative is not None else None
    common = sign * own["common"].to_numpy(float)[clean]
    first_common = int(clean[np.nanargmax(common)]) if np.isfinite(common).any() else lead
    # Without values of perturbations there is no interval; then nothing is advised that the folds do not agree on.
    sure = low > 0 if np.isfinite(low) else bool(margin > 0 and row["folds_above_floor"] == row["n_folds"])
    reference = "" if ref is None else _named(own.iloc[ref])
    return {
        **base, "verdict": "use" if sure else "none", "embedding": row["embedding"], "probe": row["probe"], "mean": row["mean"],
        "p_best": float(np.mean(winner == lead)) if len(winner) else np.nan,
        "p_best_embedding": float(np.mean(names[winner] == row["embedding"])) if len(winner) else np.nan, "reference": reference,
        "reference_mean": own["mean"].iloc[ref] if ref is not None else np.nan, "margin": margin, "margin_low": low,
        "margin_high": high, **row[["gap_closed", "gap_low", "gap_high", "ceiling_by", "coverage"]].to_dict(),
        "n_methods": len(clean),
        "not_worse": ", ".join(dict.fromkeys(n for n in names[close] if n != row["embedding"])),
        "alternative": "" if other is None else other["embedding"], "alternative_probe": "" if other is None else other["probe"],
        "alternative_coverage": np.nan if other is None else other["coverage"], "why_alternative": why,
        "best_common": names[first_common], "unknown": bool(row["seen"] == "unknown"),
    }  # fmt: skip


def _named(row: pd.Series) -> str:
    return str(row["probe"]) if row["role"] == "baseline" else f"{row['embedding']} with {row['probe']}"


def _holds_zero(difference: Matrix) -> bool:
    low, _ = _bounds(difference)
    return bool(np.isfinite(low) and low <= 0)


def _alternative(own: pd.DataFrame, lead: int, close: list[int], score: Matrix, floor: float) -> tuple[int | None, str]:
    """Find the simplest method that cannot be told apart: more coverage first, then a cheaper probe at no less coverage."""
    coverage = own["coverage"].to_numpy(float)
    cost = own["probe"].map(lambda p: COST.get(p, len(COST))).to_numpy()
    usable = [m for m in close if score[m] > floor]
    wider = [m for m in usable if coverage[m] >= coverage[lead] + MORE_COVERAGE]
    if wider:
        return max(wider, key=lambda m: (round(coverage[m], 2), -cost[m], score[m])), "coverage"
    cheaper = [m for m in usable if cost[m] < cost[lead] and coverage[m] >= coverage[lead] - 1e-9]
    if cheaper:
        same = own["embedding"] == own["embedding"].iloc[lead]
        return max(cheaper, key=lambda m: (-cost[m], bool(same.iloc[m]), score[m])), "probe"
    return None, ""


def _groups(sampled: list[tuple[Task, pd.DataFrame, Matrix]]) -> list[list[tuple[Task, pd.DataFrame, Matrix]]]:
    """Tasks that differ in their context only."""
    found: dict[tuple[str, str, str], list[tuple[Task, pd.DataFrame, Matrix]]] = {}
    for one in sampled:
        found.setdefault((one[0][0], one[0][2], one[0][3]), []).append(one)
    return [group for group in found.values() if len(group) > 1]


def _over(group: list[tuple[Task, pd.DataFrame, Matrix]]) -> dict[str, Any]:
    """Decide over contexts: methods run on all of them, by the mean share of the reference's score by which they are better."""
    task, first, _ = group[0]
    keys = [list(own[[*METHOD, "role"]].itertuples(index=False, name=None)) for _, own, _ in group]
    kept = [k for k in keys[0] if all(k in other for other in keys[1:])]
    shares, draws, common = [], [], []
    merged = first.set_index([*METHOD, "role"]).loc[kept].reset_index()
    for (_, own, sample), names in zip(group, keys, strict=True):
        at = [names.index(k) for k in kept]
        sign, score = _sign(str(own["metric"].iloc[0])), own["mean"].to_numpy(float)[at]
        floor = float(own["floor"].iloc[0])
        scale = abs(floor) if np.isfinite(floor) and floor else 1.0
        shares.append(sign * (score - floor) / scale if np.isfinite(floor) else sign * score)
        draws.append(sign * sample[:, at] / scale)
        common.append(sign * own["common"].to_numpy(float)[at] / scale)
        merged["seen"] = np.where(own["seen"].iloc[at].to_numpy() == "yes", "yes", merged["seen"])
    width = min(len(d) for d in draws)
    columns = {
        name: [
            own[name].to_numpy(float)[[names.index(k) for k in kept]]
            for (_, own, _), names in zip(group, keys, strict=True)
        ]
        for name in ("folds_above_floor", "n_folds", "coverage")
    }
    own = merged.assign(
        metric=_higher(), mean=np.mean(shares, axis=0), common=np.mean(common, axis=0), gap_closed=np.nan, gap_low=np.nan,
        gap_high=np.nan, ceiling_by="", folds_above_floor=np.sum(columns["folds_above_floor"], axis=0),
        n_folds=np.sum(columns["n_folds"], axis=0), coverage=np.mean(columns["coverage"], axis=0),
    )  # fmt: skip
    found = _one(own, np.mean([d[:width] for d in draws], axis=0))
    return {**found, **dict(zip(TASK, (task[0], EVERY, task[2], task[3]), strict=True)), "metric": str(first["metric"].iloc[0]),
            "mean": np.nan, "reference_mean": np.nan, "n_tasks": len(group)}  # fmt: skip


def _higher() -> str:
    """Name a metric in which higher is better: shares are turned that way."""
    return next(name for name, m in METRICS.items() if m.higher_is_better)


def members(evidence: Evidence, *, metric: str | None = None) -> pd.DataFrame:
    """Return which method stands for each embedding of a task (its best probe), best first, and the best control.

    Embeddings trained on the data set are left out.
    """
    board = leaderboard(evidence.scores, metric=metric)
    single = board["modality"].astype(str).str.lower() != FUSED
    kept = board[
        board["role"].isin(["embedding", "control"]) & single & board["mean"].notna() & (board["seen"] != "yes")
    ]
    return kept.drop_duplicates([*TASK, "embedding"])[[*TASK, *METHOD, "role"]].reset_index(drop=True)


def displays(evidence: Evidence) -> list[Display]:
    """Draw the conclusions: which embedding to use, and whether fusing two could help."""
    table = advise(evidence)
    found = [Display("advice", "Which embedding to use", table, ABOUT, tuple(sentences(table)))]
    chosen = members(evidence)
    try:
        fused = fusion_table(evidence, chosen)
    except PanmodalError as error:
        fused, note = pd.DataFrame(), f"Whether fusion could help was not looked at: {error}"
        found.append(Display("advice-fusion", "Whether fusing two embeddings could help", fused, FUSION, (note,)))
        return found
    if len(fused):
        said = tuple(fusion_sentences(fused))
        found.append(
            Display("advice-fusion", "Whether fusing two embeddings could help", fused, FUSION, said, fusion_plot)
        )
    return found


ABOUT = (
    "The best embedding of each task (those trained on the data set left out), if it is better than the best of baselines and "
    "controls (reference) by a 95 % interval above 0 (margin; bootstrap over perturbations within folds). p_best: share of bootstrap "
    "samples in which it comes first. It says what other perturbations of the same experiment would give, and the best of many "
    "methods looks better than it is."
)


def _where(row: Any) -> str:
    contexts = f"over its {row.n_tasks} contexts" if row.context == EVERY else row.context
    return f"{row.screen}, {contexts} ({row.response}, {row.split}){' (simulated data)' if row.simulated else ''}"


def _percent(value: float) -> str:
    text = f"{100 * value:.1f}"
    return f"{text.removeprefix('-') if float(text) == 0 else text} %"


def _amount(row: Any, value: float) -> str:
    return _percent(value) if row.context == EVERY else f"{value:.3g}"


def sentences(table: pd.DataFrame) -> list[str]:
    """Say in one sentence for each row of :func:`advise` what to use, how sure that is, and what to beware of."""
    out = []
    for row in table.itertuples():
        if not row.embedding:
            out.append(
                f"{_where(row)}: no embedding can be advised, as all were trained on this data set ({row.contaminated})."
            )
            continue
        method = f"{row.embedding} with {row.probe}"
        interval = ""
        if np.isfinite(row.margin_low):
            interval = f" (95 % interval {_amount(row, row.margin_low)} to {_amount(row, row.margin_high)})"
        if row.verdict == "none":
            verb = "is no better than" if not row.margin > 0 else "cannot be told from"
            text = f"{_where(row)}: no embedding can be advised; the best by {row.metric}, {method}, {verb} {row.reference}"
            text += f", difference {_amount(row, row.margin)}{interval}" if np.isfinite(row.margin) else ""
        else:
            text = f"{_where(row)}: use {method}, the best by {row.metric}"
            if np.isfinite(row.margin):
                text += f"; it is better than {row.reference} by {_amount(row, row.margin)}{interval}"
            if np.isfinite(row.p_best) and row.n_methods > 1:
                text += f"; its probability of being best is {row.p_best:.2f} among {row.n_methods} methods"
                any_probe = f"{row.p_best_embedding:.2f}"
                text += f" ({any_probe} with any probe)" if any_probe != f"{row.p_best:.2f}" else ""
            if np.isfinite(row.gap_closed):
                text += f"; it closes {round(100 * row.gap_closed)} % of the gap to {ceiling_name(row.ceiling_by)}"
            text += _choices(row)
        if row.contaminated:
            text += f"; {row.contaminated} score(s) better but was trained on this data set"
        if row.unknown:
            text += f"; it is not known whether {row.embedding} was trained on this data set"
        out.append(text + ".")
    return out


def _choices(row: Any) -> str:
    """Say what else would do."""
    text = ""
    if row.not_worse:
        text += f"; not distinguishable from it: {_shortened(row.not_worse)}"
    if row.alternative:
        other = f"{row.alternative} with {row.alternative_probe}"
        if row.why_alternative == "coverage":
            text += f"; {other} is as good within the noise and covers {_percent(row.alternative_coverage)} of the ids instead of "
            text += _percent(row.coverage)
        else:
            text += f"; {other} is as good within the noise and cheaper to fit"
    if row.best_common and row.best_common != row.embedding:
        text += f"; on the ids that all embeddings cover {row.best_common} leads, so that the choice hangs on coverage"
    return text


def _shortened(joined: str, limit: int = 4) -> str:
    """Shorten a list of names."""
    names = joined.split(", ")
    return joined if len(names) <= limit else f"{', '.join(names[:limit])} and {len(names) - limit} more"
