"""Tables of the paper from a tidy score table: context by context, ranks of embeddings and families, fusion."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import gap_closed
from panmodal.insight.leaderboard import first_metric

GROUP = ["screen", "response", "split"]
"""What holds contexts that share folds."""
PROBES = {"deg": "logistic"}
"""Probe by which embeddings are compared; of other kinds of response ``knn``."""
FUSION = ("Fusion", "fusion")
"""Modality of fusions: of the published ones, and of those of ``panmodal run --fusion``."""
"""Modality of models that take several embeddings."""
UNSTATED = "not stated"
MANY = 6
"""With more contexts than these a figure shows them together."""
DRAWS = 1000
LEVEL = 0.95
Values = NDArray[np.float64]


def part(scores: pd.DataFrame, screen: str, response: str = "lfc", *, metric: str | None = None, probe: str | None = None,
         split: str | None = None) -> pd.DataFrame:  # fmt: skip
    """Return the scores of a screen and kind of response by one metric (filled in), of one probe and the methods without one of these.

    Columns as in the score table, with ``unit`` (seed and fold). ``probe`` is that of :data:`PROBES` unless given. Baselines and
    methods with a model of their own (``own model``) stay.

    Raises
    ------
    InputError
        There are no such scores, or there are several splits and none is given.
    """
    own = scores[(scores["screen"] == screen) & (scores["response"] == response) & (scores["fallback"] == "filled")]
    if split is not None:
        own = own[own["split"] == split]
    if own.empty:
        raise InputError(
            f"no scores of screen {screen!r} with {response} responses; there are {some(scores['screen'].unique())}."
        )
    if own["split"].nunique() > 1:
        raise InputError(f"{screen}, {response}: several splits ({some(own['split'].unique())}); choose one.")
    metric = metric or first_metric(response, set(own["metric"]))
    own = own[own["metric"] == metric]
    if own.empty:
        raise InputError(f"no scores of metric {metric!r} for {screen}, {response}.")
    probe = probe or PROBES.get(response, "knn")
    if probe not in set(own["probe"]):
        raise InputError(
            f"no scores of probe {probe!r} for {screen}, {response}; there are {some(own['probe'].unique(), 12)}."
        )
    own = own[(own["probe"] == probe) | (own["role"] == "baseline") | (own["probe"] == "own model")]
    return own.assign(unit=own["seed"].astype(str) + "/" + own["fold"].astype(str))


def _limits(ceilings: pd.DataFrame | None, own: pd.DataFrame, estimator: str) -> pd.DataFrame:
    """Ceiling of each context and unit: the mean over its perturbations, or the value of the fold where only that is known."""
    first = own.iloc[0]
    metric = first["metric"]
    if ceilings is None or metric not in ceilings:
        return pd.DataFrame(columns=["context", "unit", "ceiling"])
    here = (
        (ceilings[GROUP] == first[GROUP]).all(axis=1) & (ceilings["estimator"] == estimator) & ceilings[metric].notna()
    )
    found = ceilings[here]
    unit = found["seed"].astype(str) + "/" + found["fold"].astype(str)
    return found.assign(unit=unit).groupby(["context", "unit"])[metric].mean().rename("ceiling").reset_index()


def best_single(own: pd.DataFrame) -> str:
    """Name the embedding that is best in the mean over contexts of the means over folds, of those with a family that is no fusion.

    ``own`` is what :func:`part` returns. Only embeddings with a score in every context and fold count.
    """
    higher = METRICS[own.iloc[0]["metric"]].higher_is_better
    ranked = own[
        (own["role"] == "embedding") & (own["probe"] != "own model") & ~own["modality"].isin([*FUSION, UNSTATED])
    ]
    wide = ranked.pivot_table(index="embedding", columns=["context", "unit"], values="value").dropna()
    if wide.empty:
        raise InputError(
            f"{own.iloc[0]['screen']}: no embedding with a stated modality has scores in every context and fold."
        )
    means = wide.T.groupby("context").mean().mean()
    return str(means.idxmax() if higher else means.idxmin())


def protocol_table(
    scores: pd.DataFrame, ceilings: pd.DataFrame | None, *, screen: str = "essential (published)", response: str = "lfc",
    metric: str | None = None, probe: str | None = None, single: str | None = "STRING WaveGC", fused: str | None = "Fusion (Full)",
    estimator: str = "experimental_error", average: str = "median",
) -> pd.DataFrame:  # fmt: skip
    """Set floor, best embedding, fusion and ceiling side by side for every context.

    Parameters
    ----------
    scores, ceilings
        The tidy tables.
    single
        The embedding shown; the best by :func:`best_single` if None.
    fused
        The fusion shown; none if None.
    average
        ``median`` over folds (as published) or ``mean`` (as on the leaderboard); gaps closed are of these averages.

    Returns
    -------
    pandas.DataFrame
        Rows: the baselines, the methods each with its gap closed, the ceiling, the idealised oracle; one column for each context. The
        floor of the gaps is the best baseline.
    """
    if average not in ("median", "mean"):
        raise InputError(f"no average {average!r}; use median or mean.")
    own = part(scores, screen, response, metric=metric, probe=probe)
    name = own.iloc[0]["metric"]
    higher = METRICS[name].higher_is_better
    single = best_single(own) if single is None else single
    rows: dict[str, pd.Series] = {}
    baselines = own[own["role"] == "baseline"].groupby(["probe", "context"])["value"].agg(average).unstack("context")
    for baseline in sorted(baselines.index, key=lambda p: (p != "no change", p)):
        rows[baseline] = baselines.loc[baseline]
    if baselines.empty:
        raise InputError(f"{screen}, {response}: no baseline, and so no floor.")
    floor = baselines.max() if higher else baselines.min()
    limits = _limits(ceilings, own, estimator)
    ceiling = limits.groupby("context")["ceiling"].agg(average).reindex(floor.index)
    for method in filter(None, (single, fused)):
        values = (
            own[(own["embedding"] == method) & (own["role"] == "embedding")].groupby("context")["value"].agg(average)
        )
        if values.empty:
            raise InputError(f"{screen}, {response}: no scores of {method!r} with that probe.")
        rows[method] = values
        rows[f"{method}: gap closed"] = pd.Series(
            gap_closed(values.reindex(floor.index), floor, ceiling, higher), index=floor.index
        )
    rows[estimator.replace("_", " ")] = ceiling
    oracle = own[own["role"] == "oracle"].groupby("context")["value"].agg(average)
    if len(oracle):
        rows["idealised"] = oracle
    return pd.DataFrame(rows).T.reindex(columns=floor.index).rename_axis(index="", columns=None)


def context_table(
    scores: pd.DataFrame, ceilings: pd.DataFrame | None, screen: str, response: str = "lfc", *, metric: str | None = None,
    probe: str | None = None, estimator: str = "experimental_error", family: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Lay out what figure 1 shows: the score of every method in each fold of each context, with the context's floor and ceiling.

    With more than :data:`MANY` contexts there is one box for all: its values are the gaps closed of contexts, floor 0 and ceiling 1.

    Parameters
    ----------
    family
        Leave out embeddings whose family is not stated.

    Returns
    -------
    pandas.DataFrame
        ``context, unit, embedding, probe, role, modality, value, floor, floor_by, ceiling, shown`` (what the value is).
    """
    own = part(scores, screen, response, metric=metric, probe=probe)
    name = own.iloc[0]["metric"]
    higher = METRICS[name].higher_is_better
    means = own[own["role"] == "baseline"].groupby(["context", "probe"])["value"].mean().unstack("probe")
    floor, by = (means.max(axis=1), means.idxmax(axis=1)) if higher else (means.min(axis=1), means.idxmin(axis=1))
    ceiling = _limits(ceilings, own, estimator).groupby("context")["ceiling"].mean().reindex(floor.index)
    drawn = own[own["role"].isin(["embedding", "control", "oracle"])]
    if family:
        drawn = drawn[drawn["modality"] != UNSTATED]
    table = drawn[["context", "unit", "embedding", "probe", "role", "modality", "value"]].assign(shown=name)
    table = table.assign(
        floor=table["context"].map(floor), floor_by=table["context"].map(by), ceiling=table["context"].map(ceiling)
    )
    if len(floor) > MANY:
        keys = ["context", "embedding", "probe", "role", "modality", "floor", "ceiling"]
        table = table.groupby(keys, sort=False)["value"].mean().reset_index()
        table["value"] = gap_closed(table["value"], table["floor"], table["ceiling"], higher)
        table = table.dropna(subset="value").rename(columns={"context": "unit"})
        table = table.assign(
            context=f"{len(floor)} contexts",
            floor=0.0,
            ceiling=1.0,
            floor_by="best baseline",
            shown=f"gap closed, {name}",
        )
    return table.reset_index(drop=True)


