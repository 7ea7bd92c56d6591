"""Single-cell foundation models through ``helical``: gene embeddings averaged over control cells."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.builders.base import Builder, Built, Progress
from panmodal.embeddings.builders.expression import (
    BatchCol,
    CellFiles,
    CellTable,
    ContextCol,
    Contexts,
    Control,
    GeneCol,
    Layer,
    OnlyControls,
    PertCol,
    cells_notes,
    example,
)
from panmodal.embeddings.control_cells import open_control_cells
from panmodal.errors import InputError, some

CELLS_AT_ONCE = 64
"""Cells whose gene vectors are held at a time: some 4 MB a cell."""
TOKENS = ("<", "[", "unknown")
"""How the vocabularies' entries that are no genes begin: padding, class token, end."""


@dataclass(frozen=True)
class Family:
    """How helical runs a family of models; its classes are those of helical 2.2.

    Attributes
    ----------
    module, model, config
        Module of helical, and the classes in it.
    namespace
        What genes are called in the model's vocabulary: ``ensembl`` or ``symbol``.
    configure
        (name in helical, device, batch size) -> arguments of the config class.
    citation, url
        Of the models.
    """

    module: str
    model: str
    config: str
    namespace: Literal["ensembl", "symbol"]
    configure: Callable[[str, str, int], dict[str, Any]]
    citation: str
    url: str


@dataclass(frozen=True)
class CellModel:
    """One model: its family, its name in helical, and what it was trained on."""

    family: str
    name: str
    trained_on: tuple[str, ...] = field(default=())


def _plain(key: str) -> Callable[[str, str, int], dict[str, Any]]:
    return lambda name, device, size: {key: name, "emb_mode": "gene", "device": device, "batch_size": size}


FAMILIES: dict[str, Family] = {
    "geneformer": Family(
        "helical.models.geneformer", "Geneformer", "GeneformerConfig", "ensembl", _plain("model_name"),
        "Theodoris et al. 2023, Nature 618:616", "https://huggingface.co/ctheodoris/Geneformer",
    ),
    "scgpt": Family(
        "helical.models.scgpt", "scGPT", "scGPTConfig", "symbol",
        lambda name, device, size: {"emb_mode": "gene", "device": device, "batch_size": size},
        "Cui et al. 2024, Nat Methods 21:1470", "https://github.com/bowang-lab/scGPT",
    ),
    "transcriptformer": Family(
        "helical.models.transcriptformer", "TranscriptFormer", "TranscriptFormerConfig", "ensembl",
        lambda name, device, size: {"model_name": name, "emb_mode": "gene", "batch_size": size, "gene_col_name": "index"},
        "Pearce et al. 2025, bioRxiv 2025.04.25.650731", "https://github.com/czi-ai/transcriptformer",
    ),
    "tahoe": Family(
        "helical.models.tahoe", "Tahoe", "TahoeConfig", "ensembl",
        # Flash attention is for GPUs only.
        lambda name, device, size: _plain("model_size")(name, device, size)
        | {"attn_impl": "flash" if device.startswith("cuda") else "torch", "num_workers": 1},
        "Gandhi et al. 2025, bioRxiv (Tahoe-x1)", "https://huggingface.co/tahoebio/Tahoe-x1",
    ),
}  # fmt: skip

