"""How sure is the ranking: rank intervals, chances of being best, critical differences, coverage, families of embeddings."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from panmodal.errors import InputError
from panmodal.insight import rank_plots as plots
from panmodal.insight import rank_tests as tests
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES, Board, Values, read_boards, task_name
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.families import families, families_over_tasks, family_sentences
from panmodal.insight.fusion_parts import fused
from panmodal.insight.gaps import DRAWS, METHOD
from panmodal.insight.leaderboard import FEW
from panmodal.insight.rank_words import leader, listed, name_of, p_value, trained, uneven, verdict
from panmodal.insight.ranking import ALPHA, Comparison, Panel, compare, over_tasks, pair_table, rank_table
from panmodal.insight.resample import sample

TASKS = 8
"""At most so many tasks have a display of their own."""
PANELS = 3
"""At most so many sets of tasks, each with its own methods, are compared over tasks."""
_RESAMPLED = {
    PERTURBATIONS: "perturbations are resampled within folds, the same for all methods",
    SAMPLES: "stored bootstrap samples of the test perturbations are used, the same for all methods",
    FOLDS: "only scores of folds are known, and folds are resampled: these intervals are too narrow with few folds",
}
_CARE = (
    "Perturbations of a fold share a fitted model and folds share training data: intervals and tests are about other perturbations "
    "for the models as they were fitted, not about training again"
)
_COVERAGE = (
    "rank_filled: all test ids, the fallback standing for uncovered ones; rank_common: the test ids that every embedding covers. The "
    "first rewards coverage, the second asks about the perturbations that all can describe; neither is wrong."
)
_FAMILIES = (
    "best and mean: of the family's best and mean member, with 95 % bootstrap intervals; p_best: share of draws in which the family "
    "holds the best embedding, beside its share of all embeddings (a large family has more chances); best_of: expected best of as "
    "many members as the smallest family has. Other embeddings of a modality may do otherwise."
)


def displays(evidence: Evidence, *, draws: int = DRAWS, seed: int = 0, alpha: float = ALPHA) -> list[Display]:
    """Draw the conclusions about ranks: over tasks first, then task by task (eight at most), coverage, families."""
    boards = read_boards(evidence)
    samples = sample(boards, draws=draws, seed=seed)
    chosen = _embeddings(evidence, boards)
    chosen_samples = samples if chosen is boards else sample(chosen, draws=draws, seed=seed)
    compared = [compare(b, s, alpha=alpha) for b, s in zip(boards, samples, strict=True)]
    found: list[Display] = []
    panels = over_tasks(chosen, chosen_samples, alpha=alpha)
    if chosen is not boards:
        for k, panel in enumerate(over_tasks(boards, samples, alpha=alpha)[:PANELS]):
            found.append(_over("methods", panel, k))
    for k, panel in enumerate(panels[:PANELS]):
        found.append(_over("embeddings" if panel.boards[0].unit == "embedding" else "methods", panel, k))
    for k, panel in enumerate(panels[:PANELS]):
        found += _differences(panel.table, panel.comparison, f"over {panel.where}", k)
    if not panels:
        k = int(np.argmax([len(b.methods) for b in chosen]))
        where = f"on {task_name(chosen[k].task, [b.task for b in chosen])}"
        found += _differences(chosen[k].methods, compare(chosen[k], chosen_samples[k], alpha=alpha), where, 0)
    found += _chances(chosen, chosen_samples)
    for k, board in enumerate(boards[:TASKS]):
        found.append(_task(board, samples[k], compared[k], boards, found))
    found += _coverage(evidence, boards, samples, draws, seed, alpha)
    found += _families(panels, chosen, chosen_samples)
    return found


def _embeddings(evidence: Evidence, boards: list[Board]) -> list[Board]:
    """Boards of embeddings at the probe chosen on other folds; those given where each has one probe or it cannot be chosen."""
    if all(b.methods["embedding"].is_unique for b in boards):
        return boards
    try:
        return read_boards(evidence, unit="embedding")
    except InputError:
        return boards


def slug(text: str) -> str:
    """Lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _numbered(name: str, k: int) -> str:
    return name if k == 0 else f"{name}-{k + 1}"


