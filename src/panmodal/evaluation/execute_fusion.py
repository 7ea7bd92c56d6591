"""Trials of fusions: fitted on each context, or on all at once, and predicted as probes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panmodal._digest import digest_json
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.evaluation.trials import Trial
from panmodal.evaluation.workspace import FusionData, SourceData, open_matrix
from panmodal.fusion.base import ContextTargets, Fitted, Fused, Modalities, Setting, fit_fusion
from panmodal.probes.design import LabelTargets, Targets


@dataclass(frozen=True)
class FusionJob:
    """What one fold of a fusion is fitted on.

    ``train`` are the training ids of each context, ``targets`` return the responses of ids.
    """

    data: FusionData
    train: Mapping[str, Sequence[str]]
    targets: Mapping[str, Callable[[Sequence[str]], Targets | LabelTargets]]
    device: str
    folder: Path | None

    def fit(self, contexts: Sequence[str], trial: Trial) -> Fitted:
        """Fit on contexts (one, or all where the fusion is joint)."""
        fusion, options = FusionInput.model_validate(self.data.asked).resolve()
        ids = sorted({i for c in contexts for i in self.train[c]})
        row = {i: k for k, i in enumerate(ids)}
        given = {
            c: ContextTargets(np.array([row[i] for i in self.train[c]], dtype=np.intp), self.targets[c](self.train[c]))
            for c in contexts
        }
        # All contexts of a joint fit share its checkpoint.
        mark = digest_json({k: v for k, v in trial.depends.items() if not (fusion.joint and k == "responses")})
        folder = self.folder / mark if self.folder is not None else None
        setting = Setting(seed=trial.seed, device=self.device, folder=folder)
        return fit_fusion(fusion, modalities(self.data.members, ids), given, options, setting)

    def predict(self, fitted: Fitted, context: str, test: Sequence[str]) -> tuple[np.ndarray, Fused | None]:
        """Tell which ids are covered, and predict those."""
        wanted = modalities(self.data.members, test)
        covered = wanted.covered
        return covered, fitted.predict(wanted.part(covered), context) if covered.any() else None


def modalities(members: Sequence[tuple[str, SourceData]], ids: Sequence[str]) -> Modalities:
    """Read the vectors of ids, rows of NaN where a member has none."""
    found = {}
    for name, source in members:
        vectors = open_matrix(source.vectors)
        where = {i: k for k, i in enumerate(source.ids)}
        at = [k for k, i in enumerate(ids) if i in where]
        values = np.full((len(ids), vectors.shape[1]), np.nan)
        values[at] = vectors[[where[ids[k]] for k in at]]
        found[name] = values
    return Modalities.of(found)


def expected_error(found: Fused | None, covered: np.ndarray) -> np.ndarray | None:
    """Root of the summed predictive variance of each id, in the unit of the L2 error; NaN where not covered."""
    if found is None or found.variance is None:
        return None
    out = np.full(len(covered), np.nan, dtype=np.float32)
    out[covered] = np.sqrt(found.variance.sum(axis=1, dtype=np.float64))
    return out


def tables_of(fitted: Fitted, context: str) -> list[dict[str, Any]]:
    """Return what the fit learned for one context, or for all of them."""
    return [row for row in fitted.tables() if row["context"] in ("", context)]
