"""What the tables of patterns say, in sentences that are true of their numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from panmodal.errors import some
from panmodal.insight.gaps import LEVEL, TASK
from panmodal.insight.pattern_plots import NAMES, measure

Q = 1 - LEVEL


def _tasks(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each task's rows with its name in a sentence."""
    kinds = table.groupby(["screen", "context"])["response"].nunique().max() if len(table) else 1
    for (screen, context, response, _), own in table.groupby(TASK, sort=False):
        yield f"{screen}, {context}" + (f" ({response})" if kinds > 1 else ""), own


def percent(share: float) -> str:
    """Write a share as whole per cent, with one decimal where it is small."""
    value = 100 * share
    if 0 < value < 0.05:
        return "under 0.1 %"
    if 99.95 <= value < 100:
        return "over 99.9 %"
    return f"{value:.1f} %" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f} %"


def of_perturbations(table: pd.DataFrame) -> list[str]:
    """Say how many perturbations are predicted, against controls, and which best."""
    said = []
    for name, own in _tasks(table):
        n = len(own)
        most = int((own["share_better"] > 0.5).sum())
        text = (
            f"{name}: {most} of {n} perturbations ({percent(most / n)}) are predicted better than the floor by more than "
            f"half of the methods"
        )
        if own["control_improvement"].notna().any():
            controls = int((own["control_improvement"] > 0).sum())
            beyond = int((own["added"] > 0).sum())
            text += (
                f"; controls without information beat it on {controls} in their mean, and the embeddings beat the "
                f"controls on {beyond}"
            )
        none = int((own["best_embedding"] == "none").sum())
        text += f"; on {none} no method beats the floor" if none else "; on each some method beats the floor"
        best = own[own["added"] > 0].head(3)
        if len(best):
            what = "embeddings add most" if own["control_improvement"].notna().any() else "the improvement is largest"
            text += f"; {what} on {', '.join(best['pert_id'])} ({best['added'].iloc[0]:.2f}: {measure(own['metric'].iloc[0])})"
        part = own["n_covering"] < own["n_methods"]
        if part.any():
            text += f"; {int(part.sum())} are not covered by every embedding, and are filled in there"
        said.append(text + ".")
    return said


def of_best(table: pd.DataFrame) -> list[str]:
    """Say how many embeddings share the wins."""
    said = []
    for name, own in _tasks(table):
        wins = own[own["embedding"] != "none"]
        if wins.empty:
            said.append(f"{name}: no embedding is better than the floor on any perturbation.")
            continue
        top = list(wins.loc[wins["n_best"] == wins["n_best"].max(), "embedding"])
        verb = "are each" if len(top) > 1 else "is"
        said.append(f"{name}: {' and '.join(top)} {verb} the best on {percent(wins['share'].max())} of the perturbations, "
                    f"more than any other; "
                    f"{len(wins)} embedding(s) are the best on at least one.")  # fmt: skip
    return said


def of_correlations(table: pd.DataFrame) -> list[str]:
    """Say which facts go with being predicted well, where the interval leaves zero out."""
    said = []
    for name, own in _tasks(table[table["fallback"] == "filled"]):
        own = own.assign(size=own["rho"].abs()).sort_values("size", ascending=False, kind="stable")
        sure = own[(own["low"] > 0) | (own["high"] < 0)]
        parts = [
            f"{'grows' if row.rho > 0 else 'falls'} with {_fact(row.covariate)} (Spearman {row.rho:.2f}, {row.low:.2f} to "
            f"{row.high:.2f})"
            for row in sure.itertuples()
        ]
        if parts:
            text = f"{name}: what embeddings add {' and '.join(parts[:3])}"
        else:
            text = f"{name}: no fact of the perturbations goes clearly with what embeddings add"
        unclear = own.loc[own["low"].le(0) & own["high"].ge(0), "covariate"]
        if len(unclear) and parts:
            text += f"; no clear relation to {', '.join(_fact(c) for c in unclear)}"
        flat = own.loc[own["rho"].isna(), "covariate"]
        if len(flat):
            text += f"; {', '.join(_fact(c) for c in flat)} does not vary or is too seldom known"
        said.append(text + ".")
    return said


