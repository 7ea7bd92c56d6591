"""Which gene an identifier means: symbols old and new, Ensembl, Entrez, UniProt, HGNC; never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from panmodal._tables import text_ids
from panmodal.errors import InputError
from panmodal.identifiers.dates import symbols_behind
from panmodal.identifiers.gene_table import LEVELS, GeneTable
from panmodal.identifiers.report import MISSING, MISSING_TEXTS, Resolution, Resolved
from panmodal.perturbation_ids import control_family, is_control, parts

KINDS = ("auto", "symbol", "Ensembl", "Entrez", "UniProt", "HGNC")
"""What identifiers may be said to be."""

_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_PREFIX = re.compile(r"(hgnc|ensembl|entrez|ncbigene|geneid|uniprot|uniprotkb)\s?:\s?(\S+)", re.IGNORECASE)
_PREFIX_KIND = {"hgnc": "HGNC", "ensembl": "Ensembl", "uniprot": "UniProt", "uniprotkb": "UniProt"}
_ENSEMBL = re.compile(r"(ENSG|ENSGR)(\d{11}|(?<=R)\d{10})(\.\d+)?(_PAR_Y)?", re.IGNORECASE)
_ENSEMBL_OTHER = re.compile(r"ENS([A-Z]{3})?(G|T|P|E|R|FM|GT)\d{11}(\.\d+)?", re.IGNORECASE)
_UNIPROT = re.compile(r"([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(-\d+)?")
_DIGITS = re.compile(r"(\d+)(?:\.0+)?")
_WITH_ENTREZ = re.compile(r"(\S+) \((\d+)\)")
_MOUSE = re.compile(r"[A-Z][A-Za-z0-9.-]*|\d+[A-Z]\d*Rik")
_MADE_UNIQUE = re.compile(r"(.+)[-._]\d+")
_SPECIES = {
    "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "SSC": "pig", "MMU": "macaque", "GAL": "chicken", "PTR": "chimpanzee",
}  # fmt: skip
_ORTHOLOGUES = "Map to human orthologues first"


def _species(text: str) -> str:
    match = _ENSEMBL_OTHER.fullmatch(text)
    return _SPECIES.get(match[1].upper(), "another species") if match and match[1] else ""


class GeneResolver:
    """Say which human gene each identifier means.

    Parameters
    ----------
    table
        A :class:`GeneTable`, or a file for :meth:`GeneTable.read` (``hgnc_complete_set.txt``); default the shipped HGNC table.

    Notes
    -----
    Numbers are Entrez ids. A current symbol beats a previous symbol, which beats an alias (letter case counts); what the weaker ones
    mean is said in the hint. Several genes at the same level are ambiguous and never chosen from; only if older HGNC tables tell
    which of several genes had a previous symbol last is it that one. What is no symbol is looked up as, in this order: a UniProt
    accession, a date made by a spreadsheet, a symbol in capitals whose letter case differs (``C1ORF112``), a symbol whose hyphens R
    turned into dots (``HLA.A``). Symbols with small letters that HGNC does not write so are refused: they are another species'
    (``Trp53``, ``tp53``). Names of controls (``ctrl``) are no genes.
    """

    def __init__(self, table: GeneTable | str | Path | None = None) -> None:
        self._given = table

    @property
    def table(self) -> GeneTable:
        """The table of genes, loaded on first use."""
        if not isinstance(self._given, GeneTable):
            self._given = GeneTable.embedded() if self._given is None else GeneTable.read(self._given)
        return self._given

    def resolve(self, ids: Iterable[Any], kind: str = "auto") -> Resolution:
        """Resolve identifiers, one row each, in order.

        Parameters
        ----------
        ids
            Text or numbers (numbers are Entrez ids); may repeat.
        kind
            What they are, one of :data:`KINDS`; default is to tell for each.

        Raises
        ------
        InputError
            An id is empty or missing, or ``kind`` is unknown.
        """
        if kind not in KINDS:
            raise InputError(f"no kind of gene identifier {kind!r}; there are {', '.join(KINDS)}.")
        if isinstance(ids, str):
            raise InputError(f"give a list of ids, not the text {ids!r}.")
        texts = text_ids(list(ids), "the id", "gene identifiers")
        seen = {text: self._one(text, kind) for text in dict.fromkeys(texts)}
        return Resolution(tuple(seen[text] for text in texts))

    def symbol(self, given: str) -> str:
        """Return the current symbol of one identifier, or raise InputError saying why there is none."""
        resolution = self.resolve([given])
        resolution.require()
        return resolution.rows[0].label

    # -- one id ------------------------------------------------------------------------------------------------------------

    def _one(self, given: str, kind: str) -> Resolved:
        if kind == "auto" and is_control(given):
            hint = "Unperturbed cells, not a gene."
            if given in self.table.by_symbol[0]:  # CTRL is chymotrypsin like
                hint += f" The gene {given} is named by its Ensembl id, or with kind='symbol'."
            return Resolved(given, "control", "control", how="control", hint=hint)
        text = unicodedata.normalize("NFKC", given).translate(_DASHES).strip()
        note = f"Read as {text!r}." if text != given else ""
        if kind == "symbol":
            found = self._symbol(given, text, note) or self._spelt(given, text, note)
        elif kind != "auto":
            found = self._accession(given, kind, text, note)
        else:
            found = (
                self._marked(given, text, note)
                or self._symbol(given, text, note)
                or self._bare_accession(given, text, note)
                or self._spelt(given, text, note)
            )
        return found or self._nothing(given, text)

    def _settle(
        self, given: str, kind: str, rows: Sequence[int], how: str, hint: str = "", level: int = 0, name: str = ""
    ) -> Resolved:
        """One gene is mapped, several are ambiguous."""
        table = self.table
        rows = tuple(dict.fromkeys(rows))
        symbols = tuple(table.symbols[r] for r in rows)
        if len(rows) == 1:
            return Resolved(given, kind, "mapped", table.ids[rows[0]], symbols[0], how, symbols, hint.strip(), level)
        text = f"{name or given} is {how} of {' and of '.join(symbols)}; write which one is meant. {hint}"
        return Resolved(given, kind, "ambiguous", how=how, candidates=symbols, hint=text.strip(), level=level)

    def _symbol(self, given: str, text: str, note: str) -> Resolved | None:
        found = [(level, names[text]) for level, names in enumerate(self.table.by_symbol) if text in names]
        if not found:
            return None
        level, rows = found[0]
        if level == 2 and text != text.upper():  # "Tpp1" is an alias of ACD, and how mouse data write TPP1
            current = self.table.by_symbol[0].get(text.upper(), ())
            if current and not set(current) & set(rows):
                return self._refuse(given, text, [(0, r) for r in (*current, *rows)])
        if level == 1 and (before := [r for r in self.table.earlier.get(text, ()) if r not in rows]):
            note = f"{note} Earlier also of {', '.join(self.table.symbols[r] for r in before)}."
        weaker = [
            f"Also {LEVELS[k]} of {', '.join(self.table.symbols[r] for r in others if r not in rows)}."
            for k, others in found[1:]
            if set(others) - set(rows)
        ]
        return self._settle(given, "symbol", rows, LEVELS[level], " ".join([note, *weaker]), level)

    def _marked(self, given: str, text: str, note: str) -> Resolved | None:
        """Resolve identifiers that say what they are, or return None."""
        if text.lower() in MISSING_TEXTS:  # NA is a previous symbol of XK, NaN an alias of SCN11A
            return Resolved(given, "missing", "not found", hint=MISSING)
        if prefix := _PREFIX.fullmatch(text):
            kind = _PREFIX_KIND.get(prefix[1].lower(), "Entrez")
            return self._accession(given, kind, prefix[2], note)
        if _ENSEMBL.fullmatch(text):
            return self._accession(given, "Ensembl", text, note)
        if _ENSEMBL_OTHER.fullmatch(text):
            species = _species(text)
            if species:
                hint = f"An Ensembl id of {species}. {_ORTHOLOGUES}."
                return Resolved(given, "Ensembl", "refused", hint=hint)
            hint = "An Ensembl id, but not of a gene (ENSG): the HGNC table has genes only. Give the gene id or the symbol."
            return Resolved(given, "Ensembl", "not found", hint=hint)
        if _DIGITS.fullmatch(text):  # HGNC has a few numbers as aliases
            return self._accession(given, "Entrez", text, note)
        if text[:3] == "LOC" and text[3:].isdigit() and text not in self.table.by_upper:
            return self._accession(given, "Entrez", text[3:], note)
        if pair := _WITH_ENTREZ.fullmatch(text):  # "TP53 (7157)", as DepMap writes columns
            rows = self.table.accessions["Entrez"].get(pair[2], ())
            named = next((names[pair[1]] for names in self.table.by_symbol if pair[1] in names), ())
            if not rows and named:
                return Resolved(
                    given, "Entrez", "not found", hint=f"No gene of {self.table.source} has the Entrez id {pair[2]}."
                )
            if rows:
                both = rows if not named or set(rows) & set(named) else (*rows, *named)
                return self._settle(given, "Entrez", both, "Entrez gene id", note)
        return None

    def _bare_accession(self, given: str, text: str, note: str) -> Resolved | None:
        return self._accession(given, "UniProt", text, note) if _UNIPROT.fullmatch(text) else None

    def _accession(self, given: str, kind: str, text: str, note: str) -> Resolved:
        key, how, why = text, f"{kind} gene id", ""
        if kind == "Ensembl" and (match := _ENSEMBL.fullmatch(text)):
            key = "ENSG" + match[2].zfill(11)
            why = f"Version {match[3][1:]} ignored." if match[3] else ""
        elif kind == "Ensembl" and _species(text):
            return Resolved(given, kind, "refused", hint=f"An Ensembl id of {_species(text)}. {_ORTHOLOGUES}.")
        elif kind == "Entrez" and (match := _DIGITS.fullmatch(text)):
            key = str(int(match[1]))
        elif kind == "UniProt":
            key, how = re.sub(r"-\d+$", "", text), "UniProt accession"
            why = f"Isoform {text[len(key) + 1 :]} ignored." if key != text else ""
        elif kind == "HGNC":
            key, how = "HGNC:" + re.sub(r"^HGNC:", "", text, flags=re.IGNORECASE), "HGNC id"
        rows = self.table.accessions[kind].get(key, ())
        if rows:
            return self._settle(given, kind, rows, how, f"{note} {why}", name=key)
        hint = f"No gene of {self.table.source} has the {kind} id {key}."
        return Resolved(given, kind, "not found", hint=hint)

    def _spelt(self, given: str, text: str, note: str) -> Resolved | None:
        """Resolve symbols that were changed on the way (dates, letter case, dots of R), or return None."""
        spellings = symbols_behind(text)
        if spellings:
            hits = [(level, row, s) for s in spellings for level, row in self.table.by_upper.get(s, ())]
            if not hits:
                hint = "A date: a spreadsheet has changed it, and no symbol that could have become it is known."
                return Resolved(given, "date", "not found", hint=hint)
            best = min(level for level, _, _ in hits)
            names = list(dict.fromkeys(s for level, _, s in hits if level == best))
            chosen = [row for level, row, _ in hits if level == best]
            hint = f"A spreadsheet turned {' or '.join(names)} into a date; restore the symbols in the file."
            return self._settle(
                given, "date", chosen, f"{LEVELS[best]} behind a date", hint, max(best, 1), " or ".join(names)
            )
        hits_upper = self.table.by_upper.get(text.upper(), ())
        if hits_upper and text == text.upper():
            best = min(level for level, _ in hits_upper)
            rows = [row for level, row in hits_upper if level == best]
            return self._settle(
                given, "symbol", rows, f"{LEVELS[best]} (letter case)", f"{note} Letter case differs.", 3
            )
        if hits_upper:
            return self._refuse(given, text, hits_upper)
        if "." in text:
            hyphens = text.replace(".", "-")
            dotted = next((names[hyphens] for names in self.table.by_symbol if hyphens in names), ())
            if dotted:
                hint = f"{note} R writes hyphens as dots."
                return self._settle(given, "symbol", dotted, "symbol (dots for hyphens)", hint, 3)
        return None

    def _refuse(self, given: str, text: str, hits: Sequence[tuple[int, int]]) -> Resolved:
        best = min(level for level, _ in hits)
        candidates = tuple(dict.fromkeys(self.table.symbols[row] for level, row in hits if level == best))
        if text[0].isupper():
            why = f"Looks like a mouse or rat symbol. {_ORTHOLOGUES}"
        else:
            why = f"Human symbols are not written in small letters (zebrafish?). {_ORTHOLOGUES}"
        hint = f"{why}; if the human gene is meant write {' or '.join(candidates)}."
        return Resolved(given, "symbol", "refused", candidates=candidates, hint=hint)

    def _nothing(self, given: str, text: str) -> Resolved:
        if control_family(given):
            return Resolved(given, "control", "control", how="control", hint="Unperturbed cells, not a gene.")
        if len(parts(given)) > 1:
            hint = f"A combination; resolve its parts {' and '.join(parts(given))}."
            return Resolved(given, "combination", "not found", hint=hint)
        if text in self.table.withdrawn:
            return Resolved(given, "symbol", "not found", hint="HGNC has withdrawn this entry without a successor.")
        if text.endswith("Rik") or re.fullmatch(r"Gm\d+", text):
            return Resolved(given, "symbol", "refused", hint=f"A mouse gene. {_ORTHOLOGUES}.")
        if _MOUSE.fullmatch(text) and re.search(r"[a-z]", text) and text[-1].isdigit() and " " not in text:
            hint = f"Looks like a mouse or rat symbol. {_ORTHOLOGUES}."
            return Resolved(given, "symbol", "refused", hint=hint)
        unique = _MADE_UNIQUE.fullmatch(text)
        if unique and any(unique[1] in names for names in self.table.by_symbol):
            hint = f"{unique[1]!r} made unique by a number? Give accessions, or undo it."
            return Resolved(given, "symbol", "not found", hint=hint)
        return Resolved(given, "unknown", "not found")


@lru_cache(maxsize=1)
def default_genes() -> GeneResolver:
    """Return the resolver with the shipped table (one for the whole process)."""
    return GeneResolver()
