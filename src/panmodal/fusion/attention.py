"""Attention fusion: a transformer encoder over one token per modality, trained on all contexts together (needs torch)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from panmodal._digest import digest_json
from panmodal.fusion.attention_data import Rows
from panmodal.fusion.attention_options import AttentionOptions, Hyper
from panmodal.fusion.base import ContextTargets, Fitted, Fusion, Modalities, Setting
from panmodal.probes.base import CLASSES, CONTINUOUS


def fit(
    train: Modalities, contexts: Mapping[str, ContextTargets], options: AttentionOptions, setting: Setting
) -> Fitted:
    """Train the model on all contexts together.

    The tokens are: CLS (learned), one for each modality that an id has (its scaled vector times a matrix), and the context (see
    ``context`` of :class:`~panmodal.fusion.attention_options.Hyper`). The encoder is that of Vaswani et al. 2017
    (arXiv:1706.03762); the head turns the last CLS token into a response. Numbers are trained by the mean
    Euclidean distance of rows, classes by cross-entropy weighted by n / (3 n_c) for each gene.

    Parameters
    ----------
    train
        Training ids.
    contexts
        Responses; the same read-outs in all contexts.
    options
        Preset and changes to it.
    setting
        With ``folder``, checkpoints are kept there while training, and a training that was interrupted goes on from them to the
        same result; a checkpoint of other inputs, options, seed, threads, device or version of torch is not used.

    Raises
    ------
    InputError
        Contexts with different read-outs; a device that torch cannot use.
    DivergedError
        A loss became NaN or infinite.
    """
    rows = Rows.of(contexts)
    hyper = options.of(classes=rows.classes)
    from panmodal.fusion.deep.fit import fit_attention

    return fit_attention(train, rows, hyper, setting, input_digest(train, rows, hyper, setting))


def input_digest(train: Modalities, rows: Rows, hyper: Hyper, setting: Setting) -> str:
    """Digest everything that a fit depends on but the versions of code."""
    state = hashlib.sha256()
    state.update(digest_json([hyper.model_dump(mode="json"), setting.seed, setting.device, setting.threads, FUSION.rule,
                              list(train.names), list(rows.contexts)]).encode())  # fmt: skip
    for array in (*train.values, train.present, rows.ids, rows.context, rows.values):
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _fit(train: Modalities, contexts: Mapping[str, ContextTargets], options: Any, setting: Setting) -> Fitted:
    return fit(train, contexts, options, setting)


FUSION = Fusion(
    name="attention",
    description="a transformer over one token per modality, trained on all contexts together",
    kinds=(*CONTINUOUS, *CLASSES),
    fit=_fit,
    options=AttentionOptions,
    joint=True,
    extra="deep",
    module="torch",
)
