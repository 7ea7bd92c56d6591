"""Tables of the paper from a tidy score table: context by context, ranks of embeddings and families, fusion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from panmodal.errors import InputError, some
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import gap_closed
from panmodal.insight.leaderboard import first_metric

GROUP = ["screen", "response", "split"]
"""What holds contexts that share folds."""
PROBES = {"deg": "logistic"}
"""Probe by which embeddings are compared; of other kinds of response ``knn``."""
FUSION = "Fusion"
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
        (own["role"] == "embedding") & (own["probe"] != "own model") & ~own["modality"].isin([FUSION, UNSTATED])
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


def groups(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Screens and kinds of response in which at least two embeddings with a family can be compared by one probe."""
    found = []
    for screen, response in scores[["screen", "response"]].drop_duplicates().itertuples(index=False):
        try:
            own = _ranked(part(scores, screen, response), None)
        except InputError:
            continue
        if own["embedding"].nunique() > 1:
            found.append((str(screen), str(response)))
    return found


def _ranked(own: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    """Embeddings that compete by the same probe."""
    own = own[(own["role"] == "embedding") & (own["probe"] != "own model")]
    own = own[~own["modality"].isin([FUSION, UNSTATED])]
    own = own if names is None else own[own["embedding"].isin(names)]
    full = own.groupby("embedding")["value"].count() == own[["context", "unit"]].drop_duplicates().shape[0]
    return own[own["embedding"].isin(full.index[full])]


def rank_draws(own: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> tuple[pd.Series, pd.DataFrame]:
    """Rank embeddings in each context by their mean over folds, as a share (0 best, 1 worst), and average over contexts.

    Draws resample the folds, the same in every context because contexts share them, and then the contexts: a percentile bootstrap of
    two stages (Davison and Hinkley 1997, 3.8). Few folds and contexts make it rough, and the folds' training sets overlap.

    Parameters
    ----------
    own
        Scores of embeddings without gaps: ``context, unit, embedding, metric, value``.

    Returns
    -------
    pandas.Series, pandas.DataFrame
        The mean rank of each embedding, and that in each draw (draws x embeddings).
    """
    higher = METRICS[own.iloc[0]["metric"]].higher_is_better
    wide = own.pivot_table(index=["context", "unit"], columns="embedding", values="value")
    contexts, names = wide.index.unique("context"), wide.columns
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256("\x00".join(names).encode()).digest()[:4], "big")])
    units = wide.index.unique("unit")
    weights = np.vstack(
        [np.ones(len(units)), rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=draws)]
    )
    shares = np.empty((draws + 1, len(contexts), len(names)))
    for c, context in enumerate(contexts):
        values = wide.loc[context].reindex(units).to_numpy()
        there = ~np.isnan(values).any(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights[:, there] @ values[there]) / weights[:, there].sum(axis=1, keepdims=True)
        means = np.where(np.isnan(means), means[:1], means)  # a draw without any fold of this context
        shares[:, c] = (rankdata(-means if higher else means, axis=1) - 1) / max(len(names) - 1, 1)
    chosen = np.vstack(
        [np.ones(len(contexts)), rng.multinomial(len(contexts), np.full(len(contexts), 1 / len(contexts)), size=draws)]
    )
    mean = np.einsum("dc,dcm->dm", chosen, shares) / len(contexts)
    return pd.Series(mean[0], index=names), pd.DataFrame(mean[1:], columns=names)


