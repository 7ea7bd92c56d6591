"""Chemical structures: canonical SMILES and InChIKeys without salts (needs RDKit)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from panmodal.errors import InputError

COUNTER_IONS = {
    "acetic acid": "CC(=O)O", "acetone": "CC(C)=O", "adipic acid": "O=C(O)CCCCC(=O)O",
    "arginine": "N=C(N)NCCCC(N)C(=O)O", "ascorbic acid": "O=C1OC(C(O)CO)C(O)=C1O",
    "aspartic acid": "NC(CC(=O)O)C(=O)O", "benzenesulfonic acid": "O=S(=O)(O)c1ccccc1",
    "benzoic acid": "O=C(O)c1ccccc1", "camphorsulfonic acid": "CC1(C)C2CCC1(CS(=O)(=O)O)C(=O)C2",
    "carbon dioxide": "O=C=O", "carbonic acid": "O=C(O)O", "choline": "C[N+](C)(C)CCO",
    "citric acid": "O=C(O)CC(O)(CC(=O)O)C(=O)O", "diethanolamine": "OCCNCCO", "diethylamine": "CCNCC",
    "dimethyl sulfoxide": "CS(C)=O", "edisylic acid": "O=S(=O)(O)CCS(=O)(=O)O", "erbumine": "CC(C)(C)N",
    "esylic acid": "CCS(=O)(=O)O", "ethanol": "CCO", "ethanolamine": "NCCO", "ethylenediamine": "NCCN",
    "formic acid": "O=CO", "fumaric or maleic acid": "O=C(O)C=CC(=O)O", "gluconic acid": "O=C(O)C(O)C(O)C(O)C(O)CO",
    "glutamic acid": "NC(CCC(=O)O)C(=O)O", "glutaric acid": "O=C(O)CCCC(=O)O", "glycolic acid": "O=C(O)CO",
    "hippuric acid": "O=C(O)CNC(=O)c1ccccc1", "isethionic acid": "O=S(=O)(O)CCO", "isopropanol": "CC(C)O",
    "lactic acid": "CC(O)C(=O)O", "lysine": "NCCCCC(N)C(=O)O", "malic acid": "O=C(O)CC(O)C(=O)O",
    "malonic acid": "O=C(O)CC(=O)O", "mandelic acid": "O=C(O)C(O)c1ccccc1", "meglumine": "CNCC(O)C(O)C(O)C(O)CO",
    "methanesulfonic acid": "CS(=O)(=O)O", "methanol": "CO", "methyl sulfate": "COS(=O)(=O)O",
    "napadisylic acid": "O=S(=O)(O)c1cccc2c(S(=O)(=O)O)cccc12",
    "naphthalenesulfonic acid": "O=S(=O)(O)c1ccc2ccccc2c1", "orotic acid": "O=C(O)c1cc(=O)[nH]c(=O)[nH]1",
    "oxalic acid": "O=C(O)C(=O)O", "pamoic acid": "O=C(O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O",
    "piperazine": "C1CNCCN1", "propylene glycol": "CC(O)CO", "saccharin": "O=C1NS(=O)(=O)c2ccccc21",
    "succinic acid": "O=C(O)CCC(=O)O", "tartaric acid": "O=C(O)C(O)C(O)C(=O)O",
    "toluenesulfonic acid": "Cc1ccc(S(=O)(=O)O)cc1", "triethylamine": "CCN(CC)CC",
    "trifluoroacetic acid": "O=C(O)C(F)(F)F", "triphenylacetic acid": "O=C(O)C(c1ccccc1)(c1ccccc1)c1ccccc1",
    "tromethamine": "NC(CO)(CO)CO", "xinafoic acid": "O=C(O)c1ccc2ccccc2c1O",
}  # fmt: skip
"""Organic counter-ions and solvents, neutral and without stereo."""

_SIMPLE = frozenset({"H", "N", "O", "F", "Na", "Mg", "P", "S", "Cl", "K", "Ca", "Br", "I"})
_ION_NAMES = {"Cl": "chloride", "Br": "bromide", "I": "iodide", "O": "water", "Na": "sodium", "K": "potassium",
              "Ca": "calcium", "Mg": "magnesium", "N": "ammonia", "O=S(=O)(O)O": "sulfuric acid", "O=P(O)(O)O": "phosphoric acid",
              "O=[N+]([O-])O": "nitric acid"}  # fmt: skip
_TOKENS = re.compile(r"(?:\[[^\]\s]+\]|Br|Cl|[BCNOPSFI]|[bcnops]|[-=#$:/\\.()%]|\d)+")
_MARKS = re.compile(r"[=#@\[(/\\]|[bcnops](\d).*\1")

NEEDS_RDKIT = "needs RDKit: pip install 'panmodal[chem]'"


@dataclass(frozen=True)
class Structure:
    """A molecule without its salts.

    Attributes
    ----------
    smiles
        Canonical isomeric SMILES (RDKit), neutralised where possible.
    inchikey
        Standard InChIKey of it.
    stripped
        What was taken away, by name or SMILES.
    mixture
        Several molecules of which none is known as a counter-ion: kept together.
    open_stereo
        Has centres or double bonds whose stereo is not given, so that stereoisomers look the same.
    """

    smiles: str
    inchikey: str
    stripped: tuple[str, ...] = ()
    mixture: bool = False
    open_stereo: bool = False


def has_rdkit() -> bool:
    """Tell whether RDKit is installed."""
    return find_spec("rdkit") is not None


def looks_like_smiles(text: str) -> bool:
    """Tell whether a text is spelt like a SMILES with bonds, brackets or aromatic rings (``CCO`` or ``FCCP`` may be names).

    >>> looks_like_smiles("CC(=O)Oc1ccccc1C(=O)O"), looks_like_smiles("FCCP"), looks_like_smiles("AMD-070 (hydrochloride)")
    (True, False, False)
    """
    return _TOKENS.fullmatch(text) is not None and _MARKS.search(text) is not None


def canonical_smiles(smiles: str, strip_salts: bool = True) -> str:
    """Return the canonical isomeric SMILES of a molecule; stereo is kept as it is, never added.

    Parameters
    ----------
    smiles
        Any SMILES.
    strip_salts
        Leave counter-ions, solvents and water out and neutralise charges: known ones (:data:`COUNTER_IONS`), simple inorganic
        ones, and fragments smaller than half the largest organic one (in heavy atoms). Several molecules of which none is so
        are a mixture and kept together; so are salts of other elements (lithium, platinum, zinc), which may be the drug.

    Raises
    ------
    InputError
        Not a valid SMILES, or RDKit is not installed.
    """
    return structure(smiles, strip_salts).smiles


def inchikey(smiles: str, strip_salts: bool = True, stereo: bool = True) -> str:
    """Return the standard InChIKey of a SMILES; without ``stereo`` its first block, the skeleton (14 letters).

    Raises
    ------
    InputError
        Not a valid SMILES, or RDKit is not installed.
    """
    key = structure(smiles, strip_salts).inchikey
    return key if stereo else key[:14]


def structure(smiles: str, strip_salts: bool = True) -> Structure:
    """Return canonical SMILES and InChIKey of a SMILES, and what was stripped from it; see :func:`canonical_smiles`."""
    if not has_rdkit():
        raise InputError(f"reading SMILES {NEEDS_RDKIT}.")
    if not isinstance(smiles, str) or not smiles.strip():
        raise InputError(f"{smiles!r} is no SMILES: give text that is not empty.")
    return _structure(smiles.strip(), strip_salts)


@lru_cache(maxsize=100_000)
def _structure(smiles: str, strip_salts: bool) -> Structure:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = None if re.search(r"\s", smiles) else Chem.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            raise InputError(f"{smiles!r} is no valid SMILES.")
        stripped: tuple[str, ...] = ()
        mixture = False
        if strip_salts:
            molecule, stripped, mixture = _strip(molecule)
        else:
            mixture = "." in Chem.MolToSmiles(molecule)
        text = Chem.MolToSmiles(molecule)
        again = Chem.MolFromSmiles(text)  # the canonical form of what is written, so that reading it changes nothing
        text = Chem.MolToSmiles(again) if again is not None else text
        molecule = again if again is not None else molecule
        key = Chem.MolToInchiKey(molecule)
        unspecified = Chem.StereoSpecified.Unspecified
        open_stereo = any(place.specified == unspecified for place in Chem.FindPotentialStereo(molecule))
    if not key:
        raise InputError(f"{smiles!r} has no InChIKey: InChI cannot describe it (query atoms or polymers?).")
    return Structure(text, key, stripped, mixture, open_stereo)


@lru_cache(maxsize=1)
def _tools() -> tuple[dict[str, str], Any, Any]:
    """Counter-ions by canonical SMILES, the neutraliser, and what cuts alkali metals drawn with a bond."""
    from rdkit import Chem
    from rdkit.Chem.MolStandardize import rdMolStandardize

    known = {Chem.CanonSmiles(smiles): name for name, smiles in COUNTER_IONS.items()}
    cutter = rdMolStandardize.MetalDisconnector()
    cutter.SetMetalNof(Chem.MolFromSmarts("[Na,K,Ca,Mg]~[#7,#8,F]"))
    cutter.SetMetalNon(Chem.MolFromSmarts("[Na,K,Ca,Mg]~[#17,#35,#53]"))
    return known, rdMolStandardize.Uncharger(), cutter


def _strip(molecule: Any) -> tuple[Any, tuple[str, ...], bool]:
    """Return the molecule without counter-ions, what these were, and whether it is a mixture."""
    from rdkit import Chem

    known, neutraliser, cutter = _tools()
    whole = molecule
    if any(atom.GetSymbol() in ("Na", "K", "Ca", "Mg") and atom.GetDegree() for atom in molecule.GetAtoms()):
        molecule = cutter.Disconnect(molecule)
    pieces: dict[str, Any] = {}
    for fragment in Chem.GetMolFrags(molecule, asMols=True):
        neutral = neutraliser.uncharge(fragment)
        pieces.setdefault(Chem.MolToSmiles(neutral), neutral)
    if len(pieces) == 1:
        return next(iter(pieces.values())), (), False
    flat = {text: Chem.MolToSmiles(piece, isomericSmiles=False) for text, piece in pieces.items()}
    elements = {text: {atom.GetSymbol() for atom in piece.GetAtoms()} for text, piece in pieces.items()}
    if any("C" not in found and not found <= _SIMPLE for found in elements.values()):
        return whole, (), True  # lithium, platinum, zinc ...: may be what acts
    organic = [text for text, found in elements.items() if "C" in found]
    main = [text for text in organic if flat[text] not in known]
    if not main and len(organic) == 1 and known[flat[organic[0]]] not in ("carbonic acid", "carbon dioxide"):
        main = organic  # sodium acetate; but of piperazine citrate either may be meant
    if not main:
        return whole, (), True
    size = {text: pieces[text].GetNumHeavyAtoms() for text in main}
    largest = max(size.values())
    kept = sorted(text for text in main if 2 * size[text] >= largest)
    gone = tuple(sorted(_name(flat[text], known) for text in pieces if text not in kept))
    return _together({text: pieces[text] for text in kept}), gone, len(kept) > 1


def _name(flat: str, known: dict[str, str]) -> str:
    bare = re.sub(r"^\[(\w+?)H?\d*[+-]?\d*\]$", r"\1", flat)
    return known.get(flat) or _ION_NAMES.get(bare) or _ION_NAMES.get(flat) or flat


def _together(pieces: dict[str, Any]) -> Any:
    from rdkit import Chem

    whole, *others = [pieces[text] for text in sorted(pieces)]
    for piece in others:
        whole = Chem.CombineMols(whole, piece)
    return whole
