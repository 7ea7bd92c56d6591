"""What embeddings share: likeness of their vectors and of their predictions, and whether nearness in them means alike responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import StoreError, some
from panmodal.insight import similarity_plots as plots
from panmodal.insight.display import Display
from panmodal.insight.enrichment import CURVE, neighbour_enrichment
from panmodal.insight.enrichment import MIN_IDS as NEIGHBOUR_IDS
from panmodal.insight.evidence import Evidence, Vectors
from panmodal.insight.fusion_parts import fused
from panmodal.insight.gaps import TASK
from panmodal.insight.representation import MEASURES, MIN_IDS, as_probes_see, compare
from panmodal.insight.similarity_predictions import best_probes, prediction_pairs
from panmodal.insight.terminal import number

ALIKE = ["screen", "a", "b", "n", "measure", "value", "expected", "corrected", "held_out", "published", "p"]
SUMMARY = [
    "area",
    "area_low",
    "area_high",
    "area_p",
    "auroc",
    "auroc_low",
    "auroc_high",
    "random_pairs",
    "n_ids",
    "n_undefined",
]
RANDOM = "random"
FALSE_DISCOVERIES = 0.05
ABOUT_ALIKE = (
    "Vectors as the probes see them (each dimension standardised, first 100 principal components), on the ids that both "
    "embeddings of a pair cover (n). CCA: mean squared canonical correlation of the first 10 principal components "
    "('held_out': mean correlation on ids that the pairs were not fitted on; 'published': 2 x mean correlation - 1, what the "
    "published figure shows). CKA: linear; the figure and 'corrected' show the unbiased estimate. "
    "Neighbours: share of the 10 nearest in common. RSA: Spearman correlation of distances. 'expected' is the mean where rows "
    "are dealt out at random, 'corrected' is without it, 'p' from random deals."
)
ABOUT_NEIGHBOURS = (
    "Cosine of centred responses of an id and its neighbours in an embedding, minus the mean of all pairs, by rank of the "
    "neighbour; bands are 95 % bootstrap intervals over ids, grey is what vectors dealt to the wrong ids give (the widest of the "
    "embeddings). 'area': mean over ranks. 'auroc': how well nearness finds the 5 % of ids with the most alike responses (0.5 "
    "is chance). Each embedding on the ids that it covers (n_ids)."
)
ABOUT_PREDICTIONS = (
    "For every two methods, on the test ids that both cover (n). 'predictions': correlation of predictions minus the train mean, "
    "mean over perturbations. 'errors': correlation over perturbations of the metric; 'gains': the same relative to the floor, so "
    "that perturbations which are hard for everyone do not count; low where methods are good at different perturbations."
)


def read_all(evidence: Evidence, screen: str) -> tuple[dict[str, Vectors], list[str]]:
    """Return the vectors of a screen's embeddings and of the random control, by name, and whose vectors were not kept."""
    trials = evidence.trials
    trials = trials[~fused(trials)]  # a fusion has no vectors of its own
    own = trials[(trials["screen"] == screen) & ((trials["role"] == "embedding") | (trials["embedding"] == RANDOM))]
    found: dict[str, Vectors] = {}
    absent = []
    for name, role in own[["embedding", "role"]].drop_duplicates().itertuples(index=False, name=None):
        try:
            found[name] = evidence.read_vectors(name, screen)
        except StoreError:
            if role == "embedding":
                absent.append(name)
    return found, absent


