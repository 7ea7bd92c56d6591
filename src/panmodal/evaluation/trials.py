"""Trials: the unit that is run, stored and resumed, and the digest that says which two are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._digest import LENGTH, digest_json
from panmodal.errors import some

RULES = {"projection": 1, "train-mean fill": 1, "inner folds": 1}
"""Versions of the rules that every trial depends on; raise one whenever it changes results."""

BASELINE = "none"
"""Name in the embedding column of baselines that use no embedding."""


@dataclass(frozen=True)
class Trial:
    """One task x fold x embedding x probe x seed.

    The first fields are labels for people; ``depends`` holds what the result depends on, and alone makes the digest. The
    role is ``embedding`` (compared and ranked), ``baseline`` (predicts without any embedding), ``control`` (carries no
    information) or ``oracle`` (has seen the answers). ``seen`` tells whether the embedding was trained on the data set of the
    screen (``yes``, ``no``, ``unknown``).
    """

    screen: str
    context: str
    response: str
    split: str
    fold: int
    embedding: str
    probe: str
    seed: int
    role: str
    modality: str
    simulated: bool
    depends: dict[str, Any] = field(hash=False)
    seen: str = "unknown"

    @cached_property
    def digest(self) -> str:
        """Identity of the trial: same digest, same result, never computed twice."""
        return digest_json(self.depends)

    @property
    def key(self) -> tuple[str, str, str, str, int, str, str, int]:
        """The labels under which a trial appears in tables; within a results folder they mean one digest."""
        return (self.screen, self.context, self.response, self.split, self.fold, self.embedding, self.probe, self.seed)

    def to_record(self) -> dict[str, Any]:
        """Return the trial as plain values, with its digest."""
        return {**asdict(self), "trial": self.digest}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Trial:
        """Rebuild a trial from :meth:`to_record`."""
        return cls(**{k: v for k, v in record.items() if k != "trial"})


@dataclass(frozen=True)
class Predictions:
    """Stored predictions of one trial.

    Attributes
    ----------
    pert_ids, covered
        Test ids and whether the embedding covered them; uncovered rows hold the train mean.
    values
        Predictions, m x t (for classes m x 2t: probabilities of -1, then of +1), float32; None where they were not kept.
    train_mean
        What uncovered rows hold: the mean training response (length t), or for classes the shares of -1 and of +1 (2t); float32.
    record
        Labels, digest, hyper-parameters, seconds and version.
    expected_error
        Where a fusion tells its predictive variance: the L2 error that it expects of each id (NaN where not covered), float32.
    """

    pert_ids: list[str]
    covered: NDArray[np.bool_]
    values: NDArray[np.float32] | None
    train_mean: NDArray[np.float32]
    record: dict[str, Any]
    expected_error: NDArray[np.float32] | None = None

    @property
    def content(self) -> str:
        """Digest of ids, coverage and numbers, so that no damage passes unnoticed and two runs can be compared."""
        state = hashlib.sha256(json.dumps(self.pert_ids).encode())
        for part in (self.covered, self.values, self.train_mean, self.expected_error):
            if part is not None:
                state.update(np.ascontiguousarray(part).tobytes())
        return state.hexdigest()[:LENGTH]


def dependencies(
    *, responses: str, split: str, fold: int, embedding: str | None, probe: dict[str, Any], standardise: bool, seed: int
) -> dict[str, Any]:
    """Collect what a trial depends on.

    Parameters
    ----------
    responses, split, embedding
        Content digests; no embedding for baselines.
    fold
        Held-out fold.
    probe
        The probe's identity (name, grid, rule).
    standardise
        Whether the vectors are standardised before the PCA.
    seed
        Seed of the run; the probes at hand are deterministic, but controls are drawn from it.
    """
    return {
        "responses": responses, "split": split, "fold": fold, "embedding": embedding, "probe": probe,
        "standardise": standardise, "seed": seed, "rules": RULES,
    }  # fmt: skip


def describe_conflicts(conflicts: Sequence[tuple[Trial, Trial]]) -> str:
    """Say which inputs changed between trials that go by the same labels."""
    reasons: dict[str, list[str]] = {}
    words = {"responses": "the responses of screen", "split": "the split", "embedding": "the embedding",
             "probe": "the probe", "rules": "the rules of this version"}  # fmt: skip
    for old, new in conflicts:
        for part, word in words.items():
            # The oracle and the controls are made from the screen; to name them would say the same twice.
            made = part == "embedding" and new.role != "embedding"
            if old.depends.get(part) != new.depends.get(part) and not made:
                label = {"responses": new.screen, "split": new.split, "embedding": new.embedding,
                         "probe": new.probe, "rules": "panmodal"}[part]  # fmt: skip
                reasons.setdefault(word, []).append(label)
    return "; ".join(f"{word} {some(dict.fromkeys(labels), 3)}" for word, labels in reasons.items()) or "the controls"