def _interval(draws: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return draws.quantile((1 - LEVEL) / 2), draws.quantile((1 + LEVEL) / 2)


def _sets(scores: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """Join groups that share embeddings."""
    found: list[tuple[set[str], list[tuple[str, str]]]] = []
    for group in groups(scores):
        names = set(_ranked(part(scores, *group), None)["embedding"])
        joined = [f for f in found if len(f[0] & names) > 1]
        found = [f for f in found if f not in joined]
        found.append((names.union(*(f[0] for f in joined)), [g for f in joined for g in f[1]] + [group]))
    return [members for _, members in found]


def rank_table(scores: pd.DataFrame, *, joined: bool = True, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Rank embeddings over contexts and tasks (figure 2).

    Parameters
    ----------
    joined
        Rank screens that share embeddings together, on the embeddings that all of them have; each screen and kind of response counts
        the same, whatever its number of contexts. Otherwise each is ranked by itself, with all of its embeddings.

    Returns
    -------
    pandas.DataFrame
        ``set`` (the screens), ``group`` (screen and kind of response, or ``all``), ``embedding, modality, n_contexts``,
        ``mean_rank`` (share: 0 best, 1 worst), ``low`` and ``high`` (95 % interval), ``first`` (share of draws in which it has
        the lowest mean rank).
    """
    tables = []
    for members in _sets(scores) if joined else [[group] for group in groups(scores)]:
        parts = [_ranked(part(scores, *group), None) for group in members]
        common = sorted(set.intersection(*(set(p["embedding"]) for p in parts)))
        if len(common) < 2:
            continue
        label = ", ".join(dict.fromkeys(screen for screen, _ in members)) if joined else ", ".join(members[0])
        made = []
        for (screen, response), own in zip(members, parts, strict=True):
            own = own[own["embedding"].isin(common)]
            made.append((f"{screen}, {response}", own["context"].nunique(), *rank_draws(own, draws=draws, seed=seed)))
        if len(made) > 1:
            whole = sum(m[2] for m in made) / len(made), sum(m[3] for m in made) / len(made)
            made.append(("all", sum(m[1] for m in made), *whole))
        modality = pd.concat(parts).drop_duplicates("embedding").set_index("embedding")["modality"]
        for group, n, mean, drawn in made:
            low, high = _interval(drawn)
            first = (drawn.eq(drawn.min(axis=1), axis=0)).mean()
            table = (
                pd.DataFrame({"mean_rank": mean, "low": low, "high": high, "first": first})
                .rename_axis("embedding")
                .reset_index()
            )
            table.insert(1, "modality", table["embedding"].map(modality))
            table.insert(2, "n_contexts", n)
            tables.append(table.assign(set=label, group=group).sort_values("mean_rank", kind="stable"))
    if not tables:
        raise InputError("no two embeddings with a stated modality can be ranked on the same tasks.")
    found = pd.concat(tables, ignore_index=True)
    return found[["set", "group", "embedding", "modality", "n_contexts", "mean_rank", "low", "high", "first"]]


def family_table(scores: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Rank families of embeddings on each screen and kind of response, with what other folds and contexts would give.

    Returns
    -------
    pandas.DataFrame
        ``screen, response, n_contexts, family, n_embeddings``; ``typical`` (mean over its embeddings of their mean ranks, 0 best and 1
        worst) with ``low`` and ``high``; ``first``, the share of draws in which it is the lowest of all families, and
        ``first_of_several``, of those with at least two embeddings; ``best`` (its best embedding), ``best_rank``, and ``leads``, the
        share of draws in which the best of all embeddings is of this family. A family with many embeddings has more chances to lead.
    """
    tables = []
    for screen, response in groups(scores):
        own = _ranked(part(scores, screen, response), None)
        family = own.drop_duplicates("embedding").set_index("embedding")["modality"]
        mean, drawn = rank_draws(own, draws=draws, seed=seed)
        typical, typical_draws = mean.groupby(family).mean(), drawn.T.groupby(family).mean().T
        low, high = _interval(typical_draws)
        best = {f: str(mean[family.index[family == f]].idxmin()) for f in typical.index}
        leader = drawn.idxmin(axis=1).map(family)
        size = family.value_counts()
        several = typical_draws[[f for f in typical.index if size[f] > 1]]
        table = pd.DataFrame({
            "n_embeddings": size, "typical": typical, "low": low, "high": high,
            "first": typical_draws.eq(typical_draws.min(axis=1), axis=0).mean(),
            "first_of_several": several.eq(several.min(axis=1), axis=0).mean().reindex(typical.index), "best": pd.Series(best),
            "best_rank": pd.Series({f: mean[name] for f, name in best.items()}), "leads": leader.value_counts(normalize=True),
        }).rename_axis("family").fillna({"leads": 0.0}).sort_values("typical", kind="stable").reset_index()  # fmt: skip
        table.insert(0, "n_contexts", own["context"].nunique())
        table.insert(0, "response", response)
        table.insert(0, "screen", screen)
        tables.append(table)
    if not tables:
        raise InputError("no two embeddings with a stated modality can be ranked on the same tasks.")
    return pd.concat(tables, ignore_index=True)


# --- fusion ----------------------------------------------------------------------------------------------------------


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
        models = own[(own["role"] == "embedding") & ((own["probe"] == "own model") | (own["modality"] == FUSION))]
        full = models.groupby("embedding")["value"].count() == own[["context", "unit"]].drop_duplicates().shape[0]
        names = sorted(
            full.index[full], key=lambda n: (models.loc[models["embedding"] == n, "modality"].iloc[0] != FUSION, n)
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
                    "kind": "single" if method == single else "fusion" if modality == FUSION else "model", "value": values[0],
                    "floor": of_floor[0, k], "ceiling": of_ceiling[0], "gap_closed": gaps[0],
                    "low": np.quantile(defined, (1 - LEVEL) / 2) if sure else np.nan,
                    "high": np.quantile(defined, (1 + LEVEL) / 2) if sure else np.nan,
                    "better": int(ahead.sum()), "n_folds": len(wide),
                })  # fmt: skip
    if not records:
        raise InputError("no fusion or other model with scores in every fold and context beside a single embedding.")
    return pd.DataFrame(records)
