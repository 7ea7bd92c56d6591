"""The attention model: tokens of modalities, a CLS token, an encoder, a head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from panmodal.fusion.attention_options import Hyper


class Dropper:
    """Dropout that draws from a generator of its own, so that nothing depends on torch's global one."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def __call__(self, x: Tensor, share: float) -> Tensor:
        """Drop a share of the values and scale up the others; nothing without a generator (prediction)."""
        if self.generator is None or not share:
            return x
        keep = torch.rand(x.shape, generator=self.generator, device=x.device, dtype=x.dtype) >= share
        return x * keep / (1.0 - share)

    def modalities(self, present: Tensor, share: float) -> Tensor:
        """Drop a share of the modalities (ids x modalities, bool); an id that would lose all keeps all."""
        if self.generator is None or not share:
            return present
        kept = present & (torch.rand(present.shape, generator=self.generator, device=present.device) >= share)
        return torch.where(kept.any(dim=1, keepdim=True), kept, present)


class Block(nn.Module):
    """An encoder layer: attention (with an optional gate on its output) and an MLP, each with a residual sum."""

    def __init__(self, hyper: Hyper) -> None:
        super().__init__()
        d = hyper.d_model
        self.hyper = hyper
        self.mix = nn.Linear(d, 3 * d)
        self.gate = nn.Linear(d, d) if hyper.gate else None
        self.out = nn.Linear(d, d)
        self.wide = nn.Linear(d, hyper.expansion * d)
        self.narrow = nn.Linear(hyper.expansion * d, d)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)

    def attend(self, x: Tensor, blocked: Tensor, drop: Dropper) -> tuple[Tensor, Tensor]:
        """Return the output of attention and its weights (batch x heads x tokens x tokens, before dropout)."""
        b, s, d = x.shape
        h = self.hyper.heads
        q, k, v = self.mix(x).view(b, s, 3, h, d // h).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(d // h)
        weights = scores.masked_fill(blocked[:, None, None, :], float("-inf")).softmax(dim=-1)
        found = (drop(weights, self.hyper.dropout) @ v).transpose(1, 2).reshape(b, s, d)
        if self.gate is not None:
            found = found * torch.sigmoid(self.gate(x))
        return self.out(found), weights

    def mlp(self, x: Tensor, drop: Dropper) -> Tensor:
        """Return the output of the MLP."""
        return self.narrow(drop(_activation(self.hyper)(self.wide(x)), self.hyper.dropout))

    def forward(self, x: Tensor, blocked: Tensor, drop: Dropper) -> tuple[Tensor, Tensor]:
        """Return new tokens and the attention weights."""
        p = self.hyper.dropout
        if self.hyper.norm == "pre":
            found, weights = self.attend(self.norm_attention(x), blocked, drop)
            x = x + drop(found, p)
            return x + drop(self.mlp(self.norm_mlp(x), drop), p), weights
        found, weights = self.attend(x, blocked, drop)
        x = self.norm_attention(x + drop(found, p))
        return self.norm_mlp(x + drop(self.mlp(x, drop), p)), weights


@dataclass
class Told:
    """What the model tells of a batch: outputs, the last tokens of the modalities, attention of each layer."""

    out: Tensor
    tokens: Tensor
    attention: list[Tensor]


class AttentionModel(nn.Module):
    """Modalities (one token each) + CLS -> encoder -> head.

    Parameters
    ----------
    dims
        Input dims of each modality.
    contexts, outputs
        Numbers of them.
    hyper
        Hyper-parameters.
    zero_head
        Start the last layer at zero, so that training starts from the mean.
    generator
        Of the starting weights, on the CPU, so that they are the same on every device.
    """

    def __init__(self, dims: Sequence[int], contexts: int, outputs: int, hyper: Hyper, *, zero_head: bool,
                 generator: torch.Generator) -> None:  # fmt: skip
        super().__init__()
        d = hyper.d_model
        self.hyper = hyper
        self.inputs = nn.ModuleList(nn.Linear(p, d) for p in dims)
        self.input_norms = nn.ModuleList(nn.LayerNorm(d) for _ in dims) if hyper.token_norm else None
        self.cls = nn.Parameter(torch.empty(d))
        self.contexts = nn.Parameter(torch.empty(contexts, d))
        self.context_norm = nn.LayerNorm(d)
        self.blocks = nn.ModuleList(Block(hyper) for _ in range(hyper.layers))
        self.last_norm = nn.LayerNorm(d) if hyper.norm == "pre" else None
        sizes = [d * (2 if hyper.context == "head" else 1)] + [hyper.head_width] * hyper.head_layers + [outputs]
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.rebuild = nn.ModuleList(nn.Linear(d, p) for p in dims) if hyper.reconstruction else None
        self._start(zero_head, generator)

    def _start(self, zero_head: bool, generator: torch.Generator) -> None:
        """Draw the starting weights: Xavier uniform for matrices, zero for biases, standard normal for tokens."""
        for module in self.modules():
            if isinstance(module, Block):
                # The three projections are one matrix here; each is drawn as a matrix of its own.
                for part in module.mix.weight.data.chunk(3):
                    nn.init.xavier_uniform_(part, generator=generator)
                nn.init.zeros_(module.mix.bias)
        mixes = {id(b.mix) for b in self.blocks}
        for module in self.modules():
            if isinstance(module, nn.Linear) and id(module) not in mixes:
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls, generator=generator)
        nn.init.normal_(self.contexts, generator=generator)
        if zero_head:
            nn.init.zeros_(self.head[-1].weight)

    def forward(self, values: Sequence[Tensor], present: Tensor, context: Tensor, drop: Dropper) -> Told:
        """Predict.

        Parameters
        ----------
        values
            Scaled inputs of each modality, batch x its dims; rows of absent modalities are ignored.
        present
            Batch x modalities, bool.
        context
            Position of each row's context.
        drop
            Dropout.
        """
        hyper = self.hyper
        tokens = [layer(x) for layer, x in zip(self.inputs, values, strict=True)]
        if self.input_norms is not None:
            tokens = [norm(x) for norm, x in zip(self.input_norms, tokens, strict=True)]
        tokens = [drop(x, hyper.input_dropout) for x in tokens]
        where = drop(self.context_norm(self.contexts)[context], hyper.input_dropout)
        seen = drop.modalities(present, hyper.modality_dropout)
        always = torch.ones_like(seen[:, :1])
        parts, shown = [self.cls.expand(len(seen), -1), *tokens], [always, seen]
        if hyper.context == "token":
            parts.append(where)
            shown.append(always)
        x, blocked = torch.stack(parts, dim=1), ~torch.cat(shown, dim=1)
        if hyper.context == "added":
            x = x + where[:, None, :]
        attention = []
        for block in self.blocks:
            x, weights = block(x, blocked, drop)
            attention.append(weights)
        if self.last_norm is not None:
            x = self.last_norm(x)
        y = torch.cat([x[:, 0], where], dim=1) if hyper.context == "head" else x[:, 0]
        for k, layer in enumerate(self.head):
            y = layer(y)
            if k < len(self.head) - 1:
                y = drop(_activation(hyper)(y), hyper.dropout)
        return Told(y, x[:, 1 : 1 + len(values)], attention)

    def reconstruction_loss(self, told: Told, values: Sequence[Tensor], present: Tensor) -> Tensor:
        """Mean over modalities of the mean squared error of the inputs told by their last tokens; absent ones do not count."""
        assert self.rebuild is not None
        losses = []
        for k, layer in enumerate(self.rebuild):
            own = present[:, k].to(told.tokens.dtype)
            errors = ((layer(told.tokens[:, k]) - values[k]) ** 2).mean(dim=1)
            losses.append((errors * own).sum() / own.sum().clamp_min(1.0))
        return torch.stack(losses).mean()


def _activation(hyper: Hyper) -> Any:
    return functional.gelu if hyper.activation == "gelu" else functional.relu
