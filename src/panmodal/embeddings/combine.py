"""Several embeddings made one: side by side, side by side after PCA, or their mean in a common space.

Everything that is fitted here (means, deviations, principal axes, rotations) is fitted on vectors alone. No response is read, so
that using the rows of test perturbations too is no leak; a new perturbation's vector is known before its response is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some

Matrix = NDArray[np.float64]
MISSING = ("intersect", "zero", "mean")
"""Ids that some embeddings lack: left out; zeros in their place; the embedding's mean vector in their place."""


@dataclass(frozen=True)
class Combined:
    """What a combination gives.

    Attributes
    ----------
    ids, vectors
        Sorted ids, and their vectors (ids x dims, float64).
    left_out
        Id -> the embeddings that lack it.
    notes
        What was filled in, left out and kept, one line each.
    """

    ids: tuple[str, ...]
    vectors: Matrix
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Names = Sequence[Mapping[str, str]]
"""For each embedding: wanted id -> the id that the embedding has for it."""


@dataclass
class _Block:
    """Vectors of one embedding, its rows sorted by id; ``row`` finds the row of a name."""

    name: str
    row: dict[str, int]
    x: Matrix
    notes: list[str] = field(default_factory=list)

    def rows(self, names: Sequence[str], rule: str = "zero") -> Matrix:
        """Vectors of names (len(names) x dims), those that it lacks filled by the rule."""
        fill = self.x.mean(axis=0) if rule == "mean" else np.zeros(self.x.shape[1])
        out = np.tile(fill, (len(names), 1))
        there = [k for k, i in enumerate(names) if i in self.row]
        out[there] = self.x[[self.row[names[k]] for k in there]]
        return out


def concat(embeddings: Sequence[Embedding], *, standardise: bool = True, equal_weight: bool = True, missing: str = "intersect",
           names: Names | None = None) -> Combined:  # fmt: skip
    """Write vectors side by side.

    With x_k the vectors of embedding k, z-scored over all its rows (population deviation; columns that do not vary are left out), the
    result is [x_1 / sqrt(d_1), x_2 / sqrt(d_2), ...], d_k the number of columns: the total variance of every block is 1.

    Parameters
    ----------
    embeddings
        Two or more.
    standardise
        Z-score columns; otherwise they are taken as they are.
    equal_weight
        Divide each block by the root of its total variance.
    missing
        One of :data:`MISSING`, for ids that some but not all have. After standardising, zero and mean are the same.
    names
        For each embedding wanted id -> its own id, where their names differ. What is fitted is fitted on all rows all the same.

    Raises
    ------
    InputError
        Fewer than two embeddings, no id in common, or an embedding that does not vary.

    Notes
    -----
    The probes z-score columns again before their PCA, where a block counts as much as it has columns; :func:`pca_concat` gives all
    blocks the same number.
    """
    blocks = [_standardised(b, standardise, equal_weight) for b in _blocks(embeddings, names)]
    return _side_by_side(blocks, missing)


def pca_concat(embeddings: Sequence[Embedding], *, each: int = 64, final: int | None = None, standardise: bool = True,
               equal_weight: bool = True, missing: str = "intersect", names: Names | None = None) -> Combined:  # fmt: skip
    """Write the principal components of each embedding side by side.

    Parameters
    ----------
    embeddings, missing, names
        As in :func:`concat`; components are centred, so that zero and mean are the same.
    each
        Components of each embedding, at most its rank; fitted on all its rows.
    final
        Components of the result, fitted on its rows; all unless given.
    standardise
        Z-score columns before the PCA.
    equal_weight
        Scale each block of components to a total variance of 1.

    Raises
    ------
    InputError
        As for :func:`concat`; fewer than one component asked for.
    """
    _at_least_one(each=each, final=final)
    blocks = [_components(_standardised(b, standardise, False), each, equal_weight) for b in _blocks(embeddings, names)]
    made = _side_by_side(blocks, missing)
    if final is None:
        return made
    x = made.vectors - made.vectors.mean(axis=0)
    scores = x @ _axes(x, final)
    note = f"{scores.shape[1]} components of the {x.shape[1]} columns, fitted on the {len(made.ids)} rows of the result"
    return Combined(made.ids, scores, made.left_out, (*made.notes, note))