_GENECORPUS = ("Genecorpus",)
_CELLXGENE = ("CELLxGENE",)
MODELS: dict[str, CellModel] = {
    **{f"geneformer-{name}": CellModel("geneformer", name, _GENECORPUS) for name in (
        "gf-6L-10M-i2048", "gf-12L-40M-i2048", "gf-12L-38M-i4096", "gf-12L-38M-i4096-CLcancer", "gf-20L-151M-i4096",
        "gf-12L-104M-i4096", "gf-12L-104M-i4096-CLcancer", "gf-18L-316M-i4096",
    )},
    "geneformer-gf-12L-40M-i2048-CZI-CellxGene": CellModel(
        "geneformer", "gf-12L-40M-i2048-CZI-CellxGene", _GENECORPUS + _CELLXGENE
    ),
    "scgpt": CellModel("scgpt", "scGPT_CP", _CELLXGENE),
    **{f"transcriptformer-{name}": CellModel("transcriptformer", f"tf_{name}", _CELLXGENE)
       for name in ("sapiens", "exemplar", "metazoa")},
    **{f"tahoe-x1-{size}": CellModel("tahoe", size, ("tahoe100m", "CELLxGENE", "scBaseCount")) for size in ("70m", "1b", "3b")},
}  # fmt: skip
"""The models that give a vector of every gene of a cell."""

CELLS_ONLY = ("uce", "nicheformer", "cell2sen", "c2s")
"""Models of helical that give vectors of cells only."""


@dataclass
class GeneMeans:
    """Running mean of gene vectors over cells."""

    row: dict[str, int] = field(default_factory=dict)
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def add(self, cells: Iterable[Mapping[str, Any]], model: str) -> None:
        """Add cells, each a mapping (such as a pandas Series) gene -> vector; entries that are no genes are left out.

        Raises
        ------
        InputError
            Vectors of different lengths, or with NaN or infinite values.
        """
        for cell in cells:
            named = [(str(gene), np.asarray(vector, dtype=np.float64).ravel()) for gene, vector in cell.items()]
            named = [(gene, vector) for gene, vector in named if not gene.startswith(TOKENS)]
            if not named:
                continue
            width = len(named[0][1])
            if not self.row:
                self.total = np.zeros((0, width))
            for gene, vector in named:
                if len(vector) != self.total.shape[1] or not np.isfinite(vector).all():
                    raise InputError(
                        f"{model}: the vector of gene {gene!r} has {len(vector)} values, not {self.total.shape[1]}, or some that are "
                        "not finite."
                    )
                self.row.setdefault(gene, len(self.row))
            grown = len(self.row) - len(self.count)
            self.total = np.vstack([self.total, np.zeros((grown, self.total.shape[1]))])
            self.count = np.concatenate([self.count, np.zeros(grown, dtype=np.int64)])
            rows = [self.row[gene] for gene, _ in named]
            np.add.at(self.total, rows, np.stack([vector for _, vector in named]))
            np.add.at(self.count, rows, 1)


def build_cell_model(
    *, cells: CellFiles,
    model: Annotated[str, "Model, such as geneformer-gf-12L-38M-i4096, scgpt, transcriptformer-sapiens or tahoe-x1-70m"],
    pert_col: PertCol = None, control: Control = (), only_controls: OnlyControls = False, batch_col: BatchCol = None,
    context_col: ContextCol = (), contexts: Contexts = (), layer: Layer = None, gene_col: GeneCol = None, table: CellTable = None,
    n_cells: Annotated[int, "Control cells drawn at random; all if there are fewer"] = 500,
    min_cells: Annotated[int, "Leave out genes that the model saw in fewer of these cells"] = 5,
    batch_size: Annotated[int, "Cells computed together"] = 8,
    device: Annotated[str, "cpu, cuda, cuda:1, or auto (a GPU if there is one)"] = "auto",
    seed: Annotated[int, "Seed of the draw of cells"] = 0, progress: Progress | None = None,
) -> Built:  # fmt: skip
    """Average the vectors that a single-cell model gives to a gene in each control cell.

    A model reads the raw counts of one cell and returns a vector for every gene that it read (expressed genes of its vocabulary, up to
    its longest input). The vector of a gene is the mean over the cells in which it was read. helical downloads the weights itself.
    """
    chosen, family = _choose(model)
    for name, value in (("n-cells", n_cells), ("min-cells", min_cells), ("batch-size", batch_size)):
        if value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}.")
    with open_control_cells(
        cells, pert_col=pert_col, control=control, batch_col=batch_col, context_col=context_col, contexts=contexts,
        only_controls=only_controls, layer=layer, gene_col=gene_col, table=table,
    ) as opened:  # fmt: skip
        genes = opened.stream.genes
        where = ", ".join(map(str, opened.stream.paths))
        _check_names(genes, family, model, where)
        candidates = np.flatnonzero(opened.used)
        drawn = np.sort(np.random.default_rng([seed, 3]).permutation(candidates)[:n_cells])
        counts = opened.counts(drawn)
        runner = Runner(chosen, family, model, _device(device), batch_size)
        means, names = GeneMeans(), dict[str, str]()
        for start in range(0, len(drawn), CELLS_AT_ONCE):
            means.add(runner.gene_vectors(counts[start : start + CELLS_AT_ONCE], genes, names), model)
            if progress:
                progress(min(start + CELLS_AT_ONCE, len(drawn)), len(drawn))
        notes = [
            *cells_notes(opened),
            f"{len(drawn)} of them drawn with seed {seed}",
            f"{model} on {runner.device}, helical {runner.version}",
        ]
        lost, simulated = opened.not_common(), opened.simulated
    ids, vectors, left_out = _chosen_genes(means, names, genes, min_cells, len(drawn), where, model)
    return Built(
        ids, vectors.astype(np.float32), left_out=left_out | lost, notes=tuple(notes),
        card={"description": f"gene vectors of {model}, mean over control cells", "trained_on": chosen.trained_on,
              "citation": family.citation, "url": family.url, "simulated": simulated},
        models={model: runner.digest()},
    )  # fmt: skip


