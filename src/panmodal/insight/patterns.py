"""Section of the report: which responses are predicted, which are solved already, and does the probe matter."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.errors import InputError, StoreError
from panmodal.insight import pattern_plots as plots
from panmodal.insight import pattern_sentences as say
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence
from panmodal.insight.interaction import Grid, agreement, cells, crossings, decompose, interactions, probe_need
from panmodal.insight.pattern_associations import across_tasks, correlations
from panmodal.insight.pattern_groups import enrichment, gene_terms
from panmodal.insight.pattern_readouts import by_variance, chosen_methods, readout_bins, readout_summary, readout_table
from panmodal.insight.predictability import Panel, best_for, labelled, panel, perturbation_table
from panmodal.insight.saturation import boards, curve, saturation, solved, subsets

MOST_TASKS = 8
"""Tasks that are looked at; the first ones of the results."""
LISTED = 10
"""Groups that are listed even where none is significant, and best read-outs."""


def displays(evidence: Evidence, groups: pd.DataFrame | None = None, *, most: int = MOST_TASKS) -> list[Display]:
    """Draw the conclusions about perturbations, read-outs, saturation and probes.

    Parameters
    ----------
    evidence
        Results.
    groups
        Columns ``pert_id`` and ``group`` (Reactome, complexes, modes of action, ...); Gene Ontology processes of genes unless
        given.
    most
        Tasks to look at, the first ones.

    Raises
    ------
    InputError
        No task has values of perturbations and a baseline.
    """
    tasks, notes = evidence.tasks[:most], []
    if len(evidence.tasks) > most:
        notes.append(f"Of {len(evidence.tasks)} tasks, patterns are shown for the first {most}.")
    panels: list[tuple[Panel, pd.DataFrame]] = []
    lacking: dict[str, list[str]] = {}
    for task in tasks:
        try:
            found = panel(evidence, task)
            table, lacks = perturbation_table(evidence, found)
        except InputError as error:
            notes.append(_sentence(str(error)))
            continue
        panels.append((found, table))
        for lack in lacks:
            lacking.setdefault(lack, []).append(f"{task[0]}, {task[1]}")
    if not panels:
        raise InputError(" ".join(notes))
    notes += [_sentence(f"{'; '.join(dict.fromkeys(where))}: {lack}") for lack, where in lacking.items()]
    return [
        *_perturbations(evidence, panels, notes), *_groups(panels, groups), *_readouts(evidence, [p for p, _ in panels]),
        *_saturation(evidence, [p for p, _ in panels]), *_interaction(*interactions(evidence, tasks)),
    ]  # fmt: skip


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _common(found: Panel) -> Panel | None:
    """Return the panel of the ids that every embedding covers, where those are some and not all."""
    try:
        common = found.common()
    except InputError:
        return None
    return common if len(common.units) < len(found.units) else None


def _perturbations(evidence: Evidence, panels: list[tuple[Panel, pd.DataFrame]], notes: list[str]) -> list[Display]:
    table = pd.concat([own for _, own in panels], ignore_index=True)
    everywhere = [table]
    for found, _ in panels:
        common = _common(found)
        if common is not None:
            everywhere.append(perturbation_table(evidence, common)[0])
    related = correlations(pd.concat(everywhere, ignore_index=True))
    wins, pairs = best_for(table), across_tasks(table)
    floors = "; ".join(
        f"{found.task[0]}, {found.task[1]}, {found.task[2]}: {found.name(found.need_floor())}" for found, _ in panels
    )
    shown = [
        Display(
            "predictability", "Which perturbations are predicted", table,
            "One row per perturbation, those on which embeddings add most first. improvement: mean over embeddings and probes "
            "of the share of the "
            "floor's error that is taken away (metrics where higher is better: of the difference to the floor); "
            "control_improvement: "
            "the same of the random and permuted controls; added: improvement on the mean of the controls, which know nothing "
            "of perturbations. "
            "best_embedding is the largest of many noisy values. All test ids, the train mean filled in where an embedding "
            "has no vector. "
            f"Floors: {floors}.",
            (*say.of_perturbations(table), *notes), plots.gain_scatter,
        ),
        Display(
            "best-embedding", "Which embedding is best for how many perturbations", wins,
            "n_best: perturbations on which the embedding, with one of its probes, has the best value of all; none: nothing "
            "beats the floor. "
            "The differences may be noise: a win on one perturbation is no evidence.",
            tuple(say.of_best(wins)),
        ),
        Display(
            "predictability-covariates", "What goes with being predicted", related,
            "Spearman correlation of what embeddings add with facts of the perturbations, with a 95 % bootstrap interval over "
            "perturbations; "
            "rho_given_effect: with the effect size held fixed; rho_improvement and rho_control: of the improvement on the "
            "floor, of embeddings and of "
            "controls. Rows common: ids that every embedding covers. Correlations are no causes: large effects are also "
            "measured better.",
            tuple(say.of_correlations(related)), lambda t: plots.covariate_plot(t[t["fallback"] == "filled"]),
        ),
    ]  # fmt: skip
    if len(pairs):
        shown.append(Display(
            "predictability-across-tasks", "Are the same perturbations predicted in other tasks", pairs,
            "Spearman correlation between two tasks of what embeddings add on the perturbations that both "
            "have.", tuple(say.of_pairs(pairs)),
        ))  # fmt: skip
    return shown


def _groups(panels: list[tuple[Panel, pd.DataFrame]], groups: pd.DataFrame | None) -> list[Display]:
    tables, silent = [], []
    terms: dict[tuple[str, ...], pd.DataFrame] = {}  # contexts of a screen have the same ids
    for found, own in panels:
        values, ids = own.set_index("pert_id")["added"], tuple(found.ids)
        if groups is None and ids not in terms:
            terms[ids] = gene_terms(ids)
        tested = enrichment(values, terms[ids] if groups is None else groups)
        if tested.empty:
            silent.append(f"{found.task[0]}, {found.task[1]}")
            continue
        kept = tested[(tested["q"] <= say.Q) | (np.arange(len(tested)) < LISTED)]
        tables.append(labelled(found.task, kept.assign(n_tested=len(tested)), metric=found.metric))
    if not tables:
        return []
    table = pd.concat(tables, ignore_index=True)
    said = say.of_groups(table)
    if silent:
        said.append(f"No group has members enough in {'; '.join(dict.fromkeys(silent))} (ids may name no human genes).")
    about = (
        "Two-sided Mann-Whitney test of what embeddings add on the members of a group against all other perturbations, "
        "Benjamini-Hochberg over groups; "
        "auc: probability that a member is predicted better than another. Groups with q <= 0.05, and the first ten. Groups "
        "overlap, and "
        "their members are not independent."
    )
    if groups is None:
        about += (
            " Groups are Gene Ontology biological processes, which the shipped table numbers and does not name: members "
            "tell what they are."
        )
    return [Display("predictability-groups", "Which groups are predicted", table, about, tuple(said), plots.group_plot)]


def _readouts(evidence: Evidence, panels: list[Panel]) -> list[Display]:
    tables, notes = [], []
    for found in panels:
        methods = [tuple(found.methods.loc[k, ["embedding", "probe"]]) for k in chosen_methods(found)]
        try:
            tables.append(readout_table(evidence, found.task, methods))
        except StoreError as error:
            notes.append(_sentence(str(error)))
    if not tables:
        return []
    table = pd.concat(tables, ignore_index=True)
    total, binned = readout_summary(table), by_variance(table)
    first = table.merge(
        total[[*total.columns[:6]]].drop_duplicates(list(total.columns[:4])), on=list(total.columns[:6])
    )
    best = (
        first.sort_values("r2", ascending=False, kind="stable")
        .groupby(list(total.columns[:4]), sort=False)
        .head(2 * LISTED)
    )
    best = best.sort_values(list(total.columns[:4]), kind="stable").reset_index(drop=True)
    how = (
        "Over all test perturbations, predicted and measured values as deviations from the mean training response of their "
        "fold: r, and R2 = share of "
        "the train mean's squared error that is taken away (the train mean has R2 0). For labels the probability of +1 minus "
        "that of -1. "
        "The three best embeddings with their best probes, and a control. Expression in control cells is not kept in results."
    )
    return [
        Display("readouts", "How well read-outs are predicted", total, f"{how} share_predicted: r > 0 with q <= 0.05, "
                                                                       f"perturbations taken as "
                "independent; the control shows what that is worth.", (*say.of_readouts(total), *dict.fromkeys(notes))),
        Display("readout-histogram", "Correlation by read-out", readout_bins(table), how, (), plots.readout_histogram),
        Display("readouts-by-variance", "Read-outs by their variance", binned,
                f"Ten bins of equal number, by the variance of the measured values over perturbations. "
                f"{how}", (), plots.variance_plot),
        Display("best-readouts", "Read-outs that are predicted best", best, f"The twenty with the largest R2 by the first "
                                                                            f"method of each task. {how}"),
    ]  # fmt: skip


def _saturation(evidence: Evidence, panels: list[Panel]) -> list[Display]:
    shares, lines, ranked, notes, few = [], [], [], [], []
    for found in panels:
        try:
            status = solved(evidence, found)
            shares.append(saturation(found, status))
            lines.append(curve(found, status))
            common = _common(found)
            if common is not None:
                shares.append(saturation(common, solved(evidence, common)))
            chosen = subsets(found, status)
            ranked.append(boards(evidence, found, chosen))
            if len(chosen["resistant"]) and not (ranked[-1]["subset"] == "resistant").any():
                few.append(
                    f"{found.task[0]}, {found.task[1]}: the floor leaves {len(chosen['resistant'])} unsolved, too few for a "
                    f"board of their own."
                )
        except InputError as error:
            notes.append(_sentence(str(error)))
    if not shares:
        return []
    table, shown = pd.concat(shares, ignore_index=True), []
    shown.append(Display(
        "saturation", "How much is solved already", table,
        "Shares of the perturbations that exclude each other: solved by the floor; not by it but by all embeddings (each with "
        "its best probe); by some; by "
        "none. The rule is in the table and the same for all methods. A ceiling of a weak response lies near the floor, which then "
        "solves it. Rows common: ids that every embedding covers.",
        (*say.of_saturation(table), *notes), lambda t: plots.saturation_bars(t[t["fallback"] == "filled"]),
    ))  # fmt: skip
    if lines:
        shown.append(Display(
            "saturation-curves", "Solved, for every threshold", pd.concat(lines, ignore_index=True),
            "Share of perturbations on which a method has come so far on the way from 'no change' to the ceiling (without "
            "ceilings: to a perfect "
            "prediction); perturbations whose ceiling is no better than 'no change' are left out.", (), plots.saturation_curves,
        ))  # fmt: skip
    if ranked:
        board = pd.concat(ranked, ignore_index=True)
        shown.append(Display(
            "resistant-board", "Who leads where the floor fails", board,
            "The leaderboard again on perturbations chosen by the floor alone: those that it does not solve, and the half "
            "that it scores worst. Choosing by "
            "the floor favours no embedding over another, but on such a subset the floor looks worse than it is, and gaps to "
            "it larger.",
            (*say.of_subsets(board), *few), plots.subset_plot,
        ))  # fmt: skip
    return shown


def _stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put tables one below the other; those without rows would spoil the types of the columns."""
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def _interaction(grids: list[Grid], notes: list[str]) -> list[Display]:
    if not grids:
        return []
    notes = [_sentence(n) for n in notes]
    notes += [f"{g.task[0]}, {g.task[1]}: left out are {', '.join(g.left_out)}." for g in grids if g.left_out]
    parts, left, order, turned, needs = (
        _stack([make(g) for g in grids]) for make in (decompose, cells, agreement, crossings, probe_need)
    )
    shown = [
        Display("interaction", "Does the best embedding depend on the probe", left,
                "Mean score of every embedding with every probe (all test ids), its rank with that probe (written in the "
                "figure), and the interaction: what is "
                "left when the effects of embedding and probe are taken away, positive where the pair does better than the "
                "two suggest.",
                (*say.of_agreement(order), *notes), plots.interaction_heatmap),
        Display("interaction-shares", "Where the variation of scores lies", parts,
                "Two-way analysis of variance with folds as blocks. excess: share beyond what the residual explains. Folds "
                "share training data, so that p is a "
                "guide and no proof.", tuple(say.of_shares(parts))),
        Display("probe-agreement", "Do probes agree on the order of embeddings", order,
                "Kendall's W of the order of embeddings, probes as raters (1: the same order with every probe); p by "
                "shuffling each order; mean_rho: rank correlation of two probes; rho_folds: of "
                "two halves of the folds with one probe, what noise allows; crossings: pairs of embeddings that change places "
                "with the probe in every fold."),
    ]  # fmt: skip
    if len(turned):
        shown.append(Display("crossings", "Pairs of embeddings that change places with the probe", turned,
                             "a is better with probe_a in every fold, b with probe_b in every fold; differences are positive "
                             "where a is better."))  # fmt: skip
    if len(needs):
        shown.append(Display(
            "probe-need", "Which embeddings need a local probe", needs,
            "The better local or nonlinear probe against the better linear one, each the best in the mean over all "
            "embeddings. advantage: positive where the "
            "local probe is better; relative: beyond the mean of all embeddings.", tuple(say.of_needs(needs)),
        ))  # fmt: skip
    return shown