# --- ranks -----------------------------------------------------------------------------------------------------------


def fusion_table(scores: pd.DataFrame, ceilings: pd.DataFrame | None, *, estimator: str = "experimental_error",
                 average: str = "median", draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Compare fusions and other models of their own with the best single embedding (figure 5).

    The best single embedding is chosen on the same folds that it is shown on, which flatters it. Models without a score in every
    context and fold are left out.

    Returns
    -------
    pandas.DataFrame
        ``screen, response, context, metric, method, kind`` (``single``, ``fusion``, ``model``), ``value``, ``floor``, ``ceiling``
        (each the average over folds), ``gap_closed`` and its 95 % interval ``low`` to ``high`` (bootstrap over folds, the same for
        method, floor and ceiling; not defined where the ceiling is no better than the floor), ``better`` (folds in which the
        method beats the best single embedding), ``n_folds``.
    """
    records = []
    for screen, response in scores[["screen", "response"]].drop_duplicates().itertuples(index=False):
        try:
            own = part(scores, screen, response)
            single = best_single(own)
        except InputError:
            continue
        name = own.iloc[0]["metric"]
        higher = METRICS[name].higher_is_better
        limits = _limits(ceilings, own, estimator)
        models = own[(own["role"] == "embedding") & ((own["probe"] == "own model") | own["modality"].isin(FUSION))]
        full = models.groupby("embedding")["value"].count() == own[["context", "unit"]].drop_duplicates().shape[0]
        names = sorted(
            full.index[full], key=lambda n: (models.loc[models["embedding"] == n, "modality"].iloc[0] not in FUSION, n)
        )
        if not names:
            continue
        rng = np.random.default_rng(seed)
        for context, here in own.groupby("context", sort=True):
            wide = here[here["role"] == "embedding"].pivot_table(index="unit", columns="embedding", values="value")
            floors = (
                here[here["role"] == "baseline"]
                .pivot_table(index="unit", columns="probe", values="value")
                .reindex(wide.index)
            )
            ceiling = limits[limits["context"] == context].set_index("unit")["ceiling"].reindex(wide.index)
            at = np.vstack([np.arange(len(wide)), rng.integers(len(wide), size=(draws, len(wide)))])
            over = np.median if average == "median" else np.mean
            of_floor, of_ceiling = over(floors.to_numpy()[at], axis=1), over(ceiling.to_numpy()[at], axis=1)
            k = int((of_floor[0].argmax if higher else of_floor[0].argmin)())
            for method in [single, *names]:
                values = over(wide[method].to_numpy()[at], axis=1)
                gaps = gap_closed(values, of_floor[:, k], of_ceiling, higher)
                modality = own.loc[own["embedding"] == method, "modality"].iloc[0]
                ahead = wide[method] > wide[single] if higher else wide[method] < wide[single]
                defined = gaps[1:][np.isfinite(gaps[1:])]
                sure = len(defined) >= LEVEL * draws
                records.append({
                    "screen": screen, "response": response, "context": context, "metric": name, "method": method,
                    "kind": "single" if method == single else "fusion" if modality in FUSION else "model", "value": values[0],
                    "floor": of_floor[0, k], "ceiling": of_ceiling[0], "gap_closed": gaps[0],
                    "low": np.quantile(defined, (1 - LEVEL) / 2) if sure else np.nan,
                    "high": np.quantile(defined, (1 + LEVEL) / 2) if sure else np.nan,
                    "better": int(ahead.sum()), "n_folds": len(wide),
                })  # fmt: skip
    if not records:
        raise InputError("no fusion or other model with scores in every fold and context beside a single embedding.")
    return pd.DataFrame(records)