def mean(embeddings: Sequence[Embedding], *, dims: int | None = None, align: bool = True, standardise: bool = True,
         equal_weight: bool = True, missing: str = "intersect", names: Names | None = None) -> Combined:  # fmt: skip
    """Average vectors in a common space.

    Coordinates of different embeddings have nothing to do with each other, and a plain mean would add unlike things. So each is
    projected to ``dims`` principal components x_k and rotated to a consensus: y = the first ``dims`` principal components (not
    centred again) of [x_1, x_2, ...] on the common ids, R_k = argmin |x_k R - y| over orthogonal R, which is U V' with U S V' the
    SVD of x_k' y (Schoenemann, Psychometrika 31:1, 1966). The result is the mean of x_k R_k, whatever the order of the embeddings.

    Parameters
    ----------
    embeddings, names
        As in :func:`concat`.
    dims
        Dimensions; the smallest rank unless given. An embedding of smaller rank has zeros in the remaining ones.
    align
        Rotate to the consensus. Without it coordinates are averaged as they are (after centring), for embeddings that share them:
        layers or contexts of one model. Their dimensions must be equal.
    standardise
        Z-score columns first.
    equal_weight
        Scale each to a total variance of 1.
    missing
        ``intersect``; ``zero``: an embedding that lacks the id counts as a zero vector, which is its mean; ``mean``: over those
        that have the id only.

    Raises
    ------
    InputError
        As for :func:`concat`; different dimensions without alignment; fewer than two ids in common.
    """
    _at_least_one(dims=dims)
    blocks = [_standardised(b, standardise, False) if standardise else b for b in _blocks(embeddings, names)]
    for block in blocks:
        block.x = block.x - block.x.mean(axis=0)
    if align:
        full = [_components(b, dims or b.x.shape[1], equal_weight) for b in blocks]
        keep = dims or min(b.x.shape[1] for b in full)
        blocks = full if dims else [_components(b, keep, equal_weight) for b in blocks]
        common = sorted(set.intersection(*(set(b.row) for b in blocks)))
        if len(common) < 2:
            raise InputError(_apart(blocks, len(common)))
        aligned = [np.pad(b.rows(common, "zero"), ((0, 0), (0, keep - b.x.shape[1]))) for b in blocks]
        stacked = np.hstack(aligned)
        consensus = stacked @ _axes(stacked, keep)
        for block, x in zip(blocks, aligned, strict=True):
            u, _, vt = np.linalg.svd(x.T @ consensus, full_matrices=False)
            block.x = np.pad(block.x, ((0, 0), (0, keep - block.x.shape[1]))) @ (u @ vt)
    else:
        wide = {b.name: b.x.shape[1] for b in blocks}
        if len(set(wide.values())) > 1 or (dims is not None and dims not in wide.values()):
            raise InputError(f"without alignment all embeddings must have the same dimensions ({dims or 'any'}), but they have "
                             f"{some([f'{k}: {v}' for k, v in wide.items()])}. Leave alignment on.")  # fmt: skip
        if equal_weight:
            for block in blocks:
                block.x = block.x / np.sqrt(_total_variance(block))
    ids, left_out, notes = _coverage(blocks, missing)
    if align:
        notes = (*notes, f"{keep} dimensions, rotations fitted on {len(common)} ids in common")
    total = np.sum([b.rows(ids, "zero") for b in blocks], axis=0)
    if missing == "mean":
        return Combined(
            ids, total / np.sum([[i in b.row for i in ids] for b in blocks], axis=0)[:, None], left_out, notes
        )
    return Combined(ids, total / len(blocks), left_out, notes)


def _blocks(embeddings: Sequence[Embedding], names: Names | None) -> list[_Block]:
    """Rows of every embedding sorted by id, in double precision, under the wanted names where there are such."""
    if len(embeddings) < 2:
        raise InputError(f"{len(embeddings)} embedding(s) given; a combination needs at least two.")
    titles = [e.name for e in embeddings]
    made = []
    for k, embedding in enumerate(embeddings):
        order = sorted(range(len(embedding.ids)), key=embedding.ids.__getitem__)
        own = {embedding.ids[i]: n for n, i in enumerate(order)}
        wanted = {name: own[there] for name, there in names[k].items()} if names is not None else {}
        used = set(wanted.values())
        row = wanted | {i: n for i, n in own.items() if n not in used and i not in wanted}
        title = embedding.name if titles.count(embedding.name) == 1 else f"{embedding.name} ({k + 1})"
        made.append(_Block(title, row, embedding.vectors[order].astype(np.float64)))
    return made