def _fact(covariate: str) -> str:
    names = NAMES | {"n_cells": "the number of cells", "n_deg": "the number of DEGs", "nearest_training": "how alike the "
                                                                                                          "nearest training "
                     "response is", "distinctness": "the distance from the mean response"}  # fmt: skip
    return names.get(covariate, covariate)


def of_pairs(table: pd.DataFrame) -> list[str]:
    """Say whether the same perturbations are predicted well in several tasks."""
    if table.empty:
        return []
    rho = table["rho"].dropna()
    if rho.empty:
        return []
    if len(rho) == 1:
        row = table.loc[rho.index[0]]
        return [
            f"What embeddings add on a perturbation correlates between {row['task_a']} and {row['task_b']} by "
            f"{row['rho']:.2f} (Spearman, "
            f"{int(row['n'])} perturbations; 95 % interval {row['low']:.2f} to {row['high']:.2f})."
        ]
    return [f"What embeddings add on a perturbation correlates between pairs of tasks by {rho.min():.2f} to {rho.max():.2f} "
            f"(Spearman, "
            f"{len(rho)} pairs, median {rho.median():.2f})."]  # fmt: skip


def of_groups(table: pd.DataFrame) -> list[str]:
    """Say how many groups are predicted better or worse, and the most certain of each."""
    said = []
    for name, own in _tasks(table):
        sure = own[own["q"] <= Q]
        text = f"{name}: of {int(own['n_tested'].iloc[0])} groups tested, "
        for side, word in ((sure[sure["auc"] > 0.5], "better"), (sure[sure["auc"] < 0.5], "worse")):
            text += f"{len(side)} are predicted {word} than the other perturbations"
            if len(side):
                row = side.iloc[0]
                text += (
                    f" (first {row['group']}, {int(row['n'])} members such as "
                    f"{', '.join(row['members'].split(', ')[:3])}, AUC {row['auc']:.2f})"
                )
            text += " and " if word == "better" else ""
        said.append(text + f" (Benjamini-Hochberg, q <= {Q:.2g}).")
    return said


def of_readouts(table: pd.DataFrame) -> list[str]:
    """Say how many read-outs the first method predicts, beside the control, and how that goes with their variance."""
    said = []
    for name, own in _tasks(table):
        first = own.iloc[0]
        text = (f"{name}: {first['embedding']} with {first['probe']} predicts {percent(first['share_predicted'])} of "
                f"{int(first['n_readouts'])} "
                f"read-outs (r > 0 with q <= {Q:.2g}), and is better than the train mean on "
                f"{percent(first['share_above_mean'])} of them; the median "
                f"R2 is {first['median_r2']:.3f}")  # fmt: skip
        controls = own[own["role"] == "control"]
        if len(controls):
            row = controls.iloc[0]
            text += f"; the control {row['embedding']} predicts {percent(row['share_predicted'])}"
            if row["share_predicted"] > Q:
                text += ", so that its share should be taken off"
        if np.isfinite(first["rho_variance"]):
            text += f"; r and the variance of a read-out correlate by {first['rho_variance']:.2f} (Spearman)"
        said.append(text + ".")
    return said


def of_saturation(table: pd.DataFrame) -> list[str]:
    """Say what is solved by whom."""
    said = []
    for name, own in _tasks(table[table["fallback"] == "filled"]):
        row = own.iloc[0]
        if not row["n"]:
            said.append(f"{name}: for no perturbation can it be told whether it is solved.")
            continue
        text = (f"{name}: the floor ({row['floor_by']}) solves {percent(row['solved by the floor'])} of {int(row['n'])} "
                f"perturbations, embeddings "
                f"{percent(row['by all embeddings'] + row['by some embeddings'])} more ({percent(row['by all embeddings'])} "
                f"by all of them), and "
                f"{percent(row['by none'])} are solved by none; {row['best']} solves {percent(row['best_share'])}")  # fmt: skip
        if np.isfinite(row["oracle_share"]):
            text += f", the idealised oracle {percent(row['oracle_share'])}"
        if row["floor_by"] == "no change" and not row["rule"].startswith("at least as"):
            text += "; by this rule 'no change' solves nothing but responses of zero"
        said.append(f"{text}. Solved: {row['rule']}.")
    return said