class Runner:
    """A model of helical, loaded: raw counts in, gene vectors out.

    Raises
    ------
    InputError
        helical cannot load the model, for want of a connection or of memory.
    """

    def __init__(self, chosen: CellModel, family: Family, model: str, device: str, batch_size: int) -> None:
        self.family, self.model, self.device = family, model, device
        try:
            self.version = version("helical")
        except PackageNotFoundError:
            self.version = "of unknown version"
        try:
            module = importlib.import_module(family.module)
            self.config = getattr(module, family.config)(**family.configure(chosen.name, device, batch_size))
            if family.model == "TranscriptFormer":  # its config has no argument for the device, and says "cuda"
                self.config.config.model.inference_config.device = device
            self.loaded = getattr(module, family.model)(self.config)
        except Exception as error:
            raise InputError(
                f"helical {self.version} cannot load {model} ({_first_line(error)}). It downloads weights at first use into "
                f"{_cache() or 'its cache'}: connect once, or copy that folder from a machine that has it."
            ) from error

    def gene_vectors(self, counts: Any, genes: list[str], names: dict[str, str]) -> Any:
        """Return for each cell a mapping gene -> vector; what the model calls a gene of ours is added to ``names``."""
        import anndata
        import pandas as pd

        ensembl = self.family.namespace == "ensembl" and _are_ensembl(genes)
        called = [g.split(".")[0] for g in genes] if ensembl else genes
        obs = pd.DataFrame(index=[f"cell{k}" for k in range(counts.shape[0])])
        adata = anndata.AnnData(counts.copy(), obs=obs, var=pd.DataFrame(index=pd.Index(called)))
        if ensembl:
            adata.var["ensembl_id"] = called
        try:
            if self.family.model == "TranscriptFormer":  # tells Ensembl ids from symbols by itself
                embedded = self.loaded.get_embeddings(self.loaded.process_data([adata]))
            else:
                data = self.loaded.process_data(adata, gene_names="ensembl_id" if ensembl else "index")
                tahoe = self.family.model == "Tahoe"
                embedded = self.loaded.get_embeddings(data, **({"return_gene_embeddings": True} if tahoe else {}))
                embedded = embedded[1] if tahoe else embedded
        except Exception as error:
            raise InputError(
                f"{self.model}: helical {self.version} failed on the cells ({_first_line(error)})."
            ) from error
        if self.family.namespace == "ensembl" and "ensembl_id" in adata.var:
            called = list(adata.var["ensembl_id"])  # helical writes there what it found for a symbol
        for own, other in zip(genes, called, strict=True):
            if isinstance(other, str):
                names.setdefault(other, own)
        return embedded

    def digest(self) -> str:
        """Digest of the weights that helical downloaded; its version where they cannot be told."""
        config = getattr(self.config, "config", {})
        listed = getattr(self.config, "list_of_files_to_download", None)
        if listed is None and isinstance(config, dict):
            listed = config.get("list_of_files_to_download")
        folder, state = _cache(), hashlib.sha256()
        found = sorted(str(f) for f in listed or () if folder is not None and (folder / f).is_file())
        for name in found:
            with (folder / name).open("rb") as stream:  # type: ignore[operator]
                state.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return f"sha256:{state.hexdigest()[:16]}" if found else f"helical {self.version}"


