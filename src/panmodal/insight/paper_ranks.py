"""Ranks of embeddings and of families of embeddings in published scores, by resampling folds and contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.paper import DRAWS, FUSION, LEVEL, UNSTATED, part


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
    own = own[~own["modality"].isin([*FUSION, UNSTATED])]
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
