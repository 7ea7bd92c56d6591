"""Ensembles: several fits of one fusion, averaged; their disagreement tells how far a prediction can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.fusion.base import (
    ContextTargets,
    Fitted,
    Fused,
    Fusion,
    Modalities,
    Options,
    Setting,
    fit_fusion,
    part_of,
)

SEEDED = ("attention",)
"""Fusions whose fit draws by the seed; members of the others are fitted on different training ids instead."""
SHARE = 0.8
"""Share of the training ids that a member of a fusion without seed is fitted on."""
RULE = 1


@dataclass(frozen=True)
class EnsembleFit:
    """The fitted members."""

    members: tuple[Fitted, ...]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What was chosen in fitting each member."""
        return {"members": [m.hyperparameters for m in self.members]}

    def tables(self) -> list[dict[str, Any]]:
        """Means over the members that tell a number of what the fit learned."""
        found: dict[tuple[Any, ...], list[float]] = {}
        for row in (row for member in self.members for row in member.tables()):
            found.setdefault(tuple((k, v) for k, v in row.items() if k != "value"), []).append(row["value"])
        return [{**dict(key), "value": float(np.mean(values))} for key, values in found.items()]

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict the mean over members.

        The variance is the unbiased one between members, plus the mean of their own where they tell any.
        """
        count, own = len(self.members), 0
        mean: NDArray[Any] = np.zeros(0)
        squares, within = mean, mean
        for k, member in enumerate(self.members, start=1):
            found = member.predict(test, context)
            if k == 1:
                mean, squares, within = (np.zeros(found.values.shape) for _ in range(3))
            # Welford's running mean and sum of squares (Technometrics 4:419, 1962).
            apart = found.values - mean
            mean += apart / k
            squares += apart * (found.values - mean)
            if found.variance is not None:
                own += 1
                within += found.variance
        dtype = found.values.dtype
        variance = squares / (count - 1) + within / max(own, 1)
        return Fused(mean.astype(dtype, copy=False), variance.astype(dtype, copy=False))


def ensemble(fusion: Fusion, members: int = 5) -> Fusion:
    """Return the fusion that averages several fits of another.

    Member k is fitted with the seed ``setting.seed + k``. Where a fusion draws nothing by its seed, the member is fitted on 80 % of
    the training ids instead, drawn without replacement by that seed, the same in all contexts. A member keeps its checkpoints in
    ``setting.folder / "member-k"``.

    Parameters
    ----------
    members
        How many, at least 2.

    Raises
    ------
    InputError
        Fewer than 2 members, or an ensemble of ensembles.
    """
    if members < 2:
        raise InputError(f"an ensemble has at least 2 members, not {members}.")
    if isinstance(fusion.fit, partial) and fusion.fit.func is _fit:
        raise InputError(f"{fusion.name!r} is an ensemble already; give it more members instead.")
    how = "seeds" if fusion.name in SEEDED else f"draws of {SHARE:.0%} of the training ids"
    return replace(
        fusion,
        name=f"{fusion.name} x{members}",
        description=f"{fusion.description}; mean over {members} {how}",
        fit=partial(_fit, fusion, members),
        rule=fusion.rule + 100 * (RULE - 1),
    )


def _fit(
    fusion: Fusion,
    members: int,
    train: Modalities,
    contexts: Mapping[str, ContextTargets],
    options: Options,
    setting: Setting,
) -> EnsembleFit:
    fitted = []
    for k in range(members):
        own = replace(
            setting,
            seed=setting.seed + k,
            folder=setting.folder / f"member-{k}" if setting.folder is not None else None,
            progress=_part_of_all(setting.progress, k, members),
        )
        if fusion.name in SEEDED:
            fitted.append(fit_fusion(fusion, train, contexts, options, own))
        else:
            rows = drawn(len(train), own.seed)
            fitted.append(fit_fusion(fusion, train.part(rows), _within(contexts, rows, len(train)), options, own))
    return EnsembleFit(tuple(fitted))


def drawn(n: int, seed: int) -> NDArray[np.intp]:
    """Draw 80 % of n rows without replacement, in order."""
    return np.sort(np.random.default_rng([seed, 80]).choice(n, max(1, round(SHARE * n)), replace=False)).astype(np.intp)


def _within(contexts: Mapping[str, ContextTargets], rows: NDArray[np.intp], n: int) -> dict[str, ContextTargets]:
    """Contexts with the drawn training ids alone."""
    place = np.full(n, -1)
    place[rows] = np.arange(len(rows))
    found = {}
    for name, own in contexts.items():
        use = place[own.rows] >= 0
        found[name] = ContextTargets(place[own.rows[use]], part_of(own.targets, use))
    return found


def _part_of_all(
    progress: Callable[[int, int], None] | None, k: int, members: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None

    def told(done: int, todo: int) -> None:
        assert progress is not None
        progress(k * todo + done, members * todo)

    return told