def _over(kind: str, panel: Panel, k: int) -> Display:
    table, boards = panel.table, panel.boards
    where = f"Over {panel.where}"
    said = [leader(table, where)]
    first = table.iloc[0]
    wins = f"{where}: {name_of(table, 0)} ranks first on {first['wins']:.3g} of {len(boards)}"
    if np.isfinite(first["wins_low"]):
        low, high = first["wins_low"], first["wins_high"]
        wins += f" ({low:.3g}{'' if low == high else f' to {high:.3g}'} in 95 % of the draws)"
    if np.isfinite(first["mean_gap_closed"]):
        wins += f" and closes {100 * first['mean_gap_closed']:.0f} % of the gap between floor and ceiling on average"
        best = int(np.nanargmax(table["mean_gap_closed"]))
        if best != 0:
            wins += f"; by that {name_of(table, best)} is ahead ({100 * table['mean_gap_closed'].iloc[best]:.0f} %)"
    said += [wins + ".", *verdict(table, panel.comparison, where)]
    if panel.apart:
        said.append(f"{where}: left out, being run on other tasks: {listed(list(panel.apart))}.")
    said += [s for s in (uneven(table["mean_coverage"], table, where), trained(table, where)) if s]
    about = (
        "Ranks on each task scaled to 0 (best) to 1 (worst) and averaged, each task counting the same; intervals hold 95 % of the "
        "bootstrap draws, in which contexts of one screen share their perturbations. "
        + ("The probe of an embedding is the one best on the other folds. " if boards[0].unit == "embedding" else "")
        + f"Groups: methods that share a letter are not distinguishable ({panel.comparison.test}). Contexts of one screen share "
        f"folds, so that the blocks are not independent. {_CARE}."
    )
    return Display(
        _numbered(f"ranks-{kind}", k),
        f"Ranks of {kind} over {panel.where}",
        table,
        about,
        tuple(said),
        plots.interval_plot,
    )


def _task(board: Board, samples: Values, comparison: Comparison, boards: list[Board], before: list[Display]) -> Display:
    table = rank_table(board, samples, comparison)
    where = task_name(board.task, [b.task for b in boards])
    said = [leader(table, where), *verdict(table, comparison, where)]
    p = table["p_leader_folds"].iloc[1:]
    clear = comparison.distinguishable[0, 1:]
    doubtful = [name_of(table, k + 1) for k in np.flatnonzero(clear & (p >= comparison.alpha).to_numpy()).tolist()]
    if doubtful:
        said.append(f"{where}: of those distinguishable from the first, the more cautious test over folds (Nadeau and Bengio) does "
                    f"not separate {listed(doubtful)}.")  # fmt: skip
    if 0 < board.n_ids < FEW:
        said.append(f"{where}: only {board.n_ids} perturbations were tested.")
    if board.by == FOLDS:
        said.append(f"{where}: {_RESAMPLED[FOLDS]} ({len(board.blocks)} here).")
    said += [s for s in (uneven(table["coverage"], table, where), trained(table, where)) if s]
    if board.left_out:
        said.append(f"{where}: without a score, and not ranked: {listed(list(board.left_out))}.")
    if len(boards) > TASKS and board is boards[TASKS - 1]:
        said.append(f"The other {len(boards) - TASKS} tasks have no figure of their own.")
    about = (f"{board.metric}, {'higher' if board.higher else 'lower'} is better; {_RESAMPLED[board.by]}. Groups: methods that "
             f"share a letter are not distinguishable ({comparison.test}, Holm, alpha {comparison.alpha:g}); at_best and at_worst "
             f"are the ranks the tests leave open. {_CARE}.")  # fmt: skip
    name = slug(f"ranks {where}")
    again = sum(d.name == name or d.name.startswith(f"{name}--") for d in before)
    return Display(
        f"{name}--{again + 1}" if again else name, f"Ranks on {where}", table, about, tuple(said), plots.interval_plot
    )


