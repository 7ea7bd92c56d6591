"""Which perturbations to measure next, and whether choosing them so would have paid: a retrospective simulation.

All strategies look at vectors only, never at responses, in the space of the probes: standardised, on at most 100 principal
components. With z the coordinates of a perturbation (and 1 for the intercept) ridge regression is the posterior mean of a
Bayesian linear model with prior precision alpha and unit noise; its predictive variance v(z) = z' (Z'Z + alpha I)^-1 z falls
wherever something is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from panmodal._threads import limit_threads
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.candidates import chosen_context, join
from panmodal.evaluation.compare import has_classes
from panmodal.probes.base import Probe, get_probe, select
from panmodal.probes.design import MIN_TRAIN, Design, Fold, Targets
from panmodal.probes.projection import Matrix, Projection, n_components
from panmodal.screens.screen import Screen

STRATEGIES = {
    "expected-information": "what lowers the predictive variance of all candidates most (average variance, V-optimal, greedy)",
    "variance": "what is predicted with the largest variance (D-optimal, greedy)",
    "diversity": "what lies farthest from everything measured or chosen (k-centre, greedy)",
    "random": "any",
}
"""Strategies by name; the first is the default."""
LEVEL = 0.95
CHUNK = 2_000
"""Measured perturbations whose distances to all candidates are held at once."""


@limit_threads
def choose_next(
    candidates: ArrayLike, measured: ArrayLike, n: int, *, strategy: str = "expected-information", alpha: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Choose which candidates to measure next, greedily: each choice counts as measured for those after it.

    Parameters
    ----------
    candidates, measured
        Vectors, c x dims and m x dims; m may be 0.
    n
        How many to choose, at most c.
    strategy
        ``expected-information``: greedily minimise the mean predictive variance over all candidates, i.e. maximise sum_j cov(z_j,
        z_i)^2 / (1 + v(z_i)) (Cohn 1996; V-optimal design). ``variance``: the largest v, which is also the largest gain of
        information on the weights, log(1 + v) (D-optimal; MacKay 1992). ``diversity``: farthest first, the 2-approximation of
        k-centre (Gonzalez 1985). ``random``.
    alpha
        Ridge penalty: noise variance over prior variance of a weight. Unless given, such that signal and noise are equal: the
        mean squared norm of the projected vectors. With responses, use the penalty that ridge chooses.
    seed
        Of ``random``; the others are deterministic, and ties go to the first.

    Returns
    -------
    pandas.DataFrame
        In the order of choice: ``candidate`` (row), ``variance`` (v when chosen), ``distance`` (to the nearest measured or
        chosen; infinite if there is none), ``remaining`` (mean v over all candidates once it is measured, as a share of that
        before any choice).

    Raises
    ------
    InputError
        Vectors that do not fit or are not finite, n out of range, an unknown strategy, or alpha not above 0.
    """
    new, old = _vectors(candidates, "candidates"), _vectors(measured, "measured")
    if old.shape[1] != new.shape[1]:
        raise InputError(
            f"candidates have {new.shape[1]} dimensions, measured vectors {old.shape[1]}; give those of one embedding."
        )
    if not 1 <= n <= len(new):
        raise InputError(f"cannot choose {n} of {len(new)} candidates; choose 1 to {len(new)}.")
    if strategy not in STRATEGIES:
        raise InputError(f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}.")
    z = projected(np.vstack([old, new]))
    alpha = default_alpha(z) if alpha is None else alpha
    if not alpha > 0:
        raise InputError(f"alpha is {alpha}; a ridge penalty is above 0.")
    return _choose(z[len(old) :], z[: len(old)], n, strategy, alpha, np.random.default_rng(seed))


def projected(x: Matrix) -> Matrix:
    """Standardise and project on at most 100 principal components, as probes do, but of all rows: no response is involved."""
    return Projection.fit(x, max(1, n_components(len(x), x.shape[1])))[1]


def default_alpha(z: Matrix) -> float:
    """Ridge penalty under which the prior signal is as large as the noise: the mean squared norm of the rows."""
    return max(float(np.einsum("ij,ij->", z, z)) / max(len(z), 1), np.finfo(float).tiny)


