"""Whether two embeddings err on different perturbations, and whether the average of their predictions is better than either."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.evaluation.compare import has_classes
from panmodal.insight.evidence import Evidence, Predicted, Task
from panmodal.insight.gaps import TASK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = NDArray[np.float64]

MOST = 6
"""Embeddings of a task whose pairs are looked at: the best."""
SPLITS = 8
"""Random splits of the read-outs in halves."""
LEVEL = 0.95
MEAN = "train mean"
COLUMNS = [
    *TASK, "simulated", "first", "first_probe", "second", "second_probe", "measure", "error_first", "error_second", "error_average",
    "gain", "gain_low", "gain_high", "shrink_gain", "shrink_by", "beyond", "beyond_low", "beyond_high", "gain_common", "best_of_two",
    "best_of_two_split", "best_of_two_control", "error_correlation", "error_correlation_self", "n_perturbations", "n_common", "helps",
]  # fmt: skip


@dataclass
class _Unit:
    """One fold of one seed: members (embeddings, then the control, then the train mean) and perturbations.

    ``inner`` (m x members x members) holds inner products of residuals, ``halves`` (m x members x splits) squared residuals over
    one half of the read-outs, ``covered`` (m x members) which rows are predicted from a vector.
    """

    inner: Matrix
    halves: Matrix
    covered: NDArray[np.bool_]


def fusion_table(
    evidence: Evidence, chosen: pd.DataFrame, *, most: int = MOST, splits: int = SPLITS, seed: int = 0
) -> pd.DataFrame:
    """Evaluate the average of the stored predictions of two embeddings, a fusion without fitting, for all pairs of the best.

    Errors are L2 errors of the response (of the probabilities of -1 and +1 for labels: the root of the summed Brier score); means
    over folds of means over perturbations. Where only one of the two covers an id, its prediction stands alone.

    Parameters
    ----------
    evidence
        With predictions and responses.
    chosen
        Task columns, ``embedding``, ``probe``, ``role`` (embedding or control), best first: which method stands for each
        embedding, and one control or none (:func:`panmodal.insight.advice.members`).
    most
        How many embeddings of a task.
    splits, seed
        Random halves of the read-outs, and their seed.

    Returns
    -------
    pandas.DataFrame
        One row for each task and pair. ``gain``: error of the better of the two minus that of the average, with an interval that
        holds for all pairs of the task together (95 %, Bonferroni; Student's t for perturbations drawn within folds). An average
        with anything shrinks, which lowers errors without any second source of knowledge: ``shrink_gain`` is what the better one
        gains by the best of no change, half way to the train mean, and the average with the control (``shrink_by``); ``beyond``
        is the average against that, and ``helps`` whether both intervals lie above 0. ``gain_common``: on ids that both cover.
        ``best_of_two``: gain if for each perturbation the better of the two were known, which is above 0 for equally good guesses
        too; ``best_of_two_split`` chooses on one half of the read-outs and scores on the other, and ``best_of_two_control`` does
        so with the control in place of the second: only what exceeds it speaks for complementary errors. ``error_correlation``:
        correlation over perturbations of what the two gain over the train mean, on different halves of the read-outs;
        ``error_correlation_self``: that of either with itself (geometric mean), the most that it can be.
    """
    tables = []
    for key, own in chosen.groupby(TASK, sort=False):
        task: Task = tuple(map(str, key))  # type: ignore[assignment]
        embeddings = own[own["role"] == "embedding"].head(most)
        if len(embeddings) < 2:
            continue
        members = pd.concat([embeddings, own[own["role"] == "control"].head(1)], ignore_index=True)
        units = _units(evidence, task, members, splits, np.random.default_rng([seed, 1]))
        if units:
            simulated = bool(evidence.of(task)["simulated"].iloc[0])
            tables.append(_pairs(task, members, len(embeddings), units).assign(simulated=simulated))
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def _units(evidence: Evidence, task: Task, members: pd.DataFrame, splits: int, rng: np.random.Generator) -> list[_Unit]:
    trials = evidence.of(task, evidence.trials)
    truth = evidence.read_truth(task)
    values = np.asarray(truth.values)
    if has_classes(task[2]):
        values = np.hstack([values == -1, values == 1])
    t = values.shape[1]
    half = np.zeros((t, splits), np.float32)
    for s in range(splits):
        half[rng.permutation(t)[: t // 2], s] = 1.0
    units = []
    for _, group in trials.groupby(["fold", "seed"], sort=True):
        digest = {(e, p): d for e, p, d in group[["embedding", "probe", "trial"]].itertuples(index=False, name=None)}
        wanted = [digest.get((e, p)) for e, p in members[["embedding", "probe"]].itertuples(index=False, name=None)]
        if None in wanted:
            continue  # another seed was not run for all of them
        read = [evidence.read_predictions(str(d)) for d in wanted]
        units.append(_unit(read, values[[truth.row[i] for i in read[0].ids]].astype(np.float32), half))
    return units


def _unit(read: Sequence[Predicted], true: NDArray[np.float32], half: NDArray[np.float32]) -> _Unit:
    order = {i: k for k, i in enumerate(read[0].ids)}
    m, t = true.shape
    # Predictions are stored in single precision, and so are their residuals kept.
    residuals, covered = np.empty((m, len(read) + 1, t), np.float32), np.ones((m, len(read) + 1), bool)
    for k, one in enumerate(read):
        at = np.argsort([order[i] for i in one.ids])
        np.subtract(one.values[at], true, out=residuals[:, k])
        covered[:, k] = one.covered[at]
    np.subtract(read[0].fallback, true, out=residuals[:, -1])
    inner = (residuals @ residuals.transpose(0, 2, 1)).astype(np.float64)
    np.square(residuals, out=residuals)
    halves = (residuals.reshape(-1, t) @ half).reshape(m, len(read) + 1, -1).astype(np.float64)
    return _Unit(inner, halves, covered)


def _averaged(unit: _Unit, a: int, b: int) -> Matrix:
    """Error of the average of two members where both cover the id, of the one that does elsewhere."""
    g = unit.inner
    both = np.sqrt(np.maximum(g[:, a, a] + 2 * g[:, a, b] + g[:, b, b], 0.0)) / 2
    first, second = np.sqrt(g[:, a, a]), np.sqrt(g[:, b, b])
    ca, cb = unit.covered[:, a], unit.covered[:, b]
    return np.where(ca & cb, both, np.where(cb, second, first))


def _best_of_two(unit: _Unit, a: int, b: int) -> tuple[Matrix, Matrix, Matrix]:
    """Errors on one half of the read-outs (of a, of b, of the one that is better on the other half), mean over halves and splits."""
    whole = np.einsum("iaa->ia", unit.inner)[:, :, None]
    sides = (unit.halves, whole - unit.halves)
    out = np.zeros((3, len(whole)))
    for chosen, scored in (sides, sides[::-1]):
        error = np.sqrt(2 * np.maximum(scored, 0.0))
        pick = np.where(chosen[:, a] < chosen[:, b], error[:, a], error[:, b])
        for row, value in enumerate((error[:, a], error[:, b], pick)):
            out[row] += value.mean(axis=1) / 2
    return out[0], out[1], out[2]


def _pairs(task: Task, members: pd.DataFrame, n: int, units: list[_Unit]) -> pd.DataFrame:
    from scipy.stats import t as student

    label = list(members[["embedding", "probe"]].itertuples(index=False, name=None))
    mean = len(label)
    controls = list(range(n, mean))
    errors = [np.sqrt(np.einsum("iaa->ia", u.inner)) for u in units]
    level = np.mean([e.mean(axis=0) for e in errors], axis=0)

    def over(parts: Sequence[Matrix]) -> float:
        return float(np.mean([p.mean() for p in parts if len(p)])) if any(len(p) for p in parts) else np.nan

    pairs = list(itertools.combinations(range(n), 2))
    tail = (1 - LEVEL) / 2 / len(pairs)
    reach = float(student.isf(tail, max(1, sum(len(e) - 1 for e in errors))))

    def interval(parts: Sequence[Matrix]) -> tuple[float, float]:
        """Interval of a mean over folds of means over perturbations, as far as perturbations are drawn within folds."""
        error = np.sqrt(sum(p.var(ddof=1) / len(p) if len(p) > 1 else 0.0 for p in parts)) / len(parts)
        middle = over(parts)
        return middle - reach * float(error), middle + reach * float(error)

    halved = [_half_gains(u, n, mean) for u in units]
    rows = []
    for a, b in pairs:
        better = a if level[a] <= level[b] else b
        average = [_averaged(u, a, b) for u in units]
        single = [e[:, better] for e in errors]
        shrunk = {"nothing": single, f"half way to the {MEAN}": [_averaged(u, better, mean) for u in units]}
        for c in controls:
            shrunk[f"{label[c][0]}, {label[c][1]}"] = [_averaged(u, better, c) for u in units]
        by = min(shrunk, key=lambda name: over(shrunk[name]))
        gain = [s - v for s, v in zip(single, average, strict=True)]
        beyond = [s - v for s, v in zip(shrunk[by], average, strict=True)]
        both = [u.covered[:, a] & u.covered[:, b] for u in units]
        (gain_low, gain_high), (beyond_low, beyond_high) = interval(gain), interval(beyond)
        itself = [max(_correlation(halved, k, k), 0.0) for k in (a, b)]
        rows.append({
            "first": label[a][0], "first_probe": label[a][1], "second": label[b][0], "second_probe": label[b][1],
            "error_first": level[a], "error_second": level[b], "error_average": over(average),
            "gain": over(gain), "gain_low": gain_low, "gain_high": gain_high,
            "shrink_gain": over(single) - over(shrunk[by]), "shrink_by": by,
            "beyond": over(beyond), "beyond_low": beyond_low, "beyond_high": beyond_high,
            "gain_common": _common_gain(errors, average, both, a, b),
            "best_of_two": over(single) - over([np.minimum(e[:, a], e[:, b]) for e in errors]),
            "best_of_two_split": _split_gain(units, a, b),
            "best_of_two_control": max(_split_gain(units, better, c) for c in (*controls, mean)),
            "error_correlation": _correlation(halved, a, b), "error_correlation_self": float(np.sqrt(itself[0] * itself[1])),
            "n_perturbations": sum(len(e) for e in errors), "n_common": int(sum(k.sum() for k in both)),
            "helps": bool(gain_low > 0 and beyond_low > 0),
        })  # fmt: skip
    return pd.DataFrame(rows).assign(
        **dict(zip(TASK, task, strict=True)), measure="Brier distance" if has_classes(task[2]) else "L2"
    )


def _common_gain(errors: list[Matrix], average: list[Matrix], both: list[NDArray[np.bool_]], a: int, b: int) -> float:
    """Gain of the average over the better of the two on the ids that both cover."""
    kept = [
        (e[k][:, a].mean(), e[k][:, b].mean(), v[k].mean())
        for e, v, k in zip(errors, average, both, strict=True)
        if k.any()
    ]
    if not kept:
        return float("nan")
    first, second, fused = np.mean(kept, axis=0)
    return float(min(first, second) - fused)


def _split_gain(units: list[_Unit], a: int, b: int) -> float:
    first, second, picked = np.mean([[x.mean() for x in _best_of_two(u, a, b)] for u in units], axis=0)
    return float(min(first, second) - picked)


def _half_gains(unit: _Unit, n: int, mean: int) -> tuple[Matrix, Matrix]:
    """Compute what each embedding gains over the train mean on either half of the read-outs, fold mean removed: m x n x splits."""
    whole = np.einsum("iaa->ia", unit.inner)[:, :, None]
    out = []
    for side in (unit.halves, whole - unit.halves):
        error = np.sqrt(np.maximum(side, 0.0))
        gain = error[:, mean : mean + 1] - error[:, :n]
        out.append(gain - gain.mean(axis=0))
    return out[0], out[1]


def _correlation(halved: list[tuple[Matrix, Matrix]], a: int, b: int) -> float:
    """Correlation over perturbations of the gains of a on one half of the read-outs and of b on the other."""
    x = np.concatenate([np.concatenate([one[:, a], two[:, a]], axis=1) for one, two in halved])
    y = np.concatenate([np.concatenate([two[:, b], one[:, b]], axis=1) for one, two in halved])
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return float(((x * y).sum(axis=0)[norm > 0] / norm[norm > 0]).mean()) if (norm > 0).any() else float("nan")


FUSION = (
    "For pairs of the best embeddings, the average of their stored predictions against the better of the two (gain; intervals hold "
    "for all pairs of a task together). Averaging shrinks predictions, which lowers errors by itself: 'beyond' compares with what "
    "shrinking the better one gives. best_of_two_split against best_of_two_control says whether each is better for perturbations of "
    "its own."
)


def fusion_sentences(table: pd.DataFrame) -> list[str]:
    """Say for each task whether the average of two embeddings beats the better one, and whether their errors complement each other."""
    out = []
    for _, own in table.groupby(TASK, sort=False):
        helping = own[own["helps"]]
        best = (helping if len(helping) else own).sort_values("error_average", kind="stable").iloc[0]
        marked = " (simulated data)" if best["simulated"] else ""
        where = f"{best['screen']}, {best['context']}{marked} ({best['response']}, {best['split']})"
        lead = float(own[["error_first", "error_second"]].min().min())
        single = min(best["error_first"], best["error_second"])
        pair = f"the average of {best['first']} and {best['second']}"
        gains = f"a gain of {best['gain']:.3g}, interval {best['gain_low']:.3g} to {best['gain_high']:.3g}"
        if len(helping):
            text = f"{where}: fusion could help: {pair} has {best['measure']} {best['error_average']:.4g} instead of {single:.4g} "
            text += f"of the better of the two ({gains}; shrinkage alone gains {best['shrink_gain']:.3g})"
            if best["error_average"] >= lead:
                text += f", but another embedding has {lead:.4g} alone"
            text += f"; {len(helping)} of {len(own)} pairs {'help' if len(helping) > 1 else 'helps'}"
        else:
            text = f"{where}: no average of two embeddings is shown to beat the better one by more than shrinkage does; lowest is "
            text += f"{pair} ({gains}; by shrinkage {best['shrink_gain']:.3g})"
        word = "more than" if best["best_of_two_split"] > best["best_of_two_control"] else "no more than"
        text += (
            f"; knowing which of the two to use for each perturbation would gain {best['best_of_two_split']:.3g}, {word} the "
            f"{best['best_of_two_control']:.3g} that the better one gains so with a control"
        )
        out.append(text + ".")
    return out


def fusion_plot(table: pd.DataFrame) -> Figure:
    """Draw the gain of the average of each pair over the better of the two, with its interval, and what shrinkage alone gains."""
    from matplotlib.figure import Figure

    from panmodal.insight.plots import COLOURS, INK, set_ink

    tasks = [own for _, own in table.groupby(TASK, sort=False)]
    shown = [own.sort_values("gain", ascending=False, kind="stable").head(10) for own in tasks]
    figure = Figure(figsize=(7.2, 0.9 + sum(0.55 + 0.22 * len(own) for own in shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=[1.5 + len(own) for own in shown])[:, 0]
    for axes, own in zip(panels, shown, strict=True):
        for y, row in enumerate(own.itertuples()):
            colour = COLOURS[2] if row.helps else COLOURS[0]
            axes.plot([row.gain_low, row.gain_high], [y, y], "-", color=colour, linewidth=1.4)
            axes.plot(row.gain, y, "o", color=colour, markersize=4.5)
            axes.plot(row.shrink_gain, y, "|", color=COLOURS[1], markersize=9, markeredgewidth=1.8)
        axes.axvline(0.0, color=INK, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(own)), [f"{r.first} + {r.second}" for r in own.itertuples()])
        axes.set_ylim(len(own) - 0.4, -0.6)
        first = own.iloc[0]
        axes.set_title(
            f"{first['screen']}, {first['context']}{' (simulated)' if first['simulated'] else ''}",
            fontsize=10,
            loc="left",
        )
        axes.grid(axis="x", alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xlabel(f"{table['measure'].iloc[0]} error saved by the average of two, against the better of them")
    last = panels[-1]
    last.plot([], [], "o-", color=COLOURS[2], label="better than shrinkage too")
    last.plot([], [], "o-", color=COLOURS[0], label="not shown to be")
    last.plot(
        [], [], "|", color=COLOURS[1], markersize=9, markeredgewidth=1.8, label="shrinkage of the better one alone"
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    set_ink(figure)
    return figure