def likeness(
    vectors: Mapping[str, Vectors], screen: str = "", *, permutations: int = 99, neighbours: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Measure how alike every two embeddings are, on the ids that both have.

    Each embedding is standardised and projected on all ids that it has, as for a probe, and then cut to the ids in common.

    Parameters
    ----------
    vectors
        By name.
    screen
        Label of the table.
    permutations, neighbours, seed
        See :func:`panmodal.insight.representation.compare`.

    Returns
    -------
    pandas.DataFrame
        :data:`ALIKE`, one row for each pair and measure; numbers are NaN where fewer than 20 ids are in common.
    """
    seen = {name: as_probes_see(v.values) for name, v in vectors.items()}
    row = {name: {i: k for k, i in enumerate(v.ids)} for name, v in vectors.items()}
    records = []
    for a, b in combinations(vectors, 2):
        common = sorted(row[a].keys() & row[b].keys())
        found = {}
        if len(common) >= MIN_IDS:
            x, y = (seen[name][[row[name][i] for i in common]] for name in (a, b))
            found = compare(x, y, permutations=permutations, k=neighbours, seed=seed)
        for measure in MEASURES:
            own = found.get(measure)
            numbers = [np.nan] * 6 if own is None else list(astuple(own))
            records.append([screen, a, b, len(common), measure, *numbers])
    return pd.DataFrame(records, columns=ALIKE)


def enrichment_table(
    evidence: Evidence,
    vectors: Mapping[str, Mapping[str, Vectors]],
    *,
    draws: int = 200,
    permutations: int = 99,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure for every task and embedding whether neighbours have alike responses.

    Parameters
    ----------
    vectors
        Screen -> name -> vectors.
    draws, permutations, seed
        See :func:`panmodal.insight.enrichment.neighbour_enrichment`.

    Returns
    -------
    pandas.DataFrame
        Task columns, ``embedding``, the columns of the curve and (repeated) of the summary. Embeddings with vectors of fewer
        than 20 ids of a task are not in it.
    """
    tables = []
    for task in evidence.tasks:
        truth = evidence.read_truth(task)
        here = set(evidence.of(task, evidence.trials)["embedding"])
        for name, own in vectors.get(task[0], {}).items():
            rows = [k for k, i in enumerate(own.ids) if i in truth.row]
            if name == RANDOM or name not in here or len(rows) < NEIGHBOUR_IDS:
                continue
            z = as_probes_see(own.values[rows])
            values = truth.values[[truth.row[own.ids[k]] for k in rows]]
            found = neighbour_enrichment(z, values, draws=draws, permutations=permutations, seed=seed)
            labels = dict(zip(TASK, task, strict=True))
            tables.append(found.curve.assign(**labels, embedding=name, **found.summary))
    columns = [*TASK, "embedding", *CURVE, *SUMMARY]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def discoveries(p: Sequence[float], rate: float = FALSE_DISCOVERIES) -> NDArray[np.bool_]:
    """Tell which p values are discoveries at a false discovery rate (Benjamini and Hochberg 1995); undefined ones are none."""
    values = np.where(np.isfinite(p), p, 1.0)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= rate * np.arange(1, len(values) + 1) / max(1, len(values))
    out = np.zeros(len(values), dtype=bool)
    if passed.any():
        out[order[: np.flatnonzero(passed)[-1] + 1]] = True
    return out


def displays(evidence: Evidence) -> list[Display]:
    """Draw the conclusions of this section: likeness of embeddings and of predictions, and neighbour enrichment.

    Raises
    ------
    StoreError
        Neither vectors nor predictions were kept.
    """
    screens = list(dict.fromkeys(task[0] for task in evidence.tasks))
    made_up = set(evidence.trials.loc[evidence.trials["simulated"].astype(bool), "screen"])
    marked = {screen: f"{screen} (simulated)" if screen in made_up else screen for screen in screens}
    read = {screen: read_all(evidence, screen) for screen in screens}
    notes = {screen: _absent(screen, absent) for screen, (_, absent) in read.items()}
    made: list[Display] = []
    for screen in screens:
        vectors = read[screen][0]
        if sum(name != RANDOM for name in vectors) < 2:
            continue
        table = likeness(vectors, screen)
        made.append(
            Display(f"similarity-{slug(screen)}", f"How alike the embeddings are: {marked[screen]}", table, ABOUT_ALIKE,
                    (*likeness_sentences(table), *notes[screen]), plots.likeness_plot)
        )  # fmt: skip
    refused: list[str] = []
    known = {screen: vectors for screen, (vectors, _) in read.items()}
    try:
        table = enrichment_table(evidence, known)
    except StoreError as error:  # responses not kept
        refused.append(str(error))
    else:
        if not table.empty:
            sentences = (*enrichment_sentences(table), *(note for found in notes.values() for note in found))
            made.append(Display("neighbour-enrichment", "Do neighbours share responses?", table, ABOUT_NEIGHBOURS, sentences,
                                plots.enrichment_plot))  # fmt: skip
    for screen, response in dict.fromkeys((task[0], task[2]) for task in evidence.tasks):
        tasks = [task for task in evidence.tasks if (task[0], task[2]) == (screen, response)]
        try:
            paired = [found for task in tasks if not (found := prediction_pairs(evidence, task)).empty]
        except StoreError as error:
            refused.append(str(error))
            continue
        if not paired:
            continue
        table, best = pd.concat(paired, ignore_index=True), best_probes(evidence, tasks)
        draw: Callable[[pd.DataFrame], plots.Figure] = partial(plots.predictions_plot, best=best)
        made.append(
            Display(f"predictions-{slug(screen)}-{slug(response)}",
                    f"How alike the predictions are: {marked[screen]}, {response}", table,
                    ABOUT_PREDICTIONS, (*prediction_sentences(table), *_once(made, notes[screen])), draw)
        )  # fmt: skip
    if not made and (refused or any(notes.values())):
        raise StoreError(" ".join(dict.fromkeys([*refused, *(n for found in notes.values() for n in found)])))
    return made


def _once(made: Sequence[Display], notes: tuple[str, ...]) -> tuple[str, ...]:
    said = {sentence for display in made for sentence in display.sentences}
    return tuple(note for note in notes if note not in said)


def _absent(screen: str, absent: Sequence[str]) -> tuple[str, ...]:
    if not absent:
        return ()
    return (f"{screen}: the vectors of {some(absent)} were not kept, so that they are missing where vectors are compared; the same "
            "run given again keeps them.",)  # fmt: skip


def slug(text: str) -> str:
    """Write a name in lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def likeness_sentences(table: pd.DataFrame) -> list[str]:
    """Say which embeddings of a screen are the most alike, how many pairs share more than chance, and which stands apart."""
    wide = table.set_index(["a", "b", "measure"])[["value", "expected", "corrected", "p", "n"]].unstack("measure")
    real = wide[[a != RANDOM and b != RANDOM for a, b in wide.index]]
    measured = real[real["corrected"]["cka"].notna()]
    said = []
    if not measured.empty:
        a, b = measured["corrected"]["cka"].idxmax()
        top = measured.loc[(a, b)]
        which = "the two embeddings" if len(real) == 1 else "the most alike embeddings"
        said.append(
            f"{which[0].upper()}{which[1:]} are {a} and {b}: unbiased CKA {number(top['corrected', 'cka'], 2)}, "
            f"mean squared canonical correlation {top['value', 'cca']:.2f} ({top['expected', 'cca']:.2f} by chance), "
            f"{100 * top['value', 'knn_overlap']:.0f} % of the 10 "
            f"nearest neighbours in common ({100 * top['expected', 'knn_overlap']:.1f} % by chance), on {int(top['n', 'cka'])} ids."
        )
        found = discoveries(measured["p"]["cka"].to_numpy())
        if measured["p"]["cka"].notna().any():
            said.append(
                f"{int(found.sum())} of {len(measured)} pair(s) share more than chance by CKA (permutation test, false discovery rate "
                f"{100 * FALSE_DISCOVERIES:.0f} %)."
            )
        names = sorted({name for pair in measured.index for name in pair})
        if len(names) > 2:
            mean = {n: measured[[n in pair for pair in measured.index]]["corrected"]["cka"].mean() for n in names}
            lone = min(names, key=lambda n: mean[n])
            said.append(f"{lone} is the least like the others (mean unbiased CKA {number(mean[lone], 2)}).")
    few = len(real) - len(measured)
    if few:
        said.append(
            f"{few} pair(s) have fewer than {MIN_IDS} ids in common, or vectors that do not differ, and are not compared."
        )
    return said


def enrichment_sentences(table: pd.DataFrame) -> list[str]:
    """Say for each task in which embedding neighbours share responses the most, and where they do not beyond chance."""
    said = []
    summary = table.drop_duplicates([*TASK, "embedding"]).reset_index(drop=True)
    summary = summary.assign(found=discoveries(summary["area_p"].to_numpy()))
    for task, own in summary.groupby(TASK, sort=False):
        best = own.loc[own["area"].idxmax()]
        label = f"{task[0]}, {task[1]} ({task[2]})"
        if not own["found"].any():
            said.append(
                f"{label}: in no embedding do neighbours share responses more than vectors dealt to the wrong ids would."
            )
            continue
        first = table[(table[TASK] == list(task)).all(axis=1) & (table["embedding"] == best["embedding"])].iloc[0]
        text = (
            f"{label}: neighbours in {best['embedding']} share responses the most: over random pairs, the cosine of "
            f"centred responses is higher by {number(best['area'], 2)} in the mean over ranks (95 % interval "
            f"{number(best['area_low'], 2)} to {number(best['area_high'], 2)}) and by {number(first['enrichment'], 2)} for nearest "
            f"neighbours; nearness finds the 5 % most alike with AUROC {best['auroc']:.2f}."
        )
        without = own.loc[~own["found"], "embedding"].tolist()  # the others are, by their permutation tests
        said.append(text + (f" Not beyond chance: {', '.join(without)}." if without else ""))
    return said


def prediction_sentences(table: pd.DataFrame) -> list[str]:
    """Say whether predictions differ more by embedding or by probe, and which methods are good at different perturbations."""
    said = []
    same_embedding = table["embedding_a"] == table["embedding_b"]
    same_probe = table["probe_a"] == table["probe_b"]
    across, within = (
        table[~same_embedding & same_probe]["predictions"].mean(),
        table[same_embedding]["predictions"].mean(),
    )
    if np.isfinite(across) and np.isfinite(within):
        said.append(
            f"Predictions of different embeddings by the same probe correlate {number(across, 2)} in the mean, those "
            f"of the same embedding by different probes {number(within, 2)}."
        )
    other = table[~same_embedding]
    if other["errors"].notna().any() and other["gains"].notna().any():
        said.append(
            f"Between embeddings, {other['metric'].iloc[0]} over perturbations correlates "
            f"{number(other['errors'].mean(), 2)} in the mean; relative to the floor, {number(other['gains'].mean(), 2)}."
        )
    useful = other[(other["gain_a"] > 0) & (other["gain_b"] > 0) & other["gains"].notna()]
    if not useful.empty:
        least = useful.sort_values("gains", kind="stable").iloc[0]
        said.append(
            f"Of {len(useful)} pairs in which both beat the floor, {least['embedding_a']} ({least['probe_a']}) and "
            f"{least['embedding_b']} ({least['probe_b']}) in {least['context']} are good at the least alike perturbations "
            f"(correlation of gains {number(least['gains'], 2)}); where it is low, combining the two could help."
        )
    return said
