"""Fingerprints of the 2,628 approved drugs that the package ships: RDKit in bulk against the straightforward loop.

The loop parses a SMILES, makes its fingerprint and converts it with ConvertToNumpyArray (the way of most tutorials), or through a
Python list. Ours parses likewise, makes fingerprints in bulk and unpacks all bits at once. The matrices must be equal. Times are the
best of five; "conversion" is the time beyond parsing. All kinds follow, and the time with salts stripped.

    python benchmarks/fingerprints.py                  # the shipped table
    python benchmarks/fingerprints.py my_compounds.csv
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np

from panmodal.embeddings.compound_table import read_compound_table
from panmodal.embeddings.fingerprints import KINDS, fingerprint


def best(work: Callable[[], Any], times: int = 5) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and the result."""
    seconds, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def loop(smiles: list[str], convert: str) -> np.ndarray:
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    rows = []
    for text in smiles:
        bits = generator.GetFingerprint(Chem.MolFromSmiles(text))
        if convert == "list":
            rows.append(list(bits))
        else:
            row = np.zeros(2048)
            DataStructs.ConvertToNumpyArray(bits, row)
            rows.append(row)
    return np.array(rows)


def main() -> None:
    from rdkit import Chem, RDLogger

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compounds", nargs="?", help="table with SMILES; default the shipped one")
    given = parser.parse_args().compounds
    shipped = files("panmodal.data").joinpath("chembl_approved_drugs.parquet")
    table = read_compound_table(given) if given else read_compound_table(str(shipped), id_col="molecule_chembl_id")
    smiles = list(table.smiles.values())
    RDLogger.DisableLog("rdApp.*")
    parsing, _ = best(lambda: [Chem.MolFromSmiles(text) for text in smiles])
    print(f"{len(smiles)} compounds; parsing alone {parsing:.2f} s\n")
    ours, (matrix, failures) = best(lambda: fingerprint(smiles))
    print("ECFP4, 2048 bits                    seconds   of it beyond parsing")
    print(f"  ours                              {ours:7.2f}   {ours - parsing:7.2f}")
    good = [text for k, text in enumerate(smiles) if k not in failures]
    for name, how in (("loop with ConvertToNumpyArray", "array"), ("loop with Python lists", "list")):
        seconds, other = best(lambda how=how: loop(good, how))
        ratio = (seconds - parsing) / max(ours - parsing, 1e-9)
        print(
            f"  {name:<33} {seconds:7.2f}   {seconds - parsing:7.2f}   total {seconds / ours:.1f} x, beyond parsing {ratio:.1f} x"
        )
        if not np.array_equal(matrix, other):
            raise SystemExit("the fingerprints differ")
    print("  equal in every bit\n")
    print("kind (bits)             seconds   with salts stripped")
    for kind in KINDS:
        plain, (made, _) = best(lambda kind=kind: fingerprint(smiles, kind), 1)
        stripped, _ = best(lambda kind=kind: fingerprint(smiles, kind, strip_salts=True), 1)
        print(f"  {kind + f' ({made.shape[1]})':<21} {plain:7.2f}   {stripped:7.2f}")


if __name__ == "__main__":
    main()