def of_subsets(table: pd.DataFrame) -> list[str]:
    """Say who leads on the perturbations that the floor does not solve, against all."""
    said = []
    for name, own in _tasks(table):
        leaders = {
            s: rows[rows["rank"] == 1] for s, rows in own[own["role"] == "embedding"].groupby("subset", sort=False)
        }
        sizes = own.groupby("subset", sort=False)["n_perturbations"].first()
        if "all" not in leaders or leaders["all"].empty:
            continue
        top = _names(leaders["all"])
        text = f"{name}: {top} leads on all {sizes['all']} perturbations"
        for subset, rows in leaders.items():
            if subset == "all" or rows.empty:
                continue
            what = "not solved by the floor" if subset == "resistant" else "that the floor scores worst"
            if sizes[subset] == sizes["all"]:
                text += f"; all of them are {what}"
                continue
            now = _names(rows)
            lead = "also" if now == top else f"{now} (overall rank {int(rows['rank_all'].iloc[0])})"
            text += f"; {lead} on the {sizes[subset]} {what}"
        said.append(text + ".")
    return said


def _names(rows: pd.DataFrame) -> str:
    return " and ".join(f"{e} with {p}" for e, p in zip(rows["embedding"], rows["probe"], strict=True))


def of_shares(table: pd.DataFrame) -> list[str]:
    """Say where the variation of the scores lies."""
    said = []
    for name, own in _tasks(table):
        share = own.set_index("source")["share_without_folds"].drop("fold")
        if not np.isfinite(share).all():
            said.append(f"{name}: all methods score the same.")
            continue
        folds = own.set_index("source")["share"]["fold"]
        said.append(
            f"{name}: {percent(folds)} of the variation of {own['metric'].iloc[0]} lies between folds; of the rest "
            f"{percent(share['embedding'])} lies "
            f"between embeddings, {percent(share['probe'])} between probes, {percent(share['interaction'])} in how the two go "
            f"together, and "
            f"{percent(share['residual'])} is noise between folds."
        )
    return said


def of_agreement(table: pd.DataFrame) -> list[str]:
    """Say whether the order of embeddings depends on the probe."""
    said = []
    for name, own in _tasks(table):
        row = own.iloc[0]
        w, n = row["w"], int(row["n_embeddings"])
        if not np.isfinite(w):
            said.append(f"{name}: with every probe all {n} embeddings score the same.")
            continue
        rho, noise = row["mean_rho"], row["rho_folds"]
        how = "nearly the same" if rho >= 0.8 else "similar" if rho >= 0.5 else "not the same"
        text = (
            f"{name}: the order of the {n} embeddings is {how} with all {int(row['n_probes'])} probes (Kendall's W "
            f"{w:.2f}, rank correlation "
        )
        text += (
            f"{rho:.2f}; of two halves of the folds with one probe {noise:.2f})"
            if np.isfinite(noise)
            else f"{rho:.2f})"
        )
        if rho < 0.8 and noise < 0.5:
            text += ", but with one probe it is not the same in all folds either, so that noise may be the reason"
        leaders = [part.rsplit(" (", 1)[0] for part in row["leaders"].split(", ")]
        text += (
            f"; {leaders[0]} leads with every probe"
            if len(set(leaders)) == 1
            else f"; the leaders are {row['leaders']}"
        )
        turned, pairs = int(row["crossings"]), int(row["n_pairs"])
        text += f"; {turned} of {pairs} pairs of embeddings change places with the probe in every fold" if turned else (
            "; no pair of embeddings changes places with the probe in every fold")  # fmt: skip
        said.append(text + ".")
    return said


def of_needs(table: pd.DataFrame) -> list[str]:
    """Say which embeddings do better with a local or nonlinear probe, and which with a linear one."""
    said = []
    for name, own in _tasks(table):
        first = own.iloc[0]
        parts = []
        for need, probe, other in (
            ("local", first["local_probe"], first["linear_probe"]),
            ("linear", first["linear_probe"], first["local_probe"]),
        ):
            names = list(own.loc[own["needs"] == need, "embedding"])
            if names:
                parts.append(f"{probe} beats {other} in every fold for {some(names, 6)}".replace("'", ""))
        text = (
            "; ".join(parts)
            or f"neither {first['local_probe']} nor {first['linear_probe']} is better in every fold for any embedding"
        )
        rest = int((own["needs"] == "").sum())
        said.append(f"{name}: {text}" + (f"; for {rest} it differs between folds." if rest and parts else "."))
    return said
