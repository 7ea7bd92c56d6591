"""SMILES transformers: a vector for each compound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from panmodal.embeddings.builders._model_options import (
    NEEDS,
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    Layer,
    LongTexts,
    Model,
    Overlap,
    Pool,
    Revision,
    TrustRemoteCode,
    WindowLength,
    encode_texts,
)
from panmodal.embeddings.builders.base import Builder, Built, Progress, select
from panmodal.embeddings.compound_table import read_compounds
from panmodal.embeddings.encoder import BATCH_TOKENS
from panmodal.errors import InputError


def smiles_model(
    *,
    compounds: Annotated[Path, "csv, tsv, parquet or .smi with ids and SMILES, or a screen whose obs has SMILES"],
    model: Model,
    pooling: Pool = "mean",
    layer: Layer = -1,
    id_col: Annotated[str | None, "column of the ids"] = None,
    smiles_col: Annotated[str | None, "column of the SMILES"] = None,
    spelling: Annotated[
        Literal["canonical", "parent", "written"],
        "SMILES in the canonical spelling of RDKit; of the parent without counter-ions; or as written in the file",
    ] = "canonical",
    long: LongTexts = "windows",
    window: WindowLength = None,
    overlap: Overlap = None,
    batch_tokens: BatchTokens = BATCH_TOKENS,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Encode SMILES with a transformer (ChemBERTa, MolT5, ...); the mean is over tokens, without special ones."""
    found, left_out = read_compounds(compounds, id_col=id_col, smiles_col=smiles_col)
    if spelling != "written":
        from panmodal.identifiers.structures import canonical_smiles, has_rdkit

        if not has_rdkit():
            raise InputError(
                "canonical SMILES need RDKit: pip install 'panmodal[chem]', or choose the spelling written."
            )
    texts: dict[str, str] = {}
    for name in select(found, ids):
        try:
            texts[name] = found[name] if spelling == "written" else canonical_smiles(found[name], spelling == "parent")
        except InputError as error:
            left_out[name] = str(error)
    if not texts:
        raise InputError(f"{compounds}: none of its {len(found)} compounds is wanted and has a valid SMILES.")
    return encode_texts(
        texts, left_out=left_out, what="SMILES read by a transformer", model=model, pooling=pooling, layer=layer, long=long,
        window=window, overlap=overlap, batch_tokens=batch_tokens, device=device, dtype=dtype, revision=revision,
        trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, progress=progress,
    )  # fmt: skip


SMILES = (
    "CCO", "OCC(O)CO", "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "c1ccccc1",
    "CC(=O)Nc1ccc(O)cc1", "O=C(O)c1ccccc1O", "C[C@@H](N)C(=O)O", "NCCc1ccc(O)c(O)c1", "CN1CCC[C@H]1c1cccnc1", "ClCCl", "CCN",
    "O=S(=O)(N)c1ccccc1", "BrCCBr", "N#Cc1ccccc1",
)  # fmt: skip


def _example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.builders._tiny_models import tiny_roberta
    from panmodal.identifiers.structures import has_rdkit

    path = folder / "compounds.csv"
    rows = [f"drug {k},{text}" for k, text in enumerate(SMILES)]
    path.write_text(
        "\n".join(["compound,smiles", *rows, "no structure,", *(["broken,C1CC"] if has_rdkit() else [])]) + "\n"
    )
    spelling = "canonical" if has_rdkit() else "written"
    return {"compounds": path, "model": str(tiny_roberta(folder / "chemberta")), "spelling": spelling}


BUILDERS = (
    Builder(
        name="smiles-model",
        modality="chemistry",
        description="SMILES read by a transformer of the user's choice (ChemBERTa, MolT5, ...)",
        function=smiles_model,
        example=_example,
        id_namespace="as in the source",
        citation="Chithrananda et al., arXiv 2010.09885 (ChemBERTa); Edwards et al., EMNLP 2022 (MolT5)",
        url="https://huggingface.co/DeepChem/ChemBERTa-77M-MTR",
        extra="models",
        needs=NEEDS,
    ),
)
"""Records of this module."""
