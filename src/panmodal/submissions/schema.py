"""What a bundle is made of: fields of its records, columns of its tables, ranges of its values."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from panmodal.evaluation.class_metrics import RESAMPLINGS
from panmodal.evaluation.metrics import METRICS
from panmodal.submissions.findings import refuse
from panmodal.submissions.tables import FLAG, LABEL, NUMBER, TEXT, WHOLE

KIND = "panmodal-submission"
FORMAT = 1
"""Version of the layout of a bundle."""
HEX = r"^[0-9a-f]{32}$"
RESPONSES = r"^[a-z_]{1,20}-[0-9a-f]{32}$"
Seen = Literal["yes", "no", "unknown"]

POSITIVE, SHARE, CORRELATION = (0.0, math.inf), (0.0, 1.0), (-1.0, 1.0)
RANGES = {
    **dict.fromkeys(("L2", "MSE", "MAE"), POSITIVE),
    **dict.fromkeys(("Pearson", "Spearman", "Pearson_centred", "Spearman_centred", "cosine", "MCC"), CORRELATION),
    **dict.fromkeys(("PDS_L1", "PDS_L2", "PDS_cosine"), SHARE),
    **{m.name: SHARE for m in METRICS.values() if m.axis == "gene"},
    **dict.fromkeys(("overlap_at_N", "precision_at_N", "direction_match", "AUPRC"), SHARE),
}
"""Smallest and largest value of every metric."""

TASK = {"screen": LABEL, "context": LABEL, "response": LABEL, "split": LABEL, "fold": WHOLE}
SCORES = {
    **TASK, "embedding": LABEL, "probe": LABEL, "seed": WHOLE, "fallback": LABEL, "metric": LABEL, "value": NUMBER,
    "n_test": WHOLE, "n_covered": WHOLE, "hyperparameters": TEXT, "trial": LABEL, "role": LABEL, "modality": LABEL,
    "simulated": FLAG, "seen": LABEL, "n_scored": WHOLE, "n_undefined": WHOLE,
}  # fmt: skip
ROWS = {"trial": LABEL, "pert_id": LABEL, "covered": FLAG}
CEILINGS = {**TASK, "seed": WHOLE, "estimator": LABEL, "pert_id": TEXT, "n_draws": WHOLE}
RESAMPLED = {**TASK, "seed": WHOLE, "trial": TEXT, "estimator": TEXT, "metric": LABEL}
DRAWS = {f"draw_{k:03d}": NUMBER for k in range(RESAMPLINGS)}
OF_METRICS = {**dict.fromkeys(METRICS, NUMBER)}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class File(_Record):
    """A member: name, bytes and SHA-256."""

    name: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TaskRecord(_Record):
    """A task: its names, the digests of what they mean, its size, and whether its data are simulated."""

    screen: str
    context: str
    response: str
    split: str
    responses: str = Field(pattern=RESPONSES)
    split_digest: str = Field(pattern=HEX)
    folds: list[int]
    seeds: list[int]
    n_perturbations: int = Field(ge=1)
    n_readouts: int = Field(ge=1, le=10_000_000)
    simulated: bool


class Manifest(_Record):
    """``manifest.json``."""

    kind: str
    format: int
    panmodal: str = Field(max_length=60)
    title: str = Field(max_length=200)
    contact: str = Field(max_length=200)
    notes: str = Field(max_length=4000)
    date: str = Field(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")
    embeddings: list[str]
    tasks: list[TaskRecord]
    simulated: bool
    predictions: bool
    files: list[File]


class TrialRecord(BaseModel):
    """One trial of ``trials.json``: its labels, what it depends on, its digest, what came out and how long it took.

    Labels that later versions add to trials may stand beside them; ``provenance`` is what else was recorded (environment, memory).
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    screen: str
    context: str
    response: str
    split: str
    fold: int = Field(ge=0, le=9999)
    embedding: str
    probe: str
    seed: int
    role: Literal["embedding", "baseline", "control", "oracle"]
    modality: str
    simulated: bool
    seen: Seen
    depends: dict[str, Any]
    trial: str = Field(pattern=HEX)
    content: str = Field(pattern=HEX)
    hyperparameters: str = Field(max_length=10_000)
    seconds: float = Field(ge=0)
    version: str = Field(max_length=60)
    rules: dict[str, int]
    expected_error: bool = False
    provenance: dict[str, Any] = Field(default_factory=dict)


class CardRecord(_Record):
    """One embedding on one screen in ``cards.json``: digest of the vectors used, ids covered of those asked for, and its card."""

    name: str
    screen: str
    digest: str = Field(pattern=HEX)
    covered: int = Field(ge=0)
    asked: int = Field(ge=1)
    card: dict[str, Any]


class SplitRecord(_Record):
    """What a run says of its split."""

    name: str
    digest: str = Field(pattern=HEX)
    unseen: Literal["perturbation", "part"]
    seed: int | None


class ScreenRecord(_Record):
    """What a run says of its screen."""

    name: str
    response: str
    description: str
    simulated: bool
    datasets: list[str]
    digests: dict[str, str]


class FusionRecord(_Record):
    """What a run says of a fusion."""

    name: str
    method: str
    options: dict[str, Any]
    digest: str = Field(pattern=HEX)
    of: list[str]
    covered: int = Field(ge=0)
    role: Literal["embedding", "control"]


class RunRecord(_Record):
    """One plan of ``runs/``, without its trials, cards and paths."""

    version: str = Field(max_length=60)
    screen: ScreenRecord
    split: SplitRecord
    embeddings: list[str]
    fusions: list[FusionRecord]
    provenance: Any = None


def record(model: type[Any], value: Any, where: str, *, code: str = "V022") -> Any:
    """Build a record from plain values.

    Raises
    ------
    Refused
        A field is missing, unknown, or of another kind.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        refuse(code, f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:200]}", where)


def key_of(trial: TrialRecord) -> tuple[Any, ...]:
    """Return the labels by which a trial goes."""
    return (
        trial.screen,
        trial.context,
        trial.response,
        trial.split,
        trial.fold,
        trial.embedding,
        trial.probe,
        trial.seed,
    )


def task_of(item: Any) -> tuple[str, str, str, str]:
    """Return the labels of a task."""
    return (item.screen, item.context, item.response, item.split)
