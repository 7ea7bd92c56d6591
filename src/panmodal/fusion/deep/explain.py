"""What a trained attention model tells of its modalities: where CLS looks, and what is lost without each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from panmodal.fusion.deep.model import AttentionModel, Dropper
from panmodal.fusion.deep.train import CHUNK, Data, predict

Row = dict[str, Any]


def part_names(model: AttentionModel) -> tuple[str, ...]:
    """Names of the parts of :func:`attention_of`."""
    return (*(f"layer {k + 1}" for k in range(len(model.blocks))), "rollout")


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928): the product over layers of (A + I) / 2.

    Parameters
    ----------
    layers
        Attention of each layer, mean over heads, batch x tokens x tokens, first layer first.

    Returns
    -------
    torch.Tensor
        Batch x tokens x tokens; rows sum to one.
    """
    eye = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    total = eye.expand_as(layers[0])
    for own in layers:
        total = (0.5 * own + 0.5 * eye) @ total
    return total


def attention_of(model: AttentionModel, values: Sequence[Tensor], present: Tensor, context: Tensor) -> Tensor:
    """Return the attention of CLS to modalities, mean over heads: ids x parts x modalities; 0 where an id lacks one."""
    found, last = [], 1 + present.shape[1]
    with torch.no_grad():
        for p in torch.arange(len(present), device=present.device).split(CHUNK):
            told = model([x[p] for x in values], present[p], context[p], Dropper(None))
            layers = [weights.mean(dim=1) for weights in told.attention]
            found.append(torch.stack([x[:, 0, 1:last] for x in (*layers, rollout(layers))], dim=1))
    return torch.cat(found)


def attention_table(
    model: AttentionModel, data: Data, rows: Tensor, names: Sequence[str], contexts: Sequence[str]
) -> list[Row]:
    """Mean attention over the rows that have a modality, for each context, part and modality."""
    table = []
    for c, context in enumerate(contexts):
        own = rows[data.context[rows] == c]
        if not len(own):
            continue
        values, present, where = data.batch(own)
        attention = attention_of(model, values, present, where)
        for k, name in enumerate(names):
            has = present[:, k]
            if has.any():
                table += [_row("attention", context, name, part, value)
                          for part, value in zip(part_names(model), attention[has, :, k].mean(dim=0), strict=True)]  # fmt: skip
    return table


def importance_table(
    model: AttentionModel, data: Data, rows: Tensor, names: Sequence[str], contexts: Sequence[str], scale: float
) -> list[Row]:
    """Tell by how much the loss of held-out rows grows when a modality is masked, times ``scale``, for each context."""
    table = []
    for c, context in enumerate(contexts):
        own = rows[data.context[rows] == c]
        present = data.present[data.ids[own]]
        for k, name in enumerate(names):
            use = own[present[:, k] & (present.sum(dim=1) > 1)]
            if not len(use):
                continue
            values, shown, where = data.batch(use)
            hidden = shown.clone()
            hidden[:, k] = False
            with_it = data.loss(predict(model, values, shown, where), use)
            without = data.loss(predict(model, values, hidden, where), use)
            table.append(_row("importance", context, name, "", (without - with_it) * scale))
    return table


def _row(what: str, context: str, modality: str, part: str, value: Tensor) -> Row:
    return {"what": what, "context": context, "modality": modality, "part": part, "value": float(value)}
