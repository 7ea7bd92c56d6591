"""Inputs that all workers read: matrices laid out once on disk and memory-mapped."""

from __future__ import annotations

import glob
import hashlib
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import StoreError
from panmodal.evaluation.compare import has_classes, train_mean
from panmodal.evaluation.plan import Plan
from panmodal.evaluation.ranks import average_ranks
from panmodal.screens.splits import Split


@dataclass(frozen=True)
class ContextData:
    """Where the matrices of a context lie.

    ``ids`` label the rows of ``values`` (n x t, float32), ``gram`` (n x n, float64, uncentred; empty for classes) and the two rank
    matrices (n x t, float32; empty paths where no metric needs them).
    """

    ids: tuple[str, ...]
    values: str
    gram: str = ""
    ranks: str = ""
    centred_ranks: str = ""


@dataclass(frozen=True)
class SourceData:
    """Where the vectors of a source lie: ``ids`` label the rows of ``vectors``."""

    ids: tuple[str, ...]
    vectors: str


@dataclass(frozen=True)
class FusionData:
    """What a fusion is made of.

    Attributes
    ----------
    asked
        The user's choice (:class:`~panmodal.evaluation.fusion_input.FusionInput`) as plain values.
    members
        Name and vectors of each embedding.
    contexts, joint
        What it is fitted on, and whether on all at once.
    """

    asked: dict[str, Any]
    members: tuple[tuple[str, SourceData], ...]
    contexts: tuple[str, ...]
    joint: bool


@dataclass(frozen=True)
class Workspace:
    """All inputs of a plan, small enough to be sent to every worker."""

    response: str
    split: Split
    contexts: dict[str, ContextData]
    sources: dict[int, SourceData]
    fusions: dict[int, FusionData] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def localised(self, source: int) -> Workspace:
        """Return what the groups of a source need, with files that are verified, and copied where this machine has a scratch folder.

        Only where the files' digests are known, which they are if workers on other machines read them.
        """
        if not self.digests:
            return self
        from panmodal.execution.inputs import localised

        def local(path: str) -> str:
            return str(localised(path, self.digests[path])) if path else ""

        def nearby(data: SourceData) -> SourceData:
            return replace(data, vectors=local(data.vectors))

        contexts = {
            c: replace(
                d,
                values=local(d.values),
                gram=local(d.gram),
                ranks=local(d.ranks),
                centred_ranks=local(d.centred_ranks),
            )
            for c, d in self.contexts.items()
        }
        fusions = {
            k: replace(f, members=tuple((n, nearby(d)) for n, d in f.members))
            for k, f in self.fusions.items()
            if k == source
        }
        sources = {k: nearby(d) for k, d in self.sources.items() if k == source}
        return Workspace(self.response, self.split, contexts, sources, fusions)


def save_workspace(workspace: Workspace, folder: Path) -> tuple[str, str]:
    """Write what every worker must know into ``folder``; return the file's path and digest.

    Tasks then name it instead of carrying it: with hundreds of embeddings its ids alone are megabytes.
    """
    path, content = folder / "workspace.pickle", pickle.dumps(workspace)
    path.write_bytes(content)
    return str(path), hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=2)
def load_workspace(path: str, digest: str) -> Workspace:
    """Read what :func:`save_workspace` of this run wrote; a process reads it once.

    Raises
    ------
    StoreError
        Not there, or not what was written.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read on {platform.node()} ({error.strerror}). Workers on other machines need an --out on a file "
            "system that all of them see."
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise StoreError(f"{path}: is not what this run wrote. Run the same command again.")
    return pickle.loads(content)


@lru_cache(maxsize=64)
def open_matrix(path: str) -> NDArray[Any]:
    """Memory-map a matrix; a process maps a file once until :func:`close_matrices`."""
    return np.load(path, mmap_mode="r")


def close_matrices() -> None:
    """Let go of all maps, so that the pages read do not count as this process's memory any more."""
    open_matrix.cache_clear()


@contextmanager
def work_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder for the matrices of a run; clear away those of killed runs on this machine first.

    Parameters
    ----------
    parent
        Where it is made; the system's folder for temporary files unless given.
    """
    here = f"panmodal-{platform.node()}-"
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for old in place.glob(f"{glob.escape(here)}*"):
        owner = old.name.removeprefix(here).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{here}{os.getpid()}-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def lay_out(
    plan: Plan, folder: Path, *, contexts: set[str], sources: set[int], ranks: bool, digests: bool = False
) -> Workspace:
    """Write the matrices that the given contexts and sources need into ``folder``.

    Parameters
    ----------
    ranks
        Whether ranks of the true responses are needed (Spearman metrics); they are then computed once for all trials.
    digests
        Whether workers on other machines read the files, and must know their digests.
    """
    found: dict[str, str] = {}

    def save(name: str, matrix: NDArray[Any]) -> str:
        path = folder / f"{name}.npy"
        np.save(path, matrix)
        if digests:
            with path.open("rb") as stream:
                found[str(path)] = hashlib.file_digest(stream, "sha256").hexdigest()
        return str(path)

    wanted = {k: f for k in sorted(sources) if (f := plan.sources[k].fusion) is not None}
    contexts = contexts | {c for k, f in wanted.items() if f.joint for c in plan.sources[k].contexts}
    held = {
        context: lay_out_context(
            save, k, *plan.screen.responses(context), plan.screen.response, plan.split if ranks else None
        )
        for k, context in enumerate(plan.screen.contexts)
        if context in contexts
    }
    vectors = {}
    for k in sorted(sources | {m for f in wanted.values() for m in f.members}):
        embedding = plan.sources[k].embedding
        if embedding is not None:
            vectors[k] = SourceData(embedding.ids, save(f"source{k}", embedding.matrix(embedding.ids)))
    fused = {
        k: FusionData(
            f.asked.model_dump(mode="json"),
            tuple((e.name, vectors[m]) for e, m in zip(f.embeddings, f.members, strict=True)),
            plan.sources[k].contexts,
            f.joint,
        )
        for k, f in wanted.items()
    }
    return Workspace(plan.screen.response, plan.split, held, vectors, fused, found)


def lay_out_context(
    save: Callable[[str, NDArray[Any]], str], number: int, ids: Sequence[str], values: NDArray[Any], response: str,
    split: Split | None = None,
) -> ContextData:  # fmt: skip
    """Save the matrices of a context by ``save(name, matrix) -> path``; ranks of the responses too if ``split`` is given."""
    paths = {"values": save(f"values{number}", values)}
    if not has_classes(response):
        paths["gram"] = save(f"gram{number}", _gram(values))
    if split is not None:
        paths["ranks"] = save(f"ranks{number}", average_ranks(values).astype(np.float32))
        folds = np.array([split.folds[i] for i in ids])
        centred = np.empty(values.shape, dtype=np.float32)
        for fold in split.numbers:
            test = folds == fold
            mean = train_mean(values, ~test).astype(np.float64)
            centred[test] = average_ranks(values[test] - mean)
        paths["centred_ranks"] = save(f"centred{number}", centred)
    return ContextData(tuple(ids), **paths)


def _gram(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gram matrix in double precision, by blocks of columns so that no second copy of the responses is needed.

    Not centred on purpose: a mean over all rows would let test responses touch the training side.
    """
    gram = np.zeros((len(values), len(values)))
    for start in range(0, values.shape[1], 2048):
        block = values[:, start : start + 2048].astype(np.float64)
        gram += block @ block.T
    return gram
