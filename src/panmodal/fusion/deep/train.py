"""Training of the attention model: batches, learning rate, early stopping, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from panmodal.errors import PanmodalError
from panmodal.fusion.attention_options import Hyper
from panmodal.fusion.deep.checkpoint import EVERY, Checkpoint
from panmodal.fusion.deep.model import AttentionModel, Dropper

State = dict[str, Tensor]
CHUNK = 512
"""Rows predicted at once."""


class DivergedError(PanmodalError, ArithmeticError):
    """Training went to NaN or infinite values."""


class Loss(Protocol):
    """A loss of outputs for some rows."""

    def __call__(self, out: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss."""
        ...


@dataclass
class L2Loss:
    """Mean Euclidean distance of rows; ``rest`` is the squared distance that outputs cannot change."""

    targets: Tensor
    rest: Tensor

    def __call__(self, out: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss; its gradient is finite where the distance is zero."""
        squared = ((out - self.targets[rows]) ** 2).sum(dim=1) + self.rest[rows]
        return squared.clamp_min(1e-12).sqrt().mean()


@dataclass
class ClassLoss:
    """Cross-entropy of three classes: of each gene the mean over rows weighted by the weight of the true class; mean over genes.

    ``labels`` are 0, 1, 2 (rows x t, uint8), ``weights`` t x 3. A gene of which no row of a batch has a weight does not count.
    Logits are ``mean[context] + out @ basis``; see :class:`~panmodal.fusion.attention_data.Goal`.
    """

    labels: Tensor
    weights: Tensor
    context: Tensor
    mean: Tensor
    basis: Tensor | None = None

    def __call__(self, out: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss."""
        true = self.labels[rows].long()
        logits = self.mean[self.context[rows]] + (out if self.basis is None else out @ self.basis)
        told = functional.log_softmax(logits.view(len(rows), -1, 3), dim=-1).gather(-1, true[..., None])[..., 0]
        weights = self.weights.expand(len(rows), -1, -1).gather(-1, true[..., None])[..., 0]
        total = weights.sum(dim=0)
        counted = total > 0
        per_gene = -(weights * told).sum(dim=0)[counted] / total[counted]
        return per_gene.sum() / counted.sum().clamp_min(1)


@dataclass
class Data:
    """Everything on the device: inputs of each modality (ids x dims), presence, and of each row its id, context and loss."""

    values: list[Tensor]
    present: Tensor
    ids: Tensor
    context: Tensor
    loss: Loss

    def batch(self, rows: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return inputs, presence and context of rows."""
        ids = self.ids[rows]
        return [x[ids] for x in self.values], self.present[ids], self.context[rows]


@dataclass
class Trained:
    """The weights that were best, and how training went (losses in units of the outputs; epochs from 1)."""

    weights: State
    best: int
    epochs: int
    loss: float
    history: list[float] = field(default_factory=list)


def validation_loss(model: AttentionModel, data: Data, rows: Tensor) -> float:
    """Mean loss of rows, without dropout, all contexts and ids counting alike."""
    with torch.no_grad():
        out = torch.cat([model(*data.batch(part), Dropper(None)).out for part in rows.split(CHUNK)])
        return float(data.loss(out, rows))


@dataclass
class Training:
    """One phase of training.

    Parameters
    ----------
    model
        With its starting weights; changed.
    data
        Everything.
    fit, check
        Rows to learn from, and rows by which the best epoch is chosen (None: the last epoch is).
    epochs
        Epochs to train at most.
    hyper
        Hyper-parameters.
    seed
        Of order and dropout.
    checkpoint
        Where to go on from.
    progress
        Called after each epoch with its number.
    """

    model: AttentionModel
    data: Data
    fit: Tensor
    check: Tensor | None
    epochs: int
    hyper: Hyper
    seed: int
    checkpoint: Checkpoint
    progress: Callable[[int], None] = lambda epoch: None

    def __post_init__(self) -> None:
        hyper, device = self.hyper, self.data.present.device
        kind = torch.optim.AdamW if hyper.weight_decay else torch.optim.Adam
        self.optimiser: Any = kind(self.model.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay)
        self.order = torch.Generator().manual_seed(self.seed)
        self.noise = torch.Generator(device=device).manual_seed(self.seed + 1)
        self.mean = copy(self.model) if hyper.average else None
        self.epoch, self.step, self.best, self.loss = 0, 0, 0, math.inf
        self.weights: State = copy(self.model)
        self.history: list[float] = []

    def run(self) -> Trained:
        """Train, going on from the checkpoint if there is one.

        Raises
        ------
        DivergedError
            A loss that is NaN or infinite.
        """
        saved = self.checkpoint.read(self.data.present.device)
        if saved is not None:
            self._load(saved)
        while self.epoch < self.epochs and (self.check is None or self.epoch - self.best < self.hyper.patience):
            self.epoch += 1
            self._learn()
            self._judge()
            if self.epoch % EVERY == 0:
                self.checkpoint.write(self._state())
            self.progress(self.epoch)
        if self.epoch % EVERY:
            self.checkpoint.write(self._state())
        return Trained(self.weights, self.best, self.epoch, self.loss, self.history)

    def _rate(self) -> float:
        """Learning rate of the step to come."""
        hyper = self.hyper
        per_epoch = math.ceil(len(self.fit) / hyper.batch)
        rise = hyper.warmup * per_epoch
        if self.step < rise:
            return hyper.learning_rate * (1e-8 + (1 - 1e-8) * self.step / rise)
        if hyper.schedule == "constant":
            return hyper.learning_rate
        done = (self.step - rise) / max(1, hyper.epochs * per_epoch - rise)
        return hyper.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _learn(self) -> None:
        """Go through the rows once."""
        hyper, drop, total = self.hyper, Dropper(self.noise), []
        order = torch.randperm(len(self.fit), generator=self.order).to(self.fit.device)
        for part in self.fit[order].split(hyper.batch):
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate()
            values, present, context = self.data.batch(part)
            told = self.model(values, present, context, drop)
            loss = self.data.loss(told.out, part)
            if hyper.reconstruction:
                loss = loss + hyper.reconstruction * self.model.reconstruction_loss(told, values, present)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), hyper.clip)
            self.optimiser.step()
            self.step += 1
            self._blend()
            total.append(loss.detach())
        self._finite(float(torch.stack(total).mean()), "training")

    def _blend(self) -> None:
        """Update the moving average; early on it forgets its start faster, as the share of one step in all so far is larger."""
        if self.mean is None:
            return
        decay = min(self.hyper.average, self.step / (self.step + 10.0))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.mean[name].lerp_(value, 1.0 - decay)

    def _judge(self) -> None:
        """Keep the weights if the epoch is the best, or the last of a training without validation."""
        now = self.mean
        if self.check is None:
            if self.epoch == self.epochs:
                self.best, self.weights = self.epoch, clone(now) if now is not None else copy(self.model)
            return
        own = copy(self.model)
        if now is not None:
            self.model.load_state_dict(now)
        loss = self._finite(validation_loss(self.model, self.data, self.check), "validation")
        self.model.load_state_dict(own)
        self.history.append(loss)
        if loss < self.loss:
            self.loss, self.best, self.weights = loss, self.epoch, clone(now) if now is not None else own

    def _finite(self, loss: float, what: str) -> float:
        if not math.isfinite(loss):
            raise DivergedError(
                f"attention: the {what} loss of epoch {self.epoch} is {loss}; training diverged. Ask for a lower learning_rate "
                f"(now {self.hyper.learning_rate:g}), a longer warmup (now {self.hyper.warmup} epochs) or another scaling of "
                f"inputs (now {self.hyper.inputs!r})."
            )
        return loss

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "mean": self.mean,
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "weights": self.weights,
            "counts": [self.epoch, self.step, self.best],
            "loss": self.loss,
            "history": list(self.history),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.mean, self.weights = state["mean"], state["weights"]
        self.order.set_state(state["order"].cpu())
        self.noise.set_state(state["noise"].cpu())
        self.epoch, self.step, self.best = state["counts"]
        self.loss, self.history = state["loss"], list(state["history"])


def copy(model: AttentionModel) -> State:
    """Return a copy of a model's weights."""
    return clone(model.state_dict())


def clone(weights: State) -> State:
    """Return a copy of weights."""
    return {name: value.detach().clone() for name, value in weights.items()}


def predict(model: AttentionModel, values: Sequence[Tensor], present: Tensor, context: Tensor) -> Tensor:
    """Return outputs (m x width), without dropout."""
    with torch.no_grad():
        parts = torch.arange(len(present), device=present.device).split(CHUNK)
        return torch.cat([model([x[p] for x in values], present[p], context[p], Dropper(None)).out for p in parts])
