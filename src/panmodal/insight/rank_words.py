"""What rank tables say, in sentences that are true of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from panmodal.insight.ranking import Comparison


def name_of(table: pd.DataFrame, k: int) -> str:
    """Name a method: the embedding alone where it stands once."""
    row = table.iloc[int(k)]
    return (
        f"{row['embedding']} with {row['probe']}"
        if row["probe"] and not table["embedding"].is_unique
        else str(row["embedding"])
    )


def listed(items: Sequence[str], limit: int = 4) -> str:
    """Name the first few, and how many more there are."""
    head = ", ".join(items[:limit])
    return head if len(items) <= limit else f"{head} and {len(items) - limit} more"


def chance(p: float) -> str:
    """Format a share of bootstrap draws, which are too few for 0 and 100 %."""
    return "above 99 %" if p >= 0.995 else "below 1 %" if p < 0.005 else f"{100 * p:.0f} %"


def p_value(p: float) -> str:
    """Format a p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(table: pd.DataFrame, comparison: Comparison, where: str) -> list[str]:
    """Say what the tests find: whether methods differ at all, which cannot be told from the first, and when none could be."""
    k, found = len(table), comparison.friedman
    if k < 2:
        return [f"{where}: there is one method only, nothing to compare."]
    said = []
    if np.isfinite(found.p) and k > 2:
        differ = "methods differ" if found.p < comparison.alpha else "no evidence that any methods differ"
        said.append(f"{where}: {differ} (Friedman, {p_value(found.p)}, {found.n_blocks} blocks).")
    if comparison.least_p >= comparison.alpha:
        said.append(f"{where}: {comparison.n_blocks} blocks cannot tell any of {k} methods apart: with {k * (k - 1) // 2} pairs the "
                    f"smallest possible p is {comparison.least_p:.2g} (Wilcoxon, Holm).")  # fmt: skip
        return said
    same = [name_of(table, j) for j in range(1, k) if not comparison.distinguishable[0, j]]
    rule = f"{comparison.test}, Holm, alpha {comparison.alpha:g}"
    if len(same) == k - 1:
        said.append(f"{where}: none of the others is distinguishable from {name_of(table, 0)} ({rule}).")
    elif same:
        said.append(f"{where}: not distinguishable from {name_of(table, 0)}: {listed(same)} ({rule}).")
    else:
        said.append(f"{where}: {name_of(table, 0)} is distinguishable from all others ({rule}).")
    if comparison.contradictory:
        said.append(f"{where}: in {comparison.contradictory} pair(s) the test finds the method with the worse score better: "
                    "typical and mean values disagree, and the pair counts as not distinguishable.")  # fmt: skip
    return said


def leader(table: pd.DataFrame, where: str) -> str:
    """Say who comes first, with what chance and rank interval."""
    first = table.iloc[0]
    tied = int((table["rank"] == 1).sum())
    text = f"{where}: {name_of(table, 0)} {'comes first' if tied == 1 else f'shares the first place with {tied - 1} other(s)'}"
    if np.isfinite(first["p_best"]):
        text += f"; its chance of being the best of {len(table)} is {chance(first['p_best'])}"
        low, high = first["rank_low"], first["rank_high"]
        text += f" (rank {low:.3g}{'' if low == high else f' to {high:.3g}'} in 95 % of the bootstrap draws)"
    return text + "."


def trained(table: pd.DataFrame, where: str) -> str:
    """Say which embeddings have seen the data; nothing if none has."""
    seen = table[table["seen_on"] > 0] if "seen_on" in table else table[table["seen"] == "yes"]
    names = list(dict.fromkeys(seen["embedding"]))
    return f"{where}: trained on data ranked here, beware: {listed(names)}." if names else ""


def uneven(coverage: pd.Series, table: pd.DataFrame, where: str) -> str:
    """Say that coverage differs, by more than a twentieth of the ids."""
    if coverage.isna().any():
        return f"{where}: the coverage of {int(coverage.isna().sum())} of {len(table)} methods is not known."
    low, high = int(coverage.argmin()), int(coverage.argmax())
    if coverage.iloc[high] - coverage.iloc[low] <= 0.05:
        return ""
    return (f"{where}: coverage differs, from {100 * coverage.iloc[low]:.0f} % ({table['embedding'].iloc[low]}) to "
            f"{100 * coverage.iloc[high]:.0f} % ({table['embedding'].iloc[high]}); uncovered perturbations count with the fallback, "
            "so that ranks mix quality with coverage (see the ids in common).")  # fmt: skip
