"""Hyper-parameters of the attention fusion and their presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from panmodal.fusion.base import Options

Inputs = Literal["raw", "l2", "zscore", "pca"]
Context = Literal["added", "token", "head"]


class Hyper(Options):
    """Hyper-parameters of one kind of response, all of them told.

    Attributes
    ----------
    inputs
        What becomes of a modality's vectors (see :class:`~panmodal.fusion.attention_data.Scaler`): ``raw``; ``l2``, unit length;
        ``zscore``, standardised; ``pca``, standardised, projected to the first ``components`` principal axes and then brought to
        a root mean square of 1 in each row.
    components
        Principal axes kept of each modality by ``pca``.
    d_model, layers, heads, expansion
        Width of a token, encoder layers, attention heads (they divide the width), width of a layer's MLP in widths.
    norm
        Layer norm ``post`` (after each sum, as Vaswani et al. 2017) or ``pre`` (before each block, and once at the end).
    activation
        Of all MLPs.
    gate
        Multiply the output of attention by sigmoid(W x + b), value by value.
    token_norm
        Layer norm of a modality's token before the encoder.
    context
        A learned vector of the context: ``added`` to all tokens, a ``token`` of its own, or joined to CLS for the ``head`` only.
    head_layers, head_width
        Hidden layers of the head and their width.
    centre
        Predict deviations from the training mean of the context, in units of their root mean square, starting from zero; for
        classes, from the logits of their shares in the context.
    rank
        Predict so many coordinates in an orthonormal basis of the training responses (their principal axes) rather than
        every read-out; 0 for every read-out. For classes logits are told so.
    weighting
        Power to which the weights n / (3 n_c) of classes are raised: 1 makes all classes of a gene count alike, so that rare
        ones are called far too often; 0.5 is the rule of the class probes (:func:`panmodal.probes.labels.balance`).
    dropout, input_dropout, modality_dropout
        Share that is dropped in training: of units and attention weights of encoder and head; of units of tokens; of modalities of a
        perturbation (never all of them).
    reconstruction
        Weight of the mean squared error with which each modality's last token tells its input.
    batch, learning_rate, weight_decay
        Of AdamW (Adam if the decay is 0).
    schedule
        Learning rate after warm-up: ``constant``, or a ``cosine`` from all of it to none at the last epoch.
    epochs, warmup, patience
        Most epochs; epochs over which the learning rate rises from 1e-8 of itself; epochs without a better validation
        loss after which training ends.
    clip
        Largest norm of the gradient.
    average
        Decay per step of an exponential moving average of the weights, which then predicts; 0 for none.
    validation
        Share of the training ids held out to choose the epoch; all contexts of an id go together.
    refit
        Train again on all training ids, for the number of epochs chosen.
    """

    inputs: Inputs
    components: int = Field(gt=0)
    d_model: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    expansion: int = Field(gt=0)
    norm: Literal["post", "pre"]
    activation: Literal["gelu", "relu"]
    gate: bool
    token_norm: bool
    context: Context
    head_layers: int = Field(ge=0)
    head_width: int = Field(gt=0)
    centre: bool
    rank: int = Field(ge=0)
    weighting: float = Field(ge=0, le=1)
    dropout: float = Field(ge=0, lt=1)
    input_dropout: float = Field(ge=0, lt=1)
    modality_dropout: float = Field(ge=0, lt=1)
    reconstruction: float = Field(ge=0, allow_inf_nan=False)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    weight_decay: float = Field(ge=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"]
    epochs: int = Field(gt=0)
    warmup: int = Field(ge=0)
    patience: int = Field(gt=0)
    clip: float = Field(gt=0)
    average: float = Field(ge=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    refit: bool

    @model_validator(mode="after")
    def _heads_divide(self) -> Hyper:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by heads {self.heads}")
        return self


_SIMPLE: dict[str, Any] = {
    "inputs": "raw", "components": 100, "d_model": 100, "layers": 4, "heads": 5, "expansion": 2, "norm": "post",
    "activation": "gelu", "gate": False, "token_norm": False, "context": "added", "head_layers": 0, "head_width": 400,
    "centre": False, "rank": 0, "weighting": 1.0, "dropout": 0.0, "input_dropout": 0.1, "modality_dropout": 0.0, "reconstruction": 0.0,
    "batch": 64, "learning_rate": 0.0009931092550184934, "weight_decay": 0.0, "schedule": "constant", "epochs": 75,
    "warmup": 5, "patience": 25, "clip": 1.0, "average": 0.0, "validation": 0.2, "refit": False,
}  # fmt: skip
_FULL = {
    **_SIMPLE, "inputs": "zscore", "layers": 8, "heads": 10, "gate": True, "context": "head", "head_layers": 2,
    "dropout": 0.08363894748770867, "input_dropout": 0.0, "modality_dropout": 0.00434180445161718,
    "reconstruction": 9.411605826543548, "batch": 32, "learning_rate": 0.0005279141172671998,
}  # fmt: skip
# Chosen on inner folds of two folds of a real screen (585 ids, 2 contexts, 4 modalities), not on its test ids, and on simulated
# screens of 300 ids. What counted on the former, in L2 of one model (about 14.4, differences of 0.03 are noise): context at the
# head, a hidden layer of the head, refit (0.1 each), few coordinates (0.07), unit length (0.05). On the latter: one layer and
# more dropout of modalities (0.15 of 4.85). More layers or other dropout made it worse; width, gate and decay did not matter.
_SMALL = {
    **_SIMPLE, "inputs": "l2", "d_model": 64, "layers": 1, "heads": 4, "norm": "pre", "gate": True, "context": "head",
    "head_layers": 1, "head_width": 128, "centre": True, "rank": 100, "dropout": 0.1, "modality_dropout": 0.3,
    "learning_rate": 0.002, "weight_decay": 0.01, "schedule": "cosine", "average": 0.99, "refit": True,
}  # fmt: skip
_DEG = {"layers": 7, "learning_rate": 4.586815929703627e-05, "epochs": 200, "token_norm": True}

PRESETS: dict[str, dict[str, Hyper]] = {
    "regression": {name: Hyper(**own) for name, own in (("small", _SMALL), ("simple", _SIMPLE), ("full", _FULL))},
    "classification": {
        "small": Hyper(**{**_SMALL, "rank": 30, "weighting": 0.5}),
        "simple": Hyper(**{**_SIMPLE, **_DEG}),
        "full": Hyper(**{**_FULL, "learning_rate": _DEG["learning_rate"], "epochs": 200, "token_norm": True}),
    },
}

_OWN = ("preset", "regression", "classification")


class AttentionOptions(Options):
    """Options of the attention fusion: a preset, and any hyper-parameter of :class:`Hyper` instead of the preset's.

    ``small`` (default) is made for screens of some hundred perturbations and for laptops. It is not published: rows have unit
    length, a few coordinates of the deviation from the context's mean are predicted, weights are averaged over steps, classes
    are weighted by the root of the published weights, and the model is trained again on all ids.

    ``simple`` and ``full`` are the published configurations of the Essential screen (``benchmark/fusion/config`` of
    github.com/genbio-ai/foundation-models-perturbation), with these differences: the published ``full`` encodes a context by an
    autoencoder of its control expression (loss weight 9.56), which a fusion does not see, so that a learned vector of the
    context stands in; standardised inputs are clipped at +-10; modalities that are dropped in training are masked as those
    that an id lacks are (published: they become zero vectors), and dropping never takes all of an id's; what an id lacks does
    not count in the reconstruction. No ``full`` for classes was published: it is that for numbers with the learning rate,
    epochs and token norm of ``simple`` for classes.

    Attributes
    ----------
    preset
        ``small``, ``simple`` or ``full``.
    regression, classification
        All hyper-parameters for numbers and for classes, filled in from the preset and the options given, so that the record
        tells what was done; not meant to be given.
    """

    preset: Literal["small", "simple", "full"] = "small"
    inputs: Inputs | None = None
    components: int | None = None
    d_model: int | None = None
    layers: int | None = None
    heads: int | None = None
    expansion: int | None = None
    norm: Literal["post", "pre"] | None = None
    activation: Literal["gelu", "relu"] | None = None
    gate: bool | None = None
    token_norm: bool | None = None
    context: Context | None = None
    head_layers: int | None = None
    head_width: int | None = None
    centre: bool | None = None
    rank: int | None = None
    weighting: float | None = None
    dropout: float | None = None
    input_dropout: float | None = None
    modality_dropout: float | None = None
    reconstruction: float | None = None
    batch: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine"] | None = None
    epochs: int | None = None
    warmup: int | None = None
    patience: int | None = None
    clip: float | None = None
    average: float | None = None
    validation: float | None = None
    refit: bool | None = None
    regression: Hyper | None = None
    classification: Hyper | None = None

    @model_validator(mode="after")
    def _fill_in(self) -> AttentionOptions:
        changed = {k: v for k in type(self).model_fields if k not in _OWN and (v := getattr(self, k)) is not None}
        for kind, presets in PRESETS.items():
            base = getattr(self, kind) or presets[self.preset]
            try:
                resolved = Hyper(**{**base.model_dump(), **changed})
            except ValidationError as error:
                problems = (f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
                raise ValueError("; ".join(problems)) from None
            # The record is frozen for its users; this is where it is made.
            object.__setattr__(self, kind, resolved)
        return self

    def of(self, *, classes: bool) -> Hyper:
        """Return the hyper-parameters for classes or for numbers."""
        found = self.classification if classes else self.regression
        assert found is not None
        return found
