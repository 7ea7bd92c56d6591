"""Telling what a file is, what would be used of it, and how it fits a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from panmodal._tables import require_exists, suffix
from panmodal.embeddings.align import align
from panmodal.embeddings.embedded import EMBEDDED
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, PanmodalError, StoreError, some
from panmodal.evaluation.config import EmbeddingInput, load_screen
from panmodal.evaluation.store import MANIFEST, Store
from panmodal.screens.ceilings import SUFFIX, Ceilings
from panmodal.screens.embedded import EMBEDDED_SCREENS
from panmodal.screens.screen import Screen

Facts = list[tuple[str, str]]


def describe_screen(screen: Screen) -> Facts:
    """Facts of a screen as (what, value) pairs."""
    facts = [
        ("what", "screen (perturbation responses)" + (", SIMULATED" if screen.simulated else "")),
        ("name", screen.name),
        ("response", screen.response + (f": {screen.description}" if screen.description else "")),
        ("perturbations", f"{len(screen.pert_ids)} ({some(screen.pert_ids, 3)})"),
        ("read-outs", f"{screen.adata.n_vars} ({some(screen.readouts, 3)})"),
    ]
    combinations = [i for i in screen.pert_ids if "+" in i]
    if combinations:
        facts.append(("combinations", f"{len(combinations)} ids with '+', e.g. {some(combinations, 3)}"))
    for context in screen.contexts:
        ids, values = screen.responses(context)
        if screen.response == "deg":
            sizes, what = (values != 0).sum(axis=1), "DEGs"
            more = f", {100 * (values < 0).mean():.2g} % of the labels -1 and {100 * (values > 0).mean():.2g} % +1"
        else:
            sizes, what, more = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64)), "response norm", ""
        more += f", digest {screen.digest(context)[-32:][:12]}"
        facts.append((f"context {context}", f"{len(ids)} perturbations, {what} median {np.median(sizes):.3g} "
                      f"(range {sizes.min():.3g} to {sizes.max():.3g}){more}"))  # fmt: skip
    if screen.provenance:
        made = screen.provenance
        counts = made["counts"]
        facts += [
            ("made by", f"{made['made_by']} from {', '.join(i['path'] for i in made['inputs'])}"),
            ("cells", f"{counts['cells_used']} of {counts['cells']} used, {counts['control_cells']} of them controls; {made['rule']} "
                      f"control rule, DEG labels: {made['deg']}"),
        ]  # fmt: skip
    return [*facts, *(("note", note) for note in screen.notes)]


def describe_ceilings(ceilings: Ceilings) -> Facts:
    """Facts of a file of ceilings."""
    chosen = ", ".join(f"{k} {v}" for k, v in ceilings.options.items() if v not in ([], None))
    facts = [("what", "ceilings (what the experiment's noise allows)"), ("options", chosen)]
    for context in ceilings.contexts:
        names = ", ".join(e.name for e in ceilings.estimators(context))
        facts.append((f"context {context}", f"{len(ceilings.pert_ids(context))} perturbations; {names}"))
    return facts


def _describe_cells(path: str, **options: Any) -> Facts | None:
    """Facts of a file of raw cells; None if it is not one (no control cells, or values that are no counts)."""
    from panmodal.cells.prepare import PrepareOptions, open_cells

    context_col = options.get("context_col") or ()
    try:
        cells = open_cells([path], PrepareOptions(
            pert_col=options.get("pert_col"), context=options.get("context"), drop_unassigned=True,
            context_col=(context_col,) if isinstance(context_col, str) else tuple(context_col),
        ))  # fmt: skip
    except PanmodalError:
        return None
    try:
        values = next(iter(cells.stream.chunks(2**16)))[0].values
        if (values < 0).any() or (values != np.floor(values)).any():
            return None
        return [("what", "raw counts of cells: panmodal prepare makes a screen of them"), *cells.facts()]
    finally:
        cells.stream.close()


def describe_embedding(embedding: Embedding, screen: Screen | None = None) -> Facts:
    """Facts of an embedding, with its coverage of a screen if one is given."""
    card = embedding.card
    vectors = np.asarray(embedding.vectors, dtype=np.float64)
    unique = len(np.unique(vectors, axis=0))
    facts = [
        ("what", "embedding" + (", SIMULATED" if card.simulated else "")),
        ("name", embedding.name),
        ("modality", card.modality),
        ("ids", f"{len(embedding.ids)} of namespace {card.id_namespace} ({some(embedding.ids, 3)})"),
        ("dimensions", str(embedding.dims)),
        ("digest", embedding.digest[:12]),
    ]
    facts += [
        (field, str(value))
        for field in ("description", "source", "licence", "recipe")
        if (value := getattr(card, field))
    ]
    facts.append(("trained on", ", ".join(card.trained_on) or "not said"))
    facts += [("note", note) for note in card.notes]
    if unique < len(vectors):
        facts.append(
            ("note", f"{len(vectors) - unique} id(s) have the same vector as another; nearest neighbours tie there")
        )
    constant = int((np.ptp(vectors, axis=0) == 0).sum())
    if constant:
        facts.append(("note", f"{constant} dimension(s) are constant and carry nothing"))
    if screen is not None:
        embedding, found = align(embedding, screen.pert_ids)
        if found.resolved or found.ambiguous:
            facts.append(("ids matched", found.summary()))
        for context in screen.contexts:
            facts.append((f"coverage of {context}", str(embedding.coverage(screen.ids_in(context)))))
    return facts


def describe(path: str, screen: Screen | None = None, **options: Any) -> list[Facts]:
    """Describe a file: a results folder, a screen, or an embedding (or all embeddings in ``obsm``).

    Parameters
    ----------
    path
        File, folder, or name of something shipped.
    screen
        Screen whose coverage is of interest; the file is then taken as an embedding.
    **options
        Of :func:`panmodal.screens.reading.read_screen`, and ``allow_pickle`` and ``id_col`` for embeddings.

    Raises
    ------
    InputError
        The file can be read neither as a screen nor as an embedding; both reasons are given. A folder of something else.
    """
    if path in EMBEDDED_SCREENS and not Path(path).exists():
        return [describe_screen(load_screen(path))]
    if path in EMBEDDED and not Path(path).exists():
        return [describe_embedding(EmbeddingInput(path=path).load(), screen)]
    file = require_exists(path.partition("#")[0])
    if file.is_dir() and (file / MANIFEST).exists():
        return [_describe_results(file)]
    if file.is_dir() and suffix(file) != ".zarr" and not any(file.glob("matrix.mtx*")):
        raise InputError(
            f"{path}: a folder that is neither a results folder (it has no {MANIFEST}) nor a .zarr nor a 10x matrix."
        )
    allow_pickle, id_col = bool(options.pop("allow_pickle", False)), options.pop("id_col", None)
    if file.name.endswith(SUFFIX):
        return [describe_ceilings(Ceilings(file))]
    if (
        screen is None
        and "#" not in path
        and suffix(file) in (".h5ad", ".zarr", ".h5", "")
        and not _says_what_it_is(file)
    ):
        cells = _describe_cells(path, **options)
        if cells:
            return [cells]
    reason = None
    if screen is None and "#" not in path and not _looks_like_embedding(file):
        try:
            return [describe_screen(load_screen(path, **options))]
        except PanmodalError as error:
            reason = error
    try:
        return [
            describe_embedding(
                EmbeddingInput.parse(path).model_copy(update={"id_col": id_col}).load(allow_pickle), screen
            ),
            *_others(path, file, screen),
        ]
    except PanmodalError as error:
        others = _others(path, file, screen)
        if others:
            return others
        if reason is None:
            raise
        raise type(error)(f"as a screen: {reason}\nas an embedding: {error}") from None


def _others(path: str, file: Path, screen: Screen | None) -> list[Facts]:
    """Embeddings that an AnnData file holds in obsm."""
    from panmodal.embeddings.reading import obsm_keys

    if "#" in path or suffix(file) not in (".h5ad", ".zarr"):
        return []
    try:
        keys = obsm_keys(file)
    except PanmodalError:
        return []
    return [describe_embedding(EmbeddingInput(path=f"{path}#{key}").load(), screen) for key in keys]


def _says_what_it_is(file: Path) -> bool:
    """Whether an h5ad names its response or carries an embedding's card."""
    import h5py

    try:
        with h5py.File(file, "r") as handle:
            return bool({"panmodal", "response", "panmodal_card"} & set(handle.get("uns", {})))
    except OSError:
        return False


def _looks_like_embedding(file: Path) -> bool:
    """Whether only an embedding can be stored so: a format of embeddings, or an AnnData with a card and no response."""
    kind = suffix(file)
    if kind in (".npz", ".pt", ".pth", ".pkl", ".pickle"):
        return True
    if kind == ".h5ad":
        try:
            import h5py

            with h5py.File(file, "r") as handle:
                uns = set(handle.get("uns", {}))
            return bool({"panmodal_card", "modality", "id_namespace"} & uns) and not {"response", "panmodal"} & uns
        except OSError:
            return False
    return False


def _describe_results(path: Path) -> Facts:
    store = Store(path)
    trials = store.trials()
    done = sum(store.has_trial(t.digest) for t in trials)
    facts = [("what", "results folder"), ("trials", f"{done} of {len(trials)} done")]
    for what in ("screen", "context", "split", "embedding", "probe"):
        kept = [t for t in trials if what != "embedding" or t.role == "embedding"]
        facts.append((f"{what}s", some(dict.fromkeys(getattr(t, what) for t in kept), 12)))
    try:
        facts.append(("scores", f"{len(store.scores())} rows"))
    except StoreError as error:
        facts.append(("scores", str(error)))
    return facts