def _choose(new: Matrix, old: Matrix, n: int, strategy: str, alpha: float, rng: np.random.Generator) -> pd.DataFrame:
    from scipy.spatial.distance import cdist

    a, b = _with_intercept(new, alpha), _with_intercept(old, alpha)
    # Rows of `reach` are S z_i, with S the posterior covariance of the weights; measuring one more is an update of rank one.
    reach = np.linalg.solve(b.T @ b + alpha * np.eye(a.shape[1]), a.T).T
    variance = np.maximum((a * reach).sum(axis=1), 0.0)
    before, spread = variance.mean(), a.T @ a
    distance = np.full(len(new), np.inf)
    for start in range(0, len(old), CHUNK):
        distance = np.minimum(distance, cdist(new, old[start : start + CHUNK]).min(axis=1))
    order = rng.permutation(len(new))
    free = np.ones(len(new), bool)
    rows = []
    for step in range(n):
        if strategy == "random":
            best = int(order[step])
        elif strategy == "diversity":
            # With nothing measured, the most typical candidate first.
            value = distance if np.isfinite(distance).any() else -np.einsum("ij,ij->i", new, new)
            best = _largest(value, free)
        elif strategy == "variance":
            best = _largest(variance, free)
        else:
            # sum_j (z_j' S z_i)^2 = (S z_i)' (sum_j z_j z_j') (S z_i)
            best = _largest((reach @ spread * reach).sum(axis=1) / (1 + variance), free)
        along = reach[best].copy()
        shared = a @ along
        found = (best, variance[best], distance[best])
        reach -= np.outer(shared / (1 + variance[best]), along)
        variance = np.maximum(variance - shared**2 / (1 + variance[best]), 0.0)
        distance = np.minimum(distance, np.sqrt(((new - new[best]) ** 2).sum(axis=1)))
        free[best] = False
        rows.append((*found, variance.mean() / before if before else np.nan))
    return pd.DataFrame(rows, columns=["candidate", "variance", "distance", "remaining"])


def _largest(values: NDArray[np.float64], free: NDArray[np.bool_]) -> int:
    """Return the free row with the largest value; of equal ones (within rounding) the first."""
    top = values[free].max()
    near = values >= top - 1e-12 * abs(top) if np.isfinite(top) else values == top
    return int(np.flatnonzero(free & near)[0])


def _with_intercept(z: Matrix, alpha: float) -> Matrix:
    # Nearly unpenalised: prior variance of the intercept as large as that of the signal.
    return np.column_stack([z, np.full(len(z), np.sqrt(alpha))])


def _vectors(values: ArrayLike, what: str) -> Matrix:
    made = np.asarray(values, dtype=np.float64)
    if made.ndim != 2 or not made.shape[1] or not np.isfinite(made).all():
        raise InputError(f"{what} must be a finite matrix of vectors (rows x dimensions), got shape {made.shape}.")
    return made


@limit_threads
def next_experiments(
    screen: Screen, embedding: Embedding, n: int, ids: Sequence[str] | None = None, *, strategy: str = "expected-information",
    context: str | None = None, match: str = "auto", seed: int = 0,
) -> tuple[pd.DataFrame, tuple[str, ...]]:  # fmt: skip
    """Choose which perturbations that a context does not hold to measure next.

    Parameters
    ----------
    screen, embedding
        What is measured, and vectors. Responses that are numbers set the penalty, as ridge chooses it; they do not enter
        otherwise.
    n
        How many.
    ids
        Candidates; all of the embedding that are not measured unless given. Joined as by
        :func:`panmodal.evaluation.predict.predict_responses`.
    strategy, seed
        See :func:`choose_next`.
    context
        Context; needed if the screen has several.
    match
        ``auto``, ``genes``, ``compounds`` or ``exact``.

    Returns
    -------
    table
        ``pert_id``, then the columns of :func:`choose_next`, in the order of choice.
    notes
        Ids left out, and the penalty used.
    """
    context = chosen_context(screen, context)
    found = join(screen, embedding, ids, context, match)
    new = [i for i in found.wanted if i in found.covered]
    notes = list(found.notes)
    if len(new) < len(found.wanted):
        lost = [i for i in found.wanted if i not in found.covered]
        notes.append(
            f"{len(lost)} candidates have no vector in {embedding.name!r} and cannot be chosen: {some(lost, 3)}."
        )
    if not new:
        raise InputError(f"embedding {embedding.name!r} has no vector for any of the {len(found.wanted)} candidates.")
    vectors, alpha = found.embedding.matrix(found.measured), None
    if len(vectors) >= MIN_TRAIN and not has_classes(screen.response):
        order, responses = screen.responses(context)
        row = {name: k for k, name in enumerate(order)}
        values = Targets.of(responses[[row[i] for i in found.measured]])
        alpha = select(get_probe("ridge"), Design.build(vectors, vectors[:0]), values).value
        notes.append(f"penalty {alpha:g}, as ridge chooses it on {len(vectors)} measured perturbations.")
    table = choose_next(found.embedding.matrix(new), vectors, n, strategy=strategy, alpha=alpha, seed=seed)
    table.insert(0, "pert_id", np.array(new, dtype=object)[table.pop("candidate")])
    return table, tuple(notes)


