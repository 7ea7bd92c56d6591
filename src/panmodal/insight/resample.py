"""What another sample of perturbations would give: the paired bootstrap of boards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES, Board, Values
from panmodal.insight.gaps import DRAWS


def sample(boards: Sequence[Board], *, draws: int = DRAWS, seed: int = 0) -> list[Values]:
    """Resample perturbations within folds, the same ones for all methods and for all tasks of a screen.

    A draw of all methods is one matrix product of multinomial weights and values (Efron and Tibshirani 1993, ch. 6). From n ids of a
    fold n - 1 are drawn, which makes the variance unbiased where folds are small: n draws give (n - 1) / n of it (Rao and Wu
    1988). An id has one weight in all contexts, kinds of response, splits and seeds of its screen; it is resampled within the
    fold where it is met first. Where only scores of folds are known, folds are resampled likewise.

    Stored samples of metrics of genes are used as they are (repeated in random order up to ``draws``) and shifted to the score: macro
    averages over genes are biased in bootstrap samples, which repeat ids, by an amount that differs between methods.

    Returns
    -------
    list of arrays
        For each board draws x (methods, floor, ceiling): means over folds of means over perturbations where defined.
    """
    if draws < 2:
        raise InputError(f"{draws} bootstrap draws; take 1000, at least 2.")
    found: list[Values] = [np.empty(0)] * len(boards)
    for screen in dict.fromkeys(b.task[0] for b in boards):
        own = [k for k, b in enumerate(boards) if b.task[0] == screen]
        strata: dict[tuple[str, ...], dict[str, None]] = {}
        home: dict[str, tuple[str, ...]] = {}
        folds: dict[str, dict[tuple[int, int], None]] = {}
        for k in own:
            for block in boards[k].blocks:
                if boards[k].by == FOLDS:
                    folds.setdefault(boards[k].task[3], {})[block.fold, block.seed] = None
                for name in block.ids:
                    key = home.setdefault(name, (boards[k].task[3], str(block.seed), str(block.fold)))
                    strata.setdefault(key, {})[name] = None
        column: dict[str, int] = {}
        parts = []
        for key, ids in strata.items():
            for name in sorted(ids):
                column[name] = len(column)
            parts.append(_multinomial(len(ids), draws, (screen, *key, str(seed))))
        weights = np.hstack(parts) if parts else np.empty((draws, 0))
        of_folds = {
            split: _multinomial(len(keys), draws, (screen, split, "folds", str(seed))) for split, keys in folds.items()
        }
        order = {split: {key: k for k, key in enumerate(sorted(keys))} for split, keys in folds.items()}
        for k in own:
            board = boards[k]
            if board.by == PERTURBATIONS:
                found[k] = defined_mean(np.stack([
                    weighted_mean(weights[:, [column[i] for i in b.ids]], b.values) for b in board.blocks
                ]))  # fmt: skip
            elif board.by == SAMPLES:
                found[k] = _stored(board, draws, _rng((screen, "samples", str(seed))))
            else:
                at = [order[board.task[3]][b.fold, b.seed] for b in board.blocks]
                found[k] = weighted_mean(of_folds[board.task[3]][:, at], board.fold_scores)
                if len(at) < 2:
                    found[k][:] = np.nan  # one fold says nothing about another
    return found


def weighted_mean(weights: Values, values: Values) -> Values:
    """Means of columns over the rows where they are defined: draws x rows times rows x columns; NaN where all weight is elsewhere."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        if defined.all():
            return (weights @ values) / weights.sum(axis=1, keepdims=True)
        return (weights @ np.where(defined, values, 0.0)) / (weights @ defined.astype(np.float64))


def _rng(parts: tuple[str, ...]) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256("\x00".join(parts).encode()).digest()[:8], "big"))


def _multinomial(n: int, draws: int, parts: tuple[str, ...]) -> Values:
    return _rng(parts).multinomial(max(n - 1, 1), np.full(n, 1 / n), size=draws).astype(np.float64)


def _stored(board: Board, draws: int, rng: np.random.Generator) -> Values:
    """Means over folds of stored samples, centred at the scores."""
    stack = defined_mean(np.stack([b.drawn for b in board.blocks if b.drawn is not None]))
    stack = stack - defined_mean(stack) + board.scores
    return stack[np.resize(rng.permutation(len(stack)), draws)]