def critical_table(methods: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Order methods by average rank over blocks: ``embedding, probe, average_rank, groups`` (letters of runs in this order)."""
    average = comparison.friedman.average_ranks
    order = np.argsort(average, kind="stable")
    found = tests.groups(comparison.distinguishable, order)
    letters = tests.letters(found, len(order))
    table = methods[METHOD].assign(average_rank=average, groups=letters)
    return table.iloc[order].reset_index(drop=True)


def _differences(methods: pd.DataFrame, comparison: Comparison, where: str, k: int) -> list[Display]:
    """Draw critical differences and pairs."""
    if len(methods) < 2:
        return []
    table, found = critical_table(methods, comparison), comparison.friedman
    members: dict[str, list[str]] = {}
    for row, own in enumerate(table["groups"]):
        for letter in own.split():
            members.setdefault(letter, []).append(name_of(table, row))
    bars = list(members.values())
    said = [f"Not distinguishable from each other {where}: {listed(names, 6)}." for names in bars if len(names) > 1]
    if not said:
        every = comparison.distinguishable.sum() == len(table) * (len(table) - 1)
        said = [
            f"{'All' if every else 'All neighbours of the'} {len(table)} are distinguishable from each other {where}."
        ]
    _, over, blocks = comparison.test.partition(" over ")
    blocks = blocks if over else "folds"
    rule = f"{comparison.test}, Holm, alpha {comparison.alpha:g}"
    about = (f"Average ranks over {found.n_blocks} blocks ({blocks}); Friedman (Iman and Davenport) {p_value(found.p)}; "
             f"bars join methods of which no pair is distinguishable ({rule}). {_CARE}.")  # fmt: skip
    pairs = pair_table(methods, comparison)
    if methods["embedding"].is_unique:
        pairs = pairs.assign(probe="", other_probe="")
    n = int(pairs["distinguishable"].sum())
    drawn = Display(
        _numbered("critical-difference", k),
        f"Critical differences {where}",
        table,
        about,
        tuple(said[:6]),
        plots.critical_plot,
    )
    duels = Display(
        _numbered("pairs", k), f"Who beats whom {where}", pairs,
        "p_beats: share of bootstrap draws in which the first is better than the other; p: test of the pair, Holm-adjusted; p_folds: "
        "t-test over folds, corrected for shared training data, unadjusted (one task only).",
        (f"{n} of {len(pairs)} pairs are distinguishable {where} ({rule}).",),
        plots.duel_plot,
    )  # fmt: skip
    return [drawn, duels]


def _chances(boards: list[Board], samples: list[Values]) -> list[Display]:
    """Chance of being best, embeddings by tasks; several tasks only."""
    if len(boards) < 2:
        return []
    tasks = [b.task for b in boards]
    tables = []
    for board, drawn in zip(boards, samples, strict=True):
        own = rank_table(board, drawn, compare(board, drawn))
        own = own.assign(task=task_name(board.task, tasks), embedding=[name_of(own, k) for k in range(len(own))])
        tables.append(own[["task", "embedding", "rank", "rank_low", "rank_high", "p_best"]])
    table = pd.concat(tables, ignore_index=True)
    if table["p_best"].isna().all():
        return []
    sure = table[table["p_best"] >= 0.95]
    leaders = list(dict.fromkeys(table.loc[table["rank"] == 1, "embedding"]))
    said = [f"On {sure['task'].nunique()} of {len(boards)} tasks one embedding is the best in at least 95 % of the bootstrap draws"
            + (f" ({listed(list(dict.fromkeys(sure['embedding'])))})." if len(sure) else "."),
            f"{len(leaders)} embedding(s) come first on some task: {listed(leaders)}."]  # fmt: skip
    about = ("p_best: share of bootstrap draws in which the embedding is the best of its task. It takes the scores as they fell: "
             "among equal methods the one that was lucky looks likelier than it is.")  # fmt: skip
    return [
        Display(
            "chance-of-best", "Chance of being the best, task by task", table, about, tuple(said), plots.chance_plot
        )
    ]


def coverage_table(filled: Board, common: Board | None) -> pd.DataFrame:
    """Set scores and ranks on all test ids beside those on the ids that all embeddings cover; NaN where there are none."""
    scores = filled.scores[: len(filled.methods)]
    table = filled.methods[[*METHOD, "coverage"]].assign(
        score_filled=scores, rank_filled=_ranked(scores, filled.higher), n_filled=filled.n_ids, score_common=np.nan,
        rank_common=np.nan, n_common=0,
    )  # fmt: skip
    if common is not None:
        own = common.methods[METHOD].assign(
            score_common=common.scores[:-2], rank_common=_ranked(common.scores[:-2], common.higher)
        )
        table = (
            table.drop(columns=["score_common", "rank_common"])
            .merge(own, on=METHOD, how="left")
            .assign(n_common=common.n_ids)
        )
    return table


def _ranked(scores: Values, higher: bool) -> pd.Series:
    return pd.Series(scores).rank(method="min", ascending=not higher).to_numpy()


def _coverage(
    evidence: Evidence, boards: list[Board], samples: list[Values], draws: int, seed: int, alpha: float
) -> list[Display]:
    """Show the board on all ids beside that on the ids in common, where they differ."""
    if all((b.methods["coverage"] >= 1).all() for b in boards):
        return []
    try:
        common = {b.task: b for b in read_boards(evidence, fallback="common")}
    except InputError:
        common = {}
    tasks, tables, said = [b.task for b in boards], [], []
    drawn = dict(zip(common, sample(list(common.values()), draws=draws, seed=seed), strict=True)) if common else {}
    for board in boards:
        where = task_name(board.task, tasks)
        beside = common.get(board.task)
        table = coverage_table(board, beside)
        tables.append(table.assign(task=where))
        said += _moved(board, beside, table, where, drawn.get(board.task), alpha)
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "task", table.pop("task"))
    draw = plots.coverage_plot if table["rank_common"].notna().any() else None
    return [Display("coverage", "All ids, and the ids that all cover", table, _COVERAGE, tuple(said[:24]), draw)]


def _moved(
    board: Board, common: Board | None, table: pd.DataFrame, where: str, samples: Values | None, alpha: float
) -> list[str]:
    """Say whether the leader or the order changes on the ids in common."""
    if table["coverage"].isna().any():
        return []  # said with the ranks
    spread = f"{100 * table['coverage'].min():.0f} to {100 * table['coverage'].max():.0f} %"
    if (table["coverage"] >= 1).all():
        return []
    if common is None or (common.by == PERTURBATIONS and common.n_ids == 0):
        return [
            f"{where}: no perturbation is covered by all embeddings (coverage {spread}); ranks mix quality with coverage."
        ]
    share = f"{common.n_ids} of {board.n_ids} perturbations" if board.n_ids and common.n_ids else "the ids in common"
    leader, other = name_of(table, 0), name_of(table.sort_values("rank_common", kind="stable"), 0)
    if leader == other:
        text = f"{where}: {leader} leads on all ids and on {share}"
    else:
        text = (
            f"{where}: {leader} leads on all ids, {other} on {share}, so that the first place is a matter of coverage"
        )
        if samples is not None:
            found = compare(common, samples, alpha=alpha)
            place = {key: k for k, key in enumerate(common.keys)}
            pair = place.get(board.keys[0]), place.get(common.keys[0])
            if None not in pair and found.least_p < alpha and not found.distinguishable[pair]:
                text += " or of chance (the two are not distinguishable on the ids in common)"
    moved = int((table["rank_filled"] != table["rank_common"]).sum())
    return [f"{text}; {moved} of {len(table)} ranks change (coverage {spread})."]


def _families(panels: list[Panel], boards: list[Board], samples: list[Values]) -> list[Display]:
    """Compare modalities over tasks and on each, where there are two at least."""
    if any(not b.methods["embedding"].is_unique for b in boards):
        return []  # no probe could be chosen
    single = [np.flatnonzero(~fused(b.methods)) for b in boards]  # a fusion is of no one modality
    if any(len(k) < len(b.methods) for k, b in zip(single, boards, strict=True)):
        kept = [k for k, own in enumerate(single) if len(own)]
        samples = [samples[k][:, [*single[k], -2, -1]] for k in kept]
        boards = [boards[k].pick(single[k].tolist()) for k in kept]
        panels = over_tasks(boards, samples)
    found = []
    for k, panel in enumerate(p for p in panels[:PANELS] if p.boards[0].methods["modality"].nunique() > 1):
        table = families_over_tasks(panel)
        said = family_sentences(table, f"Over {panel.where}")
        found.append(
            Display(
                _numbered("families", k),
                f"Modalities over {panel.where}",
                table,
                _FAMILIES,
                tuple(said),
                plots.family_plot,
            )
        )
    own = [(b, s) for b, s in zip(boards, samples, strict=True) if b.methods["modality"].nunique() > 1]
    if own and (len(boards) == 1 or len(own) > 1 or not found):
        table = families([b for b, _ in own], [s for _, s in own])
        tasks = [b.task for b in boards]
        keys: list[Task] = list(
            dict.fromkeys(table[["screen", "context", "response", "split"]].itertuples(index=False, name=None))
        )
        parts = [table[(table[["screen", "context", "response", "split"]] == list(t)).all(axis=1)] for t in keys]
        said = [family_sentences(part, task_name(t, tasks))[0] for t, part in zip(keys[:TASKS], parts, strict=False)]
        found.append(Display("families-by-task", "Modalities task by task", table, _FAMILIES, tuple(said),
                             plots.family_plot if len(keys) == 1 else None))  # fmt: skip
    return found