@limit_threads
def simulate_design(
    screen: Screen, embedding: Embedding, strategies: Sequence[str] = tuple(STRATEGIES), *, context: str | None = None,
    start: int = 40, steps: int = 4, batch: int = 20, seeds: Sequence[int] = range(20), test_share: float = 0.3, probe: str = "ridge",
) -> pd.DataFrame:  # fmt: skip
    """Replay a screen as if it were measured batch by batch, each batch chosen by a strategy, and follow the error.

    For each seed a random share of the covered perturbations is set aside as test set, the same for all strategies: errors on
    what a strategy left over would compare different perturbations, and favour strategies that take the odd ones away. Of the
    rest, ``start`` random ones are measured, and then ``steps`` batches are chosen among those left, by vectors only. The probe
    is fitted after each batch with its own cross-validation, whose penalty the strategies use for the next batch.

    Returns
    -------
    pandas.DataFrame
        One row for each seed, strategy and step (0 is the common start): ``n_measured``, ``error`` (mean L2 error of the test
        set), ``error_left`` (the same over the perturbations that may still be chosen), ``floor`` (error of the train mean on the
        test set).

    Raises
    ------
    InputError
        Labels instead of numbers, unknown strategies, or too few perturbations for the start and all batches.
    """
    if has_classes(screen.response):
        raise InputError(f"screen {screen.name!r} holds {screen.response} labels; the simulation is for numbers.")
    unknown = [s for s in strategies if s not in STRATEGIES]
    if unknown or not strategies:
        raise InputError(f"no strategy {some(unknown)}; there are {', '.join(STRATEGIES)}.")
    if start < MIN_TRAIN or steps < 1 or batch < 1 or not 0 < test_share < 1:
        raise InputError(
            f"start must be {MIN_TRAIN} or more, steps and batch 1 or more, and test_share between 0 and 1."
        )
    context = chosen_context(screen, context)
    found = join(screen, embedding, [], context)
    order, responses = screen.responses(context)
    row = {name: k for k, name in enumerate(order)}
    whole = Targets.of(responses[[row[i] for i in found.measured]])
    vectors, chosen = found.embedding.matrix(found.measured), get_probe(probe)
    held = max(1, round(test_share * len(vectors)))
    pool = len(vectors) - held
    if start + steps * batch > pool:
        raise InputError(f"start {start} and {steps} batches of {batch} need {start + steps * batch} perturbations, but {pool} of "
                         f"{len(vectors)} covered ones are left beside the test set.")  # fmt: skip
    z, rows = projected(vectors), []
    for seed in seeds:
        shuffled = np.random.default_rng([seed, 7]).permutation(len(vectors))
        test, first, rest = shuffled[:held], shuffled[held : held + start], shuffled[held + start :]
        for strategy in strategies:
            rng = np.random.default_rng([seed, 11])
            measured, left = first, rest
            for step in range(steps + 1):
                measured = np.sort(measured)
                # Test rows come first; if all are measured in the end, nothing is left.
                asked = np.concatenate([test, left])
                errors, floor, alpha = _errors(vectors, whole, measured, asked, chosen)
                rows.append((seed, strategy, step, len(measured), errors[:held].mean(),
                             errors[held:].mean() if len(left) else np.nan, floor[:held].mean()))  # fmt: skip
                if step < steps:
                    found_next = _choose(z[left], z[measured], batch, strategy, alpha or default_alpha(z), rng)
                    taken = found_next["candidate"].to_numpy()
                    measured, left = np.concatenate([measured, left[taken]]), np.delete(left, taken)
    columns = ["seed", "strategy", "step", "n_measured", "error", "error_left", "floor"]
    return pd.DataFrame(rows, columns=columns)


