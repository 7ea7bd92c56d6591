"""What tables of fusions say, in sentences that are true of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from panmodal.insight.boards import task_name
from panmodal.insight.fusion_parts import FUSION
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.rank_words import listed

BESIDE = ("PDS_cosine", "PDS_L2", "PDS_L1", "MCC")
"""Metrics said beside the primary one: the first of these that there is."""
MOST = 24
"""At most so many sentences of a kind."""
WIDER = 0.01
"""Coverage counts as wider from so much more."""

ABOUT_GAINS = (
    "Each fusion against the best single embedding (with its probe) of the task by the primary metric, chosen on these same results, "
    "which favours the single one. gain is positive where the fusion is better; intervals are bootstrap intervals over perturbations "
    "within folds, paired, and hold for all fusions of a task together (95 %, Bonferroni). They are about other perturbations, for "
    "models as they were fitted; p_folds is the more cautious test over folds. gain_common is on the perturbations that both cover; "
    "gain_alone is over the same method on one embedding, which tells what combining adds to the method, where that was run too. "
    "Errors such as L2 also fall when predictions shrink: read them with perturbation discrimination (PDS)."
)
ABOUT = {
    "weight": (
        "Weights that fits give their modalities, summed over parts (kernels, probes) and divided by the sum of the fit; bars are "
        "means over folds, points are folds. A weight says what a fit relies on, not how good a modality is by itself: of two that "
        "hold the same, one may get all of it."
    ),
    "attention": (
        "Attention that fits give their modalities, summed over parts (heads, layers) and divided by the sum of the fit; bars are "
        "means over folds, points are folds. Attention is no measure of what the prediction depends on."
    ),
    "importance": (
        "By how much the error of left-out training perturbations grows without the modality, as each method measures it; bars are "
        "means over folds, points are folds. Modalities that hold the same look unimportant, since one stands in for the other."
    ),
}
TITLES = {
    "weight": "What fusions weigh",
    "attention": "What fusions attend to",
    "importance": "What fusions would miss",
}
ABOUT_MISSING = (
    "Test perturbations by how many of the fused embeddings have a vector for them, and by which one they lack. gain: over the best "
    "single embedding on the same perturbations (which has the fallback where it does not cover them), with a 95 % interval "
    "(Student's t over perturbations, each row by itself). Perturbations that few embeddings know may be harder or easier for "
    "other reasons: compare with the floor in the same row."
)


def stem(text: str) -> str:
    """Lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def method_name(row: Any) -> str:
    """Name a fusion by its method, and by its bundle too where that was given a name."""
    return str(row.probe) if row.embedding == FUSION else f"{row.embedding} ({row.probe})"


def _amount(value: float) -> str:
    text = f"{value:.3g}"
    return text.removeprefix("-") if float(text) == 0 else text


def _interval(low: float, high: float) -> str:
    return f"interval {_amount(low)} to {_amount(high)}"


