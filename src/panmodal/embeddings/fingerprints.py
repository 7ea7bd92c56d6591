"""Molecular fingerprints: what a structure is made of, as bits or counts. Pure functions from SMILES to a matrix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError

BATCH = 256
"""Molecules held at once: few enough to stay in the cache of the processor, enough to be shared among threads."""

_MAY_HAVE_SALTS = re.compile(r"[.+]|-\d*\]|-\d*:|Na|K|Mg|Ca")
"""Only SMILES with several parts, charges or these metals can differ from their parent."""

KindName = Literal[
    "ecfp", "fcfp", "maccs", "avalon", "erg", "topological", "atom-pair", "torsion", "secfp", "pattern", "layered"
]


@dataclass(frozen=True)
class FingerprintKind:
    """What a kind of fingerprint is and which settings it has.

    Attributes
    ----------
    description, citation
        One line each.
    bits
        Default length; ``fixed`` says that there is no other.
    radius
        Default radius in bonds, or None where there is none.
    counts, chirality
        Whether it can count instead of setting bits, and tell stereoisomers apart.
    """

    description: str
    citation: str
    bits: int = 2048
    fixed: bool = False
    radius: int | None = None
    counts: bool = False
    chirality: bool = False


KINDS: dict[KindName, FingerprintKind] = {
    "ecfp": FingerprintKind(
        "extended-connectivity fingerprint (Morgan): circular environments of atoms", "Rogers and Hahn, J Chem Inf Model 2010",
        radius=2, counts=True, chirality=True,
    ),
    "fcfp": FingerprintKind(
        "functional-class fingerprint: as ECFP, atoms told by donor, acceptor, aromatic, halogen, basic, acidic",
        "Rogers and Hahn, J Chem Inf Model 2010", radius=2, counts=True, chirality=True,
    ),
    "maccs": FingerprintKind("166 MACCS structural keys", "Durant et al., J Chem Inf Comput Sci 2002", bits=166, fixed=True),
    "avalon": FingerprintKind(
        "Avalon fingerprint: paths, rings and features, hashed", "Gedeck et al., J Chem Inf Model 2006", bits=512, counts=True
    ),
    "erg": FingerprintKind(
        "extended reduced graph: pairs of pharmacophore points by distance (real values)",
        "Stiefl et al., J Chem Inf Model 2006", bits=315, fixed=True,
    ),
    "topological": FingerprintKind(
        "RDKit fingerprint: all paths of 1 to 7 bonds, hashed (Daylight-like)", "Landrum, RDKit", counts=True
    ),
    "atom-pair": FingerprintKind(
        "pairs of atoms and their distance in bonds (four bits each for 1, 2, 4 and 8 of them)",
        "Carhart et al., J Chem Inf Comput Sci 1985", counts=True,
    ),
    "torsion": FingerprintKind(
        "topological torsions: chains of four atoms (four bits each for 1, 2, 4 and 8 of them)",
        "Nilakantan et al., J Chem Inf Comput Sci 1987", counts=True, chirality=True,
    ),
    "secfp": FingerprintKind(
        "SMILES extended-connectivity fingerprint: circular substructures as SMILES, hashed",
        "Probst and Reymond, J Cheminform 2018", radius=3, chirality=True,
    ),
    "pattern": FingerprintKind("RDKit pattern fingerprint: small substructure queries", "Landrum, RDKit"),
    "layered": FingerprintKind("RDKit layered fingerprint: paths by layers of atom and bond types", "Landrum, RDKit"),
}  # fmt: skip
"""All kinds. ``topological`` is what RDKit calls so; the fingerprint that molfeat calls ``topological`` is ``torsion``.
Chirality of atom pairs is not offered: RDKit loses it where it folds them to a power of 2 (its issue 2428)."""

Batch = Callable[[list[Any]], NDArray[Any]]


def fingerprint(
    smiles: Sequence[str],
    kind: KindName = "ecfp",
    bits: int | None = None,
    radius: int | None = None,
    counts: bool = False,
    *,
    chirality: bool = False,
    strip_salts: bool = False,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[Any], dict[int, str]]:
    """Compute fingerprints in bulk.

    Parameters
    ----------
    smiles
        Structures.
    kind
        One of :data:`KINDS`.
    bits, radius
        Length and radius in bonds; the kind's defaults unless given. MACCS and ErG have one length; only ECFP, FCFP and
        SECFP have a radius (ECFP4 is ECFP with radius 2).
    counts
        How often each feature occurs, instead of whether.
    chirality
        Tell stereoisomers apart.
    strip_salts
        Leave counter-ions and solvents out and neutralise charges, as :func:`panmodal.identifiers.structures.canonical_smiles`.
    threads
        Of RDKit, where it has them (0: all cores). The result is the same for any number.
    progress
        Called with how many are done and how many there are.

    Returns
    -------
    tuple
        Matrix (SMILES that parse, in order) x bits: uint8 of 0 and 1, int32 of counts, or float64 for ErG; and position
        in ``smiles`` -> why it has no row.

    Raises
    ------
    InputError
        The kind does not have such a setting, or bits or radius are out of range.

    Notes
    -----
    MACCS has 166 keys; RDKit's bit 0, which is always 0, is not among the dimensions: dimension k-1 is key k.
    """
    from rdkit import rdBase

    size, r = _settings(kind, bits, radius, counts, chirality)
    compute = _encoder(kind, size, r, counts, chirality, threads)
    blocks, failures, total = [], {}, len(smiles)
    with rdBase.BlockLogs():
        for start in range(0, total, BATCH):
            batch = smiles[start : start + BATCH]
            mols, failed = molecules(batch, strip_salts=strip_salts)
            failures.update({start + k: why for k, why in failed.items()})
            if mols:
                blocks.append(compute(mols))
            if progress is not None:
                progress(min(start + BATCH, total), total)
    return (np.concatenate(blocks) if blocks else np.zeros((0, size), np.uint8)), failures


def molecules(smiles: Sequence[str], *, strip_salts: bool) -> tuple[list[Any], dict[int, str]]:
    """Return the molecules of those SMILES that parse, in order, and position -> reason for the others."""
    made, failures = [], {}
    for k, text in enumerate(smiles):
        mol, why = molecule(text, strip_salts=strip_salts)
        if mol is None:
            failures[k] = why
        else:
            made.append(mol)
    return made, failures


def molecule(smiles: str, *, strip_salts: bool) -> tuple[Any, str]:
    """Return the RDKit molecule of a SMILES and an empty text, or None and why there is none."""
    from rdkit import Chem

    text = smiles.strip()
    rest = text.split(maxsplit=1)[1:] if " " in text or "\t" in text else []
    if rest and not rest[0].startswith("|"):  # RDKit would take the rest for a name; | begins an extension of ChemAxon
        return None, f"SMILES {smiles!r} holds white space: not one structure"
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        raw = Chem.MolFromSmiles(text, sanitize=False)
        problems = [] if raw is None else [p.Message() for p in Chem.DetectChemistryProblems(raw)]
        return None, f"SMILES {smiles!r} does not parse ({'; '.join(problems) or 'not valid SMILES'})"
    if not mol.GetNumAtoms():
        return None, f"SMILES {smiles!r} has no atoms"
    if strip_salts and _MAY_HAVE_SALTS.search(text):
        from panmodal.identifiers.structures import canonical_smiles

        try:
            mol = Chem.MolFromSmiles(canonical_smiles(text.split()[0]))
        except InputError as error:
            return None, f"salts cannot be stripped: {error}"
    return mol, ""


def structure_key(smiles: str, *, strip_salts: bool = True) -> str:
    """Return a key that is equal for equal structures (the standard InChIKey, without salts), or "" if there is none.

    Tautomers that differ in mobile hydrogens have one key.
    """
    from panmodal.identifiers.structures import inchikey

    try:
        return inchikey(smiles, strip_salts)
    except InputError:
        return ""


def _settings(kind: str, bits: int | None, radius: int | None, counts: bool, chirality: bool) -> tuple[int, int]:
    """Return length and radius; refuse settings that the kind does not have."""
    if kind not in KINDS:
        raise InputError(f"no kind of fingerprint {kind!r}; there are {', '.join(KINDS)}.")
    about = KINDS[kind]
    if bits is not None and about.fixed and bits != about.bits:
        raise InputError(f"fingerprint {kind!r} always has {about.bits} dimensions; leave out bits.")
    if radius is not None and about.radius is None:
        having = ", ".join(k for k, v in KINDS.items() if v.radius is not None)
        raise InputError(f"fingerprint {kind!r} has no radius; leave it out ({having} have one).")
    for wanted, has, name in ((counts, about.counts, "counts"), (chirality, about.chirality, "chirality")):
        if wanted and not has:
            having = ", ".join(k for k, v in KINDS.items() if getattr(v, name))
            raise InputError(f"fingerprint {kind!r} has no {name}; {having} have.")
    size = about.bits if bits is None else bits
    if not 8 <= size <= 2**20:
        raise InputError(f"bits is {size}; a fingerprint has 8 to {2**20} of them.")
    r = about.radius or 0 if radius is None else radius
    if not 0 <= r <= 10:
        raise InputError(f"radius is {r}; it must be 0 to 10 bonds.")
    return size, r


def _encoder(kind: str, bits: int, radius: int, counts: bool, chirality: bool, threads: int) -> Batch:
    """Return the function from molecules to their matrix."""
    from rdkit.Avalon import pyAvalonTools
    from rdkit.Chem import (
        LayeredFingerprint,
        PatternFingerprint,
        rdFingerprintGenerator,
        rdMHFPFingerprint,
        rdMolDescriptors,
        rdReducedGraphs,
    )

    rd = rdFingerprintGenerator
    stereo: dict[str, Any] = {"includeChirality": chirality}
    generators: dict[str, Callable[[], Any]] = {
        "ecfp": lambda: rd.GetMorganGenerator(radius=radius, fpSize=bits, **stereo),
        "fcfp": lambda: rd.GetMorganGenerator(
            radius=radius, fpSize=bits, atomInvariantsGenerator=rd.GetMorganFeatureAtomInvGen(), **stereo
        ),
        "topological": lambda: rd.GetRDKitFPGenerator(fpSize=bits),
        "atom-pair": lambda: rd.GetAtomPairGenerator(fpSize=bits, **stereo),
        "torsion": lambda: rd.GetTopologicalTorsionGenerator(fpSize=bits, **stereo),
    }
    if kind in generators:
        made = generators[kind]()
        if counts:
            return lambda mols: _counts(made.GetCountFingerprints(mols, numThreads=threads), bits)
        return lambda mols: _bits(made.GetFingerprints(mols, numThreads=threads), bits)
    if kind == "avalon" and counts:
        return lambda mols: _counts([pyAvalonTools.GetAvalonCountFP(m, nBits=bits) for m in mols], bits)
    if kind == "erg":
        return lambda mols: np.array([rdReducedGraphs.GetErGFingerprint(m) for m in mols], dtype=np.float64)
    if kind == "maccs":
        return lambda mols: _bits([rdMolDescriptors.GetMACCSKeysFingerprint(m) for m in mols], bits + 1)[:, 1:]
    if kind == "secfp":  # permutations and seed are of MHFP only; SECFP does not use them
        encode = rdMHFPFingerprint.MHFPEncoder(2048, 42).EncodeSECFPMol
        return lambda mols: _bits([encode(m, radius=radius, isomeric=chirality, length=bits) for m in mols], bits)
    single = {
        "avalon": lambda m: pyAvalonTools.GetAvalonFP(m, nBits=bits),
        "pattern": lambda m: PatternFingerprint(m, fpSize=bits),
        "layered": lambda m: LayeredFingerprint(m, fpSize=bits),
    }[kind]
    return lambda mols: _bits([single(m) for m in mols], bits)


def _bits(vectors: Sequence[Any], bits: int) -> NDArray[np.uint8]:
    """Unpack RDKit's bit vectors all at once: bit k of a vector is bit k mod 8 of byte k div 8."""
    from rdkit.DataStructs import BitVectToBinaryText

    packed = np.frombuffer(b"".join(BitVectToBinaryText(v) for v in vectors), np.uint8).reshape(len(vectors), -1)
    return np.unpackbits(packed, axis=1, count=bits, bitorder="little")


def _counts(vectors: Sequence[Any], bits: int) -> NDArray[np.int32]:
    """Write RDKit's sparse counts into one matrix."""
    told = [v.GetNonzeroElements() for v in vectors]
    rows = np.repeat(np.arange(len(told)), [len(t) for t in told])
    made = np.zeros((len(told), bits), np.int32)
    made[rows, np.fromiter((k for t in told for k in t), np.int64, len(rows))] = np.fromiter(
        (n for t in told for n in t.values()), np.int32, len(rows)
    )
    return made