def _errors(vectors: Matrix, whole: Targets, train: NDArray[np.intp], test: NDArray[np.intp], probe: Probe
            ) -> tuple[Matrix, Matrix, float]:  # fmt: skip
    """L2 errors of the probe and of the train mean on test rows, and the chosen value; from Gram matrices alone."""
    design = Design.build(vectors[train], vectors[test])
    value = select(probe, design, Targets(whole.values[train], whole.gram[np.ix_(train, train)])).value
    fold = Fold(design.final.z_train, design.final.z_test, train, test)
    g = whole.gram
    square = g[test, test] - 2 * g[np.ix_(test, train)].mean(axis=1) + g[np.ix_(train, train)].mean()
    return (
        probe.errors(fold, whole, (value,))[0],
        np.sqrt(np.maximum(square, 0.0)),
        value if probe.name == "ridge" else 0.0,
    )


def compare_designs(table: pd.DataFrame, *, against: str = "random", draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compare strategies with random choice, seed by seed.

    Parameters
    ----------
    table
        From :func:`simulate_design`.
    against
        Strategy to compare with.
    draws, seed
        Of the percentile bootstrap over seeds.

    Returns
    -------
    pandas.DataFrame
        One row for each strategy and step after the start, and one for the mean over steps (``step`` -1): ``error``,
        ``error_against``, ``saved`` (the mean over seeds of the difference; positive is better than ``against``) with its 95 %
        interval ``saved_low`` to ``saved_high``, ``saved_share`` (of what ``against`` gains over the train mean), ``n_seeds``,
        ``wins`` (seeds in which it is better). Seeds share the screen, so that the interval is about the choice and the start,
        not about other screens.
    """
    if against not in set(table["strategy"]):
        raise InputError(f"the simulation holds no strategy {against!r}, only {some(table['strategy'].unique())}.")
    later = table[table["step"] > 0]
    every = pd.concat([later, later.groupby(["seed", "strategy"], as_index=False, sort=False).mean().assign(step=-1)])
    rng, rows = np.random.default_rng(seed), []
    for step, part in every.groupby("step", sort=False):
        wide = part.pivot_table(index="seed", columns="strategy", values="error", sort=True)
        floor = part.pivot_table(index="seed", columns="strategy", values="floor", sort=True)[against]
        weights = rng.multinomial(len(wide), np.full(len(wide), 1 / len(wide)), size=draws) / len(wide)
        for name in wide:
            if name == against:
                continue
            saved = (wide[against] - wide[name]).to_numpy()
            low, high = np.quantile(weights @ saved, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            gain = float((floor - wide[against]).mean())
            rows.append((name, int(step), float(part["n_measured"].mean()), wide[name].mean(), wide[against].mean(), saved.mean(),
                         low, high, saved.mean() / gain if gain > 0 else np.nan, len(wide), int((saved > 0).sum())))  # fmt: skip
    columns = ["strategy", "step", "n_measured", "error", "error_against", "saved", "saved_low", "saved_high", "saved_share",
               "n_seeds", "wins"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


@limit_threads
def rehearse_design(screen: Screen, embedding: Embedding, strategy: str, *, context: str | None = None, batch: int = 20,
                    seed: int = 0, repeats: int = 20) -> list[str]:  # fmt: skip
    """Say in a sentence whether a strategy would have beaten random choice on what is measured (:func:`simulate_design`).

    Half of what is not set aside for testing is the start; the rest is chosen in up to two batches.
    """
    if strategy == "random":
        return ["random choice has nothing to be compared with."]
    context = chosen_context(screen, context)
    n = len(join(screen, embedding, [], context).measured)
    pool = n - max(1, round(0.3 * n))
    start = max(MIN_TRAIN, pool // 2)
    batch = max(1, min(batch, (pool - start) // 3))
    seeds = range(seed, seed + repeats)
    table = simulate_design(
        screen, embedding, (strategy, "random"), context=context, start=start, steps=2, batch=batch, seeds=seeds
    )
    row = compare_designs(table).query("step == -1").iloc[0]
    verdict = "it is no better or worse than random, as far as can be told"
    if row["saved_low"] > 0:
        verdict = "choosing so beats random here"
    elif row["saved_high"] < 0:
        verdict = "choosing so is worse than random here: measure at random, or choose by another embedding"
    return [
        f"rehearsal on {n} measured perturbations ({start} at the start, then 2 batches of {batch}, {repeats} repeats): error on held-"
        f"out perturbations {row['error']:.4g} by {strategy}, {row['error_against']:.4g} by random choice, saved {row['saved']:.3g} "
        f"(95 % interval {row['saved_low']:.3g} to {row['saved_high']:.3g}); {verdict}."
    ]