def _tasks(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each task's rows with its name in a sentence."""
    tasks = list(table[TASK].drop_duplicates().itertuples(index=False, name=None))
    for task in tasks:
        own = table[(table[TASK] == list(task)).all(axis=1)]
        yield task_name(task, tasks) + (" (simulated data)" if own["simulated"].any() else ""), own


def gain_sentences(table: pd.DataFrame) -> list[str]:
    """Say for each task whether fusions beat the best single embedding, by how much, and what else changes."""
    found, better = [], 0
    for where, own in _tasks(table):
        shown = own[own["primary"]] if own["primary"].any() else own[own["metric"] == own["metric"].iloc[0]]
        combined = shown[shown["n_members"] != 1]
        best = (combined if len(combined) else shown).iloc[0]
        better += bool((combined["verdict"] == "better").any())
        found += [f"{where}: {_leading(best, own)}.", *_rest(where, shown, best)]
    n = table[TASK].drop_duplicates().shape[0]
    head = (
        [f"On {better} of {n} tasks some fusion is better than the best single embedding by an interval above 0."]
        if n > 1
        else []
    )
    return (head + found)[:MOST]


def _leading(best: Any, own: pd.DataFrame) -> str:
    """Say what the best fusion gains, and by what it is qualified."""
    of = (
        f" over {int(best.n_members)} embedding{'s' if best.n_members > 1 else ''}"
        if np.isfinite(best.n_members)
        else ""
    )
    single = f"{best.single} with {best.single_probe}"
    text = f"{method_name(best)}{of} has {best.metric} {best.value:.4g} instead of {best.single_value:.4g} of the best single "
    text += f"embedding, {single} ({_gain(best)})"
    text += {"better": "", "worse": ", and so is worse", "not told apart": ", which cannot be told from no gain",
             "no interval": ", of which it is not known how sure it is"}[best.verdict]  # fmt: skip
    if np.isfinite(best.improved):
        text += f"; {100 * best.improved:.0f} % of the perturbations improve and {100 * best.worsened:.0f} % get worse"
    if np.isfinite(best.gap_closed):
        text += f"; it closes {100 * best.gap_closed:.0f} % of the gap instead of {100 * best.single_gap_closed:.0f} %"
    text += _beside(best, own) + _covering(best) + _alone(best)
    if best.single_seen == "yes":
        text += f"; beware: {best.single} was trained on this data set"
    return text


def _gain(row: Any) -> str:
    text = f"gain {_amount(row.gain)}"
    if np.isfinite(row.gain_low):
        together = f" for all {row.n_fusions} fusions together" if row.n_fusions > 1 else ""
        text += f", 95 % {_interval(row.gain_low, row.gain_high)}{together}"
    return text


def _beside(best: Any, own: pd.DataFrame) -> str:
    """Say what becomes of perturbation discrimination."""
    same = own[(own[METHOD] == list(best[METHOD])).all(axis=1) & (own["metric"] != best.metric)]
    name = next((m for m in BESIDE if (same["metric"] == m).any()), None)
    if name is None:
        return ""
    row = same[same["metric"] == name].iloc[0]
    text = f"; {name} is {row.value:.3g} instead of {row.single_value:.3g}"
    if np.isfinite(row.gain_low):
        text += f" ({_interval(row.gain_low, row.gain_high)} of the gain: {row.verdict})"
    if (row.top, row.top_probe) != (row.single, row.single_probe):
        text += f", and {row.top} with {row.top_probe} has {row.top_value:.3g} alone"
    return text


def _covering(best: Any) -> str:
    """Say what is left of the gain on ids that both cover, where the fusion covers more."""
    if not best.coverage - best.single_coverage > WIDER:
        return ""
    text = f"; it covers {100 * best.coverage:.0f} % of the test perturbations instead of {100 * best.single_coverage:.0f} %"
    if np.isfinite(best.gain_common):
        text += f", and on the {best.n_common} that both cover the gain is {_amount(best.gain_common)}"
        text += f" ({_interval(best.common_low, best.common_high)})" if np.isfinite(best.common_low) else ""
    return text


def _alone(best: Any) -> str:
    """Say what combining gains over the same method with one embedding, where that was run."""
    if not best.alone:
        return ""
    sure = f" ({_interval(best.alone_low, best.alone_high)})" if np.isfinite(best.alone_low) else ""
    text = f"; {best.probe} over {best.alone} alone has {best.alone_value:.4g}"
    return f"{text}, so that {_amount(best.gain_alone)}{sure} is gained by combining and the rest by the method"


def _rest(where: str, shown: pd.DataFrame, best: Any) -> list[str]:
    """Sort the other fusions by what is known of them."""
    others = shown[shown.index != best.name]
    parts = []
    for verdict, said in (("better", "better than it too"), ("not told apart", "not told from it"), ("worse", "worse than it"),
                          ("no interval", "without an interval")):  # fmt: skip
        names = [
            f"{method_name(r)} (gain {_amount(r.gain)})" for r in others[others["verdict"] == verdict].itertuples()
        ]
        if names:
            parts.append(f"{said}: {listed(names, 6)}")
    if not parts:
        return []
    return [f"{where}, the other fusions against {best['single']} with {best['single_probe']}: {'; '.join(parts)}."]


def weight_sentences(table: pd.DataFrame) -> list[str]:
    """Say for each fusion which modality it relies on most and least, and how far folds agree."""
    found = []
    for where, of_task in _tasks(table):
        equal: dict[str, list[str]] = {}
        for _, own in of_task.groupby(["what", *METHOD], sort=False):
            if len(own) < 2:
                continue
            first, last = own.iloc[0], own.iloc[-1]
            name, what = method_name(first), str(first["what"])
            fits = f"over {int(first['n_fits'])} fit{'s' if first['n_fits'] > 1 else ''}"
            if own["share"].notna().all():
                said = {"weight": "of the weight", "attention": "of the attention"}.get(what, f"of {what}")
                if own["share"].max() - own["share"].min() < 1e-9:
                    equal.setdefault(what, []).append(name)
                    continue
                found.append(
                    f"{where}, {name}: {first['modality']} has {_percent(first['share'])} {said} ({_percent(first['share_low'])} to "
                    f"{_percent(first['share_high'])} {fits}), {last['modality']} has the least ({_percent(last['share'])})."
                )  # fmt: skip
            elif own["value"].notna().all():
                head = f"{where}, {name}: {what} is largest for {first['modality']}"
                ends = ("and least for", "")
                if what == "importance":
                    head, ends = (
                        f"{where}, {name}: the error grows most without {first['modality']}",
                        ("and least without", "by "),
                    )
                found.append(f"{head} ({ends[1]}{_amount(first['value'])} in the mean {fits}) {ends[0]} {last['modality']} "
                             f"({_amount(last['value'])}).")  # fmt: skip
        for what, names in equal.items():
            found.append(f"{where}: {what} is the same for all modalities with {listed(names, 6)}.")
    return found[:MOST]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def missing_sentences(table: pd.DataFrame) -> list[str]:
    """Say for the best fusion of each task what it gains where all modalities are there, and where some are not."""
    found = []
    for where, of_task in _tasks(table):
        own = of_task[(of_task[METHOD] == list(of_task[METHOD].iloc[0])).all(axis=1)]
        first, counts = own.iloc[0], own[own["lacks"] == ""]
        parts = [
            f"{r.gain:+.3g} on the {r.n_perturbations} with {r.group}"
            for r in counts.itertuples()
            if np.isfinite(r.gain)
        ]
        if not parts:
            continue
        text = f"{where}: {method_name(first)} gains in {first['metric']} over {first['single']} with {first['single_probe']}: "
        text += f"{', '.join(parts)} modalities"
        lost = list(own.loc[(own["lacks"] != "") & (own["gain_high"] < 0), "lacks"])
        text += f"; it is worse on those without {listed(lost)}" if lost else ""
        found.append(text + ".")
    return found[:MOST]