def _varying(block: _Block) -> tuple[Matrix, Matrix]:
    """Centre columns; return those that vary with their population deviations (the rule of the probes' projection)."""
    centred = block.x - block.x.mean(axis=0)
    variance = (centred**2).mean(axis=0)
    dust = (len(centred) * block.x.mean(axis=0) * np.finfo(np.float64).eps) ** 2
    varies = variance > np.maximum(dust, 1e-20 * variance.max())
    if not varies.any():
        raise InputError(f"embedding {block.name!r}: all {len(block.x)} vectors are the same; it cannot be combined.")
    constant = int((~varies).sum())
    if constant:
        block.notes.append(f"{block.name}: {constant} of {len(varies)} columns do not vary and are left out")
    return centred[:, varies], np.sqrt(variance[varies])


def _standardised(block: _Block, standardise: bool, equal_weight: bool) -> _Block:
    if standardise:
        centred, scale = _varying(block)
        block.x = centred / scale
    if equal_weight:
        block.x = block.x / np.sqrt(_total_variance(block))
    return block


def _components(block: _Block, keep: int, equal_weight: bool) -> _Block:
    """Principal components of all rows of a block, at most its rank."""
    x = block.x - block.x.mean(axis=0)
    scores = x @ _axes(x, keep)
    if not scores.shape[1]:
        raise InputError(f"embedding {block.name!r}: all {len(block.x)} vectors are the same; it cannot be combined.")
    made = _Block(block.name, block.row, scores, block.notes)
    if equal_weight:
        made.x = made.x / np.sqrt(_total_variance(made))
    return made


def _total_variance(block: _Block) -> float:
    total = float(block.x.var(axis=0).sum())
    if not total > 0:
        raise InputError(f"embedding {block.name!r}: all {len(block.x)} vectors are the same; it cannot be combined.")
    return total


def _axes(x: Matrix, keep: int) -> Matrix:
    from panmodal.probes.projection import principal_axes

    return principal_axes(x, keep)


def _coverage(blocks: Sequence[_Block], missing: str) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Ids of the result, ids left out with the embeddings that lack them, and notes."""
    if missing not in MISSING:
        raise InputError(f"no rule {missing!r} for missing ids; give one of {', '.join(MISSING)}.")
    have = [set(b.row) for b in blocks]
    common, every = set.intersection(*have), sorted(set.union(*have))
    if not common:
        raise InputError(_apart(blocks, 0))
    notes = [note for b in blocks for note in b.notes]
    if missing == "intersect":
        left_out = {i: "no vector in " + ", ".join(b.name for b, own in zip(blocks, have, strict=True) if i not in own)
                    for i in every if i not in common}  # fmt: skip
        return tuple(sorted(common)), left_out, tuple(notes)
    rule = "zeros" if missing == "zero" else "the mean"
    for block, own in zip(blocks, have, strict=True):
        lacking = [i for i in every if i not in own]
        if lacking:
            notes.append(
                f"{block.name}: {len(lacking)} of {len(every)} ids have no vector and count as {rule} ({some(lacking, 3)})"
            )
    return tuple(every), {}, tuple(notes)


def _side_by_side(blocks: Sequence[_Block], missing: str) -> Combined:
    ids, left_out, notes = _coverage(blocks, missing)
    widths = ", ".join(f"{b.name}: {b.x.shape[1]}" for b in blocks)
    return Combined(ids, np.hstack([b.rows(ids, missing) for b in blocks]), left_out, (*notes, f"columns: {widths}"))


def _apart(blocks: Sequence[_Block], n: int) -> str:
    shown = "; ".join(f"{b.name} has {some(sorted(b.row), 3)}" for b in blocks)
    return (f"the embeddings have {n} id(s) in common ({shown}). Give the ids of a screen with --ids, to which each is matched, or "
            "build them with the same ids.")  # fmt: skip


def _at_least_one(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}.")