def _choose(model: str) -> tuple[CellModel, Family]:
    if model.lower().startswith(CELLS_ONLY):
        raise InputError(
            f"{model} gives vectors of cells, none of genes. Models with gene vectors are {', '.join(MODELS)}."
        )
    if model not in MODELS:
        import difflib

        near = difflib.get_close_matches(model, MODELS, 3, 0.4)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"no model {model!r}. {hint}There are {', '.join(MODELS)}.")
    return MODELS[model], FAMILIES[MODELS[model].family]


def _are_ensembl(genes: list[str]) -> bool:
    return sum(g.startswith("ENS") for g in genes) > 0.5 * len(genes)


def _check_names(genes: list[str], family: Family, model: str, where: str) -> None:
    if family.namespace == "symbol" and _are_ensembl(genes):
        raise InputError(f"{where}: {model} knows genes by symbol, but the file has {some(genes, 3)}. Name the column of var with the "
                         "symbols with --gene-col.")  # fmt: skip


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no GPU. Give cpu or auto.")
    return device


def _cache() -> Path | None:
    with suppress(Exception):
        return Path(importlib.import_module("helical.constants.paths").CACHE_DIR_HELICAL)
    return None


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _chosen_genes(
    means: GeneMeans, names: dict[str, str], genes: list[str], least: int, n: int, where: str, model: str
) -> tuple[list[str], NDArray[np.float64], dict[str, str]]:
    """Genes seen in enough cells under the names of the file, their mean vectors, and why the others are left out."""
    count = {names.get(gene, gene): int(means.count[k]) for gene, k in means.row.items()}
    ids = sorted(names.get(gene, gene) for gene, k in means.row.items() if means.count[k] >= least)
    known = set(names.values())
    left_out = {}
    for gene in [*genes, *(g for g in count if g not in set(genes))]:
        if gene not in count:
            left_out[gene] = f"not read by {model} in any of {n} cells" + (
                "" if gene in known else " (unmapped, or another gene's id)"
            )
        elif count[gene] < least:
            left_out[gene] = f"read by {model} in {count[gene]} of {n} cells, fewer than {least}"
    if not ids:
        raise InputError(
            f"{where}: {model} read no gene in at least {least} of {n} cells (the file has {some(genes, 3)}). Are these human genes? "
            "Choose their column with --gene-col, or lower --min-cells."
        )
    place = {names.get(gene, gene): k for gene, k in means.row.items()}
    rows = [place[i] for i in ids]
    return ids, means.total[rows] / means.count[rows][:, None], left_out


def _example(folder: Path) -> dict[str, Any]:
    return {"cells": example(folder)["cells"], "model": "scgpt", "n_cells": 12, "min_cells": 2, "device": "cpu"}


BUILDERS = (
    Builder(
        "cell-model", "expression", "gene vectors of a single-cell foundation model, averaged over control cells", build_cell_model,
        _example, citation="the model's, see its card", url="https://github.com/helicalAI/helical", extra="cells",
        needs=("helical", "torch"),
    ),
)  # fmt: skip
