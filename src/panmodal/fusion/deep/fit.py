"""Fitting the attention model: the search for the best epoch, the refit on all ids, and what is learned of the modalities."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panmodal.errors import InputError, some
from panmodal.fusion.attention_data import Goal, Rows, Scaler, hold_out
from panmodal.fusion.attention_options import Hyper
from panmodal.fusion.base import Fused, Modalities, Setting
from panmodal.fusion.deep.checkpoint import Checkpoint
from panmodal.fusion.deep.explain import attention_of, attention_table, importance_table, part_names
from panmodal.fusion.deep.model import AttentionModel
from panmodal.fusion.deep.settings import own_torch
from panmodal.fusion.deep.train import ClassLoss, Data, L2Loss, Loss, State, Trained, Training, predict

Bools = NDArray[np.bool_]


@dataclass
class AttentionFit:
    """A fitted attention fusion.

    Attributes
    ----------
    names, contexts
        Of modalities and contexts.
    scalers, goal, model
        How inputs are made, what outputs mean, and the model between.
    setting
        Where it computes.
    """

    names: tuple[str, ...]
    contexts: tuple[str, ...]
    scalers: tuple[Scaler, ...]
    goal: Goal
    model: AttentionModel
    setting: Setting
    classes: bool
    chosen: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Best epoch, epochs run, validation loss, number of parameters, seconds, and ``at_edge``: the best epoch is the last."""
        return dict(self.chosen)

    def tables(self) -> list[dict[str, Any]]:
        """Tell attention and importance of the modalities.

        ``attention``: mean weight with which CLS looks at a modality, over heads and over the training ids that have it, in each
        context and ``part``: ``layer 1``, ..., and ``rollout`` (see :func:`~panmodal.fusion.deep.explain.rollout`). The weights that
        CLS gives to itself and to the context are not listed. ``importance``: increase of the validation loss when the modality is
        masked in prediction, over the held-out ids that have it and another one, by the model trained without these ids; the loss is
        the mean L2 error, or the class-weighted cross-entropy. A modality without such an id has no row of importance.
        """
        return [dict(row) for row in self.rows]

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict the responses of ids in a context.

        Raises
        ------
        InputError
            A context that was not fitted, other modalities than those fitted, or an id that none has.
        """
        values, present, where = self._check(test, context)
        with own_torch(self.setting) as device:
            inputs = [torch.from_numpy(x).to(device) for x in values]
            out = predict(self.model, inputs, torch.from_numpy(present).to(device), self._context(where, test, device))
            found = self.goal.response(out.cpu().numpy(), where)
            if self.classes:
                shares = torch.from_numpy(found).view(len(out), -1, 3).softmax(dim=-1).numpy()
                found = np.concatenate([shares[:, :, 0], shares[:, :, 2]], axis=1)
            return Fused(found)

    def attention(self, test: Modalities, context: str) -> NDArray[np.float32]:
        """Tell the attention of CLS to the modalities of each id.

        Returns
        -------
        numpy.ndarray
            Ids x parts x modalities; the parts are those of :attr:`parts`. Modalities that an id lacks have 0.
        """
        values, present, where = self._check(test, context)
        with own_torch(self.setting) as device:
            inputs = [torch.from_numpy(x).to(device) for x in values]
            at = self._context(where, test, device)
            return attention_of(self.model, inputs, torch.from_numpy(present).to(device), at).cpu().numpy()

    @property
    def parts(self) -> tuple[str, ...]:
        """What the second axis of :meth:`attention` stands for: the layers, and the rollout over all of them."""
        return part_names(self.model)

    def _check(self, test: Modalities, context: str) -> tuple[list[NDArray[np.float32]], Bools, int]:
        if context not in self.contexts:
            raise InputError(f"attention was not fitted in context {context!r}; it knows {some(self.contexts)}.")
        if test.names != self.names:
            raise InputError(f"attention was fitted on modalities {some(self.names)}, not on {some(test.names)}; give the "
                             "same ones in the same order.")  # fmt: skip
        for name, scaler, x in zip(self.names, self.scalers, test.values, strict=True):
            if x.shape[1] != scaler.dims:
                raise InputError(f"modality {name!r} has {x.shape[1]} dims, {scaler.dims} in training.")
        if not test.covered.all():
            row = int(np.flatnonzero(~test.covered)[0])
            raise InputError(f"row {row} has a vector in no modality, so that attention has nothing to go by; leave such ids "
                             "out, or fill in the training mean.")  # fmt: skip
        scaled = [scaler(x) for scaler, x in zip(self.scalers, test.values, strict=True)]
        return scaled, test.present, self.contexts.index(context)

    @staticmethod
    def _context(where: int, test: Modalities, device: torch.device) -> Tensor:
        return torch.full((len(test),), where, device=device)


def fit_attention(train: Modalities, rows: Rows, hyper: Hyper, setting: Setting, digest: str) -> AttentionFit:
    """Fit (see :func:`panmodal.fusion.attention.fit`); ``digest`` is of everything that the fit depends on."""
    started = time.perf_counter()
    scalers = tuple(Scaler.fit(x[own], hyper.inputs, hyper.components)
                    for x, own in zip(train.values, train.present.T, strict=True))  # fmt: skip
    with own_torch(setting) as device:
        job = _Job(train, rows, hyper, setting, f"{digest}-{torch.__version__}", device,
                   [torch.from_numpy(s(x)).to(device) for s, x in zip(scalers, train.values, strict=True)])  # fmt: skip
        held = hold_out(rows, hyper.validation, setting.seed)
        search = job.train("search", ~held, held, hyper.epochs, 0)
        scale = 1.0 if rows.classes else search.goal.scale
        tables = importance_table(search.model, search.data, _where(held, device), train.names, rows.contexts, scale)
        last = search
        if hyper.refit:
            last = job.train("refit", np.ones_like(held), None, search.found.best, search.found.epochs)
        found = attention_table(last.model, last.data, _where(np.ones_like(held), device), train.names, rows.contexts)
        for phase in (search, last):
            phase.checkpoint.remove()
    trained = search.found
    chosen = {
        "best_epoch": trained.best, "epochs": trained.epochs, "validation_loss": trained.loss * scale,
        "validation_ids": len(np.unique(rows.ids[held])), "refit": hyper.refit, "at_edge": trained.best == hyper.epochs,
        "parameters": sum(p.numel() for p in last.model.parameters()), "seconds": round(time.perf_counter() - started, 3),
    }  # fmt: skip
    return AttentionFit(
        train.names, rows.contexts, scalers, last.goal, last.model, setting, rows.classes, chosen, found + tables
    )


@dataclass
class _Phase:
    """A phase of training that has ended."""

    goal: Goal
    data: Data
    model: AttentionModel
    found: Trained
    checkpoint: Checkpoint


@dataclass
class _Job:
    """What both phases share."""

    train_ids: Modalities
    rows: Rows
    hyper: Hyper
    setting: Setting
    digest: str
    device: torch.device
    values: list[Tensor]

    def train(self, phase: str, use: Bools, check: Bools | None, epochs: int, before: int) -> _Phase:
        """Train on the rows ``use``; choose the epoch by the rows ``check``; ``before`` epochs were trained before."""
        rows, hyper = self.rows, self.hyper
        goal = Goal.fit(rows, use, hyper)
        data = Data(
            self.values,
            torch.from_numpy(self.train_ids.present).to(self.device),
            torch.from_numpy(rows.ids).to(self.device),
            torch.from_numpy(rows.context).to(self.device),
            self._loss(goal),
        )
        model = AttentionModel(
            [x.shape[1] for x in self.values], len(rows.contexts), goal.width, hyper,
            zero_head=hyper.centre, generator=torch.Generator().manual_seed(_seed(self.setting.seed, phase, "weights")),
        ).to(self.device)  # fmt: skip
        checkpoint = Checkpoint(self.setting.folder, self.digest, phase)
        total = before + epochs + (hyper.epochs if hyper.refit and not before else 0)
        training = Training(
            model, data, _where(use, self.device), None if check is None else _where(check, self.device), epochs, hyper,
            _seed(self.setting.seed, phase, "order"), checkpoint, lambda epoch: self._tell(before + epoch, total),
        )  # fmt: skip
        found = training.run()
        weights: State = found.weights
        model.load_state_dict(weights)
        return _Phase(goal, data, model, found, checkpoint)

    def _singles(self, values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)

    def _loss(self, goal: Goal) -> Loss:
        rows = self.rows
        if rows.classes:
            labels = torch.from_numpy((rows.values + 1).astype(np.uint8)).to(self.device)
            basis = None if goal.basis is None else self._singles(goal.basis * goal.scale)
            context = torch.from_numpy(rows.context).to(self.device)
            return ClassLoss(labels, self._singles(goal.weights), context, self._singles(goal.mean), basis)
        targets, rest = goal.targets(rows)
        return L2Loss(torch.from_numpy(targets).to(self.device), torch.from_numpy(rest).to(self.device))

    def _tell(self, done: int, total: int) -> None:
        if self.setting.progress:
            self.setting.progress(done, total)


def _where(rows: Bools, device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(rows)).to(device)


def _seed(seed: int, *words: str) -> int:
    """Return the seed of a stream of its own."""
    return int(np.random.SeedSequence([seed, *"/".join(words).encode()]).generate_state(1)[0])
